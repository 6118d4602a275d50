"""Embedding without a knowledge base: a source becomes parquet parts that bring their embeddings, each whole or
absent, on all cores or many machines.

A part is `size` pictures of one source in its order, so it holds the same bits whoever makes it. `kb build` reads the
folder like any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError, Terminated
from bowerbird.core.progress import Progress
from bowerbird.core.text import parse_json
from bowerbird.data.item import SourceItem
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import registry
from bowerbird.knowledge.ingest import prepare, workers
from bowerbird.knowledge.ingest.parts import LEFT_OUT, PART, Full, missing, write
from bowerbird.knowledge.ingest.prepare import Choice, Filter, Look
from bowerbird.knowledge.search.planner import DEFAULT_MEMORY

if TYPE_CHECKING:
    from bowerbird.core.types import Encoder

MANIFEST = "embed.json"
DONE = "done"


@dataclass
class EmbedReport:
    """Parts and items that are there at the end, parts that were there before, and what could not be read or was
    refused. `source`: what reading the sources passed over, where they are read by this process."""

    parts: int = 0
    items: int = 0
    before: int = 0
    left_out: list[str] = field(default_factory=list)
    source: SourceReport = field(default_factory=SourceReport)


def embed(
    several: Sequence[str | Path],
    out: str | Path,
    encoder: Encoder,
    choice: Choice | None = None,
    *,
    filter_fn: Filter | None = None,
    processes: int = 0,
    size: int = PART,
    memory: int = DEFAULT_MEMORY,
    ray_address: str | None = None,
    progress: Progress | None = None,
) -> EmbedReport:
    """Write the parts of all sources to the folder `out`; those that are there are not made again.

    `processes` as in `KnowledgeBase.add`. A part is full at `size` pictures, or at the bytes of them that `memory`
    allows. `ray_address`: a Ray cluster in place of processes (`local` for one on this
    machine); every machine must see the sources and `out` at the same paths, and each source is one machine's work.
    Raises: BowerbirdError when `out` holds the parts of something else, or Ray is not installed.
    """
    out, choice = Path(out), choice or Choice()
    places = [str(Path(s).absolute()) if Path(s).exists() else str(s) for s in several]
    full, look = Full(size, prepare.chunk_bytes(memory)), Look(filter_fn, choice.max_pixels)
    groups = registry.group(places)
    made_by = {"name": encoder.name, "fingerprint": encoder.fingerprint, "dim": encoder.dim}
    facts = {
        # parts go to other people: a source is known again by a hash of where it lies
        "sources": [{"name": files.last_part(place), "place": _hash(place)} for place in places],
        "choice": asdict(choice),
        "filter": prepare.name_of(filter_fn),
        "size": size,
        "bytes": full.bytes,
        "encoder": made_by,
    }
    if (out / MANIFEST).is_file():
        there = files.read_json(out / MANIFEST, "list of parts")
        if {key: value for key, value in there.items() if key != DONE} != json.loads(json.dumps(facts)):
            raise BowerbirdError(f"{out}: holds parts of other sources, or made in another way; give a new folder")
    elif out.exists() and any(out.iterdir()):
        raise BowerbirdError(f"{out}: this path is taken; give a new one")
    files.write_json(out / MANIFEST, {**facts, DONE: False})
    report = EmbedReport(before=len(list(out.glob("part-*.parquet"))))
    if ray_address is not None:
        from bowerbird.knowledge.ingest.ray import on_ray

        on_ray(groups, out, encoder, choice, look, full, ray_address)
    else:
        _here(groups, out, encoder, choice, look, full, processes, progress, report.source)
    for path in sorted(out.glob("part-*.parquet")):
        found = pq.ParquetFile(path)
        report.parts, report.items = report.parts + 1, report.items + found.metadata.num_rows
        report.left_out += parse_json((found.schema_arrow.metadata or {}).get(LEFT_OUT, b"[]"), str(path), "part")
    files.write_json(out / MANIFEST, {**facts, DONE: True})
    return report


def _hash(place: str) -> str:
    return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _here(
    groups: Sequence[Sequence[str]],
    out: Path,
    encoder: Encoder,
    choice: Choice,
    look: Look,
    full: Full,
    processes: int,
    progress: Progress | None,
    report: SourceReport,
) -> None:
    counts = [registry.count(one) for group in groups for one in group]
    total = None if None in counts else sum(n or 0 for n in counts)
    sent: list[tuple[Path, str, int]] = []

    def work() -> Iterator[list[SourceItem]]:
        done = 0
        for number, group in enumerate(groups):
            for path, items, mark, read in missing(group, number, out, choice, full, report):
                done += read
                if items is not None:
                    sent.append((path, mark, done))
                    yield items

    try:
        for prepared in workers.in_order(work(), encoder, look, processes):
            path, mark, done = sent.pop(0)
            write(path, prepared, encoder, mark)
            if progress is not None:
                progress(done, total)
    except (KeyboardInterrupt, Terminated) as error:
        error.add_note(f"{out}: the parts that are done are kept, and the same command goes on from there")
        raise
