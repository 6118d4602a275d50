"""A knowledge base as a Milvus collection: a `storage.protocol.Store` as the directory is one.

What differs: no earlier versions, no lock between processes, no hashes of files; a change is seen as it is made, not
at the commit. Pictures lie in a second collection, in parts, as Milvus has no field for bytes.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import OnMessage, log_message
from bowerbird.core.text import in_shell, parse_json
from bowerbird.data.columns import text_of
from bowerbird.data.filters import check_condition, filter_rows
from bowerbird.data.item import hash_of, item_id
from bowerbird.knowledge.search import bm25
from bowerbird.knowledge.search.analyzer import PLAIN, Analyzer
from bowerbird.knowledge.search.planner import DEFAULT_MEMORY
from bowerbird.knowledge.storage.milvus import conditions
from bowerbird.knowledge.storage.milvus.client import PICTURES, Address, address_of, connect, one_line_errors, release
from bowerbird.knowledge.storage.milvus.snapshot import PAGE, MilvusSnapshot, stored_words

if TYPE_CHECKING:
    import pyarrow as pa
    from pymilvus import MilvusClient

FORMAT = 1
PROPERTY = "bowerbird"
TEXT_BYTES = 65_535
PART = 49_000
"""Bytes of a picture that fit, as base64, into one text of Milvus."""
BATCH, AT_ONCE = 100, 8
"""Rows a message, and items whose pictures are read or written together: a server takes messages of some ten megabytes.
"""
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
            _create(place, client, address, int(encoder["dim"]), facts)
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
                _ids_where(where, some, self.manifest["columns"])
                return made
        ids = _ids_where(where, self.snapshot.scan("", CONDITION_FIELDS), self.manifest["columns"])
        return f"id in [{', '.join(map(str, ids))}]"

    def pictures(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The original bytes of these items' pictures, by id, each compared with its id; items without a picture are
        left out."""
        wanted = sorted({int(number) for number in ids})
        captions = (
            dict(zip(wanted, self.snapshot.describe(np.asarray([wanted], np.int64))[0][0], strict=True))
            if wanted
            else {}
        )
        parts: dict[int, dict[int, str]] = {}
        for start in range(0, len(wanted), AT_ONCE):
            among = ", ".join(map(str, wanted[start : start + AT_ONCE]))
            with one_line_errors(self.place):
                for row in self.client.query(
                    self._pictures, filter=f"item in [{among}]", output_fields=["item", "part", "data"]
                ):
                    parts.setdefault(int(row["item"]), {})[int(row["part"])] = str(row["data"])
        found = {}
        for number, pieces in parts.items():
            data = b"".join(base64.b64decode(pieces[part]) for part in sorted(pieces))
            if hash_of(data, captions[number]) != number:
                raise BowerbirdError(
                    f"{self.place}: the picture of id {number} is not as it was added; restore the collection from a"
                    " copy"
                )
            found[number] = data
        return found

    def whole(self, ids: Sequence[int]) -> pa.Table:
        """The rows of `ids` with everything they hold, in the order of `ids`."""
        import pyarrow as pa

        rows = np.asarray(ids, np.int64)
        described, facts_of = self.snapshot.describe(rows[None])
        captions, metadata = described[0], facts_of[0]
        pictures, vectors = self.pictures(ids), self.snapshot.embeddings(rows)
        columns: dict[str, Any] = {
            "id": pa.array(rows),
            "caption": pa.array(captions, pa.string()),
            "name": pa.array(self.snapshot.names(rows), pa.string()),
            "image": pa.array([pictures.get(int(number), b"") for number in ids], pa.large_binary()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.dim),
            "added": pa.nulls(len(rows), pa.int64()),
            "check": pa.nulls(len(rows), pa.int64()),
        }
        for name, kind in sorted(self.manifest["columns"].items()):
            columns[name] = pa.array([facts.get(name) for facts in metadata], _arrow(kind))
        return pa.table(columns)

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
        for name in ("caption", "name", "metadata"):
            text = json.dumps(item[name], ensure_ascii=False, default=str) if name == "metadata" else str(item[name])
            if len(text.encode("utf-8", "surrogatepass")) > TEXT_BYTES:
                return f"its {name} has more than the {TEXT_BYTES:,} bytes of a text of Milvus"
        return None

    def append(self, items: Sequence[dict[str, Any]], embeddings: np.ndarray) -> None:
        """Add items with their raw embeddings; seen at once. Pictures first: an item that is seen has its picture. A
        value of another kind than its column's is left empty, and named to `on_message`."""
        rows = self._rows(items, embeddings, on_odd=self.on_message)
        for start in range(0, len(items), AT_ONCE):
            self._put(
                self._pictures,
                [part for item in items[start : start + AT_ONCE] for part in _parts(int(item["id"]), item["image"])],
            )
        self._put(self.address.collection, rows)

    def _put(self, collection: str, rows: list[dict[str, Any]]) -> None:
        """Write rows, as many at once as a server takes in one message."""
        for start in range(0, len(rows), BATCH):
            with one_line_errors(self.place):
                self.client.upsert(collection, rows[start : start + BATCH])

    def _rows(
        self, items: Sequence[dict[str, Any]], embeddings: np.ndarray, *, on_odd: OnMessage | None = None
    ) -> list[dict[str, Any]]:
        """The items as Milvus takes them, with metadata of one kind a column; what is of another is left out with a
        line to `on_odd`. Raises: BowerbirdError, before anything is written, when there is no `on_odd`."""
        metadata = [
            {key: _plain(value) for key, value in item["metadata"].items() if value is not None} for item in items
        ]
        columns = dict(self.manifest["columns"])
        for item, facts in zip(items, metadata, strict=True):
            for key, value in list(facts.items()):
                if on_odd is not None and columns.get(key) == "string":
                    facts[key] = value = text_of(value)
                try:
                    columns[key] = _kind(key, value, columns.get(key), self.place)
                except BowerbirdError:
                    if on_odd is None:
                        raise
                    del facts[key]
                    on_odd(f"{item['name'][:80]}: column {key} is {columns[key]}, so {str(value)[:60]!r} is left out")
        if columns != self.manifest["columns"]:
            self._write({**self.manifest, "columns": columns})
        rows, analyzer = [], self.analyzer
        for item, facts, vector in zip(items, metadata, embeddings, strict=True):
            if (reason := self.unfit({**item, "metadata": facts})) is not None:
                raise BowerbirdError(f"{item['name'][:80]}: {reason}; nothing was changed")
            words = stored_words(item["caption"], bm25.further_words(facts), self.manifest["words"], analyzer)
            cut = words.encode()[:TEXT_BYTES].decode("utf-8", "ignore")
            own = {"id": int(item["id"]), "caption": item["caption"], "name": item["name"]}
            rows.append({**own, "metadata": facts, "words": cut, "vector": vector.tolist()})
        return rows

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
        rows = self._rows(items, vectors)
        gone = sorted(set(now.tolist()) - set(numbers))
        if gone:  # the pictures of new ids, then the items, then what they were
            for start in range(0, len(now), AT_ONCE):
                pictures = self._whole(now[start : start + AT_ONCE])
                self._put(
                    self._pictures,
                    [
                        part
                        for number, (data, _) in zip(numbers[start:], pictures, strict=False)
                        for part in _parts(number, data)
                    ],
                )
        self._put(self.address.collection, rows)
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


def _ids_where(where: str, rows: Sequence[dict[str, Any]], columns: Iterable[str]) -> list[int]:
    """The ids of those items that satisfy `where`, by the same engine as everywhere. Raises: BowerbirdError for a
    wrong condition."""
    nothing = dict.fromkeys(columns)
    table = [
        {"id": int(row["id"]), "caption": row["caption"], "name": row["name"], **nothing, **(row["metadata"] or {})}
        for row in rows
    ]
    return [table[at]["id"] for at in filter_rows(table, where)]


def _arrow(kind: str) -> pa.DataType:
    """The Arrow type of a column's kind."""
    import pyarrow as pa

    return pa.list_(pa.string()) if kind.startswith("list") else pa.type_for_alias(kind)


def _plain(value: Any) -> Any:
    """A metadata value as JSON has it and a column can: numbers, flags, texts, lists of texts; anything else as JSON
    text."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, (str, bool, int, float)) or (
        isinstance(value, list) and all(isinstance(one, str) for one in value)
    ):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)


def _kind(column: str, value: Any, before: str | None, place: str) -> str:
    """The kind of a column that now also has `value`. Raises: BowerbirdError when two sources disagree."""
    kind = next(
        name
        for name, type_ in (
            ("bool", bool),
            ("int64", int),
            ("double", float),
            ("string", str),
            ("list<item: string>", list),
        )
        if isinstance(value, type_)
    )
    if before in (None, kind) or {before, kind} == {"int64", "double"}:
        return "double" if "double" in (before, kind) else kind
    raise BowerbirdError(
        f"metadata column {column!r} is {before} in {place} and {kind} in the new source; rename it there"
    )


def _create(place: str, client: MilvusClient, address: Address, dim: int, facts: dict[str, Any]) -> None:
    """The two collections and their indexes; pictures first, as the other is what `open` looks for."""
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    pictures = f"{address.collection}{PICTURES}"
    mark = f"pictures of {address.collection}"
    if client.has_collection(pictures):
        if (client.describe_collection(pictures).get("properties") or {}).get(PROPERTY) != mark:
            raise BowerbirdError(
                f"{place}: a collection {pictures} is there, which is not ours to replace; give another name"
            )
        client.drop_collection(pictures)  # of a build that was killed this early
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=40)
    schema.add_field("item", DataType.INT64)
    schema.add_field("part", DataType.INT64)
    schema.add_field("data", DataType.VARCHAR, max_length=TEXT_BYTES)
    schema.add_field("nothing", DataType.FLOAT_VECTOR, dim=2)  # a collection must have a vector
    index = client.prepare_index_params()
    index.add_index("nothing", index_type="FLAT", metric_type="L2")
    client.create_collection(
        pictures, schema=schema, index_params=index, consistency_level="Strong", properties={PROPERTY: mark}
    )

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=json.dumps(facts))
    schema.add_field("id", DataType.INT64, is_primary=True)
    for name in ("caption", "name"):
        schema.add_field(name, DataType.VARCHAR, max_length=TEXT_BYTES)
    schema.add_field("metadata", DataType.JSON, nullable=True)
    schema.add_field(
        "words",
        DataType.VARCHAR,
        max_length=TEXT_BYTES,
        enable_analyzer=True,
        analyzer_params={"tokenizer": "standard"},
    )
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(
        Function(
            name="bm25", function_type=FunctionType.BM25, input_field_names=["words"], output_field_names=["sparse"]
        )
    )
    index = client.prepare_index_params()
    metric = "COSINE" if facts["encoder"]["normalize"] else "IP"
    index.add_index("vector", index_type="FLAT" if address.embedded else "AUTOINDEX", metric_type=metric)
    index.add_index(
        "sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params={"bm25_k1": 1.5, "bm25_b": 0.75}
    )
    client.create_collection(
        address.collection,
        schema=schema,
        index_params=index,
        consistency_level="Strong",
        properties={PROPERTY: json.dumps(facts)},
    )


def _parts(number: int, data: bytes) -> list[dict[str, Any]]:
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


def read_manifest(place: str, client: MilvusClient, address: Address) -> dict[str, Any]:
    """What the collection says of itself. Raises: BowerbirdError when it is no knowledge base of ours."""
    facts = client.describe_collection(address.collection)
    text = (facts.get("properties") or {}).get(PROPERTY) or facts.get("description") or ""
    try:
        found = parse_json(text, place, "description")
    except BowerbirdError:
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BowerbirdError(f"{place}: this collection is no knowledge base of bowerbird's; give another name")
    return found
