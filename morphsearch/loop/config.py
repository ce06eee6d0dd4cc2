"""What a search is asked for: everything that ``run.json`` needs to repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from morphsearch.errors import InputError, UnknownName, UsageError
from morphsearch.training.recipe import Recipe

# What training under pressure wants: a constant rate (the search should not end where learning does), with a short warm-up.
SEARCH_RECIPE: dict[str, Any] = {"schedule": "constant", "lr": 0.05}


@dataclass(frozen=True)
class SearchConfig:
    """One search.

    Attributes:
        model: spec of the seed. data: spec of the data. budget: one or more budgets.
        strategy, strategy_options: the strategy and its keyword arguments.
        iterations: morphs. epochs: training under pressure before each of them.
        steps: length of the schedule within that; default all of it.
        seed: of everything random. device: where to train.
        input: example shape with batch, default one image of the data.
        recipe: fields of :class:`morphsearch.training.Recipe` that differ from the search's own.
        round_to, strength, threshold, expand, shrink_to: see :class:`morphsearch.loop.session.Search`.
        val_fraction: of the training images, where the data has no validation part.
        allow_code: leave to run factories that are not part of morphsearch.
    """

    model: str
    data: str = "digits"
    budget: tuple[str, ...] = ("flops=50%",)
    strategy: str = "gamma-l1"
    strategy_options: dict[str, Any] = field(default_factory=dict)
    iterations: int = 2
    epochs: float = 10
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
    val_fraction: float = 0.1
    allow_code: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", (self.budget,) if isinstance(self.budget, str) else tuple(self.budget))
        if self.iterations < 1:
            raise UsageError(f"iterations={self.iterations}", "a search makes one morph or more", "use 1 or 2")
        if not self.epochs > 0:
            raise UsageError(f"epochs={self.epochs}", "each morph trains for more than 0 epochs", "use 10")
        if self.input is not None:
            object.__setattr__(self, "input", tuple(int(size) for size in self.input))
        self.training()

    def training(self) -> Recipe:
        """The recipe of the search's own training."""
        return Recipe.from_dict({**SEARCH_RECIPE, **self.recipe, "epochs": self.epochs, "device": self.device})

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
