"""The pictures of a knowledge base as they are compared: read once, a small square of each kept; and read again, a few,
to be looked at."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import images
from bowerbird.core.errors import PictureError
from bowerbird.core.progress import Progress, for_stage
from bowerbird.knowledge.duplicates.candidates import GRID, grid_of
from bowerbird.knowledge.duplicates.same_picture import EDGE, View, view
from bowerbird.knowledge.storage.batches import read_in_batches

if TYPE_CHECKING:
    from bowerbird.knowledge.storage.protocol import Store

BATCH = 512
LOSSLESS = ("PNG", "TIFF", "BMP", "DIB", "PPM", "QOI", "TGA", "PCX", "SGI", "PSD", "ICNS", "ICO")


@dataclass(frozen=True)
class Scan:
    """What is known of each of n pictures, in the order they are listed in: `ids` int64, `digests` of their bytes,
    `sizes` `(n, 2)` (height, width), `lengths` of the files, `formats`, whether they are
    `lossless`, and `grids`, which lie on disk.

    `without`: items that have no picture; `unreadable`: a line for each that this machine cannot decode.
    """

    ids: np.ndarray
    digests: np.ndarray
    sizes: np.ndarray
    lengths: np.ndarray
    formats: list[str]
    lossless: np.ndarray
    grids: np.ndarray
    without: int
    unreadable: list[str]

    def order(self) -> np.ndarray:
        """Positions from the best on: most pixels, a format that loses nothing, of the others most bytes a pixel, the
        first listed."""
        pixels = self.sizes.prod(1)
        quality = np.where(self.lossless, np.inf, self.lengths / np.maximum(pixels, 1))
        return np.lexsort((np.arange(len(self.ids)), -quality, -pixels))


@dataclass(frozen=True)
class _Seen:
    digest: bytes
    size: tuple[int, int]
    form: str
    lossless: bool
    grid: np.ndarray


def scan(store: Store, ids: np.ndarray, progress: Progress | None = None) -> Scan:
    """Read every picture of `ids`. Memory holds a batch of them, and about 300 bytes of each; 768 bytes of each lie in
    a temporary file that nobody else sees."""
    report, done = for_stage(progress, "reading", len(ids)), 0
    kept: list[int] = []
    seen: list[tuple[bytes, tuple[int, int], int, str, bool]] = []
    unreadable: list[str] = []
    without = 0
    with tempfile.TemporaryFile(prefix="bowerbird-") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        for some, found in _read(store, ids.tolist()):
            there = [i for i in some if i in found]
            without += len(some) - len(there)
            for i, one in zip(there, pool.map(_look, there, [found[i] for i in there]), strict=True):
                if isinstance(one, str):
                    unreadable.append(one)
                    continue
                kept.append(i)
                seen.append((one.digest, one.size, len(found[i]), one.form, one.lossless))
                file.write(one.grid.tobytes())
            done += len(some)
            report(done)
        file.flush()
        shape = (len(kept), GRID, GRID, 3)
        grids = np.memmap(file, np.uint8, "r", shape=shape) if kept else np.zeros(shape, np.uint8)
    return Scan(
        np.asarray(kept, np.int64),
        np.array([s[0] for s in seen], "S16"),
        np.asarray([s[1] for s in seen], np.int64).reshape(-1, 2),
        np.asarray([s[2] for s in seen], np.int64),
        [s[3] for s in seen],
        np.asarray([s[4] for s in seen], bool),
        grids,
        without,
        unreadable,
    )


def views(store: Store, ids: Sequence[int]) -> dict[int, View]:
    """Pictures to be looked at closely, by id."""
    made: dict[int, View] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for some, found in _read(store, ids):
            there = [i for i in some if i in found]
            made.update(zip(there, pool.map(lambda i, found=found: view(found[i], str(i)), there), strict=True))
    return made


def _read(store: Store, ids: Sequence[int]) -> Iterator[tuple[list[int], dict[int, bytes]]]:
    """The bytes of pictures, a batch at a time, with the ids asked for."""
    return read_in_batches(
        ids, lambda some: (list(some), store.pictures(some)), lambda read: sum(map(len, read[1].values())), BATCH
    )


def _look(number: int, data: bytes) -> _Seen | str:
    try:
        with images.open_image(io.BytesIO(data)) as header:
            size, form = (header.height, header.width), str(header.format)
        small = view(data, str(number), at_least=EDGE // 2)
    except PictureError as error:
        return str(error)
    except Exception as error:  # what Pillow raises for a header is its own business
        return f"{number}: not a readable picture ({type(error).__name__}: {error})"
    lossless = form in LOSSLESS or (form == "WEBP" and b"VP8L" in (data[12:16] if data[12:16] != b"VP8X" else data))
    # a null byte at the end of an "S16" is lost, in every digest alike
    return _Seen(hashlib.sha256(data).digest()[:16], size, form, lossless, grid_of(small))
