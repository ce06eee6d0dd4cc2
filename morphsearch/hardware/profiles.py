"""Hardware profiles: JSON files that say how long networks take on a device, and where they are found.

A profile is *measured* (:mod:`morphsearch.hardware.measure`) or a *roofline* (peak figures of named hardware). Measured
ones are kept in a folder of the user, which ``MORPHSEARCH_PROFILES`` overrides; they may be moved anywhere.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from morphsearch.errors import InputError, MorphError, UnknownName, nearest
from morphsearch.files import read_json, write_json
from morphsearch.hardware.intact import require_whole
from morphsearch.hardware.kinds import Fusion
from morphsearch.hardware.predictor import NetworkSample, Predictor
from morphsearch.hardware.settings import Settings, describe_device, describe_versions
from morphsearch.hardware.work import COLUMNS

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph
    from morphsearch.types import BoundCost

FORMAT = "morphsearch-hardware-profile"
SCHEMA_VERSION = 5
FOLDER = "MORPHSEARCH_PROFILES"
_NUMBERS = {"type": "array"}  # of numbers: that is checked by making arrays of them, since there are many
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["format", "schema_version", "kind"],
    "properties": {
        "kind": {"enum": ["measured", "roofline"]},
        "name": {"type": "string", "minLength": 1},
        "created": {"type": "string"},
        "device": {"type": "object"},
        "settings": {"type": "object", "properties": {"backend": {"type": "string"}, "device": {"type": "string"}}},
        "versions": {"type": "object", "additionalProperties": {"type": "string"}},
        "error": {
            "type": "object",
            "required": ["mape", "within_10", "largest", "networks"],
            "additionalProperties": {"type": "number"},
        },
        "noise": {"type": "object", "required": ["repeated", "worst"], "additionalProperties": {"type": "number"}},
        "pace": {"type": "number", "minimum": 0},
        "seconds": {"type": "number", "minimum": 0},
        "notes": {"type": "array", "items": {"type": "string"}},
        "fusion": {
            "type": "object",
            "properties": {"again": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}},
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
        "fit": {
            "type": "object",
            "required": ["families", "scales", "per_step", "constant", "whole"],
            "properties": {
                "families": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": [
                            *("theta", "centre", "scale", "weights", "bend", "low", "high"),
                            *("places", "length", "noise", "samples", "error"),
                        ],
                        "properties": {
                            **dict.fromkeys(("theta", "centre", "scale", "weights", "bend", "low", "high"), _NUMBERS),
                            "places": _NUMBERS,
                            "length": {"type": "number", "exclusiveMinimum": 0},
                            "samples": {"type": "integer", "minimum": 0},
                            "error": {"type": ["number", "null"]},
                        },
                    },
                },
                "scales": {"type": "object", "additionalProperties": {"type": "number"}},
                "per_step": {"type": "number"},
                "constant": {"type": "number"},
            },
        },
    },
    "if": {"properties": {"kind": {"const": "measured"}}},
    "then": {"required": ["name", "created", "device", "settings", "versions", "fit", "fusion", "error", "noise"]},
}


@dataclass
class MeasuredProfile:
    """What was measured on a device, and the predictor fitted to it.

    Attributes:
        name: it is saved and selected by. created: date and time (UTC).
        device, settings, versions: what it holds for.
        error: of networks that the fit had not seen, see :func:`morphsearch.hardware.predictor.errors`.
        noise: how far the same network measured twice lies apart, as a share: mean (`repeated`) and `worst`.
            `drift`: how far a reference network was from its usual time, on average.
        pace: milliseconds of the reference network, see :func:`morphsearch.hardware.measure.reference`; 0: unknown.
        pace_power: of a change of that pace, by which other networks change.
        samples: the measured networks, at that pace. seconds: that measuring took.
        notes: what the user should know.
    """

    name: str
    created: str
    device: dict[str, Any]
    settings: Settings
    versions: dict[str, str]
    predictor: Predictor
    fusion: Fusion = field(default_factory=Fusion)
    samples: list[NetworkSample] = field(default_factory=list)
    error: dict[str, float] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    pace: float = 0.0
    pace_power: float = 1.0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    kind = "measured"

    def bind(self, graph: ConvGraph) -> BoundCost:
        """Milliseconds of one forward pass at the profile's batch size, as a function of the widths."""
        from morphsearch.hardware.bound import BoundLatency
        from morphsearch.hardware.work import works_of

        bound = BoundLatency(works_of(graph, self.fusion, self.settings.batch), self.predictor, len(graph.groups))
        with np.errstate(all="ignore"):
            time = bound.milliseconds(np.array([group.width for group in graph.groups.values()], np.float64))
        if not 0 <= time < np.inf:
            raise damaged(f"hardware profile {self.name}", "fit", f"it makes {time:.3g} ms of this network")
        return bound

    def strangeness(self) -> list[str]:
        """How this machine differs from the one that was measured, in words; empty where it does not."""
        found = []
        here = describe_device(self.settings.device)
        if here != self.device:
            found.append(f"it was measured on {told(self.device)}, and this is {told(here)}")
        now = {**describe_versions(), **_versions_of(self.settings.backend)}
        differing = [
            f"{name} {self.versions[name]} (here {now[name]})"
            for name in now
            if name != "python" and name in self.versions and self.versions[name] != now[name]
        ]
        if differing:
            found.append(f"it was measured with {', '.join(differing)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "name": self.name,
            "created": self.created,
            "device": self.device,
            "settings": self.settings.to_dict(),
            "versions": self.versions,
            "pace": self.pace,
            "pace_power": self.pace_power,
            "seconds": self.seconds,
            "error": self.error,
            "noise": self.noise,
            "notes": self.notes,
            "fusion": self.fusion.to_dict(),
            "fit": self.predictor.to_dict(),
            "columns": list(COLUMNS),
            "samples": [_sample_to_dict(sample) for sample in self.samples],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MeasuredProfile:
        """The inverse of :meth:`to_dict`, without the samples: prediction needs the fit only."""
        return cls(
            name=data["name"],
            created=data["created"],
            device=dict(data["device"]),
            settings=Settings.from_dict(data["settings"]),
            versions=dict(data["versions"]),
            predictor=Predictor.from_dict(data["fit"]),
            fusion=Fusion.from_dict(data["fusion"]),
            error=dict(data["error"]),
            noise=dict(data["noise"]),
            pace=float(data.get("pace", 0.0)),
            pace_power=float(data.get("pace_power", 1.0)),
            seconds=float(data.get("seconds", 0.0)),
            notes=list(data.get("notes", ())),
        )

    def save(self, path: str | Path | None = None) -> Path:
        """Write it, atomically; by default into the user's folder, under its name."""
        target = Path(path) if path is not None else folder() / f"{file_name(self.name)}.json"
        write_json(target, self.to_dict())
        return target


def _sample_to_dict(sample: NetworkSample) -> dict[str, Any]:
    families, rows, seconds = sample.seen
    return {
        "network": sample.name,
        "widths": sample.widths,
        "ms": sample.ms,
        "low": sample.low,
        "high": sample.high,
        "repeated": sample.repeated,
        "pace": sample.pace,
        "operations": [
            [name, [float(f"{value:.7g}") for value in row], float(f"{1e3 * second:.5g}")]
            for name, row, second in zip(families, rows, seconds, strict=True)
        ],
    }


def _versions_of(backend: str) -> Mapping[str, str]:
    """Of what a backend brings; nothing where it is not installed."""
    from morphsearch.hardware.measure import backend_of

    try:
        return dict(backend_of(backend).versions())
    except MorphError:
        return {}


def told(device: Mapping[str, Any]) -> str:
    """A device in a sentence."""
    cores = f", {device['cores']} cores" if device.get("cores") else ""
    return f"{device.get('name', 'an unnamed device')}{cores}"


def as_file(profile: Any) -> dict[str, Any]:
    """Any profile as its file holds it."""
    return {"format": FORMAT, "schema_version": SCHEMA_VERSION, **profile.to_dict()}


def file_name(name: str) -> str:
    """A name as a file may have it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "profile"


def folder() -> Path:
    """Where measured profiles are kept."""
    import click

    return Path(os.environ.get(FOLDER) or Path(click.get_app_dir("morphsearch")) / "profiles")


def saved() -> dict[str, Path]:
    """Names of the profiles in the user's folder, with their files."""
    where = folder()
    return {path.stem: path for path in sorted(where.glob("*.json"))} if where.is_dir() else {}


def rooflines() -> list[str]:
    """Names of the hardware that rooflines are known for."""
    try:
        return list(importlib.import_module("morphsearch.hardware.devices").names())
    except ModuleNotFoundError:
        return []


def load(name_or_path: str | Path) -> Any:
    """A profile by the path of its file, the name it was saved under, or the name of hardware.

    Raises:
        UnknownName: none of these; the message has the nearest names. InputError: a file that is no profile.
    """
    text = str(name_or_path)
    path = Path(text)
    if path.suffix == ".json" or path.is_file() or os.sep in text:
        return read(path)
    found = saved()
    if text in found:
        return read(found[text])
    known = rooflines()
    if text in known:
        return importlib.import_module("morphsearch.hardware.devices").named(text)
    close = nearest(text, [*found, *known])
    raise UnknownName(
        f"unknown hardware {text!r}",
        f"it is a file, a profile of yours ({', '.join(found) or 'none yet'}) or hardware that is known by its figures",
        f"did you mean {' or '.join(close)}?" if close else "see `morphsearch profile list`",
    )


def read(path: str | Path) -> Any:
    """The profile in a file.

    Raises:
        InputError: the file is missing, damaged, foreign or newer.
    """
    path = Path(path)
    try:
        stamp = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}",
            "hardware is named by a profile's file or its name",
            _close_files(path),
        ) from error
    return _read(path.resolve(), stamp, str(path))


def _close_files(path: Path) -> str:
    beside = [str(other) for other in path.parent.glob("*.json")] if path.parent.is_dir() else []
    close = nearest(str(path), [*beside, *saved()])
    return f"did you mean {' or '.join(close)}?" if close else "see `morphsearch profile list`"


@lru_cache(maxsize=16)
def _read(path: Path, stamp: int, shown: str) -> Any:
    import jsonschema

    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(
            f"{shown} is no hardware profile", f'its field "format" is "{FORMAT}"', "see `morphsearch profile list`"
        )
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{shown}: schema_version is {version}",
            f"this morphsearch reads versions up to {SCHEMA_VERSION}",
            "update morphsearch",
        )
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(_SCHEMA).iter_errors(data))
    if error is not None:
        raise damaged(shown, ".".join(map(str, error.absolute_path)) or "the whole file", error.message)
    if data["kind"] == "measured" and version != SCHEMA_VERSION:
        raise InputError(
            f"{shown} was measured by an older morphsearch (schema_version {version})",
            f"what is fitted has changed since: measured profiles are of version {SCHEMA_VERSION}",
            "measure again: morphsearch profile SEED",
        )
    if data["kind"] == "roofline":
        own = {key: value for key, value in data.items() if key not in ("format", "schema_version")}
        return importlib.import_module("morphsearch.hardware.roofline").RooflineProfile.from_dict(own)
    try:
        profile = MeasuredProfile.from_dict(data)
        require_whole(profile.predictor)
        return profile
    except (KeyError, TypeError, ValueError) as problem:
        raise damaged(shown, "fit", str(problem)) from problem


def damaged(source: str, where: str, message: str) -> InputError:
    """The error for a field of a profile."""
    short = message if len(message) <= 200 else f"{message[:200]}..."
    return InputError(
        f"{source}: {where}: {short}", "the file is a hardware profile as morphsearch writes it", "measure it again"
    )


def measured_here(device: str = "") -> Iterator[tuple[Path, MeasuredProfile]]:
    """Readable measured profiles of the user's folder that were made on this very device, newest first."""
    found: list[tuple[str, Path, MeasuredProfile]] = []
    here: dict[str, Any] = {}
    for path in saved().values():
        try:
            profile = read(path)
        except InputError:
            continue
        if isinstance(profile, MeasuredProfile):
            kind = profile.settings.device
            if kind not in here:
                here[kind] = describe_device(kind)
            if profile.device == here[kind] and (not device or kind == device):
                found.append((profile.created, path, profile))
    for _, path, profile in sorted(found, key=lambda item: item[0], reverse=True):
        yield path, profile


def default() -> MeasuredProfile:
    """The newest measured profile of this very device.

    Raises:
        InputError: there is none; the message says how to make one, and which rooflines there are.
    """
    for _, profile in measured_here():
        return profile
    known: Sequence[str] = rooflines()
    others = f", or take hardware by its figures: --hardware {', '.join(known[:6])}, ..." if known else ""
    elsewhere = list(saved())
    have = f" (there are profiles of other machines: {', '.join(elsewhere)})" if elsewhere else ""
    raise InputError(
        f"the latency of this machine has not been measured{have}",
        "latency is predicted from a hardware profile",
        f"measure it (a few minutes): morphsearch profile SEED --input N,C,H,W{others}",
    )
