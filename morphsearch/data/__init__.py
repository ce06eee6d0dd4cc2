"""Data sets: what a spec names, what a Python user passes, and the batches that training takes from them."""

from morphsearch.data.adapt import as_splits
from morphsearch.data.arrays import ArraySplit
from morphsearch.data.augment import Augmentation
from morphsearch.data.base import DataOptions, DataSplits, Split
from morphsearch.data.check import check_model_input
from morphsearch.data.spec import load
from morphsearch.data.streams import LoaderSplit, StreamSplit

__all__ = [
    "ArraySplit",
    "Augmentation",
    "DataOptions",
    "DataSplits",
    "LoaderSplit",
    "Split",
    "StreamSplit",
    "as_splits",
    "check_model_input",
    "load",
]
