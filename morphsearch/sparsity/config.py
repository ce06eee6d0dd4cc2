"""What a sparsification is asked for: everything that ``run.json`` needs to repeat it. Imports no torch by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from morphsearch.arguments import named_fields, require_seed
from morphsearch.errors import InputError, UnknownName, UsageError
from morphsearch.loop.config import batch_size_for
from morphsearch.sparsity.schedule import Schedule
from morphsearch.sparsity.values import listed, n_of_m, percent, table
from morphsearch.training.recipe import Recipe, check_taught, field_of

FRESH = "fresh"
TUNING_RATE = 0.02
"""Learning rate where weights are trained already, unless the recipe says otherwise; fresh ones take the recipe's."""
EPOCHS = 10.0


def masked_recipe(given: Mapping[str, Any]) -> Recipe:
    """The recipe of a training under masks.

    Raises:
        UsageError, UnknownName: as :class:`~morphsearch.training.Recipe`; or it asks for a moving average or a teacher.
    """
    recipe = Recipe.from_dict(given)
    check_taught(given, False, "leave {} out: a sparsification learns from the labels")
    if recipe.ema:
        raise UsageError(
            f"recipe field 'ema' is {recipe.ema!r}",
            "a sparsification averages no weights, since an average of masked weights is not zero where they are now",
            "leave ema out",
        )
    return recipe


def length_and_device(recipe: Mapping[str, Any], epochs: float, device: str) -> dict[str, Any]:
    """Those two, which are options and fields of the recipe.

    Raises:
        UsageError: both are given, and differ.
    """
    return {"epochs": field_of(recipe, "epochs", epochs, EPOCHS), "device": field_of(recipe, "device", device, "auto")}


@named_fields
@dataclass(frozen=True)
class SparsifyConfig:
    """One sparsification with training of its own.

    Attributes:
        model: spec of a seed, an ``architecture.json``, or the folder of a search (its last architecture).
        data: spec of the data. data_seed, val_fraction: of its splits; `seed` where data_seed is None.
        target: final sparsity; None with `nm`. schedule, initial, begin, end, frequency, power: see
            :class:`~morphsearch.sparsity.schedule.Schedule`; None takes its defaults.
        scope, of, block, pool, nm, include, exclude, depthwise, strategy, strategy_options: see
            :class:`~morphsearch.sparsity.sparsifier.Sparsifier`.
        weights: what it starts from: ``"fresh"`` (as the model is built), ``"inherited"`` or ``"retrained"`` (of an
            architecture in a run), or a safetensors file.
        epochs, seed, device, input, recipe: of the training; the recipe's fields that differ from the defaults.
        allow_code: leave to run factories that are not part of morphsearch.

    Raises:
        UsageError: a value of the wrong type or out of range.
    """

    model: str
    target: float | str | None = None
    data: str = "digits"
    schedule: str = "polynomial"
    initial: float | str | None = None
    begin: int | float | str | None = None
    end: int | float | str | None = None
    frequency: int | None = None
    power: float | None = None
    scope: str = "layer"
    of: str = "prunable"
    block: tuple[int, ...] | str | None = None
    pool: str = "mean"
    nm: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    depthwise: bool = False
    strategy: str = "magnitude-sparsity"
    strategy_options: dict[str, Any] = field(default_factory=dict)
    weights: str = FRESH
    epochs: float = EPOCHS
    seed: int = 0
    data_seed: int | None = None
    device: str = "auto"
    input: tuple[int, ...] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    val_fraction: float = 0.1
    allow_code: bool = False

    def __post_init__(self) -> None:
        for name in ("model", "data", "weights", "device"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise UsageError(
                    f"{name}={value!r}", f"{name} is text", f"write for example {name}={_EXAMPLES[name]!r}"
                )
        for name in ("seed", "data_seed"):
            value = getattr(self, name)
            if value is not None or name == "seed":
                require_seed(value, name)
        share: Any = self.val_fraction
        if not isinstance(share, int | float) or not math.isfinite(share) or not 0 < share < 1:
            raise UsageError(f"val_fraction={share!r}", "val_fraction is a share in (0, 1)", "use 0.1")
        for name in ("include", "exclude"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(listed(value, name)))
        for name, example in (("recipe", '{"lr": 0.02}'), ("strategy_options", '{"p": 1}')):
            object.__setattr__(self, name, table(getattr(self, name), name, "values by name", example))
        for name in ("input", "block"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        self.timing()
        self.training()

    def timing(self) -> Schedule:
        """The schedule.

        Raises:
            UsageError: no target, or values out of range.
        """
        target = self.target
        if target is None:
            if self.nm is None:
                raise UsageError(
                    "no target", "a sparsification has a target", "add --target 70% (target=0.7), or --nm 2:4"
                )
            n, m = n_of_m(self.nm)
            target = 1 - n / m
        given = {
            name: getattr(self, name)
            for name in ("initial", "begin", "end", "frequency", "power")
            if getattr(self, name) is not None
        }
        if self.schedule == "constant":
            wrong = [name for name in ("initial", "power") if name in given]
            if wrong:
                raise UsageError(
                    f"{wrong[0]} with the constant schedule",
                    "a constant schedule has its target from the beginning",
                    f"leave out {wrong[0]}, or take the polynomial schedule",
                )
            return Schedule.constant(target, **given)
        return Schedule(target, **given, kind=self.schedule)  # type: ignore[arg-type]

    def options(self) -> dict[str, Any]:
        """The arguments of a Sparsifier, but for the network and the number of steps."""
        names = (
            "scope",
            "of",
            "block",
            "pool",
            "nm",
            "include",
            "exclude",
            "depthwise",
            "strategy",
            "strategy_options",
        )
        return {"schedule": self.timing(), **{name: getattr(self, name) for name in names}}

    def training(self, images: int | None = None) -> Recipe:
        """The recipe on so many training images (None: many)."""
        base: dict[str, Any] = {"batch_size": batch_size_for(images)}
        if self.weights != FRESH:
            base["lr"] = TUNING_RATE
        own = length_and_device(self.recipe, self.epochs, self.device)
        return masked_recipe({**base, **dict(self.recipe), **own})

    @property
    def asked(self) -> str:
        """In one phrase, such as ``sparsity=70%``."""
        return f"sparsity={self.nm or percent(self.timing().final)}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SparsifyConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            UnknownName: an option that there is not. InputError: no model.
        """
        known = {entry.name for entry in fields(cls)}
        for key in data:
            if key not in known:
                raise UnknownName.of("option", key, known)
        if "model" not in data:
            raise InputError("the configuration names no model", "a network is needed", 'add model = "resnet20"')
        return cls(**dict(data))


_EXAMPLES = {"model": "resnet20", "data": "digits", "weights": FRESH, "device": "auto"}
