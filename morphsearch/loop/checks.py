"""What a search refuses before anything is trained."""

from __future__ import annotations

import inspect
import json
import math
import platform
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from morphsearch.arguments import MOST_SEED, is_path, is_seed, shown
from morphsearch.data import DataSplits, LoaderSplit
from morphsearch.errors import GraphError, MorphError, UnknownName, UsageError
from morphsearch.loop.schema import finite
from morphsearch.strategies.base import Strategy
from morphsearch.strategies.gates import gated
from morphsearch.training.recipe import said

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

Rule = tuple[Callable[[float], bool], bool, str, str]

#: Argument to: what holds of it, whether it is whole, the rule in words, the repair.
_RULES: dict[str, Rule] = {
    "steps": (lambda v: v >= 1, True, "a whole number of optimizer steps, 1 or more", "leave it out to self-pace"),
    "strength": (lambda v: v >= 0, False, "zero or more", "leave it out to have it found"),
    "threshold": (lambda v: v >= 0, False, "zero or more", "leave it out to take the strategy's own"),
    "shrink_to": (lambda v: 0 < v <= 1, False, "a share of the budget in (0, 1]", "use 0.75"),
    "limit": (lambda v: v >= 1, False, "a number, at least 1", "use 4"),
    "round_to": (lambda v: v >= 1, True, "a whole number, 1 or more", "use 1, 8 or 16"),
    "warmup": (lambda v: 0 <= v < 1, False, "a share of the steps in [0, 1)", "use 0.2"),
    "seed": (is_seed, True, f"a whole number from 0 to {MOST_SEED:,}", "use 0"),
}
OPTIONAL = ("steps", "strength", "threshold", "shrink_to", "warmup")


def check_arguments(**values: Any) -> None:
    """Check arguments of a search by their names.

    Raises:
        UsageError: one is of the wrong type or out of range.
    """
    for name, value in values.items():
        holds, whole, rule, repair = _RULES[name]
        if value is None and name in OPTIONAL:
            continue
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not number or not _finite(value) or not holds(value):
            raise UsageError(f"{name}={shown(value)}", f"{name} is {rule}", repair)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _named(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and all(isinstance(key, str) for key in value))


def _texts(value: Any) -> bool:
    return isinstance(value, (str, Sequence)) and not isinstance(value, (bytes, bytearray))


#: Argument to: what holds of its value, the rule in words, the repair.
_KINDS: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "budget": (_texts, "a budget is text, METRIC=N% or METRIC<=N, or a list of texts", "write for example 'flops=50%'"),
    "strategy": (
        lambda v: isinstance(v, str),
        "a strategy is given by its name; one of your own is registered by a plugin",
        "leave it out, or choose one that `morphsearch plugins` lists",
    ),
    "strategy_options": (_named, "options are keyword arguments of the strategy, by name", "write {'memory': 100}"),
    "pricing": (lambda v: isinstance(v, str), "pricing is 'share' or 'unit'", "leave it out for 'share'"),
    "record_extra": (_named, "what run.json should say too is a dict with text as keys", "write {'data': 'cifar10'}"),
    "run_dir": (
        lambda v: v is None or is_path(v),
        "a run directory is a path",
        "write 'runs/a', or leave it out to save nothing",
    ),
    "hardware": (
        lambda v: v is None or isinstance(v, (str, Path)) or hasattr(v, "bind"),
        "hardware is a profile, its file or its name",
        "leave it out for this device",
    ),
    "seed_spec": (
        lambda v: v is None or isinstance(v, str),
        "a seed spec is text",
        "write 'resnet20', or leave it out",
    ),
    "expand": (lambda v: isinstance(v, bool), "expand is true or false", "use True"),
    "live": (lambda v: isinstance(v, bool), "live is true or false", "use True"),
    "resume": (lambda v: isinstance(v, bool), "resume is true or false", "use True"),
    "recipe": (_named, "a recipe is a dict of fields of morphsearch.training.Recipe", "write {'lr': 0.1}"),
    "listener": (lambda v: v is None or callable(v), "a listener is a function", "leave it out for silence"),
    "judge": (
        lambda v: v is None or callable(v),
        "judge is a function of the new network that returns what it measured",
        "pass the function itself, morph(evaluate)",
    ),
}


def check_kinds(**values: Any) -> None:
    """Check what kind of thing arguments are, by their names.

    Raises:
        UsageError: one is of another kind.
    """
    for name, value in values.items():
        holds, rule, repair = _KINDS[name]
        if holds(value):
            continue
        if name == "budget" and isinstance(value, (int, float)):
            repair = f"write 'flops={value:g}%' or 'params<={value:g}'"
        raise UsageError(f"{name}={shown(value)}", rule, repair)


#: Fields of ``run.json`` that the search writes, or reads to tell what kind of run it is.
RESERVED = frozenset(
    "format schema_version kind seed_spec inputs seed_widths seed_costs budgets strategy seed schedule warmup pricing "
    "live strength threshold expand shrink_to limit round_to strategy_options hardware decisions operations "
    "versions".split()
)


def check_extra(extra: Mapping[str, Any]) -> None:
    """Refuse what ``run.json`` cannot hold, and what would take the place of its own fields.

    Raises:
        UsageError: as said.
    """
    for key, value in extra.items():
        if key in RESERVED or not _EXTRA.get(key, lambda _: True)(value):
            raise UsageError(
                f"record_extra[{key!r}] is {shown(value)}",
                f"{key} is a field that run.json has by itself, and commands read it",
                f"choose another name, such as my_{key}",
            )
        try:
            json.dumps(finite(value))
        except (TypeError, ValueError):
            raise UsageError(
                f"record_extra[{key!r}] holds a {type(value).__name__}",
                "run.json holds numbers, text, true, false, None, and lists and dicts of them",
                "convert it: float(value), value.tolist(), str(value)",
            ) from None


def _is_config(value: Any) -> bool:
    from morphsearch.loop.config import SearchConfig

    try:
        return isinstance(value, Mapping) and bool(SearchConfig.from_dict(value))
    except MorphError:
        return False


#: Fields that ``run.json`` has of runs that are started by morphsearch itself, to what they must be.
_EXTRA: dict[str, Callable[[Any], bool]] = {
    "config": _is_config,
    "data": lambda v: isinstance(v, (str, Mapping)),
    "recipe": lambda v: isinstance(v, Mapping),
    "iterations": lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1,
}


def check_examples(example_inputs: Any) -> None:
    """Refuse example inputs that nothing can be counted on.

    Raises:
        UsageError: numbers instead of a tensor, or a tensor without elements.
    """
    numbers = isinstance(example_inputs, (tuple, list)) and all(type(one) is int for one in example_inputs)
    if numbers and example_inputs:
        shape = ", ".join(str(one) for one in example_inputs)
        raise UsageError(
            f"the example inputs are {tuple(example_inputs)!r}, numbers",
            "a network is recorded by running it on a tensor, the batch included",
            f"pass a tensor of that shape, torch.zeros({'1, ' * (len(example_inputs) < 4)}{shape})",
        )
    several = example_inputs.values() if isinstance(example_inputs, Mapping) else example_inputs
    for one in several if isinstance(several, (tuple, list, type({}.values()))) else [several]:
        if isinstance(one, Tensor) and not one.numel():
            raise UsageError(
                f"an example input of shape {tuple(one.shape)} has no element",
                "costs are counted on the example, so it holds one image at least",
                "give a batch of 1",
            )


def check_rate(lr: Any) -> float:
    """A learning rate that step() was given, as a number.

    Raises:
        UsageError: it is none, or negative, or not finite.
    """
    from morphsearch.loop.judging import number_of

    rate = number_of(lr)
    if rate is None or not math.isfinite(rate) or rate < 0:
        raise UsageError(
            f"lr={lr!r}",
            "lr is the learning rate of the optimizer's step, a number, zero or more",
            "leave it out: it is read from the optimizer that is followed",
        )
    return rate


def check_options(options: Mapping[str, Any], taker: Callable[..., Any], taken: Container[str]) -> None:
    """Refuse options that `taker`, which they are handed on to, does not know; those `taken` are given to it already.

    Raises:
        UnknownName: as said, with the nearest names.
    """
    known = [name for name in inspect.signature(taker).parameters if name not in taken]
    for name in options:
        if name not in known:
            raise UnknownName.of("option", name, known)


def judges(strategy: Strategy) -> bool:
    """Whether a strategy has a phase of its own before a morph, in which it compares widths by their losses."""
    return getattr(type(strategy), "run_phase", Strategy.run_phase) is not Strategy.run_phase


def check_useful(
    strategy: Strategy, options: Mapping[str, Any], *, expand: bool = True, pricing: str = "share", **values: Any
) -> list[str]:
    """Refuse arguments of a search that its strategy has no use for.

    Args:
        options: of the strategy, as they were given. values: what the user gave, by name; None for what was left out.

    Returns:
        A note for `steps`, which loops of the user's own give to any strategy.

    Raises:
        UsageError: as said.
    """
    phase = judges(strategy)
    threshold = values.get("threshold")
    if threshold is not None and options.get("threshold", threshold) != threshold:
        raise UsageError(
            f"threshold={threshold!r}, and threshold={options['threshold']!r} among the strategy's options",
            "they are the same, and there is one threshold",
            "give one of them",
        )
    priced = None if pricing == "share" else pricing
    if not strategy.needs_training:
        why = "tries whole networks out" if phase else "proposes widths without training"
        for name in ("strength", "threshold", "shrink_to", "warmup"):
            _refuse(strategy, name, values.get(name), f"{why}; no unit is judged, and none leaves in training")
        _refuse(strategy, "expand", None if expand or not phase else False, f"{why}, some of them wider in places")
        _refuse(strategy, "pricing", priced, f"{why}; no unit has a price")
        steps = values.get("steps")
        return [] if steps is None else [f"steps={steps} has no effect: {strategy.name} follows no schedule."]
    ranked = "takes units away by rank; nothing presses them"
    _refuse(strategy, "strength", None if strategy.presses else values.get("strength"), ranked)
    if phase and not strategy.presses:
        for name, value in (("threshold", threshold), ("pricing", priced)):
            _refuse(strategy, name, value, "compares widths by their losses")
    return []


def _refuse(strategy: Strategy, name: str, value: Any, why: str) -> None:
    word = {"shrink_to": name, "expand": "--no-expand (expand=False)"}.get(name, f"the {name}")
    if value is not None:
        raise UsageError(
            f"{name}={value!r} with strategy {strategy.name!r}",
            f"{strategy.name} {why}",
            f"leave {word} out, or use a strategy that presses, such as gamma-l1",
        )


def check_resume(resume: bool, run_dir: Any) -> None:
    """Refuse to go on with a run where none is named.

    Raises:
        UsageError: as said.
    """
    if resume and run_dir is None:
        raise UsageError(
            "resume=True without run_dir",
            "what is gone on with is the run in a folder; nothing else is kept",
            "name its folder, run_dir='runs/a', or leave resume out",
        )


def check_batches(data: DataSplits, recipe: Mapping[str, Any]) -> None:
    """Refuse fields of a recipe about batches that come ready from the user's own loader.

    Raises:
        UsageError: as said.
    """
    if not isinstance(data.train, LoaderSplit):
        return
    own = getattr(data.train.loader, "batch_size", None)
    other = said(recipe, "batch_size") and recipe["batch_size"] != own
    for name, wrong in (("batch_size", other), ("augment", recipe.get("augment") is False)):
        if wrong:
            raise UsageError(
                f"recipe field {name!r} is {recipe[name]!r}, and the training data is a loader",
                "a loader makes its batches itself: their size, order and augmentation are its own",
                f"set it where the loader is made, and leave {name} out; or pass the dataset behind the loader",
            )


def require_ungated(model: nn.Module) -> None:
    """Raise UsageError for a network that another search has put its gates on."""
    if isinstance(model, nn.Module) and gated(model):
        raise UsageError(
            "the network wears the gates of another search",
            "a search that judges by gates holds its network until it is over",
            "call detach() on the other search first, and search the network that it returns; or build it anew",
        )


def require_convolutions(graph: ConvGraph) -> None:
    """Raise GraphError for a network without convolutions or with nothing that may change."""
    if not any(operation.kind in ("conv", "conv_transpose") for operation in graph.operations):
        raise GraphError(
            "the network has no convolution",
            "morphsearch searches the widths of convolutional networks",
            "check that the right network is built, and that its forward pass runs its convolutions",
        )
    if not graph.free:
        reasons = sorted({str(group.frozen) for group in graph.groups.values()})
        raise GraphError(
            f"no group of the network may change: {'; '.join(reasons[:3])}",
            "a search needs at least one group of channels that can leave",
            "see `morphsearch verify` for what freezes them",
        )


def versions() -> dict[str, str]:
    """Versions that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    try:
        own = version("morphsearch")
    except PackageNotFoundError:
        own = "unknown"
    return {"morphsearch": own, "torch": torch.__version__, "python": platform.python_version()}
