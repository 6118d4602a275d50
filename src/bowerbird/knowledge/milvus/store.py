"""A knowledge base as a Milvus collection: what `knowledge.store.Store` is for a directory.

What differs: no earlier versions, no lock between processes, no hashes of files; a change is seen as it is made, not at the commit. Pictures lie
in a second collection, in parts, as Milvus has no field for bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.errors import BowerbirdError
from bowerbird.knowledge.milvus import conditions
from bowerbird.knowledge.milvus.client import Address, address_of, connect, said
from bowerbird.knowledge.milvus.snapshot import PAGE, MilvusSnapshot, stored_words
from bowerbird.knowledge.plan import DEFAULT_MEMORY
from bowerbird.knowledge.progress import Told, quietly
from bowerbird.knowledge.rows import as_column, hash_of, renamed
from bowerbird.knowledge.where import filter_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from pymilvus import MilvusClient

FORMAT = 1
PROPERTY = "bowerbird"
TEXT_BYTES = 65_535
PART = 49_000
"""Bytes of a picture that fit, as base64, into one text of Milvus."""
BATCH = 200
CONDITION_FIELDS = ["id", "caption", "name", "metadata"]


class MilvusStore:
    """The collection at `place`, a `milvus://` address."""

    def __init__(self, place: str, client: MilvusClient, manifest: dict[str, Any], memory: int = DEFAULT_MEMORY, told: Told = quietly) -> None:
        self.place, self.client, self.manifest, self.memory, self.told = place, client, manifest, memory, told
        self.address = address_of(place)

    @property
    def path(self) -> str:
        """Its address."""
        return self.place

    @property
    def _pictures(self) -> str:
        return f"{self.address.collection}_pictures"

    @classmethod
    def open(cls, place: str, memory: int = DEFAULT_MEMORY, told: Told = quietly) -> MilvusStore:
        """The collection as it is. Raises: BowerbirdError when nothing answers, it is no knowledge base, or its build did not end."""
        made = cls._opened(place, memory, told)
        if made.manifest.get("making"):
            raise BowerbirdError(f"{place}: its build goes on, or was interrupted; the same kb build ends it")
        return made

    @classmethod
    def _opened(cls, place: str, memory: int, told: Told) -> MilvusStore:
        address = address_of(place)
        client = connect(place, address)
        with said(place):
            if not client.has_collection(address.collection):
                raise BowerbirdError(f"{place}: no knowledge base here; make one: bowerbird kb build {place} FOLDER_OF_PICTURES")
            manifest = read_manifest(place, client, address)
            for name in (address.collection, f"{address.collection}_pictures"):
                client.load_collection(name)
        return cls(place, client, manifest, memory, told)

    @classmethod
    def create(cls, place: str, encoder: dict[str, Any], words: Sequence[int] = (1, 1), memory: int = DEFAULT_MEMORY, told: Told = quietly) -> MilvusStore:
        """Empty collections at `place`, or those of a build that did not end. Raises: BowerbirdError when it is taken."""
        address = address_of(place)
        client = connect(place, address)
        metric = "cosine" if encoder["normalize"] else "inner product"
        facts = {"format": FORMAT, "version": 0, "items": 0, "metric": metric, "encoder": encoder, "words": list(words), "making": True}
        with said(place):
            if client.has_collection(address.collection):
                there = read_manifest(place, client, address)
                if not there.get("making") or there["encoder"] != encoder or there["words"] != list(words):
                    raise BowerbirdError(f"{place}: a knowledge base is there already; add to it: bowerbird kb add")
                return cls._opened(place, memory, told)
            _create(client, address, int(encoder["dim"]), facts)
        return cls(place, client, facts, memory, told)

    def ready(self) -> None:
        """The build has ended."""
        self._write({key: value for key, value in self.manifest.items() if key != "making"})

    def drop(self) -> None:
        """Take the collections away: a build that gave nothing."""
        with said(self.place):
            self.client.drop_collection(self.address.collection)
            self.client.drop_collection(self._pictures)

    def at_version(self, version: int) -> MilvusStore:
        """Raises: BowerbirdError for any version but the present one: Milvus keeps none."""
        if version != int(self.manifest["version"]):
            raise BowerbirdError(f"{self.place}: version {version} is not kept; Milvus has the present one, {self.manifest['version']}, alone")
        return self

    @property
    def versions(self) -> list[int]:
        """The present one."""
        return [int(self.manifest["version"])]

    @property
    def dim(self) -> int:
        """Numbers an embedding has."""
        return int(self.manifest["encoder"]["dim"])

    def __len__(self) -> int:
        return len(self.snapshot)

    def info(self) -> dict[str, Any]:
        """Its indexes and metadata columns; how many bytes it takes is the server's to know."""
        import pyarrow as pa

        rows = [row["metadata"] or {} for row in self.snapshot.scan("", ["id", "metadata"])]
        kinds = pa.Table.from_pylist(rows).schema if rows else pa.schema([])
        index = "flat" if self.address.embedded else "AUTOINDEX"
        return {
            "indexes": {
                "dense": {"kind": index, "metric": self.manifest["metric"], "exact": index == "flat", "of version": self.manifest["version"]},
                "bm25": {"kind": "Milvus", "weights": dict(zip(("caption", "tags"), self.manifest["words"], strict=True))},
                "beside them": {"added": 0, "removed": 0},
            },
            "bytes": 0,
            "metadata": {field.name: str(field.type) for field in kinds},
        }

    # -- reading -----------------------------------------------------------------------------------------------------

    @cached_property
    def snapshot(self) -> MilvusSnapshot:
        """What is searched."""
        metric = "COSINE" if self.manifest["encoder"]["normalize"] else "IP"
        return MilvusSnapshot(self.place, self.client, self.address.collection, self.dim, metric)

    def ids(self, where: str | None = None) -> np.ndarray:
        """The ids of all items, or of those that satisfy `where`, int64 `(n,)`. Raises: BowerbirdError for a wrong condition."""
        return self.snapshot.ids if where is None else self.snapshot.ids_where(self.allowed(where))

    def all_ids(self) -> np.ndarray:
        """The ids of all items, as they are now."""
        return self.snapshot.ids_where("")

    def allowed(self, where: str) -> str:
        """A condition of Milvus for `where`: translated where that is possible, else the ids that our own engine finds."""
        made = conditions.translate(where)
        if made is not None:
            # Milvus finds nothing in a column that nobody has, or compared with the wrong kind; a directory says so, and so does a sample here
            with said(self.place):
                _satisfying(where, self.client.query(self.address.collection, filter="id >= 0", output_fields=CONDITION_FIELDS, limit=PAGE))
            return made
        return f"id in [{', '.join(map(str, _satisfying(where, self.snapshot.scan('', CONDITION_FIELDS))))}]"

    def pictures(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The original bytes of these items' pictures, by id, each compared with its id; items without a picture are left out."""
        wanted = sorted({int(number) for number in ids})
        captions = dict(zip(wanted, self.snapshot.described(np.asarray([wanted], np.int64))[0][0], strict=True)) if wanted else {}
        parts: dict[int, dict[int, str]] = {}
        for start in range(0, len(wanted), BATCH):
            among = ", ".join(map(str, wanted[start : start + BATCH]))
            with said(self.place):
                for row in self.client.query(self._pictures, filter=f"item in [{among}]", output_fields=["item", "part", "data"]):
                    parts.setdefault(int(row["item"]), {})[int(row["part"])] = str(row["data"])
        found = {}
        for number, pieces in parts.items():
            data = b"".join(base64.b64decode(pieces[part]) for part in sorted(pieces))
            if hash_of(data, captions[number]) != number:
                raise BowerbirdError(f"{self.place}: the picture of id {number} is not as it was added; restore the collection from a copy")
            found[number] = data
        return found

    def whole(self, ids: Sequence[int]) -> pa.Table:
        """The rows of `ids` with everything they hold, in the order of `ids`."""
        import pyarrow as pa

        rows = np.asarray(ids, np.int64)
        said_of, facts_of = self.snapshot.described(rows[None])
        captions, metadata = said_of[0], facts_of[0]
        pictures, vectors = self.pictures(ids), self.snapshot.embeddings(rows)
        columns: dict[str, Any] = {
            "id": pa.array(rows), "caption": pa.array(captions, pa.string()), "name": pa.array(self.snapshot.names(rows), pa.string()),
            "image": pa.array([pictures.get(int(number), b"") for number in ids], pa.large_binary()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.dim),
            "added": pa.nulls(len(rows), pa.int64()), "check": pa.nulls(len(rows), pa.int64()),
        }  # fmt: skip
        for name in sorted({key for facts in metadata for key in facts}):
            columns[name] = as_column([facts.get(name) for facts in metadata])
        return pa.table(columns)

    # -- changing ----------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Take the collection as it is now. There is no lock between processes: one writer at a time is the callers' to see to."""
        with said(self.place):
            self.manifest = read_manifest(self.place, self.client, self.address)
        self._renewed()
        yield

    def append(self, items: Sequence[dict[str, Any]], embeddings: np.ndarray) -> None:
        """Add items with their raw embeddings; seen at once. Pictures first: an item that is seen has its picture."""
        for start in range(0, len(items), BATCH):
            some = items[start : start + BATCH]
            self._put(self._pictures, [part for item in some for part in _parts(int(item["id"]), item["image"])])
            self._put(self.address.collection, [self._row(item, v) for item, v in zip(some, embeddings[start : start + BATCH], strict=True)])

    def _put(self, collection: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            with said(self.place):
                self.client.upsert(collection, rows)

    def _row(self, item: dict[str, Any], vector: np.ndarray) -> dict[str, Any]:
        metadata = json.loads(json.dumps({key: value for key, value in item["metadata"].items() if value is not None}, default=str))
        tags = metadata.get("tags") or ""
        words = stored_words(item["caption"], " ".join(map(str, tags)) if isinstance(tags, list) else str(tags), self.manifest["words"])
        for name, text in (("caption", item["caption"]), ("name", item["name"]), ("metadata", json.dumps(metadata, ensure_ascii=False))):
            if len(text.encode()) > TEXT_BYTES:
                raise BowerbirdError(f"{item['name'][:80]}: its {name} has {len(text.encode()):,} bytes; a text of Milvus holds {TEXT_BYTES:,}")
        cut = words.encode()[:TEXT_BYTES].decode("utf-8", "ignore")
        return {"id": int(item["id"]), "caption": item["caption"], "name": item["name"], "metadata": metadata, "words": cut, "vector": vector.tolist()}

    def delete(self, ids: Sequence[int]) -> None:
        """Remove items; gone at once."""
        for start in range(0, len(ids), BATCH):
            among = [int(number) for number in ids[start : start + BATCH]]
            with said(self.place):
                self.client.delete(self.address.collection, ids=among)
                self.client.delete(self._pictures, filter=f"item in [{', '.join(map(str, among))}]")

    def change(self, ids: Sequence[int], caption: str | None, metadata: dict[str, Any]) -> None:
        """Give items another caption or other metadata. Raises: BowerbirdError, before anything is written, when two items would become one."""
        items, vectors = [], self.snapshot.embeddings(np.asarray(ids, np.int64))
        rows = self.whole(ids).drop_columns(["embedding", "added", "check"]).to_pylist()
        for row, vector in zip(rows, vectors, strict=True):
            own = {key: row.pop(key) for key in ("id", "caption", "name", "image")}
            said_now = own["caption"] if caption is None else caption
            number = own["id"] if caption is None else renamed(own["image"], vector, said_now)
            items.append(own | {"id": number, "caption": said_now, "metadata": row | metadata})
        numbers = [item["id"] for item in items]
        if len(set(numbers)) < len(numbers) or (caption is not None and set(numbers) & (set(self.all_ids().tolist()) - set(ids))):
            raise BowerbirdError(f"{self.place}: with caption {caption!r}, two items would be the same; nothing was changed")
        self.delete(ids)
        self.append(items, vectors)

    def commit(self) -> None:
        """Count the change, and have the server write what it holds in memory."""
        with said(self.place):
            self.client.flush(self.address.collection)
            self.client.flush(self._pictures)
        self._renewed()
        self._write({**self.manifest, "version": int(self.manifest["version"]) + 1})

    def _write(self, manifest: dict[str, Any]) -> None:
        with said(self.place):
            self.client.alter_collection_properties(self.address.collection, properties={PROPERTY: json.dumps(manifest)})
        self.manifest = manifest

    def renew(self) -> None:
        """Forget what was read."""
        self._renewed()

    def _renewed(self) -> None:
        self.__dict__.pop("snapshot", None)

    def compact(self, *, forget: bool) -> None:
        """Ask the server to; there are no versions to forget."""
        with said(self.place):
            self.client.flush(self.address.collection)
            self.client.compact(self.address.collection)


def _satisfying(where: str, rows: Sequence[dict[str, Any]]) -> list[int]:
    """The ids of those items that satisfy `where`, by the same engine as everywhere. Raises: BowerbirdError for a wrong condition."""
    table = [{"id": int(row["id"]), "caption": row["caption"], "name": row["name"], **(row["metadata"] or {})} for row in rows]
    return [table[at]["id"] for at in filter_rows(table, where)]


def _create(client: MilvusClient, address: Address, dim: int, facts: dict[str, Any]) -> None:
    """The two collections and their indexes; pictures first, as the other is what `open` looks for."""
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    pictures = f"{address.collection}_pictures"
    if client.has_collection(pictures):
        client.drop_collection(pictures)
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=40)
    schema.add_field("item", DataType.INT64)
    schema.add_field("part", DataType.INT64)
    schema.add_field("data", DataType.VARCHAR, max_length=TEXT_BYTES)
    schema.add_field("nothing", DataType.FLOAT_VECTOR, dim=2)  # a collection must have a vector
    index = client.prepare_index_params()
    index.add_index("nothing", index_type="FLAT", metric_type="L2")
    client.create_collection(pictures, schema=schema, index_params=index, consistency_level="Strong")

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=json.dumps(facts))
    schema.add_field("id", DataType.INT64, is_primary=True)
    for name in ("caption", "name"):
        schema.add_field(name, DataType.VARCHAR, max_length=TEXT_BYTES)
    schema.add_field("metadata", DataType.JSON, nullable=True)
    schema.add_field("words", DataType.VARCHAR, max_length=TEXT_BYTES, enable_analyzer=True, analyzer_params={"tokenizer": "standard"})
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(Function(name="bm25", function_type=FunctionType.BM25, input_field_names=["words"], output_field_names=["sparse"]))
    index = client.prepare_index_params()
    metric = "COSINE" if facts["encoder"]["normalize"] else "IP"
    index.add_index("vector", index_type="FLAT" if address.embedded else "AUTOINDEX", metric_type=metric)
    index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params={"bm25_k1": 1.5, "bm25_b": 0.75})
    client.create_collection(address.collection, schema=schema, index_params=index, consistency_level="Strong", properties={PROPERTY: json.dumps(facts)})


def _parts(number: int, data: bytes) -> list[dict[str, Any]]:
    """A picture as rows of the second collection; none for no picture."""
    cuts = [data[start : start + PART] for start in range(0, len(data), PART)]
    return [{"key": f"{number}:{at}", "item": number, "part": at, "data": base64.b64encode(cut).decode(), "nothing": [0.0, 0.0]} for at, cut in enumerate(cuts)]


def read_manifest(place: str, client: MilvusClient, address: Address) -> dict[str, Any]:
    """What the collection says of itself. Raises: BowerbirdError when it is no knowledge base of ours."""
    facts = client.describe_collection(address.collection)
    said_of_itself = (facts.get("properties") or {}).get(PROPERTY) or facts.get("description") or ""
    try:
        found = json.loads(said_of_itself)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BowerbirdError(f"{place}: this collection is no knowledge base of bowerbird's; give another name")
    return found
