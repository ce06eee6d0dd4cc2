"""Built-in data sources."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from morphsearch.hookspecs import hookimpl
from morphsearch.types import DataRecord


def _late(module: str) -> Callable[..., Any]:
    """A factory that imports its module when it is called."""

    def load(argument: str | None, options: Any) -> Any:
        return importlib.import_module(f"morphsearch.data.{module}").load(argument, options)

    return load


@hookimpl
def morphsearch_data() -> list[DataRecord]:
    """The data sets that morphsearch reads by itself."""
    return [
        DataRecord("digits", "scikit-learn's 1797 handwritten digits, 8 x 8, embedded", _late("digits")),
        DataRecord(
            "imagefolder", "imagefolder:PATH, a folder of classes, with or without splits", _late("imagefolder")
        ),
        DataRecord("cifar10", "cifar10:PATH, the binary or the python batches", _late("cifar10")),
        DataRecord("npz", "npz:PATH, arrays of images and labels", _late("npz")),
    ]
