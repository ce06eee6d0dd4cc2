"""Whether two networks compute the same: outputs, gradients and buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from morphsearch.exporting.steps import leaves
from morphsearch.graph.outside import kept_outside

ROUNDINGS = 1000  # the largest gradient's last digit times this: what a sum of many that cancel may leave


def tensors(tree: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(tree, Mapping):
        tree = dict(tree)
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor)]


def error(expected: Any, found: Any) -> float:
    """The largest difference over the largest value, over all tensors; infinity where their number or shape differs."""
    one, other = tensors(expected), tensors(found)
    if len(one) != len(other):
        return float("inf")
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel() and not torch.equal(a, b):
            a, b = a.detach().double(), b.detach().double()
            if not torch.equal(a.isfinite(), b.isfinite()):
                return float("inf")
            good = a.isfinite()
            scale = float(a[good].abs().max()) if bool(good.any()) else 0.0
            if bool(good.any()):
                worst = max(worst, float((a[good] - b[good]).abs().max()) / (scale or 1.0))
    return worst


def gradient_error(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """:func:`error`, but for gradients that are nothing but rounding beside the others: that of a bias in front of a
    batch norm is zero, and a sum in another order (another memory format) makes another rounding of it."""
    largest = max((float(value.abs().max()) for value in expected.values() if value.numel()), default=0.0)
    some = next(iter(expected.values()), None)
    least = 0.0 if some is None else largest * torch.finfo(some.dtype).eps * ROUNDINGS
    kept = [
        name
        for name, value in expected.items()
        if value.shape != found[name].shape
        or not all(bool((part.abs() <= least).all()) for part in (value, found[name]))
    ]
    return error([expected[name] for name in kept], [found[name] for name in kept])


def random_inputs(
    inputs: Sequence[Mapping[str, Any]], *, batch: int | None = None, grow: tuple[int, int] = (0, 0), seed: int = 0
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Random tensors for described inputs: positional and keyword arguments.

    Args:
        batch: takes the place of the first dimension where all inputs share it.
        grow: added to height and width, the last two of four dimensions; to the length of three; to all sizes of five.
    """
    generator = torch.Generator().manual_seed(seed)
    args, kwargs = [], {}
    for entry in inputs:
        shape = list(entry["shape"])
        if batch is not None and shape:
            shape[0] = batch
        more = {3: grow[:1], 4: grow, 5: (grow[0] // 2, *grow)}.get(len(shape), ())
        shape[2:] = [size + extra for size, extra in zip(shape[2:], more, strict=True)] if more else shape[2:]
        dtype = getattr(torch, entry.get("dtype") or "float32")
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        value = value.to(dtype) if dtype.is_floating_point else value.abs().to(dtype)
        if entry.get("name"):
            kwargs[entry["name"]] = value
        else:
            args.append(value)
    return tuple(args), kwargs


def cast(tree: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in `dtype`."""
    return tree_map(lambda v: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v, tree)


def step(model: nn.Module, args: Any, kwargs: Any, seed: int = 0) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    """Outputs of a training step, its gradients, and the buffers after it. Random numbers are the same each time."""
    model.train()
    model.zero_grad()
    with kept_outside(model.modules()), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        outputs = model(*args, **kwargs)
        made = [tensor for tensor in tensors(outputs) if tensor.requires_grad]
        if made:
            generator = torch.Generator().manual_seed(seed)
            parts = [(t * torch.randn(t.shape, generator=generator, dtype=t.dtype)).sum() for t in made]
            torch.stack(parts).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    saved = model.state_dict()  # other buffers are constants
    return outputs, gradients, {name: value for name, value in model.named_buffers() if name in saved}
