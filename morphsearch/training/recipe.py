"""How a network is trained, as plain data: validated when made, JSON both ways, no torch needed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from morphsearch.arguments import named_fields
from morphsearch.errors import UnknownName, UsageError

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "onecycle", "constant")
PRECISIONS = ("auto", "fp32", "bf16")
LARGEST, MOST = 1e30, 10**15
"""No number and no whole number of a recipe is larger: what is would overflow somewhere within PyTorch."""


@named_fields
@dataclass(frozen=True)
class Recipe:
    """One training recipe.

    Attributes:
        epochs: passes over the training split; a fraction is allowed (``0.5`` trains half an epoch).
        batch_size: images per forward pass. An optimizer step sees ``batch_size * accumulate`` images.
        optimizer: ``"sgd"`` (with Nesterov momentum, or plain where `momentum` is 0) or ``"adamw"``.
        lr: peak learning rate. The default suits sgd; adamw usually wants 1e-3.
        momentum: of sgd; the first beta of adamw (the second is 0.999).
        weight_decay: for weights of two or more dimensions; biases, norm scales and what a strategy regularizes are
            left out. Coupled (L2) for sgd, decoupled for adamw.
        schedule: ``"cosine"`` to zero, ``"onecycle"`` (Smith & Topin 2018, as in torch, without the momentum cycle) or
            ``"constant"``; set at every optimizer step.
        warmup: share of all steps in which the rate rises: linearly for cosine and constant, by a cosine for onecycle.
        label_smoothing: of the cross-entropy, in [0, 1).
        accumulate: batches per optimizer step.
        precision: ``"fp32"``, ``"bf16"`` (autocast) or ``"auto"``: the quicker one, measured on this model and device.
        channels_last: memory format of images and weights; ``"auto"`` measures that too.
        augment: random crops and flips, as the data source defines them.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        clip_norm: largest norm of the whole gradient; None does not clip.
        ema: decay of a moving average of the weights, which a training from scratch judges and keeps instead of the
            last ones; 0 for none. A search goes on from its weights and averages none; what it finds is retrained so.
        distill: share of the loss that a teacher has where there is one (Hinton et al., arXiv 1503.02531).
        temperature: by which the scores of teacher and student are divided for it.

    Raises:
        UsageError: a value of the wrong type or outside its range.
    """

    epochs: float = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup: float = 0.05
    label_smoothing: float = 0.0
    accumulate: int = 1
    precision: str = "auto"
    channels_last: bool | str = "auto"
    augment: bool = True
    device: str = "auto"
    clip_norm: float | None = None
    ema: float = 0.0
    distill: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        self._number("epochs", "a number above 0", lambda value: value > 0)
        self._number("batch_size", "a whole number, at least 1", lambda value: value >= 1, whole=True)
        self._number("accumulate", "a whole number, at least 1", lambda value: value >= 1, whole=True)
        self._number("lr", "a number above 0", lambda value: value > 0)
        self._number("weight_decay", "a number, at least 0", lambda value: value >= 0)
        self._number("momentum", "a number in [0, 1)", lambda value: 0 <= value < 1)
        self._number("warmup", "a share of all steps in [0, 1)", lambda value: 0 <= value < 1)
        self._number("label_smoothing", "a number in [0, 1)", lambda value: 0 <= value < 1)
        if self.clip_norm is not None:
            self._number("clip_norm", "a number above 0, or null for no clipping", lambda value: value > 0)
        self._number("ema", "a number in [0, 1), 0 for none", lambda value: 0 <= value < 1)
        self._number("distill", "a number above 0, at most 1", lambda value: 0 < value <= 1)
        self._number("temperature", "a number above 0", lambda value: value > 0)
        self._choice("optimizer", OPTIMIZERS)
        self._choice("schedule", SCHEDULES)
        self._choice("precision", PRECISIONS)
        if not isinstance(self.augment, bool):
            raise _wrong("augment", self.augment, "true or false")
        if not isinstance(self.channels_last, bool) and self.channels_last != "auto":
            raise _wrong("channels_last", self.channels_last, 'true, false or "auto"')
        if not isinstance(self.device, str) or not self.device:
            raise _wrong("device", self.device, 'a device name such as "auto", "cpu" or "cuda:0"')

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe with the fields in `data`; the others keep their defaults.

        Raises:
            UnknownName: a field that recipes do not have (the message names the nearest ones).
            UsageError: a value that its field does not take.
        """
        if not isinstance(data, Mapping):
            raise UsageError(f"the recipe is {data!r}", "a recipe is a table of fields", 'write e.g. {"lr": 0.05}')
        known = [field.name for field in dataclasses.fields(cls)]
        for name in data:
            if name not in known:
                raise UnknownName.of("recipe field", str(name), known)
        return cls(**data)

    def replace(self, **changes: Any) -> Recipe:
        """This recipe with some fields changed, validated like a new one."""
        return Recipe.from_dict({**self.to_dict(), **changes})

    def _number(self, name: str, rule: str, allowed: Any, *, whole: bool = False) -> None:
        value = getattr(self, name)
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        most = MOST if whole else LARGEST
        if number and value > most:  # before isfinite, which takes no whole number beyond every float
            raise _wrong(name, value, f"{rule}; at most {most:g}")
        if not number or not math.isfinite(value) or not allowed(value):
            raise _wrong(name, value, rule)

    def _choice(self, name: str, known: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in known:
            raise UnknownName.of(f"{name} in the recipe", str(value), known)


def field_of(recipe: Mapping[str, Any], name: str, option: Any, default: Any) -> Any:
    """The value of an option that is a field of the recipe too: the recipe's, where the option is left at its default.

    Raises:
        UsageError: both are given, and differ.
    """
    said = recipe.get(name, option)
    if option not in (default, said):
        raise UsageError(
            f"{name}={option!r}, and {name}={said!r} in the recipe",
            f"{name} is an option and a field of the recipe, and there is one of it",
            "give one of them",
        )
    return said


def said(recipe: Mapping[str, Any], name: str) -> bool:
    """Whether somebody asks for a field: it is given, and not just at its default in a recipe that is given whole."""
    known = {field.name: field.default for field in dataclasses.fields(Recipe)}
    return name in recipe and not (recipe.keys() >= known.keys() and recipe[name] == known[name])


def check_taught(recipe: Mapping[str, Any], teacher: bool, repair: str) -> None:
    """Refuse fields that say how a training follows a teacher, where it has none.

    Args:
        recipe: what was given. teacher: whether there is one. repair: with a place for the name of the field.

    Raises:
        UsageError: as said.
    """
    for name in ("distill", "temperature"):
        if said(recipe, name) and not teacher:
            raise UsageError(
                f"recipe field {name!r} is {recipe[name]!r}, and no training has a teacher",
                f"{name} says how a training follows its teacher",
                repair.format(name),
            )


def _wrong(name: str, value: object, rule: str) -> UsageError:
    default = next(field.default for field in dataclasses.fields(Recipe) if field.name == name)
    return UsageError(f"recipe field {name!r} is {value!r}", f"{name} is {rule}", f"the default is {default!r}")
