"""The knowledge bases that are served: by an id, never by a path, each opened once and again when it has changed."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.core.credit import credit_of, source_name
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import json_ready
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.knowledge.search.planner import DEFAULT_MEMORY
from bowerbird.knowledge.storage.milvus.client import is_address
from bowerbird.knowledge.storage.open import open_store
from bowerbird.serve.encoder import RemoteEncoder, remote, remote_captions

ELSEWHERE_SECONDS = 5.0
"""How long one that is not in a directory is taken for unchanged."""
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
MOST_VALUES = 50
_KEPT = 8


@dataclass(frozen=True)
class Place:
    """Where a knowledge base is, and whether it was made here."""

    path: str
    own: bool = False


class Shelf:
    """`given`: paths or addresses, the first is the default; those of `folder` were made here. `address`: of the worker
    whose encoders search."""

    def __init__(self, given: Sequence[str], folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self._places: OrderedDict[str, Place] = OrderedDict()
        for path in given:
            self._places[self._free(_slug(path))] = Place(path)
        for own in sorted(folder.iterdir()):
            if (own / "kb.json").is_file():
                self._places.setdefault(own.name, Place(str(own), own=True))
        self._open: dict[str, tuple[object, KnowledgeBase]] = {}
        self._columns: OrderedDict[tuple[str, int], list[dict[str, Any]]] = OrderedDict()
        self._turns: dict[str, threading.RLock] = {}
        self._turn = threading.Lock()

    def _free(self, name: str) -> str:
        number, wanted = 2, name
        while name in self._places:
            name, number = f"{wanted}-{number}", number + 1
        return name

    def ids(self) -> list[str]:
        """Those there are, the default first."""
        return list(self._places)

    def place(self, name: str) -> Place:
        """Where one is. Raises: KeyError."""
        return self._places[name]

    def paths(self) -> dict[str, str]:
        """Where all are, by id."""
        return {name: place.path for name, place in self._places.items()}

    def new_place(self, name: str) -> Path:
        """Where one that is made here comes to lie. Raises: BowerbirdError for a name that is none, or taken."""
        if not NAME.fullmatch(name):
            raise BowerbirdError(f"name {name!r}: letters a-z, digits and -, 64 at most, a letter or digit first")
        if name in self._places or (self.folder / name).exists():
            raise BowerbirdError(f"name {name!r} is taken; give another")
        return self.folder / name

    def put(self, name: str) -> None:
        """One was made in its `new_place`."""
        self._places[name] = Place(str(self.folder / name), own=True)

    def get(self, name: str) -> KnowledgeBase:
        """The knowledge base at its newest version. Raises: KeyError, BowerbirdError."""
        path = self.place(name).path
        with self._turn:
            turn = self._turns.setdefault(name, threading.RLock())
        mark = seen(path) or ("elsewhere", time.monotonic() // ELSEWHERE_SECONDS)
        there = self._open.get(name)
        if there is not None and there[0] == mark:
            return there[1]
        with turn:
            there = self._open.get(name)
            if there is None or there[0] != mark:
                there = self._open[name] = (mark, self._fresh(path))
            return there[1]

    def _fresh(self, path: str) -> KnowledgeBase:
        store = open_store(path, DEFAULT_MEMORY, lambda line: None)
        kb = KnowledgeBase(
            store,
            remote(self.address, store.manifest["encoder"]),
            caption_encoder=remote_captions(self.address, store.manifest),
        )
        if len(kb):
            len(kb.store.snapshot)  # made once, not by every search that comes now
        return kb

    def change(self, name: str) -> KnowledgeBase:
        """One to be changed, which nobody searches meanwhile. Raises: KeyError, BowerbirdError."""
        return self._fresh(self.place(name).path)

    def encoder(self, name: str) -> RemoteEncoder:
        """The encoder of one."""
        found = self.get(name).encoder
        assert isinstance(found, RemoteEncoder)
        return found

    # -- what the API shows of them ----------------------------------------------------------------------------------

    def facts(self, name: str) -> dict[str, Any]:
        """One as a list shows it."""
        kb = self.get(name)
        info = kb.info()
        place = self.place(name)
        return {
            "id": name,
            "items": len(kb),
            "version": kb.version,
            "encoder": {"name": Path(kb.encoder_name).name, "dim": kb.dim},
            "bytes": int(info.get("bytes") or 0),
            "credit": list(kb.credit),
            "columns": {str(key): str(value) for key, value in info.get("metadata", {}).items()},
            "writable": is_address(place.path) or _writable(Path(place.path)),
            "default": name == next(iter(self._places)),
        }

    def unknown(self, name: str) -> dict[str, Any]:
        """`facts` of one that cannot be opened."""
        nothing = {"items": 0, "version": 0, "encoder": {}, "bytes": 0, "credit": [], "columns": {}, "writable": False}
        return {"id": name, **nothing, "default": name == next(iter(self._places))}

    def columns(self, name: str) -> dict[str, Any]:
        """What its items can be filtered by."""
        kb = self.get(name)
        key = (name, kb.version)
        if key not in self._columns:
            self._columns[key] = _columns(kb)
            while len(self._columns) > _KEPT:
                self._columns.popitem(last=False)
        return {"version": kb.version, "columns": self._columns[key]}


def seen(path: str) -> tuple[int, ...] | None:
    """What changes with every version of a knowledge base in a directory; None for one that is elsewhere."""
    try:
        facts = (Path(path) / "kb.json").stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def items_of(address: str, kb: KnowledgeBase, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Items of an opened knowledge base, which are at `address`, as the API shows them, in this order. Raises:
    BowerbirdError for one that is not there."""
    if not ids:
        return []
    hits, names = kb.get(ids), kb.names(ids)
    return [
        {
            "id": str(item),
            "caption": caption,
            "name": source_name(file),
            "metadata": json_ready(metadata),
            "credit": credit_of(metadata, kb.credit),
            "picture": f"{address}/{item}/picture",
            "thumbnail": f"{address}/{item}/thumbnail",
        }
        for item, caption, metadata, file in zip(ids, hits.captions[0], hits.metadata[0], names, strict=True)
    ]


def _columns(kb: KnowledgeBase) -> list[dict[str, Any]]:
    types = kb.info().get("metadata", {})
    if not len(kb) or not types:
        return []
    snapshot = kb.store.snapshot
    rows = snapshot.rows_of(kb.ids())[None]
    found = []
    for column, kind in sorted(types.items()):
        values = [value for value in snapshot.values(column, rows)[0] if value is not None]
        counts = Counter(value for value in values if isinstance(value, str | bool | int | float))
        entry: dict[str, Any] = {"name": column, "type": str(kind), "distinct": len(counts), "values": []}
        numbers = [v for v in counts if isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v)]
        if numbers and len(numbers) == len(counts):
            entry |= {"min": min(numbers), "max": max(numbers)}
        else:
            entry["values"] = [{"value": value, "count": count} for value, count in counts.most_common(MOST_VALUES)]
        found.append(entry)
    return json_ready(found)


def _writable(path: Path) -> bool:
    import os

    return os.access(path, os.W_OK)


def _slug(path: str) -> str:
    """An id of a path: its last part in plain letters."""
    last = re.split(r"[/\\]", str(Path(path).resolve()) if not is_address(path) else path.split("?")[0].rstrip("/"))[-1]
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:64] or "knowledge-base"
