"""Whether the images fit the network."""

from __future__ import annotations

from collections.abc import Sequence

from morphsearch.data.base import DataSplits
from morphsearch.errors import InputError, UsageError


def check_model_input(splits: DataSplits, example_shape: Sequence[int]) -> None:
    """Refuse images whose shape is not that of the network's example input.

    Args:
        splits: the data.
        example_shape: ``(n, c, h, w)`` or ``(c, h, w)``.

    Raises:
        UsageError: `example_shape` is no shape of an image.
        InputError: another number of channels, smaller or larger images.
    """
    if len(example_shape) not in (3, 4) or min(example_shape) < 1:
        raise UsageError(
            f"example shape {tuple(example_shape)}",
            "images are n x c x h x w, each 1 or more",
            "write for example --input 1,3,32,32",
        )
    channels, height, width = (int(size) for size in example_shape[-3:])
    c, h, w = splits.shape
    if c != channels:
        hint = (
            f"convert them while loading (channels={channels})"
            if {c, channels} == {1, 3}
            else f"convert the images to {channels} channels"
        )
        raise InputError(
            f"images of {splits.name} have {c} channel{'s' * (c != 1)}, the network's example input has {channels}",
            "the network must take what the data holds",
            f"build the network for {c} (in_channels={c} in the seed, --input 1,{c},{h},{w}), or {hint}",
        )
    if (h, w) != (height, width):
        relation = "smaller" if h < height or w < width else "larger"
        raise InputError(
            f"images of {splits.name} are {h} x {w}, {relation} than the network's example input of {height} x {width}",
            "costs are counted on the example input, so training must use the same size",
            f"give --input 1,{c},{h},{w}, or resize the images while loading (image_size=({height}, {width}))",
        )
