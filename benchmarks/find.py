"""Finding drawings by text, by picture and by words of other languages: what is found, and how fast.

Ours (`bm25`, `dense`, `hybrid`; "as written" is without near words; `--rerank` adds rerankers, by name or directory)
beside bm25s, SQLite's FTS5, tantivy and LanceDB with what they do by themselves, over the same captions and tags, in
one process; the last two where they are installed. The kinds of queries are those of `find_queries.py`. recall@k is the
share of the relevant pictures among the first k, of as many as k can hold; both@5 the share of queries for two things
that find each among the first 5.

    npm pack emojibase-data    # names of emoji in other languages, optional
    python benchmarks/find.py --data drawings.parquet --languages emojibase-data-17.0.0.tgz --out runs/find
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from find_peers import peers
from find_queries import Query, language_queries, picture_queries, read_drawings, text_queries
from PIL.Image import Image

from bowerbird import KnowledgeBase
from bowerbird.knowledge.rerank.registry import load_reranker, open_reranker
from bowerbird.knowledge.search import bm25
from bowerbird.systems.coverage import cover

K = 20
MEASURES = ("recall@1", "recall@5", "recall@20", "nDCG@20", "both@5", "p50 ms", "p99 ms")
Search = Callable[[Query], Sequence[int]]
Results = dict[str, dict[str, float]]
"""By contestant, then by measure."""


def by_bm25s(texts: list[str]) -> Search:
    """bm25s with its own tokenizer: words of two letters and more, English function words left out."""
    index = bm25s.BM25(method="lucene")
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def search(query: Query) -> Sequence[int]:
        asked = bm25s.tokenize([query.text], stopwords="en", show_progress=False, return_ids=False)
        rows, scores = index.retrieve(asked, k=min(K, len(texts)), show_progress=False)
        found: list[int] = rows[0][scores[0] > 0].tolist()
        return found

    return search


def by_fts5(texts: list[str]) -> Search:
    """SQLite's full-text index: any of the words, by BM25."""
    base = sqlite3.connect(":memory:")
    base.execute("CREATE VIRTUAL TABLE found USING fts5(text)")
    base.executemany("INSERT INTO found(rowid, text) VALUES (?, ?)", enumerate(texts, 1))

    def search(query: Query) -> Sequence[int]:
        asked = " OR ".join(f'"{word}"' for word in re.findall(r"[^\s\"]+", query.text))
        rows = base.execute("SELECT rowid FROM found WHERE found MATCH ? ORDER BY rank LIMIT ?", (asked, K))
        return [row - 1 for (row,) in rows]

    return search


def by_words(texts: list[str]) -> Search:
    """Our word index alone."""
    index = bm25.build(texts, [""] * len(texts))
    return lambda query: [row for row in bm25.best_rows(index, query.text, K)[0].tolist() if row >= 0]


def by_us(kb: KnowledgeBase, row_of: dict[int, int], **how: Any) -> Search:
    """A search of the knowledge base by text, with captions, metadata and embeddings of what it finds."""

    def search(query: Query) -> Sequence[int]:
        found = kb.search(text=query.text, k=K, **how)
        return [row_of[item] for item in found.ids[0].tolist() if item >= 0]

    return search


def by_cover(kb: KnowledgeBase, row_of: dict[int, int]) -> Search:
    """A hybrid search whose first results cover the phrases of the text."""

    def search(query: Query) -> Sequence[int]:
        found = cover(kb, kb.search(text=query.text, k=K))
        return [row_of[item] for item in found.ids[0].tolist() if item >= 0]

    return search


def by_picture(
    kb: KnowledgeBase, row_of: dict[int, int], pictures: Sequence[Image], captions: Sequence[str], **how: Any
) -> Search:
    """The same by a picture, which is embedded; by its caption where `mode` is `bm25`."""

    def search(query: Query) -> Sequence[int]:
        by: dict[str, Any] = {"images": [pictures[query.row]]}
        if how.get("mode") == "bm25":
            by = {"text": captions[query.row]}
        found = kb.search(**by, k=K + 1, **how)
        rows = [row_of[item] for item in found.ids[0].tolist() if item >= 0]
        return [row for row in rows if row != query.row][:K]

    return search


def measure(search: Search, queries: list[Query]) -> dict[str, float]:
    """Means over the queries, and what one takes."""
    sums, times = Counter[str](), []
    for query in queries:
        start = time.perf_counter()
        found = search(query)
        times.append(1e3 * (time.perf_counter() - start))
        hits = np.isin(np.asarray(found, np.int64), list(query.relevant))
        for k in (1, 5, 20):
            sums[f"recall@{k}"] += hits[:k].sum() / min(k, len(query.relevant))
        ideal = (1 / np.log2(np.arange(min(K, len(query.relevant))) + 2)).sum()
        sums["nDCG@20"] += (hits / np.log2(np.arange(len(hits)) + 2)).sum() / ideal
        sums["both@5"] += bool(query.parts) and all(part & set(found[:5]) for part in query.parts)
    means = {name: float(sums[name]) / len(queries) for name in MEASURES[: 5 if queries[0].parts else 4]}
    return {**means, "p50 ms": float(np.median(times)), "p99 ms": float(np.quantile(times, 0.99))}


def show(kind: str, contestants: dict[str, Search], queries: list[Query]) -> Results:
    """A table, printed."""
    results: Results = {}
    columns = [name for name in MEASURES if name != "both@5" or queries[0].parts]
    print(
        f"\n{kind}: {len(queries)} queries, as {queries[0].text or 'a picture'!r}\n{'':24}",
        *(f"{name:>10}" for name in columns),
    )
    for name, search in contestants.items():
        results[name] = measure(search, queries)
        print(f"{name:24}", *(f"{value:10.3f}" for value in results[name].values()), flush=True)
    return results


def languages(package: Path, codes: list[str], count: int) -> dict[str, Results]:
    """Each emoji once, under its name in another language; asked for by a keyword of that language that stands in
    it."""
    results = {}
    for language, labels, queries in language_queries(package, codes, count):
        contestants = {"ours": by_words(labels), "bm25s": by_bm25s(labels), "SQLite FTS5": by_fts5(labels)}
        results[language] = show(f"{language}, keywords in {len(labels)} names", contestants, queries)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("drawings.parquet"))
    parser.add_argument("--items", type=int, default=4000, help="drawings, taken at random")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--languages", type=Path, help="the package emojibase-data, as npm packs it")
    parser.add_argument("--rerank", nargs="+", default=["color"], help="rerankers of hybrid searches")
    parser.add_argument("--out", type=Path, default=Path("runs/find"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(arguments.data)
    rows = np.sort(np.random.default_rng(0).permutation(len(table))[: arguments.items])
    some, place = table.take(pa.array(rows)), arguments.out / f"kb-{arguments.items}"
    if not place.exists():
        pq.write_table(some, arguments.out / "some.parquet")
        KnowledgeBase.build(place, arguments.out / "some.parquet", caption_column="name")
    kb = KnowledgeBase.open(place)
    held = kb.get(kb.ids().tolist())
    drawings = read_drawings(held)
    pictures = [picture for picture in held.images()[0] if picture is not None]
    texts = [f"{name} {' '.join(tags)}" for name, tags in zip(drawings.names, drawings.tags, strict=True)]
    row_of = {item: row for row, item in enumerate(held.ids[0].tolist())}
    opened = {name: load_reranker(open_reranker(name)) for name in arguments.rerank}
    rerankers = {each.name: each for each in opened.values() if each is not None}
    contestants: dict[str, Search] = {
        "bm25 as written": by_us(kb, row_of, mode="bm25", typos=False),
        "bm25": by_us(kb, row_of, mode="bm25"),
        "dense": by_us(kb, row_of, mode="dense"),
        "hybrid as written": by_us(kb, row_of, mode="hybrid", typos=False),
        "hybrid": by_us(kb, row_of, mode="hybrid"),
        "hybrid, alpha auto": by_us(kb, row_of, mode="hybrid", alpha="auto"),
        **{f"hybrid, {name}": by_us(kb, row_of, mode="hybrid", rerank=each) for name, each in rerankers.items()},
        "hybrid, cover": by_cover(kb, row_of),
        "bm25s": by_bm25s(texts),
        "SQLite FTS5": by_fts5(texts),
        **peers(texts),
    }
    by_look: dict[str, Search] = {
        "dense": by_picture(kb, row_of, pictures, drawings.names),
        "mixed": by_picture(kb, row_of, pictures, drawings.names, mode="mixed"),
        "bm25 of its caption": by_picture(kb, row_of, pictures, drawings.names, mode="bm25"),
    }
    for name, each in rerankers.items():
        if each.reads_pictures:
            by_look[f"dense, {name}"] = by_picture(kb, row_of, pictures, drawings.names, rerank=each)
    kb.search(text="warm up", k=1)
    print(f"{len(kb):,} drawings")
    kinds = text_queries(drawings, pictures, arguments.queries)
    results = {kind: show(kind, contestants, queries) for kind, queries in kinds.items()}
    looks = picture_queries(drawings, arguments.queries)
    results |= {kind: show(kind, by_look, queries) for kind, queries in looks.items()}
    if arguments.languages is not None:
        results |= languages(arguments.languages, drawings.codes, arguments.queries)
    (arguments.out / "find.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
