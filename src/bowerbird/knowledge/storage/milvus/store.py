"""A knowledge base as a Milvus collection: a `storage.protocol.Store` as the directory is one.

What differs: no earlier versions, no lock between processes, no hashes of files; a change is seen as it is made, not
at the commit. Pictures lie in a second collection (`pictures.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import OnMessage, log_message
from bowerbird.core.text import in_shell
from bowerbird.data.filters import check_condition
from bowerbird.data.item import item_id
from bowerbird.knowledge.search.analyzer import PLAIN, Analyzer
from bowerbird.knowledge.search.planner import DEFAULT_MEMORY
from bowerbird.knowledge.storage.milvus import conditions, rows
from bowerbird.knowledge.storage.milvus.client import PICTURES, address_of, connect, one_line_errors, release
from bowerbird.knowledge.storage.milvus.pictures import AT_ONCE, as_parts, read_pictures
from bowerbird.knowledge.storage.milvus.schema import FORMAT, PROPERTY, create_collections, read_manifest
from bowerbird.knowledge.storage.milvus.snapshot import PAGE, MilvusSnapshot

if TYPE_CHECKING:
    import pyarrow as pa
    from pymilvus import MilvusClient

BATCH = 100
"""Rows a message."""
CONDITION_FIELDS = ["id", "caption", "name", "metadata"]


class MilvusStore:
    """The collection at `place`, a `milvus://` address."""

    def __init__(
        self,
        place: str,
        client: MilvusClient,
        manifest: dict[str, Any],
        memory: int = DEFAULT_MEMORY,
        on_message: OnMessage = log_message,
    ) -> None:
        self.place, self.client, self.manifest, self.memory, self.on_message = (
            place,
            client,
            manifest,
            memory,
            on_message,
        )
        self.address = address_of(place)

    @property
    def path(self) -> str:
        """Its address."""
        return self.place

    @property
    def _pictures(self) -> str:
        return f"{self.address.collection}{PICTURES}"

    @classmethod
    def open(cls, place: str, memory: int = DEFAULT_MEMORY, on_message: OnMessage = log_message) -> MilvusStore:
        """The collection as it is. Raises: BowerbirdError when nothing answers, it is no knowledge base, or its build
        did not end."""
        made = cls._open(place, memory, on_message)
        if made.manifest.get("making"):
            raise BowerbirdError(f"{place}: its build goes on, or was interrupted; the same kb build ends it")
        return made

    @classmethod
    def _open(cls, place: str, memory: int, on_message: OnMessage) -> MilvusStore:
        address = address_of(place)
        client = connect(place, address, make=False)
        with one_line_errors(place):
            if not client.has_collection(address.collection):
                raise BowerbirdError(
                    f"{place}: no knowledge base here; make one: bowerbird kb build {in_shell(place)}"
                    " FOLDER_OF_PICTURES"
                )
            manifest = read_manifest(place, client, address)
            for name in (address.collection, f"{address.collection}{PICTURES}"):
                client.load_collection(name)
        return cls(place, client, manifest, memory, on_message)

    @classmethod
    def create(
        cls,
        place: str,
        encoder: dict[str, Any],
        words: Sequence[int] = (1, 1),
        memory: int = DEFAULT_MEMORY,
        on_message: OnMessage = log_message,
        tag: dict[str, Any] | None = None,
        analyzer: Analyzer = PLAIN,
    ) -> MilvusStore:
        """Empty collections at `place`, or those of a build of the same `tag` that did not end. Raises: BowerbirdError
        when it is taken."""
        address = address_of(place)
        client = connect(place, address, make=True)
        metric = "cosine" if encoder["normalize"] else "inner product"
        mark = hashlib.sha256(json.dumps(tag, sort_keys=True).encode()).hexdigest()
        facts = {
            "format": FORMAT,
            "version": 0,
            "metric": metric,
            "encoder": encoder,
            "words": list(words),
            **analyzer.recorded(),
            "columns": {},
            "making": mark,
        }
        with one_line_errors(place):
            if client.has_collection(address.collection):
                there = read_manifest(place, client, address)
                if not there.get("making"):
                    raise BowerbirdError(f"{place}: a knowledge base is there already; add to it: bowerbird kb add")
                if there["making"] != mark:
                    raise BowerbirdError(
                        f"{place}: another build was interrupted here; end it with what it was begun with, or give"
                        " another collection"
                    )
                return cls._open(place, memory, on_message)
            create_collections(place, client, address, int(encoder["dim"]), facts)
        return cls(place, client, facts, memory, on_message)

    def ready(self) -> None:
        """The build has ended."""
        self._write({key: value for key, value in self.manifest.items() if key != "making"})

    def drop(self) -> None:
        """Take the collections away: a build that gave nothing."""
        with one_line_errors(self.place):
            self.client.drop_collection(self.address.collection)
            self.client.drop_collection(self._pictures)

    def close(self) -> None:
        """Leave the server; a Milvus Lite file is another process's to open then."""
        self.client.close()
        release(self.address)

    def at_version(self, version: int) -> MilvusStore:
        """Raises: BowerbirdError for any version but the present one: Milvus keeps none."""
        if version != int(self.manifest["version"]):
            raise BowerbirdError(
                f"{self.place}: version {version} is not kept; Milvus has the present one, {self.manifest['version']},"
                " alone"
            )
        return self

    @property
    def versions(self) -> list[int]:
        """The present one."""
        return [int(self.manifest["version"])]

    @property
    def dim(self) -> int:
        """The embedding dimension."""
        return int(self.manifest["encoder"]["dim"])

    @property
    def analyzer(self) -> Analyzer:
        """How texts become words."""
        return Analyzer.of(self.manifest)

    def __len__(self) -> int:
        return len(self.snapshot)

    def info(self) -> dict[str, Any]:
        """Its indexes and metadata columns; how many bytes it takes is the server's to know."""
        index = "flat" if self.address.embedded else "AUTOINDEX"
        return {
            "indexes": {
                "dense": {
                    "kind": index,
                    "metric": self.manifest["metric"],
                    "exact": index == "flat",
                    "of version": self.manifest["version"],
                },
                "bm25": {
                    "kind": "Milvus",
                    "weights": dict(zip(("caption", "tags"), self.manifest["words"], strict=True)),
                    "analyzer": self.analyzer.described(),
                },
                "beside them": {"added": 0, "removed": 0},
            },
            "bytes": 0,
            "metadata": dict(sorted(self.manifest["columns"].items())),
        }

    # -- reading -----------------------------------------------------------------------------------------------------

    @cached_property
    def snapshot(self) -> MilvusSnapshot:
        """What is searched."""
        metric = "COSINE" if self.manifest["encoder"]["normalize"] else "IP"
        return MilvusSnapshot(self.place, self.client, self.address.collection, self.dim, metric, self.analyzer)

    def ids(self, where: str | None = None) -> np.ndarray:
        """The ids of all items, or of those that satisfy `where`, int64 `(n,)`. Raises: BowerbirdError for a wrong
        condition."""
        return self.snapshot.ids if where is None else self.snapshot.ids_where(self.allowed(where))

    def all_ids(self) -> np.ndarray:
        """The ids of all items, as they are now."""
        return self.snapshot.ids_where("")

    def contents(self) -> np.ndarray:
        """The ids: here no item keeps its id when its picture is changed."""
        return self.all_ids()

    def columns(self) -> dict[str, str]:
        """Metadata columns and their types."""
        return {str(name): str(kind) for name, kind in self.manifest["columns"].items()}

    def allowed(self, where: str) -> str:
        """A condition of Milvus for `where`: translated where that is possible, else the ids that our own
        engine finds."""
        check_condition(where)
        with one_line_errors(self.place):
            some = self.client.query(
                self.address.collection, filter="id >= 0", output_fields=CONDITION_FIELDS, limit=PAGE
            )
        made = conditions.translate(where, self.manifest["columns"])
        if made is not None:
            # Milvus finds nothing where a column is compared with the wrong kind; a directory says so, and so does a
            # sample here
            with contextlib.suppress(BowerbirdError):
                rows.ids_where(where, some, self.manifest["columns"])
                return made
        ids = rows.ids_where(where, self.snapshot.scan("", CONDITION_FIELDS), self.manifest["columns"])
        return f"id in [{', '.join(map(str, ids))}]"

    def pictures(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The original bytes of these items' pictures, by id, each compared with its id; items without a picture are
        left out."""
        wanted = sorted({int(number) for number in ids})
        if not wanted:
            return {}
        captions = self.snapshot.describe(np.asarray([wanted], np.int64))[0][0]
        known = dict(zip(wanted, captions, strict=True))
        return dict(read_pictures(self.place, self.client, self._pictures, known))

    def whole(self, ids: Sequence[int]) -> pa.Table:
        """The rows of `ids` with everything they hold, in the order of `ids`."""
        import pyarrow as pa

        numbers = np.asarray(ids, np.int64)
        described, facts_of = self.snapshot.describe(numbers[None])
        captions, metadata = described[0], facts_of[0]
        pictures, vectors = self.pictures(ids), self.snapshot.embeddings(numbers)
        columns: dict[str, Any] = {
            "id": pa.array(numbers),
            "caption": pa.array(captions, pa.string()),
            "name": pa.array(self.snapshot.names(numbers), pa.string()),
            "image": pa.array([pictures.get(int(number), b"") for number in ids], pa.large_binary()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.dim),
            "added": pa.nulls(len(numbers), pa.int64()),
            "check": pa.nulls(len(numbers), pa.int64()),
        }
        return rows.as_table(columns, metadata, self.manifest["columns"])

    # -- changing ----------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Take the collection as it is now. There is no lock between processes: one writer at a time is the callers'
        to see to."""
        with one_line_errors(self.place):
            self.manifest = read_manifest(self.place, self.client, self.address)
        self._forget()
        yield

    def unfit(self, item: dict[str, Any]) -> str | None:
        """Why an item cannot be stored here: a text is too long for Milvus."""
        return rows.unfit(item)

    def append(self, items: Sequence[dict[str, Any]], embeddings: np.ndarray) -> None:
        """Add items with their raw embeddings; seen at once. Pictures first: an item that is seen has its picture. A
        value of another kind than its column's is left empty, and named to `on_message`."""
        new = self._rows(items, embeddings, on_odd=self.on_message)
        for start in range(0, len(items), AT_ONCE):
            self._put(
                self._pictures,
                [part for item in items[start : start + AT_ONCE] for part in as_parts(int(item["id"]), item["image"])],
            )
        self._put(self.address.collection, new)

    def _put(self, collection: str, new: list[dict[str, Any]]) -> None:
        """Write rows, as many at once as a server takes in one message."""
        for start in range(0, len(new), BATCH):
            with one_line_errors(self.place):
                self.client.upsert(collection, new[start : start + BATCH])

    def _rows(
        self, items: Sequence[dict[str, Any]], embeddings: np.ndarray, *, on_odd: OnMessage | None = None
    ) -> list[dict[str, Any]]:
        """The items as Milvus takes them, with their columns kept in the manifest. Raises: as `rows.fit_metadata` and
        `rows.make_rows`, before any row is written."""
        metadata, columns = rows.fit_metadata(items, self.manifest["columns"], self.place, on_odd=on_odd)
        if columns != self.manifest["columns"]:
            self._write({**self.manifest, "columns": columns})
        return rows.make_rows(items, metadata, embeddings, self.manifest["words"], self.analyzer)

    def delete(self, ids: Sequence[int]) -> None:
        """Remove items; gone at once."""
        for start in range(0, len(ids), BATCH):
            among = [int(number) for number in ids[start : start + BATCH]]
            with one_line_errors(self.place):
                self.client.delete(self.address.collection, ids=among)
                self.client.delete(self._pictures, filter=f"item in [{', '.join(map(str, among))}]")

    def change(self, ids: Sequence[int], caption: str | None, metadata: dict[str, Any]) -> None:
        """Give items another caption or other metadata. Raises: BowerbirdError, before anything is written, when two
        items would become one."""
        now = np.asarray(ids, np.int64)
        numbers = [int(number) for number in now]
        if caption is not None:
            numbers = [
                item_id(data, vector, caption)
                for start in range(0, len(now), AT_ONCE)
                for data, vector in self._whole(now[start : start + AT_ONCE])
            ]
            if len(set(numbers)) < len(numbers) or set(numbers) & (set(self.all_ids().tolist()) - set(now.tolist())):
                raise BowerbirdError(
                    f"{self.place}: with caption {caption!r}, two items would be the same; nothing was changed"
                )
        captions, facts = self.snapshot.describe(now[None])
        names, vectors = self.snapshot.names(now), self.snapshot.embeddings(now)
        items = [
            {"id": number, "caption": was if caption is None else caption, "name": name, "metadata": kept | metadata}
            for number, was, name, kept in zip(numbers, captions[0], names, facts[0], strict=True)
        ]
        new = self._rows(items, vectors)
        gone = sorted(set(now.tolist()) - set(numbers))
        if gone:  # the pictures of new ids, then the items, then what they were
            for start in range(0, len(now), AT_ONCE):
                pictures = self._whole(now[start : start + AT_ONCE])
                self._put(
                    self._pictures,
                    [
                        part
                        for number, (data, _) in zip(numbers[start:], pictures, strict=False)
                        for part in as_parts(number, data)
                    ],
                )
        self._put(self.address.collection, new)
        self.delete(gone)

    def _whole(self, ids: np.ndarray) -> list[tuple[bytes, np.ndarray]]:
        """Picture (no bytes where there is none) and embedding of a few items."""
        pictures = self.pictures(ids.tolist())
        return [
            (pictures.get(int(number), b""), vector)
            for number, vector in zip(ids, self.snapshot.embeddings(ids), strict=True)
        ]

    def keep(self, facts: Mapping[str, Any]) -> None:
        """Keep facts in the manifest."""
        self._write({**self.manifest, **facts})

    def restore(self, version: int) -> None:
        """Raises: BowerbirdError for any version but the present one: Milvus keeps none."""
        self.at_version(version)

    def commit(self) -> None:
        """Count the change, and have the server write what it holds in memory."""
        with one_line_errors(self.place):
            self.client.flush(self.address.collection)
            self.client.flush(self._pictures)
        self._forget()
        self._write({**self.manifest, "version": int(self.manifest["version"]) + 1})

    def _write(self, manifest: dict[str, Any]) -> None:
        with one_line_errors(self.place):
            self.client.alter_collection_properties(
                self.address.collection, properties={PROPERTY: json.dumps(manifest)}
            )
        self.manifest = manifest

    def renew(self) -> None:
        """Forget what was read."""
        self._forget()

    def _forget(self) -> None:
        self.__dict__.pop("snapshot", None)

    def compact(self, *, drop_history: bool) -> None:
        """Ask the server to; there are no versions to forget."""
        with one_line_errors(self.place):
            self.client.flush(self.address.collection)
            self.client.compact(self.address.collection)


@contextmanager
def create(
    place: str,
    encoder: dict[str, Any],
    words: Sequence[int],
    tag: dict[str, Any],
    memory: int,
    on_message: OnMessage,
    analyzer: Analyzer = PLAIN,
) -> Iterator[MilvusStore]:
    """Empty collections to be filled in the block; others can open them when it ends well. A block of the same `tag`
    goes on with what an interrupted one left.

    Raises: BowerbirdError when `place` is taken.
    """
    made = MilvusStore.create(place, encoder, words, memory, on_message, tag, analyzer)
    try:
        yield made
    except BowerbirdError:
        if not len(made):
            made.drop()
        raise
    made.ready()
