"""Masks in anyone's training loop: one call after each optimizer step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.arguments import named_arguments, require, require_module, shown
from morphsearch.errors import DivergedError, InputError, UnknownName, UsageError
from morphsearch.sparsity.bits import bits_of, clear, fit, pruned_of
from morphsearch.sparsity.follow import Followed
from morphsearch.sparsity.masks import SCOPES, masks
from morphsearch.sparsity.measure import Sizes, SparsityReport, report_of, sizes
from morphsearch.sparsity.patterns import POOLS, Block, NofM, Pattern, Single
from morphsearch.sparsity.places import Places
from morphsearch.sparsity.schedule import KINDS, Schedule
from morphsearch.sparsity.strategy import MagnitudeSparsity, MaskStrategy, criterion
from morphsearch.sparsity.targets import find_weights
from morphsearch.sparsity.values import block_size, count, listed, n_of_m, percent, share, table

BASES = ("prunable", "network")
MASK = "mask/"


class SparsityWarning(UserWarning):
    """Something that the user should know about a sparsification."""


class Sparsifier:
    """Sets the least weights of a network to zero while it trains, on a schedule, and keeps them there.

    The network stays what it is: masks are applied to its parameters in place, no module is wrapped, no name in its
    ``state_dict`` changes, and every checkpoint of it is as sparse as it is. ::

        sparsifier = ms.Sparsifier(model, "70%", steps=len(loader) * epochs)
        sparsifier.follow(optimizer)
        for x, y in loader:
            criterion(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            sparsifier.step()
        sparsifier.strip()

    Args:
        model: trained in place.
        target: final sparsity, ``0.7`` or ``"70%"``, on a polynomial schedule from 10% to 70% of the training.
        schedule: instead of `target`, a :class:`Schedule`; or beside it ``"polynomial"`` or ``"constant"`` (all at once
            at the beginning) with the times that these have by themselves.
        steps: length of the training in optimizer steps, where the schedule says begin and end as shares of it.
        scope: ``"layer"`` (each to the target), ``"tensor"`` or ``"global"``; see :func:`masks.masks`.
        of: what the target is a share of: ``"prunable"`` weights, or all parameters of the ``"network"``, of which the
            prunable weights must make up for those that are never pruned.
        block: ``(outputs, inputs)``: weights leave in blocks of that size. pool: their ``"mean"`` or ``"max"`` decides.
        nm: ``(2, 4)`` or ``"2:4"``: N of every M weights along the input channels stay. Sets the target.
        include, exclude, depthwise: which layers, see :func:`targets.find_weights`.
        strategy: name of a registered :class:`MaskStrategy`, or one.
        measure: compress the network as it is now, for the report. Takes seconds for 100 million weights.

    Attributes:
        model: the network. steps_done: optimizer steps so far. weights: what was found in the network.

    Raises:
        UsageError: a value out of range; a schedule that would not fire or not end; a pattern or block that does not
            fit; nothing to prune. UnknownName: a misspelt scope, pool or strategy.
    """

    @named_arguments
    def __init__(
        self,
        model: nn.Module,
        target: float | str | None = None,
        *,
        schedule: Schedule | str | None = None,
        steps: int | None = None,
        scope: str = "layer",
        of: str = "prunable",
        block: Sequence[int] | str | None = None,
        pool: str = "mean",
        nm: Sequence[int] | str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        depthwise: bool = False,
        strategy: str | MaskStrategy = MagnitudeSparsity.name,
        strategy_options: Mapping[str, Any] | None = None,
        measure: bool = True,
    ) -> None:
        require_module(model)
        for kind, value, known in (("scope", scope, SCOPES), ("basis (of)", of, BASES), ("pool", pool, POOLS)):
            if value not in known:
                raise UnknownName.of(kind, str(value), known)
        for name, flag in (("depthwise", depthwise), ("measure", measure)):
            require(isinstance(flag, bool), name, flag, "true or false", f"write {name}=True, or leave it out")
        steps = None if steps is None else count(steps, "steps")
        include, exclude = listed(include, "include"), listed(exclude, "exclude")
        self.model, self.scope, self.of = model, scope, of
        self.pattern = _pattern(block, pool, nm, scope, of)
        self.schedule = _schedule(target, schedule, self.pattern)
        options = table(strategy_options, "strategy_options", "the strategy's options", '{"p": 1}')
        self.criterion = criterion(strategy, options)
        self.timetable = self.schedule.timetable(steps)
        self.weights = find_weights(model, include=include, exclude=exclude, depthwise=depthwise)
        self._chosen = [one for one in self.weights if one.kept is None]
        self.pattern.check(self._chosen)
        self.scale = 1.0 if of == "prunable" else self._network_scale()
        self.before: Sizes | None = sizes(model) if measure else None
        self.steps_done = 0
        self.stripped = False
        self._parameters = {one.name: one.parameter for one in self._chosen}
        self._places = Places(model, self._parameters)
        self._bits: dict[str, Tensor] = {}
        self._followed: list[Followed] = []
        if self.timetable.fires(0):
            self._update()

    @property
    def asked(self) -> float:
        """The sparsity of prunable weights that the schedule asks for now."""
        return self.scale * self.timetable.sparsity(self.steps_done)

    @property
    def reached(self) -> float:
        """The share of prunable weights that are masked now.

        Raises:
            UsageError: the network's parameters were exchanged for others, which the masks say nothing about.
        """
        self._places.check()
        total = sum(one.parameter.numel() for one in self._chosen)
        return sum(bits.numel() - int(bits.count_nonzero()) for bits in self._bits.values()) / total

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep masked weights out of the optimizer's state (momentum, moments) too. Call it for each optimizer.

        Raises:
            UsageError: an optimizer whose state cannot be followed, or of another network.
        """
        self._refuse_stripped("follow()")
        followed = Followed(optimizer, self._parameters, self._bits.get)
        followed.mask_state()
        self._followed.append(followed)

    def step(self) -> None:
        """To be called after each step of the optimizer: updates the masks when it is time, and applies them.

        Raises:
            DivergedError: a weight is not finite when masks are due.
            UsageError: after :meth:`strip`; or the network's parameters were exchanged for others.
        """
        self._refuse_stripped("step()")
        self._places.check()
        self.steps_done += 1
        for followed in self._followed:
            followed.check()
        if self.timetable.fires(self.steps_done):
            self._update()
        else:
            self.apply()

    @torch.no_grad()
    def apply(self, model: nn.Module | None = None) -> None:
        """Set masked weights to zero: of the network, or of a copy of it (an ``AveragedModel``, for instance).

        Raises:
            UsageError: the network's parameters were exchanged for others; or `model` is no copy of the network.
        """
        own = model is None or model is self.model
        if own:
            self._places.check()
        parameters = self._parameters if own else self._places.in_copy(model)
        for name, bits in self._bits.items():
            parameter = parameters[name]
            if own and not fit(bits, parameter):  # the network moved to another device or precision
                bits = self._bits[name] = bits_of(pruned_of(bits).to(parameter.device), parameter)
            clear(parameter, bits)

    def strip(self) -> nn.Module:
        """End it: the network, as plain as it came, with its zeros. Nothing of ours is left in it or the optimizers.

        Warns (:class:`SparsityWarning`) before the end of the schedule.

        Raises:
            UsageError: it was stripped before; or the network's parameters were exchanged for others.
            DivergedError: a weight is not finite.
        """
        self._refuse_stripped("strip()")
        self.apply()
        self._check_finite()
        for followed in self._followed:
            followed.release()
        self.stripped = True
        if self.steps_done < self.timetable.end:
            warnings.warn(
                f"stripped after {self.steps_done} steps of a schedule that ends at step {self.timetable.end}: "
                f"{percent(self.reached)} of the prunable weights are zero, "
                f"{percent(self.scale * self.timetable.final)} was asked for; train for longer, or end it earlier",
                SparsityWarning,
                stacklevel=2,
            )
        return self.model

    def report(self) -> SparsityReport:
        """Sparsity asked beside reached, layer by layer; parameters, non-zeros and sizes of the file.

        Raises:
            UsageError: the network's parameters were exchanged for others.
        """
        self._places.check()
        return report_of(self.model, self.weights, self.scale * self.timetable.final, self.before)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a resumed training needs beyond the network's and the optimizer's own state: tensors, and JSON data."""
        tensors = {f"{MASK}{name}": pruned_of(bits).cpu() for name, bits in self._bits.items()}
        before = asdict(self.before) if self.before is not None else None
        return tensors, {"steps_done": self.steps_done, "settings": self.settings(), "before": before}

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`, after network and optimizer were loaded.

        Raises:
            InputError: it is of another network, schedule, scope or pattern, or damaged.
        """
        self._refuse_stripped("load_state()")
        if not isinstance(tensors, Mapping) or not isinstance(state, Mapping):
            raise _no_state(f"state() gives two dicts, and this is {shown(tensors, 30)} and {shown(state, 30)}")
        settings, done = state.get("settings"), state.get("steps_done")
        if not isinstance(settings, Mapping) or not isinstance(done, int) or isinstance(done, bool) or done < 0:
            raise _no_state("it holds no settings or no number of steps")
        own = self.settings()
        differing = [key for key in own if settings.get(key) != own[key]]
        if differing:
            key = differing[0]
            raise _no_state(f"{key} was {settings.get(key)!r} and is {own[key]!r}")
        found = {name.removeprefix(MASK): mask for name, mask in tensors.items() if str(name).startswith(MASK)}
        for name, mask in found.items():
            if name not in self._parameters:
                raise _no_state(f"{name} is not pruned here")
            if not isinstance(mask, Tensor):
                raise _no_state(f"the mask of {name} is {shown(mask)}, no tensor")
            if mask.shape != self._parameters[name].shape or mask.dtype != torch.bool:
                raise _no_state(f"the mask of {name} is {list(mask.shape)} {mask.dtype}")
        before = state.get("before")
        if before is not None:
            try:
                self.before = Sizes(**before)
            except TypeError:
                raise _no_state(f"its sizes are {shown(before)}") from None
        self.steps_done = done
        self._bits.clear()
        self._bits.update({name: self._bits_of(name, mask) for name, mask in found.items()})
        self.apply()
        for followed in self._followed:
            followed.mask_state()

    @torch.no_grad()
    def _update(self) -> None:
        self.apply()  # an optimizer that is not followed moved masked weights: what became zero is ranked as zero
        self._check_finite()
        saliency = {}
        for name, parameter in self._parameters.items():
            found = self.criterion.saliency(name, parameter.detach())
            if not isinstance(found, Tensor) or found.shape != parameter.shape or not bool(found.isfinite().all()):
                raise UsageError(
                    f"strategy {self.criterion.name!r} gave no usable saliency for {name}",
                    "it is a finite tensor of the weight's shape",
                    "report it to the strategy's author",
                )
            saliency[name] = found if name not in self._bits else _last(found, pruned_of(self._bits[name]))
        asked = self.asked
        made = masks(saliency, self._chosen, self.pattern, self.scope, asked) if asked > 0 else {}
        self._bits.clear()
        # A mask that takes nothing is none, so that a sparsity of 0 is training as it would be without.
        self._bits.update({name: self._bits_of(name, mask) for name, mask in made.items() if bool(mask.any())})
        self.apply()
        for followed in self._followed:
            followed.mask_state()

    def _check_finite(self) -> None:
        for name, parameter in self._parameters.items():
            if not bool(parameter.detach().isfinite().all()):
                raise DivergedError(
                    f"training diverged: {name} is not finite at step {self.steps_done}",
                    "masks are chosen among finite weights",
                    "go on from an earlier checkpoint with a lower learning rate, or clip the gradient",
                )

    def _network_scale(self) -> float:
        everything = sum(parameter.numel() for parameter in self.model.parameters())
        prunable = sum(one.parameter.numel() for one in self._chosen)
        scale = everything / prunable
        if scale * self.timetable.final >= 1:
            raise UsageError(
                f"{percent(self.timetable.final)} of the network's {everything:,} parameters, "
                f"of which {prunable:,} can be pruned",
                f"at most {percent(prunable / everything)} of the parameters can become zero, and some must stay",
                "ask for less, include more layers (depthwise), or count prunable weights only (of='prunable')",
            )
        return scale

    def settings(self) -> dict[str, Any]:
        """What must be the same for a state to be one of this training."""
        return {
            "timetable": self.timetable.to_dict(),
            "scope": self.scope,
            "scale": self.scale,
            "pattern": repr(self.pattern) if not isinstance(self.pattern, Single) else "single",
            "strategy": self.criterion.name,
            "weights": {name: list(parameter.shape) for name, parameter in self._parameters.items()},
        }

    def _bits_of(self, name: str, mask: Tensor) -> Tensor:
        parameter = self._parameters[name]
        return bits_of(mask.to(parameter.device), parameter)

    def _refuse_stripped(self, what: str) -> None:
        if self.stripped:
            raise UsageError(
                f"{what} after strip()",
                "strip() ends a sparsification; from there on the network is plain",
                "call strip() after the last step, or make a new Sparsifier to go on",
            )


def _last(saliency: Tensor, masked: Tensor) -> Tensor:
    """Saliency in which, of weights that do not matter at all, masked ones come last and so stay zero."""
    return saliency.masked_fill((saliency == 0) & masked, -1.0)


def _pattern(block: Any, pool: str, nm: Any, scope: str, of: str) -> Pattern | NofM:
    if pool != POOLS[0] and block is None:
        raise UsageError(
            f"pool={pool!r} without a block",
            "pool says which weight of a block speaks for it",
            "name a block (block=(4, 1), --block 4,1), or leave pool out",
        )
    if nm is not None:
        taken = [
            name for name, is_set in (("block", block), ("scope", scope != "layer"), ("of", of != "prunable")) if is_set
        ]
        if taken:
            raise UsageError(
                f"nm and {taken[0]} together",
                "N:M fixes what leaves in every group of M",
                f"leave out nm or {taken[0]}",
            )
        return NofM(*n_of_m(nm))
    return Single() if block is None else Block(*block_size(block), pool)


def _schedule(target: Any, schedule: Schedule | str | None, pattern: Pattern | NofM) -> Schedule:
    if isinstance(schedule, str) and schedule not in KINDS:
        raise UnknownName.of("schedule", schedule, KINDS)
    if schedule is not None and not isinstance(schedule, Schedule | str):
        raise UsageError(
            f"schedule={shown(schedule)}",
            f"schedule is a Schedule, or one of the names {', '.join(KINDS)} beside a target",
            'write for example target="70%", or schedule=ms.Schedule.constant(0.7, begin=100)',
        )
    if target is not None and isinstance(schedule, Schedule):
        raise UsageError("a target and a schedule", "a schedule has a target of its own", "leave out one of them")
    if not isinstance(schedule, Schedule):
        if target is None and not isinstance(pattern, NofM):
            named = f', schedule="{schedule}"' if schedule else ""
            raise UsageError(
                f"schedule={schedule!r} without a target" if schedule else "neither a target nor a schedule",
                "a sparsification has a target",
                f'write target="70%"{named}, or nm="2:4"{named}',
            )
        final = share(target) if target is not None or not isinstance(pattern, NofM) else pattern.sparsity
        schedule = Schedule.constant(final) if schedule == "constant" else Schedule.polynomial(final)
    if isinstance(pattern, NofM) and abs(schedule.final - pattern.sparsity) > 1e-9:
        raise UsageError(
            f"a target of {percent(schedule.final)} with {pattern.n}:{pattern.m}",
            f"{pattern.n}:{pattern.m} makes {percent(pattern.sparsity)} of the weights zero",
            "leave out the target, or nm",
        )
    return schedule


def _no_state(why: str) -> InputError:
    return InputError(
        f"the saved state does not belong to this sparsification: {why}",
        "a state goes on with the network, schedule, scope and pattern that it was saved with",
        "give the same arguments again, or start anew",
    )
