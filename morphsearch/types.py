"""Typed records that plugins return, and protocols for what they make. Imports no torch at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import click
    from torch import Tensor, nn


@dataclass(frozen=True)
class Record:
    """What a hook returns: a `name` (unique per hook), a one-line `summary` and a `factory`.

    Factories are called only when the name is used, so that listing plugins never imports torch: import inside them.
    `origin` (the distribution that registered the record) is filled in by the plugin manager.
    """

    name: str
    summary: str
    factory: Callable[..., Any]
    origin: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class CostModelRecord(Record):
    """``factory() -> CostModel``."""


@dataclass(frozen=True)
class StrategyRecord(Record):
    """``factory(**options) -> morphsearch.strategies.base.Strategy``.

    `iterations` is how many morphs a search with it makes where nobody says, `steps` about how many optimizer steps are
    trained before each; `recipe` holds the fields of :class:`morphsearch.training.Recipe` in which its training differs
    from other searches'.
    """

    iterations: int = field(default=2, kw_only=True)
    steps: int = field(default=2000, kw_only=True)
    recipe: Mapping[str, Any] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class OperationRecord(Record):
    """``factory() -> OperationRule``: teaches the recorder one operation or module type."""


@dataclass(frozen=True)
class ModelRecord(Record):
    """A seed. ``factory(**arguments) -> nn.Module``; with ``source=True`` the name is a scheme, as in
    ``torchvision:resnet18?num_classes=10``, and the factory is called ``factory(target, **arguments)``.

    `input_shape` is the default example input of one image, ``(c, h, w)``; None where the user must say.
    """

    input_shape: tuple[int, ...] | None = field(default=None, kw_only=True)
    source: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class DataRecord(Record):
    """``factory(argument, options) -> DataSplits``; `argument` follows the colon of ``name:argument``, or is None."""


@dataclass(frozen=True)
class ExporterRecord(Record):
    """``factory() -> Exporter``."""


@dataclass(frozen=True)
class ExecutorRecord(Record):
    """``factory() -> Executor``."""


@dataclass(frozen=True)
class LatencyBackendRecord(Record):
    """``factory() -> LatencyBackend``."""


@dataclass(frozen=True)
class CommandRecord(Record):
    """``factory() -> click.Command``, added to the command line under `name`."""


@runtime_checkable
class CostModel(Protocol):
    """Prices a graph. `unit` is printed beside every figure ("FLOPs", "parameters", "mJ")."""

    name: str
    unit: str

    def bind(self, graph: Any) -> BoundCost:
        """The cost of one :class:`~morphsearch.graph.ConvGraph` as a function of its group widths."""
        ...


@runtime_checkable
class BoundCost(Protocol):
    """A cost as a function of widths. Widths come as a float64 tensor `g`, one entry a group in the graph's order.

    It may also have ``prices(widths)`` or ``pressure(widths, limit)`` (`g`: what units are worth to a search, where
    differences mislead), ``details(widths)`` (module path to what its cost is made of), ``uncounted`` and ``notes``.
    """

    unit: str

    def total(self, widths: Tensor) -> Tensor:
        """Scalar float64; exact at integers, differentiable in between."""
        ...

    def per_layer(self, widths: Tensor) -> Mapping[str, Tensor]:
        """Scalar per layer (module path); the values add up to :meth:`total`."""
        ...

    def marginal(self, widths: Tensor) -> Tensor:
        """`g`: the price of one more unit of each group at `widths`."""
        ...


class Exporter(Protocol):
    """Writes an architecture in some format."""

    suffix: str

    def export(
        self, architecture: Any, destination: Any, *, weights: Any = None, allow_code: bool = False
    ) -> Sequence[str] | None:
        """Write `architecture` to the path `destination`, atomically; `weights` are tensors by name, None for fresh.

        Returns:
            What the user should know, one line each, or None.
        """
        ...


class Executor(Protocol):
    """Runs independent tasks (retrainings), wherever it likes, and yields their results as they end."""

    def run(self, tasks: Sequence[Callable[[], Any]]) -> Iterable[tuple[int, Any]]:
        """Yield ``(index of the task, its result)`` in the order of completion; an exception of a task propagates."""
        ...


@dataclass(frozen=True)
class Observation:
    """One operation of a running network, as a backend ran it, and how long it took.

    Attributes:
        kind: what it does, as :attr:`morphsearch.graph.Operation.kind` says it ("conv", "relu", "add"); what is fused
            into it has no observation of its own.
        inputs, outputs: shapes of the activations.
        seconds: once for each pass.
        weight: shape of the filters, ``o x c/g x k...``, or of a linear layer's weight, ``o x c``.
        groups: of a convolution.
        issued: where operations are queued for another device, once for each pass: seconds that it took to queue this
            one. `seconds` are then the device's own.
        again: how many results what is fused into it goes over once more, each counted at the price that the backend's
            ``again`` has for that kind.
    """

    kind: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    seconds: tuple[float, ...]
    weight: tuple[int, ...] = ()
    groups: int = 1
    issued: tuple[float, ...] = ()
    again: float = 0.0


class LatencyBackend(Protocol):
    """Something that runs networks, and can be timed.

    It may also have ``again(settings)``, which returns a mapping: kinds in `into_weights` that go over all results once
    more when these are there, and ``"bias"`` for that of a convolution, with how long that takes an element beside the
    others.

    Attributes:
        name: as in ``morphsearch profile --backend NAME``.
        into_weights: kinds of operations that vanish into the convolution or linear layer before them.
        into_pointwise: kinds that vanish into any element-wise operation before them.
    """

    name: str
    into_weights: frozenset[str]
    into_pointwise: frozenset[str]

    def check(self, settings: Any) -> None:
        """Raise InputError, with what to install, where `settings` cannot be met on this machine."""
        ...

    def versions(self) -> Mapping[str, str]:
        """Versions of what it needs, beside torch's."""
        ...

    def prepare(self, model: nn.Module, inputs: Sequence[Tensor], settings: Any) -> Callable[[], Any]:
        """A function that runs one forward pass of `model` (in evaluation mode) and returns when it is over."""
        ...

    def observe(self, model: nn.Module, inputs: Sequence[Tensor], settings: Any, repeats: int) -> Sequence[Observation]:
        """Time every operation within the running network; nothing where the backend cannot."""
        ...


Commands = Iterable["click.Command"]
Factory = Callable[..., "nn.Module"]
