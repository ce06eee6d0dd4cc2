"""Folders of images: layouts, formats, damage."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from morphsearch import data
from morphsearch.data import ArraySplit, StreamSplit
from morphsearch.data.images import UnreadableImage, decode
from morphsearch.errors import InputError, UsageError

RED, BLUE = (200, 10, 10), (10, 10, 200)


def fill(folder: Path, count: int, *, size: tuple[int, int] = (12, 12), colour: tuple[int, ...] = RED) -> None:
    """`count` PNGs of ``(width, height)``, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    start = len(list(folder.iterdir()))
    for index in range(start, start + count):
        image = Image.new("RGB", size, colour)
        image.putpixel((0, 0), (index % 256, index // 256, 0))
        image.save(folder / f"{index:04d}.png")


def make(root: Path, layout: dict[str, int], **options: object) -> str:
    for place, count in layout.items():
        fill(root / place, count, **options)  # type: ignore[arg-type]
    return f"imagefolder:{root}"


def test_train_val_and_test_are_taken_as_they_are(tmp_path: Path) -> None:
    spec = make(tmp_path, {f"{part}/{name}": n for part, n in (("train", 6), ("val", 2), ("test", 3)) for name in "ab"})
    splits = data.load(spec)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [12, 4, 6]
    assert splits.classes == ["a", "b"]
    assert splits.shape == (3, 12, 12)
    assert splits.record["parts"] == {
        part: {"given": True, "count": n} for part, n in (("train", 12), ("val", 4), ("test", 6))
    }
    assert splits.record["held"] == "memory"


def test_validation_is_carved_out_of_train_by_class_and_recorded(tmp_path: Path) -> None:
    spec = make(tmp_path, {"train/a": 40, "train/b": 20, "test/a": 3, "test/b": 3})
    splits = data.load(spec, seed=3)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (54, 6, 6)
    assert isinstance(splits.val, ArraySplit)
    assert torch.bincount(splits.val.labels).tolist() == [4, 2]
    record = splits.record["parts"]["val"]
    assert (record["carved_from"], record["seed"], record["count"]) == ("train", 3, 6)
    assert data.load(spec, seed=3).record["parts"]["val"]["fingerprint"] == record["fingerprint"]
    assert data.load(spec, seed=4).record["parts"]["val"]["fingerprint"] != record["fingerprint"]
    pixels = torch.cat([splits.train.images, splits.val.images])[:, :2, 0, 0]
    assert len({(*row.tolist(), n) for n, row in enumerate(pixels)}) == 60


def test_without_split_folders_all_three_are_made_and_share_nothing(tmp_path: Path) -> None:
    spec = make(tmp_path, {"a": 30, "b": 30}, colour=RED)
    splits = data.load(spec)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [48, 6, 6]
    assert splits.record["parts"]["test"]["carved_from"] == "all images"
    marks = [
        {(int(image[0, 0, 0]), int(label)) for image, label in zip(part.images, part.labels, strict=True)}
        for part in (splits.train, splits.val, splits.test)
    ]
    assert len(set.union(*marks)) == 60


def test_train_and_val_alone_leave_no_test(tmp_path: Path) -> None:
    splits = data.load(make(tmp_path, {"Train/a": 4, "Train/b": 4, "validation/a": 2, "validation/b": 2}))
    assert splits.test is None
    assert any("no test part" in note for note in splits.notes)


def test_a_class_called_test_is_a_class(tmp_path: Path) -> None:
    assert data.load(make(tmp_path, {"control": 10, "test": 10})).classes == ["control", "test"]


def test_batches_come_out_with_the_right_pixels(tmp_path: Path) -> None:
    fill(tmp_path / "blue", 10, colour=BLUE)
    fill(tmp_path / "red", 10, colour=RED)
    splits = data.load(f"imagefolder:{tmp_path}")
    x, y = next(splits.train.batches(100))
    raw = (x * splits.std.view(3, 1, 1) + splits.mean.view(3, 1, 1)) * 255
    for image, label in zip(raw, y, strict=True):
        want = torch.tensor(BLUE if splits.classes[label] == "blue" else RED).float()
        assert torch.allclose(image[:, 5, 5], want, atol=0.01)
    assert x.mean().abs() < 1e-5


def test_many_formats_and_odd_modes_are_decoded(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    rng = np.random.default_rng(0)
    base = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for suffix in ("jpg", "jpeg", "png", "bmp", "webp", "gif", "tif", "ppm"):
        base.save(folder / f"x.{suffix}")
    base.convert("L").save(folder / "grey.PNG")
    base.convert("RGBA").save(folder / "alpha.png")
    base.convert("P").save(folder / "palette.png")
    base.convert("1").save(folder / "bits.png")
    base.convert("CMYK").save(folder / "print.jpg")
    base.convert("LA").save(folder / "la.png")
    Image.fromarray(np.full((16, 16), 65535, np.uint16)).save(folder / "deep.png")
    (folder / "notes.txt").write_text("not an image")
    (folder / ".DS_Store").write_bytes(b"\0")
    shutil.copytree(folder, tmp_path / "b" / "nested")
    splits = data.load(f"imagefolder:{tmp_path}")
    assert sum(len(part) for part in (splits.train, splits.val, splits.test)) == 30
    assert splits.record["skipped"]["count"] == 0
    assert splits.shape == (3, 16, 16)
    assert any("not images by their suffix" in note for note in splits.notes)
    assert decode(str(folder / "deep.png"), None, 1).min() == 255


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert decode(str(tmp_path / "clear.png"), None, 3).min() == 255
    grey = Image.new("LA", (4, 4), (0, 0))
    grey.save(tmp_path / "clear_grey.png")
    assert decode(str(tmp_path / "clear_grey.png"), None, 1).min() == 255


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4))
    image.paste((255, 255, 255), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    pixels = decode(str(tmp_path / "turned.png"), None, 1)
    assert pixels.shape == (8, 4, 1)
    assert pixels[:4].min() == 255
    assert pixels[4:].max() == 0


def test_grey_folders_stay_grey_unless_told_otherwise(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(6):
            Image.new("L", (8, 8), 20 * index).save(tmp_path / name / f"{index}.png")
    assert data.load(f"imagefolder:{tmp_path}").shape == (1, 8, 8)
    assert data.load(f"imagefolder:{tmp_path}", channels=3).shape == (3, 8, 8)


def test_sizes_that_differ_become_the_most_common_or_the_wanted_one(tmp_path: Path) -> None:
    fill(tmp_path / "a", 6, size=(20, 10))
    fill(tmp_path / "b", 3, size=(40, 40))
    splits = data.load(f"imagefolder:{tmp_path}")
    assert splits.shape == (3, 10, 20)
    assert splits.record["resized"]
    assert any("2 sizes" in note for note in splits.notes)
    assert data.load(f"imagefolder:{tmp_path}", image_size=(9, 7)).shape == (3, 9, 7)


def test_resizing_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 10), RED)
    image.paste(BLUE, (10, 0, 20, 10))
    image.save(tmp_path / "wide.png")
    # The middle third is the largest square.
    assert (decode(str(tmp_path / "wide.png"), (10, 10), 3) == np.array(BLUE)).all()


def test_large_sets_are_streamed_with_the_same_pixels(tmp_path: Path) -> None:
    spec = make(tmp_path, {f"{part}/{name}": n for part, n in (("train", 8), ("val", 2)) for name in "ab"})
    held, stream = data.load(spec), data.load(spec, memory_limit_bytes=1000, workers=0)
    assert isinstance(stream.train, StreamSplit)
    assert stream.record["held"] == "stream"
    assert any("streamed" in note for note in stream.notes)
    for (x, y), (a, b) in zip(held.val.batches(3), stream.val.batches(3), strict=True):
        assert torch.equal(y, b)
        # Only the statistics come from a sample.
        assert torch.allclose(
            x * held.std.view(3, 1, 1) + held.mean.view(3, 1, 1),
            a * stream.std.view(3, 1, 1) + stream.mean.view(3, 1, 1),
            atol=1e-5,
        )


def test_a_streamed_set_has_its_validation_carved_alike(tmp_path: Path) -> None:
    spec = make(tmp_path, {"a": 30, "b": 30})
    held, stream = data.load(spec, seed=2), data.load(spec, seed=2, memory_limit_bytes=1000, workers=0)
    assert {k: v["fingerprint"] for k, v in held.record["parts"].items() if "fingerprint" in v} == {
        k: v["fingerprint"] for k, v in stream.record["parts"].items() if "fingerprint" in v
    }


# Damage.


def truncated(path: Path) -> None:
    whole = path.read_bytes()
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[: len(whole) + 200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("<html>not found</html>")


def bomb(path: Path, side: int = 60_000) -> None:
    """A PNG of 200 bytes that claims 3.6 billion pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def smaller_bomb(path: Path) -> None:
    bomb(path, 9_300)  # where Pillow only warns... and below that, where it says nothing


def postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


DAMAGE = [truncated, empty, text, bomb, smaller_bomb, postscript]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("limit", [None, 1000])
def test_one_bad_image_in_a_hundred_is_left_out_and_named(
    tmp_path: Path, damage: Callable[[Path], None], limit: int | None
) -> None:
    spec = make(tmp_path, {"train/a": 60, "train/b": 60, "val/a": 2, "val/b": 2})
    damage(tmp_path / "train" / "a" / "0007.png")
    splits = data.load(spec, memory_limit_bytes=limit, workers=0)
    assert sum(len(y) for _, y in splits.train.batches(32)) == 119
    if limit is None:
        assert splits.record["skipped"]["count"] == 1
        assert splits.record["skipped"]["files"][0]["path"].endswith("0007.png")
        assert splits.record["skipped"]["files"][0]["reason"]
        assert any("0007.png" in note for note in splits.notes)
        assert isinstance(splits.train, ArraySplit)
        assert torch.bincount(splits.train.labels).tolist() == [59, 60]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("limit", [None, 1000])
def test_more_than_one_in_a_hundred_stops(tmp_path: Path, damage: Callable[[Path], None], limit: int | None) -> None:
    spec = make(tmp_path, {"train/a": 20, "train/b": 20, "val/a": 2, "val/b": 2})
    damage(tmp_path / "train" / "a" / "0007.png")
    with pytest.raises(InputError, match=r"1 of 4\d images") as caught:
        data.load(spec, memory_limit_bytes=limit, workers=0)
    assert "0007.png" in caught.value.arrived
    assert caught.value.exit_code == 5


def test_nothing_but_bad_images_stops_too(tmp_path: Path) -> None:
    spec = make(tmp_path, {"a": 3, "b": 3})
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot be read"):
        data.load(spec)


def test_a_decoder_says_why(tmp_path: Path) -> None:
    for damage in DAMAGE:
        path = tmp_path / f"{damage.__name__}.png"
        path.write_bytes(b"x" * 300)
        damage(path)
        with pytest.raises(UnreadableImage) as caught:
            decode(str(path), None, 3)
        assert caught.value.found.reason


# Folders that are no data set.


def nothing(root: Path) -> None:
    pass


def missing(root: Path) -> None:
    root.rmdir()


def a_file(root: Path) -> None:
    root.rmdir()
    root.write_bytes(b"PK")


def one_class(root: Path) -> None:
    fill(root / "only", 5)


def one_class_in_train(root: Path) -> None:
    fill(root / "train" / "only", 5)


def loose(root: Path) -> None:
    fill(root, 5)


def empty_class(root: Path) -> None:
    fill(root / "a", 5)
    (root / "b").mkdir()


def no_images(root: Path) -> None:
    for name in "ab":
        (root / name).mkdir()
        (root / name / "x.txt").write_text("x")


def no_train(root: Path) -> None:
    for part in ("val", "test"):
        fill(root / part / "a", 2)


def strange_class(root: Path) -> None:
    for name in "ab":
        fill(root / "train" / name, 3)
    fill(root / "test" / "c", 3)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (nothing, "no class folders and no images"),
        (missing, "is not there"),
        (a_file, "is a file"),
        (one_class, "only the class 'only'"),
        (one_class_in_train, "only the class 'only'"),
        (loose, "lie loose"),
        (empty_class, "no images for the class b"),
        (no_images, "no images for the classes a, b"),
        (no_train, "no train folder"),
        (strange_class, "lacks: c"),
    ],
)
def test_a_folder_that_is_no_data_set_says_what_is_missing(
    tmp_path: Path, build: Callable[[Path], None], word: str
) -> None:
    root = tmp_path / "set"
    root.mkdir()
    build(root)
    with pytest.raises(InputError) as caught:
        data.load(f"imagefolder:{root}")
    assert word in caught.value.arrived
    assert caught.value.rule
    assert caught.value.repair


def test_no_path_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="imagefolder:PATH"):
        data.load("imagefolder")
