"""Strategies: how units are judged, or widths proposed."""

from morphsearch.strategies.base import Strategy, TrainingFree
from morphsearch.strategies.registry import get

__all__ = ["Strategy", "TrainingFree", "get"]
