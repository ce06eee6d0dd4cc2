"""How long networks take on a device: measured, predicted for any widths, and saved in profiles that travel."""

from morphsearch.hardware.latency import HardwareWarning, Latency
from morphsearch.hardware.measure import profile
from morphsearch.hardware.profiles import MeasuredProfile, load
from morphsearch.hardware.settings import Settings

__all__ = ["HardwareWarning", "Latency", "MeasuredProfile", "Settings", "load", "profile"]
