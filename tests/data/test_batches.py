"""Batches: order, augmentation, normalisation and exact resumption, in memory and streamed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from morphsearch.data import ArraySplit, Augmentation, Split, StreamSplit
from morphsearch.data.arrays import channel_statistics, conform
from morphsearch.data.streams import ImageFiles
from morphsearch.errors import InputError, UsageError

Batches = list[tuple[Tensor, Tensor]]
HALF, ONE = torch.full((3,), 0.5), torch.ones(3)


def in_memory(folder: Path, count: int = 23) -> ArraySplit:
    images = torch.randint(0, 256, (count, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return ArraySplit(
        images, torch.arange(count) % 4, 4, mean=HALF, std=ONE, augmentation=Augmentation.for_size(12, 10)
    )


def streamed(folder: Path, count: int = 23) -> StreamSplit:
    split = in_memory(folder, count)
    paths = []
    for index, pixels in enumerate(split.images):
        paths.append(str(folder / f"{index}.png"))
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(paths[-1])
    files = ImageFiles(paths, split.labels.tolist(), (12, 10), 3)
    return StreamSplit(files, 4, (3, 12, 10), mean=HALF, std=ONE, augmentation=split.augmentation)


@pytest.fixture(params=[in_memory, streamed])
def split(request: pytest.FixtureRequest, tmp_path: Path) -> Split:
    return request.param(tmp_path)


def equal(left: Batches, right: Batches) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


def test_every_image_comes_once_in_order_normalised(split: Split, tmp_path: Path) -> None:
    batches = list(split.batches(8))
    assert [len(y) for _, y in batches] == [8, 8, 7]
    assert len(batches) == split.num_batches(8)
    x = torch.cat([x for x, _ in batches])
    assert x.dtype == torch.float32
    assert torch.allclose(x, in_memory(tmp_path).images / 255.0 - 0.5, atol=1e-6)
    assert torch.equal(torch.cat([y for _, y in batches]), torch.arange(23) % 4)
    assert batches[0][1].dtype == torch.int64


def test_drop_last_leaves_out_the_short_batch(split: Split) -> None:
    assert [len(y) for _, y in split.batches(8, drop_last=True)] == [8, 8]
    assert split.num_batches(8, drop_last=True) == 2


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4])
def test_the_rest_of_an_epoch_is_what_it_would_have_been(split: Split, start: int) -> None:
    whole = list(split.batches(7, shuffle_seed=5, augment=True))
    torch.manual_seed(99)
    assert equal(list(split.batches(7, shuffle_seed=5, augment=True, start_batch=start)), whole[start:])


def test_batches_draw_nothing_from_the_global_generator(split: Split) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(split.batches(7, shuffle_seed=5, augment=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_differ_by_their_seed(split: Split) -> None:
    one, two = (torch.cat([y for _, y in split.batches(23, shuffle_seed=seed)]) for seed in (1, 2))
    assert sorted(one.tolist()) == sorted(two.tolist())
    assert not torch.equal(one, two)


def test_augmentation_changes_training_images_only_when_asked(split: Split) -> None:
    plain, again, changed = (
        next(split.batches(23, shuffle_seed=1, augment=augment))[0] for augment in (False, False, True)
    )
    assert torch.equal(plain, again)
    assert not torch.equal(plain, changed)


def test_the_images_themselves_never_change(tmp_path: Path) -> None:
    split = in_memory(tmp_path)
    floats = ArraySplit(split.images.float(), split.labels, 4, mean=HALF, std=ONE, augmentation=Augmentation(1, True))
    for each in (split, floats):
        before = each.images.clone()
        for x, y in each.batches(5, augment=True):
            x.zero_()
            y.zero_()
        assert torch.equal(each.images, before)
        assert each.labels.any()


@given(st.integers(1, 6), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(0, 3), st.booleans())
def test_a_crop_is_a_window_of_the_padded_image_perhaps_mirrored(
    n: int, c: int, h: int, w: int, pad: int, flip: bool
) -> None:
    images = torch.randint(1, 256, (n, c, h, w), dtype=torch.uint8)
    out = Augmentation(pad, flip)(images, torch.Generator().manual_seed(0))
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    padded = torch.nn.functional.pad(images, (pad,) * 4)
    for image, found in zip(padded, out, strict=True):
        windows = [image[:, y : y + h, x : x + w] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        assert any(torch.equal(found, window) or (flip and torch.equal(found, window.flip(2))) for window in windows)


def test_augmentation_shifts_and_mirrors_about_evenly() -> None:
    image = torch.zeros(4000, 1, 5, 5, dtype=torch.uint8)
    image[:, :, 2, 0] = 1
    places = Augmentation(1, True)(image, torch.Generator().manual_seed(0)).flatten(1).argmax(1)
    rows, columns = places // 5, places % 5
    # A third of the shifts push the pixel out at the side: nothing is left, and argmax says 0.
    assert {1, 2, 3} <= set(rows.tolist())
    assert {0, 1, 3, 4} <= set(columns.tolist())
    assert 0.4 < (columns[columns != 0] > 2).float().mean() < 0.7


def test_padding_is_in_proportion() -> None:
    assert [Augmentation.for_size(size, size).pad for size in (8, 32, 224, 4)] == [1, 4, 28, 1]
    assert Augmentation.for_size(32, 64, flip=False) == Augmentation(4, False)


def test_workers_give_the_same_batches(tmp_path: Path) -> None:
    split = streamed(tmp_path)
    alone = list(split.batches(7, shuffle_seed=5, augment=True))
    split.workers = 2
    assert equal(list(split.batches(7, shuffle_seed=5, augment=True)), alone)


def test_an_unreadable_image_is_left_out_of_its_batch_and_named(tmp_path: Path) -> None:
    split = streamed(tmp_path, 120)
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:60])
    batches = list(split.batches(8))
    assert [len(y) for _, y in batches] == [7] + [8] * 14
    assert [Path(path).name for path in split.unreadable] == ["5.png"]
    # The same file once more is still one.
    assert len(list(split.batches(8))) == 15
    assert len(split.unreadable) == 1


def test_many_unreadable_images_stop_a_stream(tmp_path: Path) -> None:
    split = streamed(tmp_path)
    (tmp_path / "5.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"5\.png"):
        list(split.batches(8))


def test_a_bad_batch_size_is_a_usage_error(split: Split) -> None:
    with pytest.raises(UsageError, match="batch_size 0"):
        list(split.batches(0))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 3, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, 4), torch.full((2,), 4)),
        (torch.zeros(2, 3, 4, 4), torch.full((2,), -1)),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2)),
        (torch.zeros(0, 3, 4, 4), torch.zeros(0, dtype=torch.int64)),
    ],
)
def test_arrays_that_are_no_labelled_images_are_refused(images: Tensor, labels: Tensor) -> None:
    with pytest.raises(InputError):
        ArraySplit(images, labels, 4, mean=HALF, std=ONE)


def test_statistics_are_exact_for_both_types() -> None:
    images = torch.randint(0, 256, (1500, 2, 3, 3), dtype=torch.uint8)
    images[:, 1] = 7
    want = images[:, 0].double() / 255
    for found, scale in ((channel_statistics(images), 1.0), (channel_statistics(images.float()), 255.0)):
        assert found[0][0].item() == pytest.approx(want.mean().item() * scale, rel=1e-6)
        assert found[1][0].item() == pytest.approx(want.std(correction=0).item() * scale, rel=1e-6)
        assert found[1][1] == 1  # nothing to divide by


def test_conform_converts_channels_and_size() -> None:
    grey = torch.full((2, 1, 4, 4), 100, dtype=torch.uint8)
    colour = conform(grey, 3, (6, 8))
    assert colour.shape == (2, 3, 6, 8)
    assert (colour == 100).all()
    assert torch.equal(conform(colour, 1, (4, 4)), grey)
    assert conform(grey, 1, (4, 4)) is grey
    with pytest.raises(InputError, match="2 channels"):
        conform(torch.zeros(1, 2, 4, 4), 3, None)


def test_every_epoch_has_all_images_whatever_the_batch_size(tmp_path: Path) -> None:
    split = in_memory(tmp_path)
    for size in (1, 5, 23, 100):
        labels = np.concatenate([y.numpy() for _, y in split.batches(size, shuffle_seed=2, augment=True)])
        assert sorted(labels) == sorted(split.labels.tolist())
    assert len(list(islice(split.batches(5, start_batch=9), 3))) == 0
