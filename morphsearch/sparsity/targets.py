"""Which tensors are pruned, and why the others are not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedParameter

from morphsearch.errors import InputError, UsageError, nearest

_WEIGHT = re.compile(r"weight|in_proj_weight|[qkv]_proj_weight|weight_(ih|hh|hr)_l\d+(_reverse)?")
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class Weight:
    """One tensor of the network.

    Attributes:
        name: of the parameter. layer: path of its module. kind: the module's class.
        outputs, inputs: the dimensions of the tensor that are output and input channels.
        group_inputs: input channels that one output sees (of its group, in grouped convolutions).
        kept: why it is not pruned, or None.
    """

    name: str
    layer: str
    kind: str
    parameter: nn.Parameter
    outputs: int
    inputs: int
    group_inputs: int
    kept: str | None


def find_weights(
    model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = (), depthwise: bool = False
) -> list[Weight]:
    """Every parameter of `model` in its order; those whose `kept` is None are to be pruned.

    By default all weights of convolutions, linear layers and the like. Biases and norms never; depthwise kernels, which
    are few and feel it most, only with `depthwise`. Patterns (``blocks.*``, ``*.pointwise.*``, ``classifier``) match
    layers or parameters; a plain layer name means all that is in it.

    Raises:
        UsageError: a pattern that matches nothing, or only what is never pruned; or nothing is left to prune.
        InputError: a lazy layer that has not run yet.
    """
    entries = list(_entries(model))
    patterns = [*include, *exclude]
    for pattern in patterns:
        _check_pattern(pattern, entries)
    found: list[Weight] = []
    for name, layer, module, parameter in entries:
        kept = _never(name, module, parameter) or _depthwise(module, depthwise)
        if kept is None and include and not any(_matches(one, name, layer) for one in include):
            kept = "not included"
        if kept is None and any(_matches(one, name, layer) for one in exclude):
            kept = "excluded"
        inputs = 0 if isinstance(module, _ConvTransposeNd) else 1
        seen = parameter.shape[inputs] if parameter.ndim > 1 else 1
        group_inputs = seen // module.groups if isinstance(module, _ConvTransposeNd) else seen
        kind = type(module).__name__
        found.append(Weight(name, layer, kind, parameter, 1 - inputs, inputs, group_inputs, kept))
    for pattern in include:
        chosen = [one for one in found if _matches(pattern, one.name, one.layer)]
        reasons = sorted({one.kept for one in chosen if one.kept not in (None, "excluded")})
        if not any(one.kept in (None, "excluded") for one in chosen):
            raise UsageError(
                f"include={pattern!r} matches nothing that can be pruned ({', '.join(map(str, reasons))})",
                "weights of convolutions, linear layers and the like are pruned; biases and norms never",
                "ask for depthwise kernels too (depthwise=True, --depthwise)"
                if "depthwise" in reasons
                else f"choose among {_brief(_names(found)) or 'other layers'}",
            )
    if not any(one.kept is None for one in found):
        reasons = sorted({str(one.kept) for one in found})
        raise UsageError(
            f"{type(model).__name__} has no prunable layer"
            + (f": its {len(found)} parameters are kept ({', '.join(reasons)})" if found else ": it has no parameters"),
            "weights of convolutions, linear layers and the like are pruned; biases, norms and frozen parameters never",
            "exclude less" if "excluded" in reasons else "pass a network with trainable convolutions or linear layers",
        )
    return found


def _entries(model: nn.Module) -> Iterator[tuple[str, str, nn.Module, nn.Parameter]]:
    """Parameters as ``named_parameters`` has them, tied ones once, each with the module that holds it."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = f"{path}.{own}" if path else own
            if isinstance(parameter, UninitializedParameter):
                raise InputError(
                    f"{name} is not initialised yet",
                    "a lazy layer gets its weights when it first runs",
                    "run the network once on an example before it is sparsified",
                )
            yield name, path, module, parameter


def _never(name: str, module: nn.Module, parameter: nn.Parameter) -> str | None:
    own = name.rpartition(".")[2]
    if isinstance(module, _NORMS) or "norm" in type(module).__name__.lower():
        return "norm"
    if "bias" in own:
        return "bias"
    if parameter.ndim < 2 or not _WEIGHT.fullmatch(own):
        return "no weight matrix"
    if not parameter.is_floating_point():
        return "not floating-point"
    return None if parameter.requires_grad else "frozen"


def _depthwise(module: nn.Module, wanted: bool) -> str | None:
    depthwise = isinstance(module, _ConvNd) and module.groups > 1 and module.groups == module.in_channels
    return "depthwise" if depthwise and not wanted else None


def _matches(pattern: str, name: str, layer: str) -> bool:
    return any(fnmatchcase(text, one) for text in (name, layer) for one in (pattern, f"{pattern}.*"))


def _check_pattern(pattern: str, entries: list[tuple[str, str, nn.Module, nn.Parameter]]) -> None:
    if isinstance(pattern, str) and any(_matches(pattern, name, layer) for name, layer, _, _ in entries):
        return
    layers = list(dict.fromkeys(layer for _, layer, _, _ in entries if layer))
    parents = {parent for layer in layers for parent in _parents(layer)}
    close = nearest(str(pattern).strip("*."), [*layers, *parents]) if str(pattern).strip("*.") else []
    raise UsageError(
        f"pattern {pattern!r} matches no layer",
        f"patterns match layers or parameters of the network: {_brief(layers)}",
        f"did you mean {' or '.join(close)}?" if close else "see `morphsearch inspect SEED` for the names",
    )


def _parents(layer: str) -> list[str]:
    parts = layer.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _names(found: list[Weight]) -> list[str]:
    return [one.layer or one.name for one in found if one.kept in (None, "not included")]


def _brief(names: Sequence[str], most: int = 6) -> str:
    more = f", ... ({len(names) - most} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
