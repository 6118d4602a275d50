"""What `sync` does: a knowledge base brought to what a source says, item by item of the same key, as one version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import Progress
from bowerbird.data.item import SourceItem, content_id, free_id, item_id
from bowerbird.data.portions import portions
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import registry
from bowerbird.knowledge.ingest import prepare, workers
from bowerbird.knowledge.ingest.add import field_of
from bowerbird.knowledge.ingest.compare import Difference, Stored, compare
from bowerbird.knowledge.ingest.prepare import Choice, Look, Prepared
from bowerbird.knowledge.rerank.tokens import count_of
from bowerbird.knowledge.storage.id_set import Known
from bowerbird.knowledge.storage.lance import Form, with_caption
from bowerbird.knowledge.storage.protocol import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from bowerbird.core.types import Encoder

KEEP = 4
"""A share of the memory, one in so many, for pictures that are kept between comparing and embedding."""


@runtime_checkable
class Rewriting(Protocol):
    """What a sync needs beyond a `Store`: changes that are seen all at once, and two methods."""

    def described(self) -> pa.Table:
        """All items without picture and embedding: `id`, `caption`, `name`, `content_hash` where there is one, and the
        metadata columns."""
        ...

    def rewrite(self, ids: Sequence[int], form: Form) -> None:
        """Write items again as `form` makes them of what they were and their embedding, which is kept; within
        `writing`."""
        ...


class SyncedStore(Store, Rewriting, Protocol):
    """A store that can be synced."""


@dataclass
class SyncReport:
    """What `sync` did, or with `dry_run` would do, by keys. `changed`: items of other picture, caption or metadata;
    of these and of the added ones, `embedded` pictures were embedded. `removed`: only with `delete_missing`; without
    it, `missing` counts the items whose key the source has not. `unreadable`: names with reasons; such an item stays
    as it was."""

    added: list[Any] = field(default_factory=list)
    changed: list[Any] = field(default_factory=list)
    removed: list[Any] = field(default_factory=list)
    unchanged: int = 0
    embedded: int = 0
    missing: int = 0
    unreadable: list[str] = field(default_factory=list)
    source: SourceReport = field(default_factory=SourceReport)


def check_store(store: Store) -> SyncedStore:
    """Raises: BowerbirdError for a store that shows each change as it is made."""
    if not isinstance(store, Rewriting):
        raise BowerbirdError(
            f"{store.path}: sync changes all or nothing, and here each change is seen as it is made; use a directory,"
            " or kb remove and kb add"
        )
    return cast("SyncedStore", store)


def sync(
    store: SyncedStore,
    encoder: Callable[[], Encoder],
    several: Sequence[str | Path],
    key: str,
    choice: Choice,
    *,
    delete_missing: bool,
    dry_run: bool,
    processes: int,
    progress: Progress | None,
) -> SyncReport:
    """See `KnowledgeBase.sync`."""
    if dry_run:
        stored, found, report = _compare(store, several, key, choice, progress)
        _count(stored, found, report, delete_missing)
        report.embedded = len(found.added) + len(found.pictures)
        report.added, report.changed = sorted(found.added, key=str), _changed(stored, found)
        return report
    with store.writing():
        stored, found, report = _compare(store, several, key, choice, progress)
        _count(stored, found, report, delete_missing)
        gone = stored.ids[found.missing].tolist() if delete_missing else []
        if found.texts:
            _write_texts(store, stored, found)
        report.changed = [stored.value(row) for row in found.texts]
        if found.added or found.pictures:
            _write_pictures(store, encoder(), several, choice, stored, found, report, processes, progress)
        if gone:
            store.delete(gone)
        if gone or report.added or report.changed:
            store.commit()
            store.renew()
    return report


def _compare(
    store: SyncedStore, several: Sequence[str | Path], key: str, choice: Choice, progress: Progress | None
) -> tuple[Stored, Difference, SyncReport]:
    stored, report = Stored.of(str(store.path), store.described(), key), SyncReport()
    counts = [registry.count(one) for one in several]
    total = None if None in counts else sum(n or 0 for n in counts)
    read = prepare.chunks(several, choice, size=prepare.chunk_bytes(store.memory), report=report.source)
    return stored, compare(stored, read, store.memory // KEEP, total=total, progress=progress), report


def _count(stored: Stored, found: Difference, report: SyncReport, delete_missing: bool) -> None:
    report.unchanged, report.missing = found.unchanged, len(found.missing)
    if delete_missing:
        if damaged := report.source.names.get("files_damaged"):
            raise BowerbirdError(
                f"{damaged[0]}: with `delete_missing`, the items of a file that cannot be read would be removed; repair"
                " it, or sync without `delete_missing`"
            )
        report.missing, report.removed = 0, [stored.value(row) for row in found.missing]


def _changed(stored: Stored, found: Difference) -> list[Any]:
    return [stored.value(row) for row in found.texts] + sorted(found.pictures, key=str)


def _write_texts(store: SyncedStore, stored: Stored, found: Difference) -> None:
    """New captions and metadata; embeddings are kept, and so are the ids."""
    ids = stored.ids
    items = {int(ids[row]): item for row, item in found.texts.items()}

    def form(row: dict[str, Any], vector: np.ndarray) -> dict[str, Any]:
        item = items[row["id"]]
        content = item_id(row["image"], vector, item.caption)
        own = {"name": item.name, "content_hash": None if content == row["id"] else content}
        return with_caption(row, item.caption) | own | {"metadata": _metadata(row["metadata"], item, found)}

    store.rewrite(list(items), form)


def _metadata(before: dict[str, Any], item: SourceItem, found: Difference) -> dict[str, Any]:
    """What the source says, and what it says nothing about."""
    return {name: value for name, value in before.items() if name not in found.columns} | item.metadata


def _write_pictures(
    store: SyncedStore,
    encoder: Encoder,
    several: Sequence[str | Path],
    choice: Choice,
    stored: Stored,
    found: Difference,
    report: SyncReport,
    processes: int,
    progress: Progress | None,
) -> None:
    """Embed what is new or has another picture, and write it: a changed item under the id that it had."""
    taken, wanted = Known(store.all_ids()), len(found.added) + len(found.pictures)
    size, done = prepare.chunk_bytes(store.memory, processes), 0
    work = portions(found.items if found.items is not None else _again(several, choice, stored, found, size), size=size)
    look = Look(None, choice.max_pixels, count_of(store.manifest))
    for prepared in workers.in_order(work, encoder, look, processes):
        _write(store, stored, found, report, prepared, taken)
        done += len(prepared.items) + len(prepared.unreadable)
        if progress is not None:
            progress(done, wanted, "embedding")


def _again(
    several: Sequence[str | Path], choice: Choice, stored: Stored, found: Difference, size: int
) -> Iterator[SourceItem]:
    """The source read a second time, where what is to be embedded was too much to keep."""
    for item in chain.from_iterable(items for items, _ in prepare.chunks(several, choice, size=size)):
        key = stored.keys_of([item])[0]
        if key in found.added or key in found.pictures:
            yield item


def _write(
    store: SyncedStore, stored: Stored, found: Difference, report: SyncReport, prepared: Prepared, taken: Known
) -> None:
    report.unreadable += prepared.unreadable
    fields, ids = [], stored.ids
    for key, item, tokens in zip(stored.keys_of(prepared.items), prepared.items, prepared.tokens, strict=True):
        row = stored.rows.get(key)
        number = free_id(content_id(item), taken.holds) if row is None else int(ids[row])
        before = {} if row is None else stored.metadata(row)
        fields.append(field_of(item, number, _metadata(before, item, found), tokens))
        taken.add([number])
        (report.added if row is None else report.changed).append(key)
    if not fields:
        return
    store.delete([f["id"] for f, key in zip(fields, stored.keys_of(prepared.items), strict=True) if key in stored.rows])
    store.append(fields, prepared.embeddings)
    report.embedded += len(fields)
