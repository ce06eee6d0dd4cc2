"""What Python users pass: tensors, datasets, loaders."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from morphsearch.data import ArraySplit, Augmentation, DataOptions, LoaderSplit, StreamSplit, as_splits
from morphsearch.errors import InputError, UsageError


def pair(n: int = 30, *, dtype: torch.dtype = torch.uint8) -> tuple[Tensor, Tensor]:
    images = torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(n)).to(dtype)
    return images, torch.arange(n) % 3


class Noisy(Dataset[Any]):
    """A dataset with random transforms, drawn from every global generator."""

    def __init__(self, n: int = 30, *, targets: bool = True) -> None:
        self.n = n
        if targets:
            self.targets = [i % 3 for i in range(n)]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.rand(()).item() + random.random() + np.random.random()
        return torch.full((3, 8, 8), index + noise), index % 3


class Pictures(Noisy):
    def __getitem__(self, index: int) -> Any:
        return Image.new("RGB", (9, 7), (index, 0, 0)), index % 3


def test_tensors_and_arrays_are_held_in_memory() -> None:
    splits = as_splits(pair(), pair(9), (pair(6)[0].numpy(), pair(6)[1].numpy()))
    assert [type(part) for part in (splits.train, splits.val, splits.test)] == [ArraySplit] * 3
    assert splits.classes == ["0", "1", "2"]
    x, _ = next(splits.train.batches(30))
    assert x.mean().abs() < 1e-5
    assert torch.equal(next(splits.train.batches(30, augment=True))[0], x)


def test_float_tensors_are_taken_as_they_are() -> None:
    images, labels = pair(dtype=torch.float32)
    x, _ = next(as_splits((images, labels), pair(9, dtype=torch.float32)).train.batches(30))
    assert torch.equal(x, images)


def test_augmentation_is_ours_only_when_asked_for() -> None:
    splits = as_splits(pair(), pair(9), augmentation=Augmentation(1, True))
    plain, changed = (next(splits.train.batches(30, augment=augment))[0] for augment in (False, True))
    assert not torch.equal(plain, changed)
    assert torch.equal(*(next(splits.val.batches(9, augment=augment))[0] for augment in (False, True)))


@pytest.mark.parametrize(
    "train", [pair(), TensorDataset(*pair()), Noisy(), Noisy(targets=False), Subset(Noisy(60), range(30))]
)
def test_validation_is_carved_out_of_what_has_numbered_images(train: Any) -> None:
    splits = as_splits(train, options=DataOptions(seed=1))
    assert (len(splits.train), len(splits.val)) == (27, 3)
    labels = torch.cat([y for _, y in splits.val.batches(10)])
    assert sorted(labels.tolist()) == [0, 1, 2]
    assert splits.record["parts"]["val"]["seed"] == 1
    assert splits.num_classes == 3


def test_random_transforms_repeat_by_seed_and_index() -> None:
    splits = as_splits(Noisy(), Noisy(9))
    assert isinstance(splits.train, StreamSplit)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    whole = list(splits.train.batches(7, shuffle_seed=3))
    random.seed(5)
    torch.manual_seed(5)
    rest = list(splits.train.batches(7, shuffle_seed=3, start_batch=2))
    for (x, y), (a, b) in zip(whole[2:], rest, strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)
    other = torch.cat([x for x, _ in splits.train.batches(7, shuffle_seed=4)])
    assert not set(other[:, 0, 0, 0].tolist()) & set(torch.cat([x for x, _ in whole])[:, 0, 0, 0].tolist())
    torch.set_rng_state(state[0])
    list(splits.train.batches(7, shuffle_seed=3))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[2])


def test_pillow_images_are_converted() -> None:
    splits = as_splits(Pictures(), Pictures(9))
    assert splits.shape == (3, 7, 9)
    assert next(splits.val.batches(9))[0].shape == (9, 3, 7, 9)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_is_used_as_it_is_and_repeats(workers: int) -> None:
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=workers)
    splits = as_splits(loader, DataLoader(Noisy(9), batch_size=4))
    assert isinstance(splits.train, LoaderSplit)
    assert (len(splits.train), splits.train.num_batches(1000), splits.num_classes) == (30, 4, 3)
    torch.manual_seed(1)
    whole = list(splits.train.batches(999, shuffle_seed=3))
    torch.manual_seed(2)
    rest = list(splits.train.batches(999, shuffle_seed=3, start_batch=1))
    assert [len(y) for _, y in whole] == [8, 8, 8, 6]
    for (x, y), (a, b) in zip(whole[1:], rest, strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)
    assert not torch.equal(whole[0][0], next(iter(splits.train.batches(999, shuffle_seed=4)))[0])


def test_what_happens_between_batches_does_not_change_a_loaders_batches() -> None:
    splits = as_splits(DataLoader(Noisy(), batch_size=8, shuffle=True), DataLoader(Noisy(9), batch_size=4))
    quiet = [x for x, _ in splits.train.batches(8, shuffle_seed=3)]
    noisy = []
    for x, _ in splits.train.batches(8, shuffle_seed=3):
        noisy.append(x)
        torch.rand(100)
        random.random()
    assert all(torch.equal(a, b) for a, b in zip(quiet, noisy, strict=True))


def test_any_list_of_batches_will_do() -> None:
    batches = [pair(8), [pair(8)[0].numpy(), pair(8)[1].numpy()]]
    splits = as_splits(batches, batches)
    x, y = next(splits.train.batches(1))
    assert x.max() <= 1
    assert y.dtype == torch.int64


def test_splits_pass_through() -> None:
    splits = as_splits(pair(), pair(9))
    assert as_splits(splits) is splits
    again = as_splits(splits.train, splits.val)
    assert again.train is splits.train
    assert torch.equal(again.mean, splits.mean)
    with pytest.raises(UsageError, match="DataSplits"):
        as_splits(splits, pair(9))


def test_names_of_classes_may_be_given() -> None:
    assert as_splits(pair(), pair(9), classes=["a", "b", "c", "d"]).num_classes == 4


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from zip(*pair(), strict=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((iter([pair()]), pair()), ["gone through once"]),
        ((3, pair()), ["an int"]),
        (("digits", pair()), ["a str"]),
        ((pair()[0], pair()), ["a Tensor"]),
        (([], pair()), ["gives no batches"]),
        (([3], pair()), ["a batch is int"]),
        (([{"x": 1, "y": 2}], pair()), ["a batch is dict"]),
        (([(torch.zeros(2, 3), torch.zeros(2))], pair()), ["a batch is a tuple of 2", "Tensor (2, 3)"]),
        (((pair()[0], pair()[1].float()), pair()), ["float32"]),
        (((pair()[0], pair()[1][:5]), pair()), ["labels (5,)"]),
        (((pair()[0], torch.zeros(30, dtype=torch.int64)), pair()), ["only the class '0'"]),
        ((pair(), (torch.zeros(4, 1, 8, 8), torch.arange(4) % 2)), ["val images of shape (1, 8, 8)"]),
        ((pair(), (pair(9)[0], torch.full((9,), 7))), ["labels 7 to 7"]),
        ((pair(), DataLoader(TensorDataset(pair(9)[0], torch.full((9,), 7)))), ["val labels up to 7"]),
        ((TensorDataset(*pair(0)), pair()), ["labels (0,)"]),
        ((Noisy(0), pair()), ["empty"]),
        ((TensorDataset(pair()[0]), pair()), ["item 0"]),
        ((Stream(), pair()), ["a batch is"]),
    ],
    ids=lambda value: None,
)
def test_what_cannot_be_used_is_told_why(arguments: tuple[Any, ...], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        as_splits(*arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.repair


def test_a_loader_without_validation_says_what_to_pass() -> None:
    with pytest.raises(UsageError, match="pass val_data"):
        as_splits(DataLoader(Noisy(), batch_size=4))


class Growing(Noisy):
    def __getitem__(self, index: int) -> Any:
        return torch.zeros(3, 8 if index < 20 else 9, 8), index % 3


def test_an_item_of_another_shape_is_named_when_it_comes() -> None:
    splits = as_splits(Growing(), Growing(9))
    with pytest.raises(InputError, match="item 20"):
        list(splits.train.batches(30))
