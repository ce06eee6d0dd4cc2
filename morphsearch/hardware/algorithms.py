"""Which algorithm a runtime takes for an operation, where a rule in its source decides.

What one of two algorithms takes says little of the other.

Letters: `n` operations, `f` columns of a row, `w` ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from morphsearch.hardware.work import COLUMNS

if TYPE_CHECKING:
    from morphsearch.hardware.settings import Settings

NO_RULE, ONE_IMAGE, ONE_IMAGE_THREADS = "", "torch-one-image", "torch-one-image-threads"
RULES = (NO_RULE, ONE_IMAGE, ONE_IMAGE_THREADS)
FEW_ELEMENTS = 20480  # that a convolution of one image reads at most, for PyTorch to leave it to a matrix product
MANY_TAPS = 16  # of a filter that reaches over more than three positions both ways, which oneDNN always gets
CHANNELS, KERNEL, TAKEN, MADE = map(COLUMNS.index, ("channels_in", "kernel", "positions_in", "positions_out"))


def rule_of(settings: Settings) -> str:
    """The name of the rule that decides at these settings; empty where none is known."""
    plain = settings.backend == "eager" and settings.device == "cpu" and settings.dtype == "float32"
    if not plain or settings.batch > 1 or not torch.backends.mkldnn.is_available():
        return NO_RULE
    return ONE_IMAGE if settings.threads == 1 else ONE_IMAGE_THREADS


def ways(rule: str, family: str, rows: np.ndarray) -> np.ndarray | None:
    """`n x w`: a one for the algorithm that each operation (`n x f`) is run by; None where there is but one.

    PyTorch (``ConvParams::use_mkldnn``) leaves a convolution of one image to a matrix product where it has no groups, a
    filter of at most three positions one way or the other, and reads few elements. With one thread also every 1x1
    convolution without a stride, whatever it reads. All others get oneDNN.
    """
    if rule == NO_RULE or family not in ("conv", "conv_1x1"):
        return None
    small = (rows[:, CHANNELS] * rows[:, TAKEN] <= FEW_ELEMENTS) & (rows[:, KERNEL] < MANY_TAPS)
    if rule == ONE_IMAGE:
        small |= (rows[:, KERNEL] <= 1) & (np.rint(rows[:, TAKEN]) == np.rint(rows[:, MADE]))
    return np.stack([small, ~small], axis=1).astype(np.float64)
