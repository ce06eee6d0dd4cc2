"""Costs that are polynomials of the group widths: exact at integers, differentiable in between, cheap to evaluate.

Notation: `g` groups, `w` their widths (float64, in the order of ``graph.groups``), `l` layers, `t` terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from morphsearch.errors import UsageError
from morphsearch.graph.extent import Extent

Key = tuple[int, ...]


@dataclass(frozen=True)
class Polynomial:
    """A polynomial of degree two or less in the widths.

    `coefficients` maps the groups that are multiplied (their positions in ``graph.groups``, ascending) to a factor:
    ``{(): 5.0, (0,): 2.0, (0, 3): 9.0}`` is ``5 + 2 w0 + 9 w0 w3``. Polynomials add, and multiply with numbers,
    extents and each other.
    """

    coefficients: Mapping[Key, float] = field(default_factory=dict)

    @classmethod
    def constant(cls, value: float) -> Polynomial:
        """The same number at all widths."""
        return cls({(): float(value)} if value else {})

    @classmethod
    def of(cls, extent: Extent | Polynomial | float) -> Polynomial:
        """A size, or a number, as a polynomial."""
        if isinstance(extent, Polynomial):
            return extent
        if not isinstance(extent, Extent):
            return cls.constant(extent)
        linear: dict[Key, float] = {(group,): float(c) for group, c in sorted(extent.coefficients.items()) if c}
        return cls(({(): float(extent.const)} if extent.const else {}) | linear)

    @classmethod
    def product(cls, *factors: Extent | Polynomial | float) -> Polynomial:
        """The product of sizes and numbers; ``Polynomial.product(*shape)`` is the number of elements of a parameter.

        Raises:
            UsageError: more than two of the factors depend on the widths.
        """
        result = cls.constant(1.0)
        for factor in factors:
            result = result * cls.of(factor)
        return result

    @property
    def degree(self) -> int:
        """0, 1 or 2."""
        return max((len(key) for key in self.coefficients), default=0)

    def at(self, widths: Sequence[float] | Any) -> Any:
        """The value at `widths` (`g`); a tensor gives a differentiable tensor. For whole networks use
        :class:`PolynomialCost`, which is vectorised."""
        total: Any = 0.0
        for key, coefficient in self.coefficients.items():
            term: Any = coefficient
            for group in key:
                term = term * widths[group]
            total = total + term
        return total

    def __add__(self, other: Polynomial | Extent | float) -> Polynomial:
        merged = dict(self.coefficients)
        for key, coefficient in Polynomial.of(other).coefficients.items():
            merged[key] = merged.get(key, 0.0) + coefficient
        return Polynomial(merged)

    __radd__ = __add__

    def __mul__(self, other: Polynomial | Extent | float) -> Polynomial:
        if isinstance(other, int | float):
            return Polynomial({key: c * other for key, c in self.coefficients.items()} if other else {})
        other = Polynomial.of(other)
        if self.degree + other.degree > 2:
            raise UsageError(
                f"a product of degree {self.degree + other.degree} in the widths",
                "a layer's cost may multiply two sizes that depend on the widths",
                "write the cost model with a bind() of its own (see morphsearch.types.BoundCost)",
            )
        merged: dict[Key, float] = {}
        for left, a in self.coefficients.items():
            for right, b in other.coefficients.items():
                key = tuple(sorted(left + right))
                merged[key] = merged.get(key, 0.0) + a * b
        return Polynomial(merged)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Polynomial:
        return Polynomial({key: c / divisor for key, c in self.coefficients.items()})


class PolynomialCost:
    """A :class:`~morphsearch.types.BoundCost` made of one :class:`Polynomial` a layer.

    The terms of all layers are summed into one quadratic form ``w' S w / 2 + b' w + c``, so that :meth:`total` and
    :meth:`marginal` cost one matrix-vector product however deep the network is.

    Args:
        groups: how many groups the graph has.
        layers: the price of each layer (module path).
        unit: what is counted ("FLOPs").
        whole: the cost is a whole number at whole widths.
        uncounted: kinds of operations that have no price.
        notes: what the figures rest on, a sentence each.
    """

    def __init__(
        self,
        groups: int,
        layers: Mapping[str, Polynomial],
        unit: str,
        *,
        whole: bool = False,
        uncounted: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.unit, self.whole, self.uncounted, self.notes = unit, whole, tuple(uncounted), tuple(notes)
        self.layers = dict(layers)
        # Terms as coefficient * w[left] * w[right], where position `groups` stands for the constant 1.
        rows = [
            (number, *(*key, groups, groups)[:2], coefficient)
            for number, polynomial in enumerate(self.layers.values())
            for key, coefficient in polynomial.coefficients.items()
        ]
        layer, left, right, coefficients = zip(*rows, strict=True) if rows else ((), (), (), ())
        self._layer, self._left, self._right = (
            torch.tensor(index, dtype=torch.int64) for index in (layer, left, right)
        )
        self._coefficients = torch.tensor(coefficients, dtype=torch.float64)
        form = torch.zeros(groups + 1, groups + 1, dtype=torch.float64)
        form.index_put_((self._left, self._right), self._coefficients, accumulate=True)
        form = form + form.T
        self._square = form[:groups, :groups].contiguous()
        self._linear = form[:groups, groups].contiguous()
        self._constant = form[groups, groups] / 2
        self._step = self._square.diagonal() / 2 + self._linear

    def total(self, widths: Tensor) -> Tensor:
        """Scalar float64; `widths` is `g`, float64."""
        return widths @ (self._square @ widths * 0.5 + self._linear) + self._constant

    def per_layer(self, widths: Tensor) -> dict[str, Tensor]:
        """Scalar per layer; the values add up to :meth:`total`."""
        extended = torch.cat([widths, widths.new_ones(1)])
        terms = self._coefficients * extended[self._left] * extended[self._right]
        sums = torch.zeros(len(self.layers), dtype=torch.float64).index_add(0, self._layer, terms)
        return dict(zip(self.layers, sums.unbind(), strict=True))

    def marginal(self, widths: Tensor) -> Tensor:
        """`g`: what one more unit of each group costs at `widths`, exactly: ``total(w + e_g) - total(w)``."""
        return self._square @ widths + self._step
