"""Building the network at other widths.

Every rewrite is one idea: each unit has a *multiplicity*, 0 to drop it, 1 to keep it, more to widen. A slot of a
parameter
keeps the slices of the units that stay, in their order, and repeats those of units that are widened. The new network is
then recorded again with identifiers that say which unit (and which copy) every slice is: where what arrives at a
layer is
not what its columns expect, the columns are put in the order of arrival; where an operation with sizes written into it
went wrong, that operation is patched; where neither helps, the rewrite fails, naming the operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch.graph.cloning import clone
from morphsearch.graph.folded import Folded
from morphsearch.graph.paths import buffers_of, modules_of, parameters_of
from morphsearch.graph.plan import Plan
from morphsearch.graph.state import INTERNAL
from morphsearch.graph.tape import RawOperation, Tape
from morphsearch.graph.tensors import on_meta

_OF_TRANSFORMERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


Made = dict[str, tuple[list[np.ndarray], nn.Parameter]]  # parameters that were gathered, and from which slices


def rebuild(
    model: nn.Module,
    tape: Tape,
    plan: Plan,
    *,
    meta: bool = False,
    share: bool = False,
    made: Made | None = None,
) -> nn.Module:
    """A copy of `model` with its parameters and buffers gathered and the sizes that its modules know brought up to
    date.

    Args:
        meta: shapes alone, for a trial.
        share: parameters that lose nothing are the model's own, for a trial on real numbers.
        made: those of an attempt before, which are taken over where their slices are the same; filled.
    """
    slots_of: dict[str, list[int]] = {}
    for name, dim in plan.gather:
        slots_of.setdefault(name, []).append(dim)
    memo: dict[int, Any] = _cached(model) if meta or share else {}
    modules = modules_of(model)
    held: list[tuple[str, Tensor]] = [*parameters_of(modules).items(), *buffers_of(modules).items()]
    for name, tensor in held:
        slots = [(dim, plan.gather[name, dim]) for dim in slots_of.get(name, ())]
        own = share and isinstance(tensor, nn.Parameter) and name not in plan.folded
        if own and all(_whole(tensor, dim, index) for dim, index in slots):
            memo[id(tensor)] = tensor
            continue
        if name not in slots_of and not (meta and (tensor.is_floating_point() or tensor.is_complex())):
            if type(tensor) is torch.Tensor and not tensor.requires_grad:  # a counter, say: quicker than deepcopy
                memo[id(tensor)] = tensor.clone()
            continue  # an index keeps its numbers, also in a trial
        index = [one for _, one in slots]
        if made is not None and name in made and all(map(np.array_equal, made[name][0], index)):
            memo[id(tensor)] = made[name][1]
            continue
        new = on_meta(tensor) if meta else tensor.detach()
        new = gathered(new, slots, plan.folded.get(name))
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
            if made is not None:
                made[name] = index, new
        memo[id(tensor)] = new
    twin = clone(model, memo)
    update_modules(twin, tape, plan)
    return twin


def _cached(model: nn.Module) -> dict[int, Any]:
    """Tensors that modules keep as plain attributes (the biases of attention, say): a trial needs no copies of them,
    since it runs as the seed's recording did, on the same ones."""
    found: dict[int, Any] = {}
    for module in model.modules():
        for key, value in vars(module).items():
            if key not in INTERNAL and isinstance(value, (Tensor, dict, list, tuple)):
                held = value.values() if isinstance(value, dict) else (value,) if isinstance(value, Tensor) else value
                found |= {id(one): one for one in held if type(one) is Tensor and not one.requires_grad}
    return found


def gathered(tensor: Tensor, dims: list[tuple[int, np.ndarray]], layout: Folded | None = None) -> Tensor:
    """`tensor` with the slices of each ``(dim, indices)``, always a copy of its own in the same memory format.

    Args:
        layout: of a parameter that holds several dimensions as one; `dims` are those of the layout.
    """
    if layout is not None:
        return layout.fold(gathered(layout.unfold(tensor), dims))
    # The dimension that loses most goes first: the others then copy less.
    changed = sorted(
        ((dim, index) for dim, index in dims if not _whole(tensor, dim, index)),
        key=lambda d: d[1].size / max(1, tensor.shape[d[0]]),
    )
    last = _channels_last(tensor)
    if tensor.is_meta and changed:
        sizes = list(tensor.shape)
        for dim, index in changed:
            sizes[dim] = index.size
        form = torch.contiguous_format if last is None else last
        return torch.empty(sizes, dtype=tensor.dtype, device="meta", memory_format=form)
    result = _selected(tensor, [(dim, torch.from_numpy(index).to(tensor.device)) for dim, index in changed])
    if result is tensor:
        return result.clone()
    if last is not None:
        return torch.empty_like(result, memory_format=last).copy_(result)
    return result.contiguous()


BLOCK = 1 << 18  # elements of a weight that are selected at once


def _selected(tensor: Tensor, dims: list[tuple[int, Tensor]]) -> Tensor:
    """The slices of each ``(dim, indices)``. Of several dimensions of a large weight, rows are taken block by block:
    what lies between is small then, and stays near."""
    rows = next((index for dim, index in dims if dim == 0), None)
    if rows is None or len(dims) < 2 or not rows.numel() or tensor.is_meta or tensor.numel() <= BLOCK:
        for dim, index in dims:
            tensor = tensor.index_select(dim, index)
        return tensor
    rest = [one for one in dims if one[0] != 0]
    sizes = list(tensor.shape)
    for dim, index in dims:
        sizes[dim] = index.numel()
    found = tensor.new_empty(sizes)
    step = max(1, BLOCK * tensor.shape[0] // tensor.numel())
    for start in range(0, rows.numel(), step):
        block = tensor.index_select(0, rows[start : start + step])
        for dim, index in rest[:-1]:
            block = block.index_select(dim, index)
        torch.index_select(block, *rest[-1], out=found[start : start + step])
    return found


def _whole(tensor: Tensor, dim: int, index: np.ndarray) -> bool:
    """All slices along `dim`, in their order."""
    if index.size != tensor.shape[dim]:
        return False
    return bool(index[0] == 0) if index.size == 1 else np.array_equal(index, np.arange(index.size))


def _channels_last(tensor: Tensor) -> torch.memory_format | None:
    """The format of a weight of images or volumes whose channels lie next to each other in memory; else None.

    Strides tell, also where a kernel of one element makes the order the same either way.
    """
    if tensor.dim() not in (4, 5) or tensor.stride(1) != 1:
        return None
    last = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
    same = tensor.stride(-1) == tensor.shape[1] and tensor.is_contiguous(memory_format=last)
    return last if same else None


def update_modules(model: nn.Module, tape: Tape, plan: Plan) -> None:
    """Bring the sizes that modules hold as attributes up to date: channels, groups, features, normalised shapes."""
    modules = modules_of(model)
    holders: dict[int, list[nn.Module]] = {}  # a tied weight is that of several
    for one in modules.values():
        for held in one._parameters.values():
            holders.setdefault(id(held), []).append(one)
    owners = {name: holders.get(id(held), []) for name, held in parameters_of(modules).items()}

    def size(parameters: dict[str, str], role: str, dim: int) -> int | None:
        slot = (parameters.get(role, ""), dim)
        return int(plan.gather[slot].size) if slot in plan.gather else None

    for operation in tape.operations:
        module = modules.get(operation.module)
        if isinstance(module, nn.Unflatten):
            _update_unflatten(module, operation, plan)
        if module is None or not (operation.parameters or operation.kind == "group_norm"):
            continue
        names = operation.parameters
        if operation.kind in ("conv", "conv_transpose"):
            transposed = operation.kind == "conv_transpose"
            row_dim, column_dim = operation.attrs.get("weight_dims", (int(transposed), int(not transposed)))
            rows, columns = size(names, "weight", row_dim), size(names, "weight", column_dim)
            if rows is None or columns is None or operation.rows is None or operation.columns is None:
                continue
            groups = new_groups(operation, rows, columns, transposed)
            set_size(module, "groups", groups)
            set_size(module, "out_channels", rows * groups if transposed else rows)
            set_size(module, "in_channels", columns if transposed else columns * groups)
            if "weight_shape" in operation.attrs:
                _update_shapes(module, operation.attrs["weight_shape"], (rows, columns), transposed)
        elif operation.kind == "linear":
            for owner in owners.get(names.get("weight", "")) or [module]:  # of whoever calls it
                set_size(owner, "out_features", size(names, "weight", 0))
                set_size(owner, "in_features", size(names, "weight", 1))
        elif operation.kind == "embedding":
            for owner in owners.get(names.get("weight", "")) or [module]:
                set_size(owner, "embedding_dim", size(names, "weight", 1))
        elif operation.kind == "recurrent":
            rows = size(names, "weight", 0)
            set_size(module, "input_size", size(names, "weight", 1))
            set_size(module, "hidden_size", None if rows is None else rows // int(operation.attrs["gates"]))
        elif operation.kind in ("batch_norm", "instance_norm"):
            count = next((size(names, role, 0) for role in ("weight", "running_mean") if role in names), None)
            set_size(module, "num_features", count)
        elif operation.kind == "layer_norm":
            shape = getattr(module, "normalized_shape", None)
            if isinstance(shape, tuple) and "weight" in names:
                sizes = [size(names, "weight", dim) for dim in range(len(shape))]
                new = tuple(old if own is None else own for old, own in zip(shape, sizes, strict=True))
                setattr(module, "normalized_shape", new)  # noqa: B010 - only some modules have it
        elif operation.kind == "group_norm":
            counted = (str(operation.attrs.get("counted", "")), 0)
            if counted in plan.gather:
                count = int(plan.gather[counted].size)
                groups_before = int(operation.attrs["norm_groups"])
                before = tape.fillers[counted[0]].size
                if groups_before > 1:
                    set_size(module, "num_groups", count * groups_before // before)
                set_size(module, "num_channels", count)
    for module in modules.values():
        if isinstance(module, nn.MultiheadAttention):
            _update_attention(module)
        elif isinstance(module, nn.Transformer):
            layers = (one for one in module.modules() if isinstance(one, _OF_TRANSFORMERS))
            set_size(module, "d_model", next((one.linear1.weight.shape[1] for one in layers), None))


def _update_shapes(module: nn.Module, before: tuple[int, ...], sizes: tuple[int, int], transposed: bool) -> None:
    """Shapes of a kernel, and of its bias, that a module keeps for a bank that holds many of them."""
    shape = (*(reversed(sizes) if transposed else sizes), *before[2:])
    known = {before: shape, (before[int(transposed)],): (sizes[0],)}
    for attribute, value in list(vars(module).items()):
        if attribute.endswith("shape") and type(value) is tuple and value in known:
            setattr(module, attribute, known[value])


def _update_unflatten(module: nn.Unflatten, operation: RawOperation, plan: Plan) -> None:
    """The sizes that one dimension is laid out along."""
    if operation.kind != "view" or not operation.outputs or type(module.unflattened_size) is not tuple:
        return
    made, first = operation.outputs[0], int(module.dim) % len(operation.inputs[0].shape)
    units = np.where(np.asarray(made.ids) > 0, plan.class_of[np.maximum(np.asarray(made.ids), 0)], -1)
    sizes = list(module.unflattened_size)
    for place in range(len(sizes)):
        lines = np.moveaxis(units, first + place, -1).reshape(-1, units.shape[first + place])
        if sizes[place] != -1 and (lines != lines[:, :1]).any():
            sizes[place] = int(np.where(lines[0] >= 0, plan.times[lines[0]], 1).sum())
    module.unflattened_size = tuple(sizes)


def _update_attention(module: nn.MultiheadAttention) -> None:
    """Queries, keys and values have as many channels as the layer behind them reads."""
    width = int(module.out_proj.weight.shape[1])
    weights = vars(module)["_parameters"]
    for name, part in (("kdim", "k_proj_weight"), ("vdim", "v_proj_weight")):
        held = weights.get(part)
        setattr(module, name, width if held is None else int(held.shape[1]))
    module.embed_dim, module.head_dim = width, width // module.num_heads


def new_groups(operation: Any, rows: int, columns: int, transposed: bool) -> int:
    """Groups of a convolution whose weight now has `rows` and `columns` (see ``convolutions._grouped``)."""
    groups = int(operation.attrs["groups"])
    if not operation.attrs["whole"]:
        return groups
    scaled = groups * columns // operation.columns.size if transposed else groups * rows // operation.rows.size
    return int(scaled)


def set_size(module: nn.Module, attribute: str, value: int | None) -> None:
    """Set a size where the module has it as a plain number."""
    if value is not None and type(getattr(module, attribute, None)) is int:
        setattr(module, attribute, value)
