"""Embedding without a knowledge base: a source becomes parquet parts that bring their embeddings, each whole or absent, on all cores or many machines.

A part is `size` pictures of one source in its order, so it holds the same bits whoever makes it. `kb build` reads the folder like any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from bowerbird import checkpoint
from bowerbird.errors import BowerbirdError
from bowerbird.knowledge import ingest, sources, workers
from bowerbird.knowledge.columns import ENCODER_KEY
from bowerbird.knowledge.ingest import Choice, Filter, Prepared
from bowerbird.knowledge.items import SourceItem, content_id
from bowerbird.knowledge.progress import Progress
from bowerbird.knowledge.rows import as_column

if TYPE_CHECKING:
    from bowerbird.types import Encoder

MANIFEST = "embed.json"
PART = 2048
LEFT_OUT, MADE_OF = b"bowerbird.left_out", b"bowerbird.made_of"
DONE = "done"


@dataclass
class EmbedReport:
    """Parts and items that are there at the end, parts that were there before, and what could not be read or was refused."""

    parts: int = 0
    items: int = 0
    before: int = 0
    left_out: list[str] = field(default_factory=list)


def embed(
    several: Sequence[str | Path], out: str | Path, encoder: Encoder, choice: Choice | None = None, *, keep: Filter | None = None, processes: int = 0,
    size: int = PART, ray_address: str | None = None, progress: Progress | None = None,
) -> EmbedReport:  # fmt: skip
    """Write the parts of all sources to the folder `out`; those that are there are not made again.

    `processes` as in `KnowledgeBase.add`. `ray_address`: a Ray cluster in place of processes (`local` for one on this machine); every machine
    must see the sources and `out` at the same paths, and each source is one machine's work.
    Raises: BowerbirdError when `out` holds the parts of something else, or Ray is not installed.
    """
    out, choice = Path(out), choice or Choice()
    places = [str(Path(s).absolute()) if Path(s).exists() else str(s) for s in several]
    made_by = {"name": encoder.name, "fingerprint": encoder.fingerprint, "dim": encoder.dim}
    facts = {"sources": places, "choice": asdict(choice), "filter": ingest.name_of(keep), "size": size, "encoder": made_by}
    if (out / MANIFEST).is_file():
        there = checkpoint.read_json(out / MANIFEST, "list of parts")
        if {key: value for key, value in there.items() if key != DONE} != json.loads(json.dumps(facts)):
            raise BowerbirdError(f"{out}: holds parts of other sources, or made in another way; give a new folder")
    elif out.exists() and any(out.iterdir()):
        raise BowerbirdError(f"{out}: this path is taken; give a new one")
    checkpoint.write_json(out / MANIFEST, {**facts, DONE: False})
    report = EmbedReport(before=len(list(out.glob("part-*.parquet"))))
    if ray_address is not None:
        from bowerbird.knowledge.embed_ray import on_ray

        on_ray(places, out, encoder, choice, keep, size, ray_address)
    else:
        _here(places, out, encoder, choice, keep, size, processes, progress)
    for path in sorted(out.glob("part-*.parquet")):
        found = pq.ParquetFile(path)
        report.parts, report.items = report.parts + 1, report.items + found.metadata.num_rows
        report.left_out += json.loads((found.schema_arrow.metadata or {}).get(LEFT_OUT, b"[]"))
    checkpoint.write_json(out / MANIFEST, {**facts, DONE: True})
    return report


def _here(
    several: Sequence[str], out: Path, encoder: Encoder, choice: Choice, keep: Filter | None, size: int, processes: int, progress: Progress | None
) -> None:
    counts = [sources.count(one) for one in several]
    total = None if None in counts else sum(n or 0 for n in counts)
    sent: list[tuple[Path, str, int]] = []

    def work() -> Iterator[list[SourceItem]]:
        done = 0
        for number, one in enumerate(several):
            for path, items, mark, read in missing(one, number, out, choice, size):
                done += read
                if items is not None:
                    sent.append((path, mark, done))
                    yield items

    for prepared in workers.in_order(work(), encoder, keep, processes):
        path, mark, done = sent.pop(0)
        write(path, prepared, encoder, mark)
        if progress is not None:
            progress(done, total)


def missing(source: str, number: int, out: Path, choice: Choice, size: int) -> Iterator[tuple[Path, list[SourceItem] | None, str, int]]:
    """The parts of one source: file, its items (None where the file was made of the same ones), their mark, and how many were read for them."""
    there = set(out.glob(f"part-{number:04d}-*.parquet"))
    for part, (items, read) in enumerate(ingest.chunks(source, choice, size)):
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
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(prepared.embeddings.reshape(-1), pa.float32()), encoder.dim)
    said = {ENCODER_KEY: encoder.fingerprint.encode(), MADE_OF: mark.encode(), LEFT_OUT: json.dumps([*prepared.unreadable, *prepared.refused]).encode()}
    with checkpoint.atomic_path(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(said), temporary)
