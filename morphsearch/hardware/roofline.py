"""Latency from the published figures of hardware: a roofline with launches (Williams et al., CACM 52(4), 2009).

A kernel takes as long as it computes or as long as it moves data, whichever is longer, and its launch::

    seconds = max(operations / peak, bytes / bandwidth) + launch

Unlike MorphNet's table of the same idea, fused operations are not charged twice, a depthwise convolution's weights are
counted as they are, and pools, softmax and resizing are not free. Peaks are never reached: rooflines rank widths, and
say what binds; for milliseconds that hold, measure (``morphsearch profile``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from morphsearch.costs.table import PolynomialTable
from morphsearch.errors import InputError, UnknownName
from morphsearch.hardware.kernels import Kernel, kernels_of

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

FORMAT, SCHEMA_VERSION = "morphsearch-hardware-profile", 1
BYTES = {"float64": 8, "float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
BOUNDS = ("compute", "memory", "launch")


@dataclass(frozen=True)
class RooflineProfile:
    """Peak figures of a device.

    Args:
        name: as in ``--hardware NAME``.
        peak: operations a second by type of number; a multiply-add is two.
        bandwidth: bytes a second.
        launch: seconds for each kernel; None where no figure is known, which counts as none.
        dtype: the type that is computed with, one of `peak`.
        fuses: element-wise operations and batch norms run within the convolution before them.
        sources: where the figures are from, by figure: ``"float32"``, ..., ``"bandwidth"``, ``"launch"``.

    Raises:
        InputError: a figure that is missing or not positive. UnknownName: a `dtype` without a peak.
    """

    name: str
    peak: Mapping[str, float]
    bandwidth: float
    launch: float | None = None
    dtype: str = "float32"
    fuses: bool = True
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [name for name in self.peak if name not in BYTES]
        if unknown:
            raise UnknownName.of("type of number", unknown[0], BYTES)
        if self.dtype not in self.peak:
            raise UnknownName.of(f"type of number of {self.name}", self.dtype, self.peak)
        for what, value in [*self.peak.items(), ("bandwidth", self.bandwidth), ("launch", self.launch)]:
            least = 0.0 if what == "launch" else 1.0
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (what == "launch" and value is None) and not (number and least <= float(value or 0) < float("inf")):
                raise InputError(
                    f"hardware {self.name}: {what} is {value!r}",
                    "peaks are operations a second, bandwidth bytes a second, launch seconds: numbers above zero",
                    "write for example 1.5e12 (launch may be null)",
                )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RooflineProfile:
        """The profile in the data of a JSON file.

        Raises:
            InputError: a field is missing, unknown or of the wrong type; the message names it.
        """
        known = {"kind", "name", "peak_flops", "bandwidth", "launch_overhead", "dtype", "fuses", "sources"}
        needed = ("name", "peak_flops", "bandwidth")
        unknown = sorted(set(data) - known - {"format", "schema_version", "created"})
        if unknown:
            close = UnknownName.of("field", unknown[0], known)
            raise InputError(f"hardware profile: {close.arrived}", close.rule, close.repair)
        missing = [key for key in needed if key not in data]
        if missing:
            raise _damaged(missing[0], "is missing")
        kinds = {"name": str, "peak_flops": Mapping, "dtype": str, "fuses": bool, "sources": Mapping}
        wrong = [key for key, kind in kinds.items() if key in data and not isinstance(data[key], kind)]
        if wrong or not data["peak_flops"]:
            raise _damaged(wrong[0] if wrong else "peak_flops", f"is {data[wrong[0] if wrong else 'peak_flops']!r}")
        peak = dict(data["peak_flops"])
        return cls(
            data["name"],
            peak,
            data["bandwidth"],
            data.get("launch_overhead"),
            data.get("dtype", next(iter(peak))),
            data.get("fuses", True),
            dict(data.get("sources", {})),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what :meth:`from_dict` reads, in FLOP/s, bytes/s and seconds."""
        return {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "kind": "roofline",
            "name": self.name,
            "peak_flops": dict(self.peak),
            "bandwidth": self.bandwidth,
            "launch_overhead": self.launch,
            "dtype": self.dtype,
            "fuses": self.fuses,
            "sources": dict(self.sources),
        }

    def described(self) -> str:
        """What is assumed, in a sentence."""
        launch = "no figure for launches" if self.launch is None else f"{1e6 * self.launch:g} us a launch"
        return (
            f"roofline of {self.name}: {self.peak[self.dtype] / 1e12:g} TFLOP/s ({self.dtype}), "
            f"{self.bandwidth / 1e9:g} GB/s, {launch}; a lower bound, not a measurement"
        )

    def bind(self, graph: ConvGraph) -> RooflineCost:
        """Milliseconds of one forward pass of `graph`, at the batch size that it was recorded with."""
        return RooflineCost(self, kernels_of(graph, fuses=self.fuses), len(graph.groups))


def _damaged(key: str, problem: str) -> InputError:
    return InputError(
        f"hardware profile: {key} {problem}",
        "a roofline has a name, peak_flops by type of number (operations a second), bandwidth (bytes a second), and "
        "perhaps launch_overhead (seconds), dtype, fuses and sources",
        'write for example {"name": "mine", "peak_flops": {"float32": 1e12}, "bandwidth": 5e10}',
    )


class RooflineCost:
    """A :class:`~morphsearch.types.BoundCost`: milliseconds as a function of the widths.

    Continuous, monotone and piecewise polynomial; the gradient of a kernel is that of the side that binds it.

    Letters: `k` kernels, `g` groups.
    """

    unit = "ms"
    whole = False

    def __init__(self, profile: RooflineProfile, kernels: Sequence[Kernel], groups: int) -> None:
        self.profile, self.kernels = profile, list(kernels)
        self.uncounted: tuple[str, ...] = ()
        self.notes = (profile.described(),)
        computing = 1e3 / profile.peak[profile.dtype]
        moving = 1e3 * BYTES[profile.dtype] / profile.bandwidth
        self._compute = PolynomialTable([kernel.computed * computing for kernel in kernels], groups)
        self._memory = PolynomialTable([kernel.elements * moving for kernel in kernels], groups)
        self._launch = 1e3 * (profile.launch or 0.0)

    def _times(self, widths: Tensor) -> Tensor:
        """`k` milliseconds."""
        return torch.maximum(self._compute.values(widths), self._memory.values(widths)) + self._launch

    def total(self, widths: Tensor) -> Tensor:
        """Scalar float64; `widths` is `g`, float64."""
        return self._times(widths).sum()

    def per_layer(self, widths: Tensor) -> dict[str, Tensor]:
        """Scalar per layer; the values add up to :meth:`total`. What is fused into a layer stands there."""
        layers: dict[str, Tensor] = {}
        for kernel, time in zip(self.kernels, self._times(widths).unbind(), strict=True):
            layers[kernel.module] = layers[kernel.module] + time if kernel.module in layers else time
        return layers

    def marginal(self, widths: Tensor) -> Tensor:
        """`g`: what one more unit of each group costs at `widths`, exactly: ``total(w + e_g) - total(w)``."""
        compute, memory = self._compute.values(widths), self._memory.values(widths)
        wider = torch.maximum(
            compute[:, None] + self._compute.dense_rises(widths), memory[:, None] + self._memory.dense_rises(widths)
        )
        return (wider - torch.maximum(compute, memory)[:, None]).sum(0)

    def details(self, widths: Tensor) -> dict[str, dict[str, float | str]]:
        """For every layer the milliseconds of computing, of moving data and of launches, and which of them binds it.

        What binds a layer of several kernels is what binds most of its time.
        """
        compute, memory = self._compute.values(widths).tolist(), self._memory.values(widths).tolist()
        found: dict[str, dict[str, float]] = {}
        binds: dict[str, dict[str, float]] = {}
        for kernel, computing, moving in zip(self.kernels, compute, memory, strict=True):
            times = dict(zip(BOUNDS, (computing, moving, self._launch), strict=True))
            own = found.setdefault(kernel.module, dict.fromkeys(BOUNDS, 0.0))
            for name, value in times.items():
                own[name] += value
            most = max(BOUNDS, key=times.__getitem__)
            votes = binds.setdefault(kernel.module, {})
            votes[most] = votes.get(most, 0.0) + max(computing, moving) + self._launch
        return {
            layer: {**own, "bound": max(binds[layer], key=binds[layer].__getitem__)} for layer, own in found.items()
        }
