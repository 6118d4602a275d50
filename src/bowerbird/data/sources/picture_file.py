"""The bytes of a picture file of somebody's, or why there are none."""

from __future__ import annotations

from pathlib import Path

MOST_FILE_BYTES = 512 * 1024**2
"""A larger file is not read: as many pixels as are decoded take less, even uncompressed."""


def read_picture_file(path: Path) -> tuple[bytes, str]:
    """The bytes of the file at `path`, and what is wrong with it (empty where nothing is)."""
    try:
        size = path.stat().st_size
        if size > MOST_FILE_BYTES:
            return b"", f"a file of {size:,} bytes; pictures of up to {MOST_FILE_BYTES:,} are read"
        return path.read_bytes(), ""
    except (OSError, ValueError) as error:
        return b"", f"cannot be read ({getattr(error, 'strerror', None) or error})"
