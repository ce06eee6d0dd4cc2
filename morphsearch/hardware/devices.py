"""Hardware that is known by its published figures.

Every figure has its source; what no source gives is left out (a launch overhead of None counts as none). Peaks are
dense (no structured sparsity), of tensor cores or matrix units where the device has them for the type. ``NAME``
computes with the first type of a device's list, ``NAME:TYPE`` with another one.
"""

from __future__ import annotations

from typing import Any

from morphsearch.errors import UnknownName
from morphsearch.hardware.roofline import RooflineProfile

_MORPHNET = "google-research/morph-net, network_regularizers/resource_function.py, after {}"
_NVIDIA = "https://images.nvidia.com/content/"
_SHEETS = {
    "k80": "https://www.nvidia.com/content/dam/en-zz/"
    "Solutions/Data-Center/tesla-product-literature/nvidia-tesla-k80-overview.pdf",
    "p4": _NVIDIA + "pdf/tesla/184457-Tesla-P4-Datasheet-NV-Final-Letter-Web.pdf",
    "t4": "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/t4-tensor-core-datasheet.pdf",
    "p100": _NVIDIA + "tesla/pdf/nvidia-tesla-p100-PCIe-datasheet.pdf",
    "v100": _NVIDIA + "technologies/volta/pdf/tesla-volta-v100-datasheet-letter-fnl-web.pdf",
    "tpu-v2": "http://learningsys.org/nips17/assets/slides/dean-nips17.pdf",
}
_LAUNCH = "reframe-hpc/reframe, cscs-checks/microbenchmarks/gpu/kernel_latency: launches in a row, measured at CSCS"
_LAUNCH_K80 = "reframe-hpc/reframe, cscs-checks/microbenchmarks/kernel_latency (2020): launches in a row, at CSCS"
_LOCKWOOD = "https://glennklockwood.com/garden/processors/"
_RTX_4090 = "https://holynerdvana.blogspot.com/2022/10/nvidia-geforce-rtx-4090-specifications.html"
_L4 = "https://hmc-tech.com/gpu/nvidia-l4-vs-nvidia-grid-m40"
_L4_MEMORY = "https://fpsbench.com/compare/gpu/nvidia-l4-vs-nvidia-tesla-m40"
_MI300X = "https://www.jaredwatkins.com/research/ai-accelerators/amd-instinct/mi300-series/"
_ORIN_NANO = "https://www.brojogopalsapui.com/ai-foundations/sub_contents/AI_hardware/jetson_orin_nano_light.html"
_M1 = "https://www.macrumors.com/2020/11/10/apple-announces-m1-chip-for-the-mac/"
_M2 = "https://www.macrumors.com/2022/06/06/apple-announces-m2-chip-with-support-for-up-to-24gb-memory/"
_PI5 = "https://threedots.ovh/blog/2023/09/gathering-some-raspberry-pi-5-details/"
_H100_PCIE = "https://archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html"


def _device(
    peak: dict[str, float],
    bandwidth: float,
    source: str,
    launch: tuple[float, str] | None = None,
    **sources: str,
) -> dict[str, Any]:
    """Peaks in TFLOP/s by type, bandwidth in GB/s, launch in microseconds with its source.

    `source` is that of all other figures, but for those named: ``float32=``, or ``moving=`` for the bandwidth.
    """
    return {
        "peak": {name: value * 1e12 for name, value in peak.items()},
        "bandwidth": bandwidth * 1e9,
        "launch": None if launch is None else launch[0] * 1e-6,
        "sources": {
            **{name: sources.get(name, source) for name in peak},
            "bandwidth": sources.get("moving", source),
            **({} if launch is None else {"launch": launch[1]}),
        },
    }


_TABLE: dict[str, dict[str, Any]] = {
    # The classic list.
    "k80": _device({"float32": 8.74}, 480, _MORPHNET.format(_SHEETS["k80"]), (5.7, _LAUNCH_K80)),
    "p4": _device({"float32": 5.5}, 192, _MORPHNET.format(_SHEETS["p4"])),
    "t4": _device({"float32": 8.1}, 300, _MORPHNET.format(_SHEETS["t4"])),
    "p100": _device({"float32": 9.3}, 732, _MORPHNET.format(_SHEETS["p100"]), (2.2, _LAUNCH)),
    "v100": _device({"float16": 125.0}, 900, _MORPHNET.format(_SHEETS["v100"]), (1.83, _LAUNCH)),
    "tpu-v2": _device({"bfloat16": 22.5}, 300, _MORPHNET.format(_SHEETS["tpu-v2"])),
    # Data centre.
    "a100": _device(
        {"tf32": 156.0, "float32": 19.5, "float16": 312.0, "bfloat16": 312.0},
        *(1555, _LOCKWOOD + "A100", (2.7, _LAUNCH)),
    ),
    "a100-80gb": _device(
        {"tf32": 156.0, "float32": 19.5, "float16": 312.0, "bfloat16": 312.0},
        *(2039, _LOCKWOOD + "A100", (2.7, _LAUNCH)),
    ),
    "h100": _device(
        {"tf32": 494.7, "float32": 66.9, "float16": 989.4, "bfloat16": 989.4, "int8": 1978.9},
        *(3350, _LOCKWOOD + "h100"),
    ),
    "h100-pcie": _device(
        {"tf32": 378.0, "float32": 51.0, "float16": 756.5, "bfloat16": 756.5, "int8": 1513.0}, 2000, _H100_PCIE
    ),
    "l4": _device(
        {"tf32": 62.67, "float32": 31.33, "float16": 125.34, "bfloat16": 125.34, "int8": 250.68},
        *(300, _L4),
        moving=_L4_MEMORY,
    ),
    "mi300x": _device({"float16": 1300.0}, 5300, _MI300X),
    "tpu-v4": _device({"bfloat16": 275.0}, 1200, "https://glennklockwood.com/garden/tpuv4"),
    "tpu-v5e": _device({"bfloat16": 197.0, "int8": 393.0}, 819, "https://cloud.google.com/tpu/docs/v5e"),
    # Desktop.
    "rtx-4090": _device({"float32": 82.6}, 1008, _RTX_4090),
    "apple-m1": _device({"float32": 2.6}, 66.7, _M1, moving=f"{_M2}: 100 GB/s of the M2 are half as much again"),
    # Mobile and embedded.
    "jetson-orin-nano": _device(
        {"float32": 2.09},
        *(102, _ORIN_NANO),
        float32=f"{_ORIN_NANO}: 1024 cores at 1.02 GHz, a multiply-add each cycle",
    ),
    "raspberry-pi-5": _device(
        {"float32": 0.1536},
        *(17, _PI5),
        float32=f"{_PI5}: 4 Cortex-A76 cores at 2.4 GHz, two multiply-adds of 4 numbers each cycle (Neon)",
    ),
}


def names() -> list[str]:
    """What ``--hardware`` knows by name: every device, and every device with a type of number other than its first."""
    return [
        name if place == 0 else f"{name}:{dtype}"
        for name, device in _TABLE.items()
        for place, dtype in enumerate(device["peak"])
    ]


def named(name: str) -> RooflineProfile:
    """The roofline of known hardware, ``NAME`` or ``NAME:TYPE``.

    Raises:
        UnknownName: no such device, or no figure for that type; with the nearest names.
    """
    device, _, dtype = name.strip().lower().partition(":")
    if device not in _TABLE:
        raise UnknownName.of("hardware", name, _TABLE)
    figures = _TABLE[device]
    if dtype and dtype not in figures["peak"]:
        raise UnknownName.of(f"type of number of {device}", dtype, figures["peak"])
    chosen = dtype or next(iter(figures["peak"]))
    return RooflineProfile(name=f"{device}:{dtype}" if dtype else device, dtype=chosen, **figures)
