"""What ``verify`` shows, as a record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class VerificationRecord:
    """The proof on one network.

    `lowest` maps a cost to (lowest possible, the seed's, unit); `frozen` a group to its reason.
    """

    name: str
    exact: bool
    max_error: float
    mixes: list[str]
    frozen: dict[str, str]
    lowest: dict[str, tuple[float, float, str]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        data = asdict(self)
        data["lowest"] = {
            metric: {"lowest": low, "seed": high, "unit": unit} for metric, (low, high, unit) in self.lowest.items()
        }
        return data
