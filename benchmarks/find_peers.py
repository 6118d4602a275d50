"""Word searches of others for `find.py`, with what they do by themselves: bm25s, SQLite's FTS5, and tantivy and
LanceDB, which need not be installed."""

from __future__ import annotations

import argparse
import re
import sqlite3
import tempfile
from collections.abc import Callable

import bm25s
import numpy as np
import pyarrow as pa
from find_queries import K, Query, Search


def one_by_one(search: Callable[[str], list[int]]) -> Search:
    """A search of one text as one of several queries."""
    return lambda queries: [search(query.text) for query in queries]


def by_bm25s(texts: list[str]) -> Search:
    """bm25s with its own tokenizer: words of two letters and more, English function words left out."""
    index = bm25s.BM25(method="lucene")
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def search(text: str) -> list[int]:
        asked = bm25s.tokenize([text], stopwords="en", show_progress=False, return_ids=False)
        rows, scores = index.retrieve(asked, k=min(K, len(texts)), show_progress=False)
        found: list[int] = rows[0][scores[0] > 0].tolist()
        return found

    return one_by_one(search)


def by_fts5(texts: list[str]) -> Search:
    """SQLite's full-text index: any of the words, by BM25."""
    base = sqlite3.connect(":memory:")
    base.execute("CREATE VIRTUAL TABLE found USING fts5(text)")
    base.executemany("INSERT INTO found(rowid, text) VALUES (?, ?)", enumerate(texts, 1))

    def search(text: str) -> list[int]:
        asked = " OR ".join(f'"{word}"' for word in re.findall(r"[^\s\"]+", text))
        rows = base.execute("SELECT rowid FROM found WHERE found MATCH ? ORDER BY rank LIMIT ?", (asked, K))
        return [row - 1 for (row,) in rows]

    return one_by_one(search)


def by_tantivy(texts: list[str]) -> Search:
    """tantivy with its English stems: any of the words, by BM25."""
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", stored=False, tokenizer_name="en_stem")
    builder.add_unsigned_field("row", stored=True)
    index = tantivy.Index(builder.build())
    writer = index.writer(num_threads=1)
    for row, text in enumerate(texts):
        writer.add_document(tantivy.Document(text=text, row=row))
    writer.commit()
    index.reload()
    searcher = index.searcher()

    def search(text: str) -> list[int]:
        asked = index.parse_query(" ".join(re.findall(r"\w+", text.lower())), ["text"])
        return [searcher.doc(place)["row"][0] for _, place in searcher.search(asked, K).hits]

    return one_by_one(search)


def by_lancedb(texts: list[str]) -> Search:
    """LanceDB's full-text index with its defaults: English stems, no function words, accents folded."""
    import lancedb
    from lancedb.index import FTS
    from lancedb.query import MatchQuery

    rows = pa.table({"row": np.arange(len(texts)), "text": texts})
    table = lancedb.connect(tempfile.mkdtemp()).create_table("rows", rows)
    table.create_index("text", config=FTS(with_position=False))
    table.wait_for_index(["text_idx"])

    def search(text: str) -> list[int]:
        found = table.search(MatchQuery(text, "text")).limit(K).select(["row", "_score"]).to_arrow()
        return [int(row) for row in found["row"].to_pylist()]

    return one_by_one(search)


PEERS: dict[str, Callable[[list[str]], Search]] = {
    "bm25s": by_bm25s,
    "SQLite FTS5": by_fts5,
    "tantivy": by_tantivy,
    "LanceDB": by_lancedb,
}


def peers(texts: list[str]) -> dict[str, Search]:
    """Those that are installed; a line for each that is not."""
    found = {}
    for name, make in PEERS.items():
        try:
            found[name] = make(texts)
        except ImportError:
            print(f"{name} is left out: pip install {name.lower()}")
    return found


def main() -> None:
    """A line for each that is installed, by a search for one word, and for each that is not."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name, search in peers(["a red fox", "a blue fish"]).items():
        found = search([Query(frozenset({0}), "fox")])[0]
        print(f"{name} finds the fox first" if found[:1] == [0] else f"{name} found {found}")


if __name__ == "__main__":
    main()
