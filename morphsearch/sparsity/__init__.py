"""Sparsity during training: masks on a schedule, at zero throughout, in a network that stays a plain ``nn.Module``.

The lower half (values, schedule, targets, patterns, masks, strategy, sparsifier, measure) knows networks and optimizers
only, and serves any training loop. The upper half (config, source, runner, run, api) trains by itself, over
:mod:`morphsearch.training` and :mod:`morphsearch.loop`.
"""

from morphsearch.sparsity.api import sparsify
from morphsearch.sparsity.config import SparsifyConfig
from morphsearch.sparsity.measure import Sizes, SparsityReport, sizes
from morphsearch.sparsity.results import SparsifyResult
from morphsearch.sparsity.schedule import Schedule
from morphsearch.sparsity.sparsifier import Sparsifier, SparsityWarning
from morphsearch.sparsity.strategy import MagnitudeSparsity, MaskStrategy

__all__ = [
    "MagnitudeSparsity",
    "MaskStrategy",
    "Schedule",
    "Sizes",
    "Sparsifier",
    "SparsifyConfig",
    "SparsifyResult",
    "SparsityReport",
    "SparsityWarning",
    "sizes",
    "sparsify",
]
