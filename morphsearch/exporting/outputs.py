"""What a network may return, so that it can be exported."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from morphsearch.errors import InputError
from morphsearch.exporting.steps import leaves

PLAIN = (Tensor, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def require_plain(outputs: Any) -> None:
    """Refuse outputs that are objects of classes of somebody's own.

    Raises:
        InputError: the first of them.
    """
    strange = next((leaf for leaf in leaves(outputs) if not isinstance(leaf, PLAIN)), None)
    if strange is None:
        return
    kind = type(strange).__name__
    fields = [one.name for one in dataclasses.fields(strange)] if dataclasses.is_dataclass(strange) else []
    what = f"{{{', '.join(f'{name!r}: out.{name}' for name in fields)}}}" if fields else "its tensors"
    raise InputError(
        f"the network returns an object of class {kind}",
        "an exported network returns tensors, or lists, tuples, named tuples or dicts of them",
        f"wrap it in a module that returns {what}",
    )
