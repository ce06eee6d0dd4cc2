"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels, part of the package, so always there.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998).
"""

from __future__ import annotations

import numpy as np
import torch

from morphsearch.data.assemble import from_arrays
from morphsearch.data.base import DataOptions, DataSplits
from morphsearch.data.splitting import carve, describe_carving
from morphsearch.errors import UsageError

TEST_FRACTION = 0.2


def load(argument: str | None, options: DataOptions) -> DataSplits:
    """Digits 0 to 9. The test part, a fifth, is the same for every seed; the validation part follows `options.seed`.

    Raises:
        UsageError: there is an argument.
    """
    if argument:
        raise UsageError(f"data 'digits:{argument}'", "digits takes no argument", "write --data digits")
    # Imported late: scikit-learn takes a second to import.
    from sklearn.datasets import load_digits

    raw, targets = load_digits(return_X_y=True)
    # Values are 0..16.
    images = torch.from_numpy(np.rint(raw.reshape(-1, 1, 8, 8) * (255.0 / 16.0)).astype(np.uint8))
    labels = torch.from_numpy(targets.astype(np.int64))
    stay, out = (torch.from_numpy(part) for part in carve(targets, TEST_FRACTION, seed=0))
    record = {
        "source": "digits",
        "parts": {"test": describe_carving("all images", out.numpy(), TEST_FRACTION, 0)},
    }
    return from_arrays(
        "digits",
        (images[stay], labels[stay]),
        None,
        (images[out], labels[out]),
        [str(digit) for digit in range(10)],
        options,
        flip=False,
        record=record,
    )
