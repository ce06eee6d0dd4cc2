"""What goes on with a network after a rewrite: its optimizers, their schedulers, and moving averages of it.

Everything is cut like the weights: what has a parameter's shape loses the same slices, and names stay.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.errors import UsageError
from morphsearch.graph.folded import unfolded
from morphsearch.graph.plan import Plan
from morphsearch.graph.rewrite import gathered
from morphsearch.loop.inplace import swap

Dims = dict[str, list[int]]


@dataclass
class Followers:
    """What follows a network.

    Attributes:
        optimizers: train it, one at least. schedulers: hold one of them.
        averages: moving averages: modules with the network's parameter names, or dicts of tensors by those names.
    """

    optimizers: Sequence[torch.optim.Optimizer]
    schedulers: Sequence[Any] = ()
    averages: Sequence[nn.Module | MutableMapping[str, Tensor]] = field(default_factory=tuple)
    # names in each parameter group of each optimizer, those that left included
    _held: dict[int, list[list[str]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: nn.Module, optimizer: Any, scheduler: Any = None, ema: Any = None, former: Followers | None = None
    ) -> Followers:
        """Check that these belong to `model`, and to each other.

        Args:
            optimizer, scheduler, ema: one or several each. former: what these are added to; optimizers of which the new
                ones hold all are left behind.

        Raises:
            UsageError: an optimizer of another network, or one whose state cannot be cut; a scheduler of another
                optimizer; an average of another network.
        """
        optimizers = _optimizers(model, optimizer)
        fresh = {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}
        still = {id(p) for p in model.parameters()} - fresh
        if former is not None:
            stay = [
                one
                for one in former.optimizers
                if one not in optimizers and any(id(p) in still for group in one.param_groups for p in group["params"])
            ]
            optimizers = [*stay, *optimizers]
        schedulers = () if scheduler is None else _sequence(scheduler)
        for one in schedulers:
            if not any(getattr(one, "optimizer", None) is known for known in optimizers):
                raise UsageError(
                    f"the scheduler ({type(one).__name__}) holds another optimizer",
                    "a scheduler sets the learning rate of the optimizer that is followed",
                    "build it from the optimizer that is passed to follow()",
                )
        averages = tuple(_average(model, one) for one in (() if ema is None else _sequence(ema)))
        if former is None:
            return cls(optimizers, schedulers, averages)
        kept = [one for one in former.schedulers if any(one.optimizer is known for known in optimizers)]
        return cls(
            optimizers,
            [*(one for one in kept if all(one is not new for new in schedulers)), *schedulers],
            [*(one for one in former.averages if all(one is not new for new in averages)), *averages],
            {id(one): former._held[id(one)] for one in optimizers if id(one) in former._held},
        )

    def check(self, model: nn.Module) -> None:
        """Refuse what cannot follow a rewrite of `model`, before anything is changed.

        Raises:
            UsageError: a parameter that is not the network's, or state that cannot be cut.
        """
        own = {id(parameter) for parameter in model.parameters()}
        for optimizer in self.optimizers:
            if any(id(p) not in own for group in optimizer.param_groups for p in group["params"]):
                raise UsageError(
                    "the optimizer holds a parameter that is not the searched network's",
                    "follow() exchanges the network's parameters as units leave",
                    "give other parameters an optimizer of their own",
                )
            check_state(optimizer)

    def others(self, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
        """Parameters of `model` that may be trained and that no optimizer here holds, with their names."""
        held = {id(p) for one in self.optimizers for group in one.param_groups for p in group["params"]}
        return [(name, p) for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]

    def rewritten(self, before: nn.Module, after: nn.Module, plan: Plan) -> None:
        """Go on with `after`, which was made from `before` by `plan`.

        Raises:
            UsageError: see :meth:`check`.
        """
        self.check(before)
        names = {id(parameter): name for name, parameter in before.named_parameters()}
        fresh, dims = dict(after.named_parameters()), dims_of(plan)
        for name, own in before.named_parameters():
            if own.grad is not None and name in fresh:
                fresh[name].grad = _cut(own.grad, name, plan, dims)
        for optimizer in self.optimizers:
            state: dict[Tensor, dict[str, object]] = {}
            for parameter, values in optimizer.state.items():
                name = names[id(parameter)]
                if name not in fresh:
                    continue  # it left with its branch
                state[fresh[name]] = {
                    key: _cut(value, name, plan, dims) if _like(value, parameter) else value
                    for key, value in values.items()
                }
            self._exchange(optimizer, names, fresh)
            optimizer.state.update(state)
        for average in self.averages:
            cut_average(average, after, plan, dims)

    def restarted(self, before: nn.Module, after: nn.Module) -> None:
        """Go on with `after`, of the same parameter names, without any state: it is loaded next."""
        names = {id(parameter): name for name, parameter in before.named_parameters()}
        for optimizer in self.optimizers:
            self._exchange(optimizer, names, dict(after.named_parameters()))

    def _exchange(
        self, optimizer: torch.optim.Optimizer, names: Mapping[int, str], fresh: Mapping[str, nn.Parameter]
    ) -> None:
        groups = optimizer.param_groups
        held = [[names[id(parameter)] for parameter in group["params"]] for group in groups]
        known = self._held.get(id(optimizer), [])
        if len(known) == len(held):  # what left with a branch comes back where a morph begins anew
            pairs = zip(held, known, strict=True)
            held = [before if set(now) <= set(before) else now for now, before in pairs]
        self._held[id(optimizer)] = held
        for group, own in zip(groups, held, strict=True):
            group["params"] = [fresh[name] for name in own if name in fresh]
        optimizer.state.clear()


def _optimizers(model: nn.Module, given: Any) -> list[torch.optim.Optimizer]:
    """The optimizers of a call of follow(), each of which trains `model` and can follow it."""
    optimizers = list(given) if isinstance(given, (list, tuple)) else [given]
    own = {id(p) for p in model.parameters()}
    for one in optimizers:
        if not (isinstance(getattr(one, "param_groups", None), list) and hasattr(one, "state")):
            raise UsageError(
                f"follow() got a {type(one).__name__}",
                "it takes the optimizer that trains search.model, or a list of those that do",
                "pass for example torch.optim.SGD(search.model.parameters(), lr=0.1), and train with it",
            )
        if not own & {id(p) for group in one.param_groups for p in group["params"]}:
            raise UsageError(
                "the optimizer holds no parameter of search.model",
                "follow() takes the optimizer that trains search.model",
                "build it from search.model.parameters(), after Search was made",
            )
        if type(one).__name__ in NOT_FOLLOWED:
            raise cannot_follow(type(one).__name__, NOT_FOLLOWED[type(one).__name__])
        check_state(one)
    if not optimizers:
        raise UsageError("follow() got no optimizer", "it takes one or several", "pass what trains search.model")
    return optimizers


#: Optimizers whose state is not one of slices, and what it is instead.
NOT_FOLLOWED = {
    "LBFGS": "it keeps a history of flattened gradients",
    "Adafactor": "it keeps the second moments of whole rows and columns",
}


def cannot_follow(optimizer: str, why: str) -> UsageError:
    """The error for an optimizer whose state cannot be cut."""
    return UsageError(
        f"the state of {optimizer} cannot be followed: {why}",
        "state that units can leave is one tensor of the parameter's shape, or single numbers, for every parameter",
        "use SGD, Adam, AdamW or the like, or leave out follow() and build a new optimizer after every morph()",
    )


def check_state(optimizer: torch.optim.Optimizer) -> None:
    """Raise UsageError for state that is neither of its parameter's shape nor a single number."""
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            single = value is None or isinstance(value, (bool, int, float, str))
            if isinstance(value, Tensor):
                single = value.numel() == 1 or value.shape == parameter.shape
            if not single:
                shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise cannot_follow(
                    type(optimizer).__name__, f"{key!r} of a parameter of shape {tuple(parameter.shape)} is {shape}"
                )


def dims_of(plan: Plan) -> Dims:
    """The dimensions of every tensor that a plan cuts."""
    dims: Dims = defaultdict(list)
    for name, dim in plan.gather:
        dims[name].append(dim)
    return dims


def cut_average(average: nn.Module | MutableMapping[str, Tensor], after: nn.Module, plan: Plan, dims: Dims) -> None:
    """Cut a moving average like the network, in place; readers of units that were widened share them out."""
    if not isinstance(average, nn.Module):
        left = {name for name, _ in _tensors(after)}
        for name in list(average):
            if name not in left:
                del average[name]
                continue
            average[name] = _shared(_cut(average[name], name, plan, dims), name, plan)
        return
    twin = copy.deepcopy(after)
    own = dict(_tensors(average))
    with torch.no_grad():
        for name, tensor in _tensors(twin):
            if name in own:
                tensor.copy_(_shared(_cut(own[name].detach(), name, plan, dims), name, plan))
                tensor.requires_grad_(own[name].requires_grad)
                tensor.grad = None
    twin.train(average.training)
    swap(average, twin, plan.stale)


def _shared(tensor: Tensor, name: str, plan: Plan) -> Tensor:
    """Columns of units that occur `m` times, divided by `m` (see :func:`morphsearch.graph.fresh.share_columns`)."""
    dim = plan.column_dims.get(name)
    copies = plan.copies.get((name, dim)) if dim is not None else None
    if dim is None or copies is None or not (copies > 1).any():
        return tensor
    layout = plan.unfolded.get(name)
    values = unfolded(tensor, layout)
    shape = [-1 if d == dim else 1 for d in range(values.dim())]
    shared = values / torch.from_numpy(copies).reshape(shape).to(tensor)
    return shared if layout is None else layout.fold(shared)


def _average(model: nn.Module, ema: Any) -> nn.Module | MutableMapping[str, Tensor]:
    """The module or dict that holds the averages."""
    shapes = {name: tensor.shape for name, tensor in _tensors(model)}
    found = ema
    if isinstance(ema, nn.Module):
        inner = getattr(ema, "module", None)
        if isinstance(inner, nn.Module) and not dict(ema.named_parameters()).keys() <= shapes.keys():
            found = inner
        own = dict(_tensors(found))
        known = {name for name, _ in model.named_parameters()} <= own.keys()
    else:
        own = dict(ema) if isinstance(ema, MutableMapping) else {}
        known = bool(own) and own.keys() <= shapes.keys() and all(isinstance(value, Tensor) for value in own.values())
    if not known or any(name in shapes and tensor.shape != shapes[name] for name, tensor in own.items()):
        raise UsageError(
            f"ema is a {type(ema).__name__} that does not hold the parameters of search.model",
            "a moving average is an AveragedModel or a copy of search.model, or a dict of tensors by parameter name",
            "make it from search.model, after Search was made",
        )
    average: nn.Module | MutableMapping[str, Tensor] = found
    return average


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _sequence(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _cut(tensor: Tensor, name: str, plan: Plan, dims: Dims) -> Tensor:
    return gathered(tensor, [(dim, plan.gather[name, dim]) for dim in dims.get(name, ())], plan.folded.get(name))
