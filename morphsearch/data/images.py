"""Image files: decoding, in threads, whatever a folder may hold.

Files are foreign: they are truncated, empty, not images at all, or made to exhaust memory. Whatever goes wrong with
one is an :class:`Unreadable` with the reason; more than 1% of them is an error.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from morphsearch.errors import InputError

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .dib .gif .webp .tif .tiff .ppm .pgm .pbm .pnm .avif".split()
)  # fmt: skip
# Never the formats that Pillow hands to other programs (EPS goes to Ghostscript), whatever a file's name says.
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
_GREY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_CHUNK = 128
HEADERS = 2000
"""How many headers are looked at to learn the size and colours of a set."""
MAX_UNREADABLE = 0.01
MAX_PIXELS = 64 * 2**20
"""A larger image is taken for a decompression bomb."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be decoded."""

    path: str
    reason: str


class UnreadableImage(Exception):
    """One image cannot be decoded; the caller leaves it out and counts it."""

    def __init__(self, found: Unreadable) -> None:
        super().__init__(f"{found.path}: {found.reason}")
        self.found = found


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow's warnings about odd files are dropped, except for that of a decompression bomb, which becomes an error.

    Filters are global to the process: enter this once, around the threads and not in them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(path: str, size: tuple[int, int] | None, channels: int) -> Pixels:
    """The image as `h w c`, uint8.

    Turned upright by its EXIF orientation; 16 bits are scaled to 8; transparency is laid on white; then converted to
    grey or colour. Where the size differs, the largest middle part of the wanted aspect ratio is resized (bilinear,
    antialiased).

    Args:
        path: the file.
        size: ``(h, w)``, or None for its own.
        channels: 1 or 3.

    Raises:
        UnreadableImage: the file cannot be decoded.
    """
    try:
        with _open(path) as image:
            if image.format == "JPEG" and size is not None:
                # Lets the JPEG decoder drop resolution that is not wanted: several times quicker on photographs.
                image.draft(None, (size[1], size[0]))
            image.load()
            found: Image.Image = image
            if "exif" in image.info or image.format == "TIFF":
                found = ImageOps.exif_transpose(image)
            found = _convert(found, "L" if channels == 1 else "RGB")
            if size is not None and found.size != (size[1], size[0]):
                found = ImageOps.fit(found, (size[1], size[0]), Image.Resampling.BILINEAR)
            pixels = np.asarray(found, dtype=np.uint8)
    except Exception as error:  # Pillow's decoders raise anything: OSError, SyntaxError, struct.error, zlib.error ...
        raise UnreadableImage(Unreadable(path, _reason(error))) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def survey(paths: Sequence[str]) -> tuple[Counter[tuple[int, int]], bool]:
    """Sizes ``(h, w)`` and whether all are grey, from the headers of up to :data:`HEADERS` files, spread evenly."""
    chosen = paths if len(paths) <= HEADERS else [paths[i * len(paths) // HEADERS] for i in range(HEADERS)]

    def look(path: str) -> tuple[tuple[int, int], bool] | None:
        try:
            with _open(path) as image:
                return (image.height, image.width), image.mode in _GREY
        except Exception:  # decoding will name it
            return None

    with quiet_pillow(), ThreadPoolExecutor(threads()) as pool:
        found = [entry for entry in pool.map(look, chosen) if entry is not None]
    return Counter(size for size, _ in found), bool(found) and all(grey for _, grey in found)


def decode_all(paths: Sequence[str], size: tuple[int, int], channels: int) -> tuple[Pixels, list[Unreadable]]:
    """All images as `n c h w` (zeros where unreadable), and the unreadable ones in the order of `paths`."""
    out = np.zeros((len(paths), channels, *size), dtype=np.uint8)

    def work(start: int) -> list[Unreadable]:
        bad = []
        for index in range(start, min(start + _CHUNK, len(paths))):
            try:
                out[index] = decode(paths[index], size, channels).transpose(2, 0, 1)
            except UnreadableImage as error:
                bad.append(error.found)
        return bad

    bad: list[Unreadable] = []
    with quiet_pillow():
        pool = ThreadPoolExecutor(threads())
        try:
            for found in pool.map(work, range(0, len(paths), _CHUNK)):
                bad += found
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt waits for one chunk a thread, not for all
    return out, bad


def check_unreadable(bad: Sequence[Unreadable], total: int, where: str) -> None:
    """Refuse a set of which more than 1% cannot be decoded.

    Raises:
        InputError: names the first of them, with reasons.
    """
    if len(bad) > MAX_UNREADABLE * total:
        some = "; ".join(f"{item.path} ({item.reason})" for item in bad[:5])
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputError(
            f"{len(bad):,} of {total:,} images of {where} cannot be read: {some}{more}",
            f"up to {MAX_UNREADABLE:.0%} are left out and named; more than that is taken for a damaged data set",
            "copy the data set again, or delete the files that are named",
        )


def threads() -> int:
    """Threads to decode with: the cores this process may use (Pillow lets go of the interpreter while it decodes)."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _open(path: str) -> Image.Image:
    image = Image.open(path, formats=_known_formats())
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width} x {image.height} pixels: more than {MAX_PIXELS:,}")
    return image


_formats: list[str] = []


def _known_formats() -> list[str]:
    """Those of the admitted formats that this build of Pillow has."""
    if not _formats:
        Image.init()
        _formats.extend(name for name in _FORMATS if name in Image.OPEN)
    return _formats


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits (Pillow reads some as 32-bit integers). convert() would clip at 255 instead of scaling.
        values: npt.NDArray[Any] = np.asarray(image)
        image = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return "a decompression bomb, or far too large"
    text = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read"
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text.splitlines()[0][:200]


def list_images(folder: Path) -> tuple[list[str], int]:
    """Image files in `folder` and below, sorted, and how many have another suffix. Hidden files don't count."""
    images, others = [], 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                images.append(os.path.join(place, name))
            else:
                others += 1
    return sorted(images), others
