"""What a measurement depends on: the settings that a user chooses, and the device and versions that they run on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from morphsearch.errors import InputError, UnknownName, UsageError

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """How networks run.

    Attributes:
        backend: name of a latency backend ("eager", "compile", "onnxruntime").
        device: "cpu", "cuda" or "cuda:1".
        dtype: of weights and activations.
        batch: images in one forward pass.
        threads: of one operation, on the CPU.
    """

    backend: str = "eager"
    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UnknownName.of("dtype", str(self.dtype), DTYPES)
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name}={value!r}", f"{name} is a whole number above 0", f"use {name}=1")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch has it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def require_device(self) -> torch.device:
        """The device, once it is known to be there.

        Raises:
            InputError: there is no such device here, or it has fewer processors than `threads`.
        """
        processors = os.cpu_count() or self.threads
        if self.threads > processors:
            raise InputError(
                f"threads={self.threads} on a machine with {processors} processors",
                "more threads than processors wait for each other, and the times say nothing",
                f"use {processors} or fewer",
            )
        kind = self.device.split(":")[0]
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there.get(kind, False):
            have = [name for name, found in there.items() if found]
            raise InputError(
                f"device {self.device!r} is not there",
                f"latency is measured on a device of this machine: {', '.join(have)}",
                "run the command on the machine that has it, and copy the profile; or search with a roofline "
                "(morphsearch profile list)",
            )
        device = torch.device(self.device)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise InputError(
                f"device {self.device!r} is not there",
                f"this machine has {torch.cuda.device_count()} CUDA devices, from cuda:0 on",
                "use cuda:0",
            )
        return device

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """The inverse of :meth:`to_dict`; further keys are ignored."""
        return cls(**{field.name: data[field.name] for field in fields(cls) if field.name in data})

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device == "cpu" else ""
        return f"{self.backend} on {self.device}, {self.dtype}, batch {self.batch}{threads}"


def describe_device(device: str) -> dict[str, Any]:
    """The device as a profile names it: two machines with equal answers are taken for equal hardware."""
    if device.startswith("cuda") and torch.cuda.is_available():
        found = torch.cuda.get_device_properties(torch.device(device))
        return {"kind": "cuda", "name": found.name, "memory_mib": found.total_memory >> 20}
    return {
        "kind": device.split(":")[0],
        "name": _processor(),
        "cores": os.cpu_count() or 1,
        "vectors": torch.backends.cpu.get_cpu_capability() if device == "cpu" else "",
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_versions() -> dict[str, str]:
    """Versions that a measurement depends on, the backend's own aside."""
    return {"torch": torch.__version__, "python": platform.python_version()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        facts: dict[str, str] = {}
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                facts.setdefault(key.strip(), value.strip())
        if facts.get("model name"):
            numbers = [facts[key] for key in ("cpu family", "model") if key in facts]
            return f"{facts['model name']}{f' ({chr(47).join(numbers)})' if numbers else ''}"
    return platform.processor() or platform.machine()
