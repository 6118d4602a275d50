"""Word searches that need not be installed, for `find.py`: tantivy and LanceDB, with what they do by themselves."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from find_queries import Query

K = 20
Search = Callable[[Query], Sequence[int]]


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

    def search(query: Query) -> Sequence[int]:
        asked = index.parse_query(" ".join(re.findall(r"\w+", query.text.lower())), ["text"])
        return [searcher.doc(place)["row"][0] for _, place in searcher.search(asked, K).hits]

    return search


def by_lancedb(texts: list[str]) -> Search:
    """LanceDB's full-text index with its defaults: English stems, no function words, accents folded."""
    import lancedb
    from lancedb.index import FTS

    rows = pa.table({"row": np.arange(len(texts)), "text": texts})
    table = lancedb.connect(tempfile.mkdtemp()).create_table("rows", rows)
    table.create_index("text", config=FTS(with_position=False))
    table.wait_for_index(["text_idx"])

    def search(query: Query) -> Sequence[int]:
        found = table.search(query.text, query_type="fts").limit(K).select(["row", "_score"]).to_arrow()
        return [int(row) for row in found["row"].to_pylist()]

    return search


PEERS: dict[str, Callable[[list[str]], Search]] = {"tantivy": by_tantivy, "LanceDB": by_lancedb}


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
        found = list(search(Query(frozenset({0}), "fox")))
        print(f"{name} finds the fox first" if found[:1] == [0] else f"{name} found {found}")


if __name__ == "__main__":
    main()
