"""What a sparsification came to: sparsity asked and reached, non-zeros, and how small the file gets."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.sparsity.targets import Weight

LEVEL = 6
"""Of deflate, as gzip and zip use it unless told otherwise."""

_GZIP_FRAME = 18  # RFC 1952: header of 10 bytes without a name, trailer of 8
_ZIP_FRAME = 30 + 46 + 22  # local header, central directory entry, its end; each of the first two with the name
_NAME = "weights.safetensors"


@dataclass(frozen=True)
class Sizes:
    """Of a network's ``state_dict``: parameters and those that are not zero; bytes of the safetensors file, and of it
    in gzip and zip (deflate, level 6)."""

    parameters: int
    nonzeros: int
    file: int
    gzip: int
    zip: int


@dataclass(frozen=True)
class Row:
    """One tensor: `asked` and `reached` are shares of zeros, `asked` None where `kept` says why it is not pruned."""

    name: str
    layer: str
    kind: str
    shape: list[int]
    weights: int
    nonzeros: int
    asked: float | None
    reached: float
    kept: str | None


@dataclass(frozen=True)
class SparsityReport:
    """Layer by layer and altogether.

    Attributes:
        rows: every parameter in network order.
        asked, reached: final sparsity asked of the prunable weights, and what they have.
        network: zeros among all parameters of the network.
        before, after: sizes when the Sparsifier was made (None where it did not measure), and now.
    """

    rows: list[Row]
    asked: float
    reached: float
    network: float
    after: Sizes
    before: Sizes | None = None
    schema_version: int = field(default=1, kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SparsityReport:
        """The inverse of :meth:`to_dict`."""
        sizes_of = {key: Sizes(**data[key]) if data[key] is not None else None for key in ("before", "after")}
        return cls(**{**data, **sizes_of, "rows": [Row(**row) for row in data["rows"]]})


def sizes(model: nn.Module) -> Sizes:
    """Measure a network as it is now; nothing is written."""
    from safetensors.torch import save

    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    data = save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})
    squeezed = deflated(data)
    parameters = [parameter.detach() for parameter in model.parameters()]
    return Sizes(
        parameters=sum(one.numel() for one in parameters),
        nonzeros=sum(int(one.count_nonzero()) for one in parameters),
        file=len(data),
        gzip=squeezed + _GZIP_FRAME,
        zip=squeezed + _ZIP_FRAME + 2 * len(_NAME),
    )


def deflated(data: bytes, level: int = LEVEL) -> int:
    """Bytes of `data` as a raw deflate stream, which gzip and zip both hold."""
    squeezer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    total, stream = 0, io.BytesIO(data)
    while chunk := stream.read(1 << 20):
        total += len(squeezer.compress(chunk))
    return total + len(squeezer.flush())


@torch.no_grad()
def report_of(model: nn.Module, weights: Sequence[Weight], asked: float, before: Sizes | None) -> SparsityReport:
    """The report on a network whose `weights` were asked to reach a sparsity of `asked`."""
    rows = []
    for one in weights:
        total, nonzeros = one.parameter.numel(), int(one.parameter.count_nonzero())
        wanted = asked if one.kept is None else None
        reached = 1 - nonzeros / total if total else 0.0
        shape = list(one.parameter.shape)
        rows.append(Row(one.name, one.layer, one.kind, shape, total, nonzeros, wanted, reached, one.kept))
    return SparsityReport(
        rows=rows,
        asked=asked,
        reached=_zeros([row for row in rows if row.kept is None]),
        network=_zeros(rows),
        after=sizes(model),
        before=before,
    )


def _zeros(rows: list[Row]) -> float:
    total = sum(row.weights for row in rows)
    return 1 - sum(row.nonzeros for row in rows) / total if total else 0.0
