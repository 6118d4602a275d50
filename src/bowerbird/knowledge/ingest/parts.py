"""A part: some pictures of one source with their embeddings, in one parquet file that is whole or absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from bowerbird.core import files
from bowerbird.data.columns import as_column
from bowerbird.data.item import SourceItem, content_id
from bowerbird.data.report import SourceReport
from bowerbird.data.sources.table import ENCODER_KEY
from bowerbird.knowledge.ingest import prepare
from bowerbird.knowledge.ingest.prepare import Choice, Prepared

if TYPE_CHECKING:
    from bowerbird.core.types import Encoder

PART = 2048


@dataclass(frozen=True)
class Full:
    """When a part is full: at so many pictures, or at so many bytes of them."""

    items: int
    bytes: int


LEFT_OUT, MADE_OF = b"bowerbird.left_out", b"bowerbird.made_of"


def missing(
    sources: Sequence[str],
    number: int,
    out: Path,
    choice: Choice,
    full: Full,
    report: SourceReport | None = None,
) -> Iterator[tuple[Path, list[SourceItem] | None, str, int]]:
    """The parts of one source, or of several pictures: file, its items (None where the file was made of the same ones),
    their mark, and how many were read for them; `report` counts what was passed over."""
    there = set(out.glob(f"part-{number:04d}-*.parquet"))
    for part, (items, read) in enumerate(
        prepare.chunks(sources, choice, count=full.items, size=full.bytes, report=report)
    ):
        path = out / f"part-{number:04d}-{part:06d}.parquet"
        there.discard(path)
        mark = hashlib.sha256(b"".join(content_id(item).to_bytes(8, "big") for item in items)).hexdigest()
        yield path, None if path.is_file() and _made_of(path) == mark else items, mark, read
    for left in there:  # of a source that was longer
        left.unlink()


def _made_of(path: Path) -> str:
    """The mark of the items that a part was made of; empty for none, or a damaged one."""
    try:
        return str((pq.read_schema(path).metadata or {}).get(MADE_OF, b"").decode("ascii", "replace"))
    except (OSError, pa.ArrowInvalid):
        return ""


def write(path: Path, prepared: Prepared, encoder: Encoder, mark: str) -> None:
    """One part: pictures, captions, metadata, embeddings, whose those are, and the mark of the items."""
    items = prepared.items
    kind = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": item.data, "path": item.name} for item in items], kind),
        "caption": pa.array([item.caption for item in items], pa.string()),
    }
    for name in sorted({name for item in items for name in item.metadata} - {"image", "caption", "embedding"}):
        columns[name] = as_column([item.metadata.get(name) for item in items])
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(
        pa.array(prepared.embeddings.reshape(-1), pa.float32()), encoder.dim
    )
    facts = {
        ENCODER_KEY: encoder.fingerprint.encode(),
        MADE_OF: mark.encode(),
        LEFT_OUT: json.dumps([*prepared.unreadable, *prepared.filtered]).encode(),
    }
    with files.atomic_path(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(facts), temporary)
