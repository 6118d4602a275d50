"""Pictures as rows of Milvus: in parts of base64, as it has no field for bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.item import hash_of
from bowerbird.knowledge.storage.milvus.client import one_line_errors

if TYPE_CHECKING:
    from pymilvus import MilvusClient

PART = 49_000
"""Bytes of a picture that fit, as base64, into one text of Milvus."""
AT_ONCE = 8
"""Items whose pictures are read or written together: a server takes messages of some ten megabytes."""


def as_parts(number: int, data: bytes) -> list[dict[str, Any]]:
    """A picture as rows of the second collection; none for no picture."""
    cuts = [data[start : start + PART] for start in range(0, len(data), PART)]
    return [
        {
            "key": f"{number}:{at}",
            "item": number,
            "part": at,
            "data": base64.b64encode(cut).decode(),
            "nothing": [0.0, 0.0],
        }
        for at, cut in enumerate(cuts)
    ]


def read_pictures(
    place: str, client: MilvusClient, collection: str, captions: Mapping[int, str]
) -> Iterator[tuple[int, bytes]]:
    """The original bytes of the pictures of these items, by id, each compared with its id and caption; items without a
    picture are left out."""
    wanted = sorted(captions)
    parts: dict[int, dict[int, str]] = {}
    for start in range(0, len(wanted), AT_ONCE):
        among = ", ".join(map(str, wanted[start : start + AT_ONCE]))
        with one_line_errors(place):
            for row in client.query(collection, filter=f"item in [{among}]", output_fields=["item", "part", "data"]):
                parts.setdefault(int(row["item"]), {})[int(row["part"])] = str(row["data"])
    for number, pieces in parts.items():
        data = b"".join(base64.b64decode(pieces[part]) for part in sorted(pieces))
        if hash_of(data, captions[number]) != number:
            raise BowerbirdError(
                f"{place}: the picture of id {number} is not as it was added; restore the collection from a copy"
            )
        yield number, data
