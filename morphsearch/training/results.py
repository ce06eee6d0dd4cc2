"""The outcome of a retraining, and the file that holds it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from morphsearch.arguments import shown
from morphsearch.errors import InputError
from morphsearch.files import read_json

SCHEMA_VERSION = 1
RESULT = "result.json"


@dataclass(frozen=True)
class RetrainResult:
    """The outcome of one retraining.

    Attributes:
        accuracy, loss: top-1 accuracy in 0..1 and cross-entropy on the split named by `evaluated_on`: ``"test"``, or
            ``"val"`` where the data has no test split. None for a loss that is not finite.
        val_accuracy, val_loss: on the validation split, after the last epoch.
        test_count: images behind `accuracy`.
        seconds: spent training, over all sittings. images_per_second: training speed.
        precision: what the training ran with, see :class:`morphsearch.training.Choice`.
        extra: what the caller passed (label, widths, costs ...).
    """

    label: str
    seed: int
    recipe: dict[str, Any]
    accuracy: float
    loss: float | None
    evaluated_on: str
    test_count: int
    val_accuracy: float
    val_loss: float | None
    epochs: float
    seconds: float
    images_per_second: float
    precision: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """What ``result.json`` holds."""
        return asdict(self)


def load_result(folder: Path) -> RetrainResult | None:
    """What ``folder/result.json`` holds; None where there is none.

    Raises:
        InputError: damaged, or written by a newer version; the message names the field.
    """
    path = Path(folder) / RESULT
    if not path.exists():
        return None
    data = read_json(path)
    repair = f"restore it from a copy, or delete {path} to retrain"
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a {type(data).__name__}", "a result is a JSON object", repair)
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version is {version}",
            f"this version of morphsearch reads results up to schema_version {SCHEMA_VERSION}",
            "upgrade morphsearch, or read it with the version that wrote it",
        )
    number, text = (int, float), (str,)
    kinds: dict[str, tuple[type, ...]] = {
        "label": text,
        "seed": (int,),
        "recipe": (dict,),
        "accuracy": number,
        "loss": (*number, type(None)),
        "evaluated_on": text,
        "test_count": (int,),
        "val_accuracy": number,
        "val_loss": (*number, type(None)),
        "epochs": number,
        "seconds": number,
        "images_per_second": number,
        "precision": (dict,),
        "extra": (dict,),
        "schema_version": (int,),
    }
    for name, kind in kinds.items():
        if name not in data:
            raise InputError(f"{path}: field {name!r} is missing", "a result has all its fields", repair)
        if not isinstance(data[name], kind) or isinstance(data[name], bool):
            expected = " or ".join("null" if one is type(None) else one.__name__ for one in kind)
            raise InputError(f"{path}: field {name!r} is {data[name]!r}", f"{name} is of type {expected}", repair)
        if not _finite(data[name]):
            raise InputError(f"{path}: field {name!r} is {data[name]!r}", f"{name} is a finite number", repair)
    for name in ("accuracy", "val_accuracy"):
        if not 0 <= data[name] <= 1:
            raise InputError(f"{path}: field {name!r} is {data[name]!r}", f"{name} is a share, 0 to 1", repair)
    for name, (accepts, rule) in _EXTRA.items():
        if name in data["extra"] and not accepts(data["extra"][name]):
            raise InputError(f"{path}: field 'extra.{name}' is {shown(data['extra'][name])}", rule, repair)
    return RetrainResult(**{name: data[name] for name in kinds})


def _finite(value: Any) -> bool:
    try:
        return not isinstance(value, int | float) or math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _numbers_by_name(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, kind) and not isinstance(one, bool) and _finite(one) for one in value.values()
    )


def _text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


#: What tables read of `extra`: what holds of it where it is there, and the rule in words.
_EXTRA: dict[str, tuple[Callable[[Any], bool], str]] = {
    "widths": (lambda value: _numbers_by_name(value, int), "widths are whole numbers by group"),
    "costs": (lambda value: _numbers_by_name(value, (int, float)), "costs are finite numbers by name"),
    "architecture": (_text_or_none, "an architecture is named by text"),
    "baseline_of": (_text_or_none, "an architecture is named by text, or null"),
    "teacher": (_text_or_none, "a teacher is named by text, or null"),
}
