"""Opens, makes and renews the searchable form of a knowledge base: the main segment in `index/`, and what it has not
yet."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.core import files, leftovers
from bowerbird.core.disk import disk_errors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.lock import lock
from bowerbird.core.progress import OnMessage, log_message
from bowerbird.knowledge.search import planner, segment
from bowerbird.knowledge.search.protocol import IndexedRows
from bowerbird.knowledge.search.segment import Segment
from bowerbird.knowledge.search.snapshot import Snapshot

LAYOUT = 5
TEMPORARY = "bowerbird-index-"
TAIL_AT_LEAST = 1024
TAIL_SHARE = 8
"""The main segment is made again when more than an eighth of the items came or went since, and more than
`TAIL_AT_LEAST`."""


def open_snapshot(
    path: Path,
    rows: Callable[[], IndexedRows],
    tag: dict[str, Any],
    dim: int,
    *,
    memory: int,
    renew: bool = False,
    on_message: OnMessage = log_message,
) -> Snapshot:
    """The searchable form of `rows`, of the knowledge base at `path`; `tag`: `Store.tag`.

    A main segment is made when there is none, and with `renew` when it lags far behind. The rows are opened only where
    it is not of this version.
    """
    main = segment.load(path / segment.FOLDER, tag) or make(
        path, rows(), tag, dim, memory=memory, on_message=on_message
    )
    if main.facts["token"] == tag["token"]:
        return Snapshot(main, np.ones(len(main), bool), segment.nothing(main, dim))
    live, tail = against(main, rows())
    if renew and len(tail) + int((~live).sum()) > max(TAIL_AT_LEAST, len(rows()) // TAIL_SHARE):
        main = make(path, rows(), tag, dim, memory=memory, on_message=on_message, rebuild=True)
        live, tail = against(main, rows())
    return Snapshot(main, live, segment.in_memory(rows().of(tail.tolist()), dim, tag, main))


def against(main: Segment, rows: IndexedRows) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of `main` are of this version, boolean `(n,)`, and the ids that it has not, or has in an
    earlier form."""
    ids, added = rows.keys()
    at = main.rows_of(ids)
    same = at >= 0
    same[same] = main.added[at[same]] == added[same]
    live = np.zeros(len(main), bool)
    live[at[same]] = True
    return live, ids[~same]


def make(
    path: Path,
    rows: IndexedRows,
    tag: dict[str, Any],
    dim: int,
    *,
    memory: int,
    on_message: OnMessage = log_message,
    rebuild: bool = False,
) -> Segment:
    """The main segment of `rows`, written to `index/`, or to a temporary folder where nothing can be written.

    Another process that makes it at this moment is waited for, and its segment taken. Raises: BowerbirdError when it
    does not fit `memory`.
    """
    chosen = planner.choose(len(rows), dim, memory)
    if chosen.kind != "flat":
        on_message(chosen.describe())
    try:
        with lock(path / ".index.lock", f"{path}: another process is making the index"):
            found = None if rebuild else segment.load(path / segment.FOLDER, tag)
            if found is None:
                for left in path.glob(
                    f".{segment.FOLDER}.*.old"
                ):  # of a process that was killed while it put a new one in place
                    shutil.rmtree(left, ignore_errors=True)
                with files.resumable_directory(
                    path / segment.FOLDER, {**tag, "plan": chosen.facts(), "shard": chosen.shard, "small": chosen.small}
                ) as folder:
                    segment.write(folder, rows, chosen, tag, dim, on_message)
                found = segment.load(path / segment.FOLDER, tag)
    except OSError as error:  # a read-only place, or a full one
        on_message(
            f"{path}: the index cannot be written here ({error}); it is made in a temporary folder, for this process"
        )
        for left in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
            if leftovers.is_gone("-".join(left.name.removeprefix(TEMPORARY).split("-")[:2])):
                leftovers.remove(left)
        place = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{leftovers.owner()}-"))
        weakref.finalize(rows, shutil.rmtree, place, ignore_errors=True)  # the segment lives no longer than its rows
        with disk_errors(place):
            segment.write(place, rows, chosen, tag, dim, on_message)
        found = segment.load(place, tag)
    if found is None:
        raise BowerbirdError(
            f"{path / segment.FOLDER}: cannot be read after it was written; look at this disk, then: bowerbird kb"
            f" verify {path}"
        )
    return found
