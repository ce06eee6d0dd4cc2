"""What a search is asked for: everything that ``run.json`` needs to repeat it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from morphsearch.arguments import named_fields
from morphsearch.errors import InputError, UnknownName, UsageError
from morphsearch.loop.budget import schedule_length
from morphsearch.loop.checks import check_arguments
from morphsearch.loop.deciding import AUTO, by_budget, by_data, epochs_for, wants_of
from morphsearch.training.recipe import Recipe, field_of, said

# What training under pressure wants: a constant rate, since the search should not end where learning does.
SEARCH_RECIPE: dict[str, Any] = {"schedule": "constant", "lr": 0.05}


def _whole(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _texts(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(item, str) for item in value)


def _shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) > 1 and all(_whole(size) for size in value)


#: Field to: what it accepts, the rule in words, the repair.
_RULES: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "model": (lambda v: isinstance(v, str) and bool(v), "the spec of a seed", 'write for example model = "resnet20"'),
    "data": (lambda v: isinstance(v, str) and bool(v), "the spec of a data set", 'write for example data = "digits"'),
    "budget": (_texts, "one or more budgets, as text", 'write for example budget = ["flops=50%"]'),
    "strategy": (lambda v: isinstance(v, str), "the name of a strategy", 'write for example strategy = "gamma-l1"'),
    "strategy_options": (lambda v: isinstance(v, Mapping), "a table of options by name", "leave it out"),
    "iterations": (lambda v: v is None or _whole(v), "a whole number: a search makes one morph or more", "use 1 or 2"),
    "epochs": (
        lambda v: v is None or (_number(v) and v > 0),
        "a number above 0: how long each morph trains",
        "leave it out, or use 10",
    ),
    "device": (lambda v: isinstance(v, str) and bool(v), "auto, cpu or an accelerator's name", 'use "auto"'),
    "input": (lambda v: v is None or _shape(v), "an example shape with batch", "write for example [1, 3, 32, 32]"),
    "recipe": (lambda v: isinstance(v, Mapping), "a table of recipe fields", "leave it out"),
    "expand": (lambda v: isinstance(v, bool), "true or false", "use true"),
    "live": (lambda v: isinstance(v, bool), "true or false", "use true"),
    "val_fraction": (lambda v: _number(v) and 0 < v < 1, "a share in (0, 1)", "use 0.1"),
    "hardware": (lambda v: v is None or (isinstance(v, str) and bool(v)), "a profile's name or file", "leave it out"),
    "allow_code": (lambda v: isinstance(v, bool), "true or false", "use false"),
}


DEFAULT_ITERATIONS = 2


def search_recipe(strategy: str, images: int | None) -> dict[str, Any]:
    """The fields of the recipe that a search trains by, where the user says nothing.

    A batch is 128 images, and less for small sets, so that an epoch has about 40 steps: fewer teach a network little,
    and its batch-norm statistics nothing.
    """
    return {**SEARCH_RECIPE, **wants_of(strategy).recipe, "batch_size": batch_size_for(images)}


def training_of(
    strategy: str, images: int | None, recipe: Mapping[str, Any], epochs: float | None, device: str
) -> Recipe:
    """The recipe of a search's own training on so many `images` (None: many), with what the user says of it.

    Raises:
        UsageError: the recipe and an option of the search say different things.
    """
    epochs = field_of(recipe, "epochs", epochs, None)
    device = field_of(recipe, "device", device, "auto")
    fields_ = {**search_recipe(strategy, images), **recipe, "device": device}
    if epochs is not None:
        return Recipe.from_dict({**fields_, "epochs": epochs})
    batch = Recipe.from_dict(fields_).batch_size
    return Recipe.from_dict({**fields_, "epochs": epochs_for(strategy, images, batch)})


def steps_of(recipe: Recipe, images: int) -> int:
    """Optimizer steps of a training on so many images."""
    return int(recipe.epochs * images / (recipe.batch_size * recipe.accumulate))


def kept_for_retraining(recipe: Mapping[str, Any]) -> list[str]:
    """A note for fields of the recipe that a search has no use for itself."""
    names = [name for name in ("ema", "distill", "temperature") if said(recipe, name) and recipe[name]]
    return [f"The search goes without {' and '.join(names)} of the recipe: kept for retraining."] if names else []


def schedule_note(steps: int, total: int) -> str:
    """What a length of the schedule means beside the length of a training."""
    if steps > total:
        return f"steps={steps:,}, but a morph trains for {total:,}: the schedule is as long as the training (epochs)."
    return f"The shrinking schedule takes {steps:,} of the {total:,} steps."


def number_of_morphs(iterations: int | None, budget: Sequence[str], default: int = DEFAULT_ITERATIONS) -> int:
    """How many morphs a search makes: as many as were asked for, or as a schedule of budgets has; else `default`.

    Raises:
        UsageError: both are given and differ, or a budget does not parse.
    """
    if not any("," in text for text in budget):
        return iterations or default
    length = schedule_length(budget)
    if length > 1 and iterations not in (None, length):
        raise UsageError(
            f"iterations={iterations} with a schedule of {length} budgets",
            "a schedule makes one morph for each of its budgets",
            f"leave iterations out, or use {length}",
        )
    return length if length > 1 else iterations or default


def batch_size_for(images: int | None) -> int:
    """The default batch size: a power of two from 16 to 128 that makes about 40 batches of so many images."""
    if images is None:
        return 128
    return min(128, max(16, 1 << max(0, (images // 40).bit_length() - 1)))


@named_fields
@dataclass(frozen=True)
class SearchConfig:
    """One search.

    Attributes:
        model: spec of the seed. data: spec of the data. budget: one or more budgets, or schedules of budgets.
        strategy, strategy_options: the strategy and its keyword arguments; ``"auto"`` decides by budget, data and
            network, see :mod:`morphsearch.loop.deciding`.
        iterations: morphs; default the strategy's (2, if it says nothing), or one for each budget of a schedule.
        epochs: training before each of them; default: as many steps as the strategy wants, 1 to 50 epochs.
        steps: length of the schedule within that; default all of it.
        seed: of everything random. device: where to train.
        input: example shape with batch, default one image of the data.
        recipe: fields of :class:`morphsearch.training.Recipe` that differ from the search's own.
        round_to, strength, threshold, expand, shrink_to, live: see :class:`morphsearch.loop.session.Search`.
        val_fraction: of the training images, where the data has no validation part.
        hardware: for the cost latency: a hardware profile, its file or its name; default: the newest of this device.
        allow_code: leave to run factories that are not part of morphsearch.
    """

    model: str
    data: str = "digits"
    budget: tuple[str, ...] = ("flops=50%",)
    strategy: str = AUTO
    strategy_options: dict[str, Any] = field(default_factory=dict)
    iterations: int | None = None
    epochs: float | None = None
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    input: tuple[int, ...] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    round_to: int = 1
    strength: float | None = None
    threshold: float | None = None
    expand: bool = True
    shrink_to: float | None = None
    live: bool = True
    val_fraction: float = 0.1
    hardware: str | None = None
    allow_code: bool = False

    def __post_init__(self) -> None:
        budget: Any = self.budget
        object.__setattr__(self, "budget", (budget,) if isinstance(budget, str) else budget)
        for name, (accepts, rule, repair) in _RULES.items():
            value = getattr(self, name)
            if not accepts(value):
                raise UsageError(f"{name}={value!r}", f"{name} is {rule}", repair)
        check_arguments(
            steps=self.steps,
            seed=self.seed,
            round_to=self.round_to,
            strength=self.strength,
            threshold=self.threshold,
            shrink_to=self.shrink_to,
        )
        object.__setattr__(self, "budget", tuple(self.budget))
        object.__setattr__(self, "strategy", by_budget(self.strategy, self.budget, asdict(self)))
        morphs = number_of_morphs(self.iterations, self.budget, wants_of(self.strategy).iterations)
        if self.strategy != AUTO or any("," in text for text in self.budget):  # else the strategy is to say
            object.__setattr__(self, "iterations", morphs)
        if self.input is not None:
            object.__setattr__(self, "input", tuple(self.input))
        self.training()

    @property
    def morphs(self) -> int:
        """How many morphs the search makes."""
        return self.iterations or DEFAULT_ITERATIONS

    def training(self, images: int | None = None) -> Recipe:
        """The recipe of the search's own training on so many `images` (None: many)."""
        return training_of(self.strategy, images, self.recipe, self.epochs, self.device)

    def settled(self, images: int) -> SearchConfig:
        """The configuration with what it leaves to the data: the strategy, how many morphs, and how long to train.

        Args:
            images: of the training part.
        """
        tried = training_of("trials", images, self.recipe, self.epochs, self.device)
        decided = replace(self, strategy=by_data(self.strategy, self.budget, asdict(self), steps_of(tried, images)))
        return replace(decided, iterations=decided.morphs, epochs=decided.training(images).epochs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            UnknownName: an option that there is not, with the nearest names. InputError: a required one is missing.
        """
        known = {entry.name for entry in fields(cls)}
        for key in data:
            if key not in known:
                raise UnknownName.of("option", key, known)
        if "model" not in data:
            raise InputError("the configuration names no model", "a search needs a seed", 'add model = "resnet20"')
        return cls(**dict(data))
