"""Operations that only move data: executed on the labels themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from morphsearch.graph.known import numbers_in as known_numbers
from morphsearch.graph.labels import LOOSE, RIGID, Labels, along, compact, constant, counted, reshape, taken
from morphsearch.graph.rules.binding import joined_parameters, unknown_part
from morphsearch.graph.rules.common import finish, numbers_in, plain_arguments
from morphsearch.graph.rules.elementwise import meet
from morphsearch.graph.rules.joining import joined
from morphsearch.graph.rules.layouts import in_parts, laid_out, skewed
from morphsearch.graph.rules.likeness import as_large_as
from morphsearch.graph.rules.overwriting import is_whole, written_over
from morphsearch.graph.schemas import full_name, short_name
from morphsearch.graph.tape import Tape, Untraceable, storage_key
from morphsearch.graph.tensors import mapped, tensors_in


def identity(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """The same elements in the same places (clone, contiguous, detach, casts)."""
    source = args[0]
    labels = tape.labels(source)
    if labels is None:
        return
    copy = Labels(labels.ids, labels.shape, labels.producer, labels.parameter)
    if hasattr(source, "_morphsearch_made"):
        out._morphsearch_made = source._morphsearch_made
    if labels.parameter is not None:
        tape.put(out, copy)
        return
    finish(tape, func, [labels], out, [copy])


def view(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A reshape."""
    labels = tape.labels(args[0])
    if labels is None:
        return
    moved = reshape(labels, tuple(out.shape))
    if labels.parameter is not None:
        tape.put(out, moved)
        return
    if skewed(labels, moved):
        tape.pin(labels.ids, f"{tape.where('a reshape')}: its units come to lie across rows and columns")
        moved = constant(RIGID, moved.shape)
    laid_out(tape, labels, moved)
    moved = in_parts(tape, labels, moved)
    finish(tape, func, [labels], out, [moved], attrs={"sizes": tuple(out.shape)})


def cat(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Concatenation along `dim`, on the compact labels."""
    tensors, dim = args[0], (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    parts = [t for t in tensors if t.dim() == out.dim()]  # PyTorch lets an empty tensor of rank 1 through
    known = [as_large_as(tape, t, tape.labels(t)) for t in parts]
    if joined(tape, parts, known, dim, out):
        return
    labels = [
        constant(LOOSE, tuple(t.shape)) if own is None else own if own.parameter is None else constant(RIGID, own.shape)
        for t, own in zip(parts, known, strict=True)
    ]
    inputs = labels
    labels = joined_parameters(tape, parts, known, labels, dim)
    moving = {d for one in labels for d in one.varying()} - {dim}
    if moving and all(one.ids.shape[dim] == 1 for one in labels):
        # Parts one after another (tokens): they lose the same channels, or they would no longer fit.
        merged = labels[0].ids
        for one in labels[1:]:
            merged = meet(tape, "cat", merged, one.ids)
        made = compact(merged, tuple(out.shape))
    else:
        target = [out.shape[d] if d in moving else 1 for d in range(out.dim())]
        pieces = [one.ids.expand([*target[:dim], one.shape[dim], *target[dim + 1 :]]) for one in labels]
        made = compact(torch.cat(pieces, dim), tuple(out.shape))
    finish(tape, func, inputs, out, [made], attrs={"dim": dim})


def stack(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Tensors side by side along a dimension of their own: they are of one shape, so they lose the same channels."""
    parts, dim = args[0], (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    known = [as_large_as(tape, part, tape.labels(part)) for part in parts]
    if any(one is None or one.parameter is not None for one in known):
        move(tape, func, args, kwargs, out)
        return
    labels = [one for one in known if one is not None]
    places = {tuple(one.varying()) for one in labels if not one.blank}
    # Where a single unit is left, the seed knows that there were more.
    if tape.decide("stack", "alike" if len(places) == 1 and max(places) else None, strict=True) is None:
        move(tape, func, args, kwargs, out)
        return
    ids = labels[0].ids
    for one in labels[1:]:
        ids = meet(tape, "stack", ids, one.ids)
    finish(tape, func, labels, out, [Labels(ids.unsqueeze(dim), tuple(out.shape))], attrs={"dim": dim})


def move(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Anything else that only moves elements: executed on the labels."""
    every = tensors_in((args, kwargs))
    sources = [(t, tape.labels(t)) for t in every if not _is_index(t)]
    known = [labels for _, labels in sources if labels is not None]
    if not known:
        return
    parameter = known[0].parameter if len(sources) == 1 else None
    if parameter is None and len(every) > 1 and _chosen_by_data(func, args, kwargs, known[0]):
        for labels in known:
            tape.pin(labels.ids, f"{tape.where(short_name(func))}: which of them it takes depends on the data")
        finish(tape, func, known, out, [constant(RIGID, tuple(o.shape)) for o in tensors_in(out)])
        return

    def swap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if _is_index(value):
            return known_value(value)
        return (known[0] if len(sources) == 1 else tape.activation(value)).full()

    given = mapped(swap, args)
    if full_name(func) == "aten::index":
        moved = taken(*given)
    else:
        moved = func(*given, **mapped(swap, kwargs))
    results = [
        compact(m, tuple(o.shape), -1, parameter) for m, o in zip(tensors_in(moved), tensors_in(out), strict=True)
    ]
    if parameter is not None:
        for tensor, labels in zip(tensors_in(out), results, strict=True):
            tape.put(tensor, labels)
        return
    if short_name(func) == "expand" and known[0].ids.numel() == 1 and int(known[0].ids) == RIGID:
        # What is repeated to fill a size fixes none (a statistic of all channels, spread over them again).
        results = [constant(LOOSE, labels.shape) for labels in results]
    finish(tape, func, known, out, results, attrs=plain_arguments(args, kwargs))


def shuffled(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """``channel_shuffle``, whose number of groups is written down: the same channel of every group leaves, so that it
    goes on to bring the others where it should."""
    labels = tape.labels(args[0])
    if labels is None or labels.parameter is not None:
        move(tape, func, args, kwargs, out)
        return
    ids, count = labels.ids, args[1]
    if tape.decide("channel shuffle", "units" if ids.shape[1] > 1 else None, strict=True) is not None:
        whole = ids.expand([size if dim != 1 else labels.shape[1] for dim, size in enumerate(ids.shape)])
        together = tape.fuse(whole.unflatten(1, (count, -1)), 1)
        ids = together.expand([size if dim != 1 else count for dim, size in enumerate(together.shape)])
        ids = ids.transpose(1, 2).flatten(1, 2)
    finish(tape, func, [labels], out, [compact(ids, tuple(out.shape))], attrs=plain_arguments(args[1:], kwargs))


def _chosen_by_data(func: Any, args: Any, kwargs: Any, labels: Labels) -> bool:
    """An index that was computed from the network's data runs along a dimension that carries units."""
    name = short_name(func)
    if name == "index_select":
        return hasattr(args[2], "_morphsearch_data") and labels.ids.shape[args[1]] > 1
    if name != "index":
        return any(hasattr(t, "_morphsearch_data") for t in tensors_in((args[1:], kwargs)))
    return any(
        hasattr(index, "_morphsearch_data") and any(labels.ids.shape[d] > 1 for d in dims)
        for index, dims in _indexed(args[1])
    )


def _indexed(indices: Any) -> list[tuple[Tensor, list[int]]]:
    """The tensors of an advanced index, each with the dimensions that it runs along (a mask: several)."""
    found, dim = [], 0
    for index in indices:
        span = index.dim() if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        if index is not None:
            found.append((index, list(range(dim, dim + span))))
        dim += span
    return found


def put(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """``target[rows] = values``, where the rows carry no units: what is written joins what was there."""
    target, indices, values = args[:3]
    if written_over(tape, target, values, indices):
        return
    before, written = tape.labels(target), tape.labels(values)
    if before is None or before.blank:
        before = getattr(target, "_morphsearch_like", constant(LOOSE, tuple(target.shape)))
    if written is None or written.parameter is not None:
        written = constant(LOOSE, tuple(values.shape))
    indexed = sorted({d for _, dims in _indexed(indices) for d in dims})
    rest = target.dim() - len(indexed)
    leading = len(written.shape) - rest
    tail = written.ids.shape[leading:] if leading >= 0 else written.ids.shape
    if indexed != list(range(len(indexed))) or any(before.ids.shape[d] > 1 for d in indexed) or leading < 0:
        raise ValueError("written by an index along units")
    if any(size > 1 for size in written.ids.shape[:leading]):
        raise ValueError("values of several kinds are written by an index")
    ids = written.ids.reshape((1,) * len(indexed) + tuple(tail))
    labels = compact(meet(tape, "index_put", before.ids, ids), tuple(target.shape))
    tape.emit("index_put", [before, written], [labels])
    for tensor in {id(t): t for t in (target, *tensors_in(out))}.values():
        tape.put(tensor, labels)


def known_value(index: Tensor) -> Tensor:
    """The numbers in an index, also where the recording runs on shapes and the index is a buffer of the network or was
    made of positions."""
    value = known_numbers(index)
    if value is None:
        raise Untraceable("an index that depends on values")
    return value


def _is_index(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.int64, torch.int32, torch.bool, torch.uint8)


def pad(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Constant padding: loose, but fillers where channels are added to channels, which follow the units that they
    meet."""
    if (parameter := tape.labels(args[0])) is not None and parameter.parameter is not None:
        tape.put(out, unknown_part(tape, [parameter], tuple(out.shape), "constant_pad_nd"))
        return
    labels = tape.activation(args[0])
    sizes = list(args[1])
    amounts = {
        out.dim() - 1 - i // 2: (sizes[i], sizes[i + 1]) for i in range(0, len(sizes), 2) if sizes[i] or sizes[i + 1]
    }
    natural = [d for d in amounts if d in labels.varying()]
    chosen = tape.decide("pad", ",".join(map(str, natural)) or None)
    over = sorted({*natural, *map(int, chosen.split(","))}) if chosen else natural
    ids = labels.ids
    for dim in over:
        before, after = amounts.get(dim, (0, 0))
        moving = {*labels.varying(), dim}
        ids = ids.expand(
            [labels.shape[d] if d in moving and ids.shape[d] == 1 else ids.shape[d] for d in range(ids.dim())]
        )
        ids = ids.narrow(dim, max(0, -before), ids.shape[dim] - max(0, -before) - max(0, -after))
        new = tape.filler("pad", max(0, before) + max(0, after))
        filler = torch.from_numpy(new) if new is not None else torch.full((max(0, before) + max(0, after),), LOOSE)
        filler = filler.reshape([-1 if d == dim else 1 for d in range(ids.dim())])
        filler = filler.expand([filler.numel() if d == dim else ids.shape[d] for d in range(ids.dim())])
        ids = torch.cat(
            [filler.narrow(dim, 0, max(0, before)), ids, filler.narrow(dim, max(0, before), max(0, after))], dim
        )
    finish(tape, func, [labels], out, [compact(ids, tuple(out.shape))], attrs={"pad": sizes})


def create(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A tensor made on the way (zeros, new_empty): loose filler, whatever its size.

    Where that was decided (see :mod:`~morphsearch.graph.creating`) its channels are units that follow those that they
    meet, since its size is written down.
    """
    partly = short_name(func) in _WRITING and not is_whole(args[0])
    if partly and written_over(tape, args[0], args[1] if len(args) > 1 else 0.0):
        return
    numbers = (
        numbers_in(args[1:] if len(args) < 2 or not isinstance(args[1], (list, tuple)) else args[2:], {})
        if short_name(func) in _FILLING
        else ()
    )
    if numbers:
        tape.emit(short_name(func), [], [], attrs={"numbers": numbers})
    like = tape.labels(args[0]) if short_name(func).endswith("_like") else None
    for tensor in tensors_in(out):
        if short_name(func) in CREATING:
            tensor._morphsearch_made = tape.occurrence(CREATED)  # type: ignore[attr-defined]
        tape.put(tensor, _created(tape, func, tensor))
        if like is not None and like.parameter is None and like.shape == tuple(tensor.shape):
            tensor._morphsearch_like = like  # type: ignore[attr-defined]  # its size is the other's


def _created(tape: Tape, func: Any, tensor: Tensor) -> Labels:
    shape = tuple(tensor.shape)
    if short_name(func) in CREATING and len(shape) > 1:
        # Of most ranks channels are the second dimension; whoever reads a state knows better.
        known = tape.decisions.get(tensor._morphsearch_made)  # type: ignore[attr-defined]
        dim = int(known) if known is not None else 1 if len(shape) in CHANNELLED else None
        if dim is not None and shape[dim] > 1:
            tape.created += 1
            ids = tape.filler("created", shape[dim]) if CREATED in tape.decisions else None
            if ids is not None:
                return along(ids, dim, shape)
    return constant(LOOSE, shape)


def count(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A tensor of positions (arange, eye): rigid, since without one of its elements the others would be numbered
    anew."""
    for tensor in tensors_in(out):
        tape.put(tensor, constant(RIGID, tuple(tensor.shape)))


CREATED = "created tensors"  # the decision
CREATING = frozenset("zeros ones empty full rand randn new_zeros new_ones new_empty new_full".split())
CHANNELLED = (2, 4, 5)  # ranks whose second dimension is that of channels

_WRITING = frozenset("zero fill".split())
_FILLING = frozenset("full new_full full_like fill fill_ scalar_tensor".split())


def copy(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """``target.copy_(source)``, also into a slice of a larger tensor."""
    target, source = args[0], args[1]
    shape = tuple(target.shape)
    labels = tape.labels(source)
    arriving = labels if labels is not None and labels.parameter is None else constant(LOOSE, tuple(source.shape))
    ids = arriving.ids.reshape((1,) * (target.dim() - arriving.ids.dim()) + tuple(arriving.ids.shape))
    before = tape.labels(target)
    written = compact(ids, shape)
    whole = is_whole(target)
    # What is filler yet counts as what lies beside it (circular padding copies corners before they are written).
    tape.emit("copy", [counted(arriving)], [counted(written)])
    if whole:
        tape.put(target, written)
        return
    if written_over(tape, target, source):
        return
    key = storage_key(target)
    if before is not None and not before.blank:
        if bool((before.ids > 0).all()) and before.parameter is None and key not in tape.storages:
            # What lies beside the slice keeps its units, so what is written takes theirs.
            tape.put(target, compact(meet(tape, "a slice that is written over", before.ids, written.ids), shape))
            return
        tape.pin(before.ids, tape.where("a slice that is written over"))
    if key not in tape.storages:
        if before is not None and written.blank and before.blank and before.parameter is None:
            there, new = (int(one.ids.reshape(-1)[0]) for one in (before, written))
            if there in (new, RIGID):
                return  # no units here or there: it stays what it is
        size = target.untyped_storage().nbytes() // target.element_size()
        tape.storages[key] = (StorageWeakRef(target.untyped_storage()), torch.full((size,), LOOSE, dtype=torch.int64))
    flat = tape.storages[key][1]
    flat.as_strided(target.size(), target.stride(), target.storage_offset()).copy_(written.full())
