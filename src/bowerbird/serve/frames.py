"""Messages between our processes: a JSON object and raw bytes, each with its length before it. Nothing is unpickled."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from typing import Any, BinaryIO

from bowerbird.core.errors import BowerbirdError

MOST_JSON = 64 * 2**20
MOST_BLOBS = 2**30
"""Bytes of a message; a longer one is of nobody of ours."""
Frame = tuple[dict[str, Any], list[bytes]]


class Broken(ConnectionError):
    """The other side ended, or does not speak our language."""


def pack(message: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """A message as bytes."""
    text = json.dumps({**message, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join([len(text).to_bytes(4, "little"), text, *blobs])


def _parse(text: bytes) -> tuple[dict[str, Any], list[int]]:
    message = json.loads(text)
    sizes = message.pop("blobs")
    if not all(isinstance(size, int) and size >= 0 for size in sizes) or sum(sizes) > MOST_BLOBS:
        raise Broken("a message is out of bounds")
    return message, sizes


def _length(head: bytes) -> int:
    length = int.from_bytes(head, "little")
    if length > MOST_JSON:
        raise Broken("a message is out of bounds")
    return length


def read_from(file: BinaryIO) -> Frame:
    """The next message of a pipe. Raises: Broken at its end."""

    def exactly(size: int) -> bytes:
        data = file.read(size)
        if len(data) < size:
            raise Broken("the other side ended")
        return data

    message, sizes = _parse(exactly(_length(exactly(4))))
    return message, [exactly(size) for size in sizes]


def write_to(file: BinaryIO, message: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Send a message through a pipe."""
    file.write(pack(message, blobs))
    file.flush()


async def read(reader: asyncio.StreamReader) -> Frame:
    """The next message of a stream. Raises: Broken at its end."""
    try:
        message, sizes = _parse(await reader.readexactly(_length(await reader.readexactly(4))))
        return message, [await reader.readexactly(size) for size in sizes]
    except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
        raise Broken("the other side ended") from error


def call(path: str, message: dict[str, Any], blobs: Sequence[bytes] = (), *, seconds: float = 120.0) -> Frame:
    """Ask whoever listens at the Unix socket `path`, and wait for the answer.

    Raises: Broken when nobody is there, or it ends before it answered; BowerbirdError with what it refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(seconds)
            link.connect(path)
            link.sendall(pack(message, blobs))
            with link.makefile("rb") as file:
                answer, found = read_from(file)
    except (OSError, ValueError) as error:
        raise Broken(f"the worker does not answer ({type(error).__name__})") from error
    if "error" in answer:
        raise BowerbirdError(answer["error"])
    return answer, found
