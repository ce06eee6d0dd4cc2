"""What leaves a convolution, and what goes along: channels, whole groups, or the same channel of every group."""

from __future__ import annotations

import numpy as np

from morphsearch.graph.labels import RIGID
from morphsearch.graph.rules.binding import Ids
from morphsearch.graph.tape import Slot, Tape


def decision(tape: Tape, name: str | None, channels: int, groups: int) -> str | None:
    """What leaves a grouped convolution, "whole" groups or channels in "lockstep": decided once for each weight."""
    if not name:
        return None
    if groups > 1 and name not in tape.decisions:
        tape.decisions[name] = "whole" if groups >= channels // groups else "lockstep"
    return tape.decisions.get(name)


def leaving(
    tape: Tape,
    arriving: Ids,
    rows: Ids,
    columns: Ids,
    column_slot: Slot,
    groups: int,
    transposed: bool,
    decided: str | None,
) -> Ids:
    """Bind the weight's columns to what arrives; returns the units that the convolution makes."""
    if decided is not None:
        # Also for one group: the network may be a grouped one that has lost all others.
        return in_groups(tape, arriving, rows, columns, column_slot, groups, transposed, decided == "whole")
    tape.union(arriving, columns, column_slot)
    tape.pin(columns[arriving == RIGID], f"{tape.where('a convolution')} reads the network's input or a constant")
    return rows


def in_groups(
    tape: Tape, arriving: Ids, rows: Ids, columns: Ids, column_slot: Slot, groups: int, transposed: bool, whole: bool
) -> Ids:
    """Units of a grouped convolution, and what leaves it.

    Either whole groups go (a depthwise convolution is the case of one channel a group) or the same channel of every
    group does; whichever leaves more widths to choose from in the seed (`whole`).
    """
    arriving_gc = arriving.reshape(groups, -1)
    per_group = arriving_gc.shape[1]
    if transposed:
        columns_gc, leaving = columns.reshape(groups, per_group), np.tile(rows, groups)
    else:
        columns_gc, leaving = np.tile(columns, (groups, 1)), rows
    leaving_go = leaving.reshape(groups, -1)
    if whole:
        head = arriving_gc[:, :1]
        tape.union(np.broadcast_to(head, arriving_gc.shape), arriving_gc)
        if transposed:
            # The rows of every group are the same slices of the weight, so no row can leave: only whole groups can.
            tape.pin(rows, "every group of the transposed convolution shares it")
            tape.union(arriving_gc, columns_gc, column_slot)
            tape.pin(
                columns_gc[arriving_gc == RIGID],
                f"{tape.where('a convolution')} reads the network's input or a constant",
            )
            return np.repeat(head[:, 0], leaving_go.shape[1])
        tape.union(np.broadcast_to(head, leaving_go.shape), leaving_go)
        tape.pin(
            leaving_go[np.broadcast_to(head == RIGID, leaving_go.shape)],
            f"{tape.where('a convolution')} reads the network's input or a constant",
        )
        return leaving
    tape.union(arriving_gc, columns_gc, column_slot)
    tape.pin(columns_gc[arriving_gc == RIGID], f"{tape.where('a convolution')} reads the network's input or a constant")
    if not transposed:
        tape.union(np.broadcast_to(columns_gc[:1], columns_gc.shape), columns_gc)
        tape.union(np.broadcast_to(leaving_go[:1], leaving_go.shape), leaving_go)
    else:
        tape.union(np.broadcast_to(columns_gc[:1], columns_gc.shape), columns_gc)
    return leaving


__all__ = ["decision", "leaving"]
