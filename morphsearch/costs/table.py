"""Many polynomials of the widths, evaluated at once: what costs with a maximum or a sum of maxima are made of.

Notation: `n` polynomials, `g` groups, `w` their widths (float64, in the order of ``graph.groups``), `p` pairs of a
polynomial and a group that it depends on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from morphsearch.costs.polynomial import Polynomial


class PolynomialTable:
    """`n` polynomials of degree two or less.

    Args:
        polynomials: one a row.
        groups: how many groups the graph has.

    Attributes:
        pair_row, pair_group: `p` int64: which polynomial depends on which group.
    """

    def __init__(self, polynomials: Sequence[Polynomial], groups: int) -> None:
        self.size, self.groups = len(polynomials), groups
        # Terms as coefficient * w[left] * w[right], where position `groups` stands for the constant 1.
        terms = [
            (row, *(*key, groups, groups)[:2], coefficient)
            for row, polynomial in enumerate(polynomials)
            for key, coefficient in polynomial.coefficients.items()
        ]
        row, left, right, coefficients = zip(*terms, strict=True) if terms else ((), (), (), ())
        self._row, self._left, self._right = (torch.tensor(index, dtype=torch.int64) for index in (row, left, right))
        self._coefficients = torch.tensor(coefficients, dtype=torch.float64)
        pairs = sorted({(r, g) for r, a, b, _ in terms for g in (a, b) if g < groups})
        place = {pair: index for index, pair in enumerate(pairs)}
        self.pair_row = torch.tensor([r for r, _ in pairs], dtype=torch.int64)
        self.pair_group = torch.tensor([g for _, g in pairs], dtype=torch.int64)
        # One more unit of g adds c * w[other] to a term c * w[g] * w[other], and c * (2 w[g] + 1) to c * w[g]^2.
        rises = [(place[r, a], b, c, 0.0) for r, a, b, c in terms if a < groups and a != b]
        rises += [(place[r, b], a, c, 0.0) for r, a, b, c in terms if b < groups and a != b]
        rises += [(place[r, a], a, 2 * c, c) for r, a, b, c in terms if a == b and a < groups]
        pair, other, factor, plain = zip(*rises, strict=True) if rises else ((), (), (), ())
        self._rise_pair, self._rise_other = (torch.tensor(index, dtype=torch.int64) for index in (pair, other))
        self._rise_factor, self._rise_plain = (torch.tensor(c, dtype=torch.float64) for c in (factor, plain))

    def values(self, widths: Tensor) -> Tensor:
        """`n`: the polynomials at `widths` (`g`), differentiable."""
        extended = torch.cat([widths, widths.new_ones(1)])
        terms = self._coefficients * extended[self._left] * extended[self._right]
        return terms.new_zeros(self.size).index_add(0, self._row, terms)

    def rises(self, widths: Tensor) -> Tensor:
        """`p`: what one more unit of the pair's group adds to the pair's polynomial, exactly."""
        extended = torch.cat([widths, widths.new_ones(1)])
        terms = self._rise_factor * extended[self._rise_other] + self._rise_plain
        return terms.new_zeros(self.pair_row.numel()).index_add(0, self._rise_pair, terms)

    def dense_rises(self, widths: Tensor) -> Tensor:
        """`n x g`: :meth:`rises` as a matrix, zero where a polynomial does not depend on a group."""
        dense = widths.new_zeros(self.size, self.groups)
        dense[self.pair_row, self.pair_group] = self.rises(widths)
        return dense
