"""Several files as one zip, as it is read: nothing is held but a piece of it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastapi.responses import StreamingResponse

PIECE = 2**20


class _Pieces(io.RawIOBase):
    """Where a zip is written to, and taken from again."""

    def __init__(self) -> None:
        self.held = bytearray()
        self.at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.held += data
        self.at += len(data)
        return len(data)

    def tell(self) -> int:
        return self.at

    def take(self) -> bytes:
        """What was written since."""
        data = bytes(self.held)
        self.held.clear()
        return data


def zip_of(files: Sequence[tuple[str, Path]], name: str) -> StreamingResponse:
    """An answer that is a zip of these files under these names; pictures are small already, so they are only stored."""

    def pieces() -> Iterator[bytes]:
        out = _Pieces()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for inside, path in files:
                with archive.open(inside, "w") as target, path.open("rb") as source:
                    while data := source.read(PIECE):
                        target.write(data)
                        yield out.take()
        yield out.take()

    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(pieces(), media_type="application/zip", headers=headers)
