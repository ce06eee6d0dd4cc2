"""Sets of kinds of operations."""

from __future__ import annotations

_NAMES = """
    alias arange as_strided cat channel_shuffle chunk clone concat constant_pad_nd contiguous copy copy_ detach
    detach_ dropout embedding empty empty_like expand expand_as feature_dropout flatten flip full full_like gather
    getitem
    identity index index_put index_put_ index_select lift_fresh masked_fill masked_fill_ movedim narrow new_empty
    new_full new_ones new_zeros ones ones_like output pad permute pixel_shuffle pixel_unshuffle reflection_pad1d
    reflection_pad2d repeat repeat_interleave replication_pad1d replication_pad2d reshape roll scalar_tensor select
    size slice slice_scatter split split_with_sizes squeeze stack swapaxes t tensor_split to transpose type_as
    unbind unflatten unfold unsafe_split unsafe_view unsqueeze view view_as zeros zeros_like native_dropout
    native_channel_shuffle _unsafe_view _to_copy _reshape_alias
"""

MOVES = frozenset(_NAMES.split())
"""Kinds that compute nothing: they move, name or make data."""

_SEEN = """
    _reshape_alias _unsafe_view alias as_strided chunk detach diagonal dropout expand expand_as feature_dropout flatten
    identity lift_fresh movedim narrow output permute reshape select slice split split_with_sizes squeeze swapaxes t
    tensor_split to transpose unbind unflatten unfold unsafe_split unsafe_view unsqueeze view view_as
"""

VIEWS = frozenset(_SEEN.split())
"""Kinds that write nothing: other views of the same memory. Where PyTorch copies, the recording has a ``clone``."""
