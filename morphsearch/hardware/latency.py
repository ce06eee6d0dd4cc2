"""The cost model ``latency``: milliseconds of one forward pass on the hardware of a profile."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphsearch.errors import UsageError
from morphsearch.hardware import profiles
from morphsearch.hardware.profiles import MeasuredProfile

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph
    from morphsearch.types import BoundCost

NOISY, OFF = 0.05, 0.1  # shares above which a profile's noise and its held-out error are told with every use
TOLD = 0.02  # share of a network's latency that is extrapolated before it is told


class HardwareWarning(UserWarning):
    """A prediction that may be off: a profile of another machine or version, or operations that it has not seen."""


class Latency:
    """Milliseconds of one forward pass at the batch size of a profile.

    Args:
        hardware: a profile, its file or name, or the name of known hardware; default: the newest measured profile of
            this very device, looked up when a graph is bound.
    """

    name = "latency"
    unit = "ms"

    def __init__(self, hardware: str | Path | Any = None) -> None:
        self.hardware = hardware

    def profile(self) -> Any:
        """The profile that is bound.

        Raises:
            UnknownName: no such hardware. InputError: a damaged file, or this device has not been measured.
            UsageError: something that is no hardware.
        """
        if self.hardware is None or self.hardware == "":
            return profiles.default()
        if isinstance(self.hardware, str | Path):
            return profiles.load(self.hardware)
        if not callable(getattr(self.hardware, "bind", None)):
            raise UsageError(
                f"hardware={self.hardware!r}",
                "hardware is a profile, its file or name, or the name of known hardware",
                'write hardware="v100", or see `morphsearch profile list`',
            )
        return self.hardware

    def bind(self, graph: ConvGraph) -> BoundCost:
        """The latency of `graph` as a function of its widths.

        Warns:
            HardwareWarning: the profile is of another machine or version, or has not seen operations of the graph.
        """
        import torch

        profile = self.profile()
        bound: BoundCost = profile.bind(graph)
        if isinstance(profile, MeasuredProfile):
            for strange in profile.strangeness():
                _warn(f"hardware profile {profile.name}: {strange}; predictions may be off")
            shaky, off = profile.noise.get("repeated", 0.0), profile.error.get("mape", 0.0)
            if shaky > NOISY or off > OFF:
                _warn(
                    f"hardware profile {profile.name} is coarse: networks that its fit had not seen are "
                    f"{100 * off:.0f}% off "
                    f"on average, and the same network measured twice lies {100 * shaky:.0f}% apart; "
                    "take predictions as "
                    f"true to about {100 * max(shaky, off):.0f}%. "
                    "Measure again when the machine is idle, for longer (--limit)"
                )
            widths = torch.tensor([float(width) for width in graph.widths.values()], dtype=torch.float64)
            shares = bound.unseen(widths)  # type: ignore[attr-defined]
            if sum(shares.values()) > TOLD:
                told = ", ".join(f"{name} {100 * share:.0f}%" for name, share in shares.items() if share > 0.002)
                _warn(
                    f"hardware profile {profile.name} has not seen operations like some of this network's; they are "
                    f"extrapolated, and make {100 * sum(shares.values()):.0f}% of its latency ({told}). Measure this "
                    "network: morphsearch profile SEED"
                )
        return bound


def _warn(text: str) -> None:
    warnings.warn(text, HardwareWarning, stacklevel=3)
