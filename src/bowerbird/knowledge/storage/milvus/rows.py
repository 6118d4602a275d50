"""Items as rows of Milvus and back: metadata of one kind a column, texts that fit, conditions by our own engine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import OnMessage
from bowerbird.data.columns import text_of
from bowerbird.data.filters import filter_rows
from bowerbird.knowledge.search import bm25
from bowerbird.knowledge.search.analyzer import Analyzer
from bowerbird.knowledge.storage.milvus.schema import TEXT_BYTES
from bowerbird.knowledge.storage.milvus.snapshot import stored_words

if TYPE_CHECKING:
    import pyarrow as pa

Metadata = dict[str, Any]


def fit_metadata(
    items: Sequence[dict[str, Any]], before: Mapping[str, str], place: str, *, on_odd: OnMessage | None = None
) -> tuple[list[Metadata], dict[str, str]]:
    """The metadata of items with one kind a column, and the columns there are then; what is of another kind than its
    column is left out with a line to `on_odd`. Raises: BowerbirdError for it when there is no `on_odd`."""
    metadata = [{key: _plain(value) for key, value in item["metadata"].items() if value is not None} for item in items]
    columns = dict(before)
    for item, facts in zip(items, metadata, strict=True):
        for key, value in list(facts.items()):
            if on_odd is not None and columns.get(key) == "string":
                facts[key] = value = text_of(value)
            try:
                columns[key] = _kind(key, value, columns.get(key), place)
            except BowerbirdError:
                if on_odd is None:
                    raise
                del facts[key]
                on_odd(f"{item['name'][:80]}: column {key} is {columns[key]}, so {str(value)[:60]!r} is left out")
    return metadata, columns


def make_rows(
    items: Sequence[dict[str, Any]],
    metadata: Sequence[Metadata],
    embeddings: np.ndarray,
    weights: Sequence[int],
    analyzer: Analyzer,
) -> list[dict[str, Any]]:
    """The items as Milvus takes them. Raises: BowerbirdError for one that does not fit."""
    rows = []
    for item, facts, vector in zip(items, metadata, embeddings, strict=True):
        if (reason := unfit({**item, "metadata": facts})) is not None:
            raise BowerbirdError(f"{item['name'][:80]}: {reason}; nothing was changed")
        words = stored_words(item["caption"], bm25.further_words(facts), weights, analyzer)
        cut = words.encode()[:TEXT_BYTES].decode("utf-8", "ignore")
        own = {"id": int(item["id"]), "caption": item["caption"], "name": item["name"]}
        rows.append({**own, "metadata": facts, "words": cut, "vector": vector.tolist()})
    return rows


def unfit(item: dict[str, Any]) -> str | None:
    """Why an item cannot be stored on Milvus: a text is too long."""
    for name in ("caption", "name", "metadata"):
        text = json.dumps(item[name], ensure_ascii=False, default=str) if name == "metadata" else str(item[name])
        if len(text.encode("utf-8", "surrogatepass")) > TEXT_BYTES:
            return f"its {name} has more than the {TEXT_BYTES:,} bytes of a text of Milvus"
    return None


def as_table(columns: dict[str, Any], metadata: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> pa.Table:
    """`columns` of Arrow, with one for each kind of metadata."""
    import pyarrow as pa

    further = {name: pa.array([facts.get(name) for facts in metadata], _arrow(kind)) for name, kind in kinds.items()}
    return pa.table(columns | dict(sorted(further.items())))


def ids_where(where: str, rows: Sequence[dict[str, Any]], columns: Iterable[str]) -> list[int]:
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
