"""The bytes of a picture file of somebody's, or why there are none."""

from __future__ import annotations

from pathlib import Path

MOST_FILE_BYTES = 512 * 1024**2
"""A larger file is not read: as many pixels as are decoded take less, even uncompressed."""


def read_picture_file(path: Path, *, most: int = MOST_FILE_BYTES) -> tuple[bytes, str]:
    """The bytes of the file at `path`, at `most` so many, and what is wrong with it (empty where nothing is)."""
    try:
        size = path.stat().st_size
        if size > most:
            return b"", f"a file of {size:,} bytes; up to {most:,} are read"
        return path.read_bytes(), ""
    except (OSError, ValueError) as error:
        return b"", f"cannot be read ({getattr(error, 'strerror', None) or error})"
