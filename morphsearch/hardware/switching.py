"""Where a library changes its way: sizes from which on the same operation is done by another algorithm.

Letters: `n` operations, `f` columns of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from morphsearch.hardware.kinds import filtered

DIVISORS = (4, 8, 16)


@dataclass(frozen=True)
class Switch:
    """Operations whose `feature`, one of :func:`features`, is above `at` are done in another way than the others."""

    feature: str
    at: float

    def above(self, family: str, rows: np.ndarray) -> np.ndarray:
        """`n` bool; `rows` is `n x f`.

        Raises:
            ValueError: operations of this family have no such feature.
        """
        known = features(family, rows)
        if self.feature not in known:
            raise ValueError(f"operations of the family {family} have no {self.feature!r}")
        return np.asarray(known[self.feature] > self.at)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"feature": self.feature, "at": float(f"{self.at:.9g}")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Switch:
        """The inverse of :meth:`to_dict`."""
        return cls(str(data["feature"]), float(data["at"]))


def features(family: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """`n` numbers by name: what libraries look at when they choose an algorithm; `rows` is `n x f`."""
    c, o, per_group, kernel, taken, made, read, written, _ = rows.T
    found = {"read": read, "written": written}
    if filtered(family):
        found |= {"taken": c * taken, "stride": taken / np.maximum(made, 1.0), "macs": made * o * per_group * kernel}
    for divisor in DIVISORS:
        even_in, even_out = ((np.rint(size) % divisor == 0).astype(np.float64) for size in (c, o))
        found |= {f"channels_in % {divisor} == 0": even_in, f"channels_out % {divisor} == 0": even_out}
        found[f"channels % {divisor} == 0"] = even_in * even_out
    return found
