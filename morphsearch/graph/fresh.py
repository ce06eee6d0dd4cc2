"""Weights for networks at new widths: fresh ones, or shared out so that a wider network computes the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from morphsearch.graph.computed import computed_weights
from morphsearch.graph.folded import Folded, unfolded
from morphsearch.graph.plan import Plan


def initialise(model: nn.Module, plan: Plan | None = None) -> None:
    """Give every module fresh weights by its own ``reset_parameters``, then by the network's ``init_weights`` if it
    has one.

    Parameters that no module initialises (layer scales, learned gates) keep the values that they were built with, those
    of units that are added aside, which may not be copies: of weights they are drawn from a normal distribution of
    their present mean and deviation. So is every weight of a module whose own initialisation knows only the sizes that
    it was built with.
    """
    added = _added(plan)
    for path, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            try:
                with computed_weights(module):
                    reset()
            except Exception:  # whatever its code raises at sizes that it does not expect
                _redraw(module)
        elif added and not isinstance(module, ParametrizationList):  # its layer has seen to that
            _redraw_copies(path, module, added, plan.unfolded if plan is not None else {})
    network = getattr(model, "init_weights", None)
    if callable(network):
        network()


def _redraw(module: nn.Module) -> None:
    """New values for a module's own weights, distributed as they are."""
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() > 1 and parameter.is_floating_point():
                parameter.normal_(float(parameter.mean()), float(parameter.std()))


def _redraw_copies(
    path: str,
    module: nn.Module,
    added: Mapping[str, list[tuple[int, np.ndarray]]],
    layouts: Mapping[str, Folded],
) -> None:
    """New values for what units that were added have in a module's own weights."""
    for own, parameter in module.named_parameters(recurse=False):
        name = f"{path}.{own}" if path else own
        slices = added.get(name)
        if not slices or not parameter.is_floating_point() or sum(size > 1 for size in parameter.shape) < 2:
            continue
        values = unfolded(parameter.detach(), layouts.get(name))
        if values.min() == values.max():
            continue  # a scale, at what it begins with
        mean, deviation = float(values.mean()), float(values.std())
        for dim, index in slices:
            at = torch.from_numpy(index).to(values.device)
            values.index_copy_(dim, at, torch.empty_like(values.index_select(dim, at)).normal_(mean, deviation))


def _added(plan: Plan | None) -> dict[str, list[tuple[int, np.ndarray]]]:
    """By parameter: dimensions along which units were added, and where."""
    found: dict[str, list[tuple[int, np.ndarray]]] = {}
    for (name, dim), number in plan.copy_number.items() if plan is not None else ():
        if (number > 0).any():
            found.setdefault(name, []).append((dim, np.flatnonzero(number)))
    return found


def share_columns(model: nn.Module, plan: Plan) -> None:
    """Divide the columns of units that occur `m` times by `m` (Net2Net, arXiv 1511.05641, section 2.2)."""
    parameters = dict(model.named_parameters()) | dict(model.named_buffers())
    for (name, dim), copies in plan.copies.items():
        if dim == plan.column_dims.get(name) and name in parameters and (copies > 1).any():
            with torch.no_grad():
                values = unfolded(parameters[name].detach(), plan.unfolded.get(name))
                shape = [1] * values.dim()
                shape[dim] = copies.size
                values.mul_(torch.from_numpy(1.0 / copies).reshape(shape).to(values))


def break_symmetry(model: nn.Module, plan: Plan, relative: float, generator: torch.Generator) -> None:
    """Add noise to copies of units, so that they learn apart: `relative` times the standard deviation of their
    weight."""
    parameters = dict(model.named_parameters())
    for (name, dim), number in plan.copy_number.items():
        if name in parameters and dim != plan.column_dims.get(name) and number.any() and parameters[name].dim() > 1:
            with torch.no_grad():
                parameter = unfolded(parameters[name].detach(), plan.unfolded.get(name))
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                copied = torch.from_numpy(number > 0).reshape([-1 if d == dim else 1 for d in range(parameter.dim())])
                parameter.add_(noise * parameter.std().clamp(min=1e-8) * relative * copied.to(parameter.device))
