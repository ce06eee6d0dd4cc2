"""What every source of data must do; subclass :class:`DataConformance` in a test module to check yours."""

from __future__ import annotations

import json

import pytest
import torch

from morphsearch.data import DataSplits, load


class DataConformance:
    """Cases for a source of data that a plugin registers::

        class TestStripes(DataConformance):
            spec = "stripes:200"

    Attributes:
        spec: as ``--data`` takes it.
    """

    spec: str

    def load(self, seed: int = 0) -> DataSplits:
        """The data, its splits carved by `seed` where it has none."""
        return load(self.spec, seed=seed)

    @pytest.fixture
    def splits(self) -> DataSplits:
        """The data."""
        return self.load()

    def test_there_is_something_to_train_on_and_to_choose_by(self, splits: DataSplits) -> None:
        """The test part may be missing, the other two may not."""
        assert len(splits.train) > 0
        assert len(splits.val) > 0
        assert splits.num_classes > 1, "a classifier needs two classes"
        assert len(set(splits.classes)) == splits.num_classes, "two classes of one name"

    def test_batches_are_what_they_say(self, splits: DataSplits) -> None:
        """Images of the shape, in float32, and labels below the number of classes, in int64."""
        for name in ("train", "val", "test"):
            split = getattr(splits, name)
            if split is None:
                continue
            images, labels = next(iter(split.batches(4)))
            assert tuple(images.shape[1:]) == tuple(splits.shape), f"{name}: images of {tuple(images.shape)}"
            assert images.dtype == torch.float32, f"{name}: images are {images.dtype}"
            assert torch.isfinite(images).all(), f"{name}: images are not finite"
            assert labels.dtype == torch.int64, f"{name}: labels are {labels.dtype}"
            assert int(labels.min()) >= 0, f"{name}: a label below 0"
            assert int(labels.max()) < splits.num_classes, f"{name}: label {int(labels.max())} of {splits.num_classes}"

    def test_the_same_seed_gives_the_same_images(self) -> None:
        """So that a run can be repeated, and resumed."""
        for name in ("train", "val"):
            first, second = (next(iter(getattr(self.load(seed=3), name).batches(8))) for _ in range(2))
            for left, right in zip(first, second, strict=True):
                torch.testing.assert_close(left, right, rtol=0, atol=0)

    def test_a_run_that_goes_on_sees_the_batches_that_it_would_have_seen(self, splits: DataSplits) -> None:
        """``start_batch`` leaves batches out and changes nothing about the others."""
        if splits.train.num_batches(4) < 2:
            pytest.skip("one batch is all there is")
        whole = list(splits.train.batches(4, shuffle_seed=1, augment=True))[1]
        rest = next(iter(splits.train.batches(4, shuffle_seed=1, augment=True, start_batch=1)))
        for left, right in zip(whole, rest, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=0)

    def test_its_record_can_be_saved(self, splits: DataSplits) -> None:
        """It becomes a part of ``run.json``."""
        json.dumps(splits.record, allow_nan=False)
        assert all(isinstance(note, str) for note in splits.notes)
