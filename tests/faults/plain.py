"""A small encoder and sources for tests of what a knowledge base survives, where it is not the encoder that is
tested."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bowerbird.data.item import hash_of

FULL = os.environ.get("BOWERBIRD_FAULTS") == "full"


class PlainEncoder:
    """The colors of a picture in 2 x 2 places, 12 numbers; a text's bytes summed the same way."""

    name, dim, fingerprint, shared_dim = "plain", 12, "0123456789abcdef", 12

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.stack(
            [
                np.asarray(i.convert("RGB").resize((2, 2), Image.Resampling.BOX), np.float32).reshape(12) / 255 + 0.01
                for i in images
            ]
        )

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack(
            [
                np.bincount(np.frombuffer(t.encode() or b" ", np.uint8) % 12, minlength=12).astype(np.float32) + 0.01
                for t in texts
            ]
        )


def picture(number: int) -> bytes:
    """A PNG of four colors that nobody else has."""
    colors = np.random.default_rng(number).integers(0, 256, (2, 2, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors).resize((8, 8), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def caption(number: int) -> str:
    return f"thing {number} of {'red' if number % 2 else 'blue'} kind"


def identity(number: int) -> int:
    """The id that the knowledge base gives to picture `number`."""
    return hash_of(picture(number), caption(number))


def source(path: Path, numbers: Sequence[int]) -> Path:
    """A parquet file of these pictures."""
    columns = {
        "image": [{"bytes": picture(n), "path": f"{n}.png"} for n in numbers],
        "caption": [caption(n) for n in numbers],
        "number": list(numbers),
        "kind": ["odd" if n % 2 else "even" for n in numbers],
    }
    pq.write_table(pa.table(columns), path)
    return path
