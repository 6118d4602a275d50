"""Finding drawings by text, by picture and by words of other languages: what is found, and how fast.

Ours (`bm25`, `dense`, `hybrid`; "as written" is without near words; `--rerank` adds rerankers, by name or directory)
beside bm25s, SQLite's FTS5, tantivy and LanceDB with what they do by themselves, over the same captions and tags, in
one process; the last two where they are installed. The kinds of queries are those of `find_queries.py`. recall@k is the
share of the relevant pictures among the first k, of as many as k can hold; both@5 the share of queries for two things
that find each among the first 5; "beside hybrid" the mean difference in nDCG@20 of the same queries, with its 95%
interval. Several `--seeds` are several samples of queries, each query once. Queries are searched all at once, and
`--timed` of each kind once more one by one.

    npm pack emojibase-data    # names of emoji in other languages, and other vendors' names; optional
    python benchmarks/find.py --data drawings.parquet --languages emojibase-data-17.0.0.tgz --out runs/find
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from find_peers import one_by_one, peers
from find_queries import (
    LANGUAGES,
    Drawings,
    K,
    Query,
    Search,
    colored_queries,
    language_queries,
    picture_queries,
    read_drawings,
    text_queries,
    vendor_queries,
)
from PIL.Image import Image

from bowerbird import KnowledgeBase
from bowerbird.core.types import Neighbors
from bowerbird.knowledge.rerank.protocol import Reranker
from bowerbird.knowledge.rerank.registry import load_reranker, open_reranker
from bowerbird.knowledge.search import bm25
from bowerbird.knowledge.search.analyzer import LANGUAGES as STEMS
from bowerbird.knowledge.search.analyzer import PLAIN, Analyzer
from bowerbird.systems.coverage import cover

QUALITY = ("recall@1", "recall@5", "recall@20", "nDCG@20", "both@5")
BASELINE, BESIDE = "hybrid", "beside hybrid"
TIMES = ("p50 ms", "p99 ms")
TOKENS = 16
"""That an item is pooled to for `--rerank late`."""
Results = dict[str, dict[str, Any]]
"""By contestant, then by measure."""


def by_words(texts: list[str], analyzer: Analyzer = PLAIN) -> Search:
    """Our word index alone."""
    index = bm25.build(texts, [""] * len(texts), analyzer=analyzer)
    return one_by_one(lambda text: [row for row in bm25.best_rows(index, text, K)[0].tolist() if row >= 0])


def by_us(kb: KnowledgeBase, row_of: Mapping[int, int], *, covers: bool = False, **how: Any) -> Search:
    """A search of the knowledge base by text, with captions, metadata and embeddings of what it finds; `covers`: the
    first results cover the phrases of the text."""

    def search(queries: Sequence[Query]) -> list[list[int]]:
        found = kb.search(text=[query.text for query in queries], k=K, **how)
        return rows_in(cover(kb, found) if covers else found, row_of)

    return search


def by_picture(
    kb: KnowledgeBase, row_of: Mapping[int, int], pictures: Sequence[Image], captions: Sequence[str], **how: Any
) -> Search:
    """The same by a picture, which is embedded; by its caption where `mode` is `bm25`."""

    def search(queries: Sequence[Query]) -> list[list[int]]:
        by: dict[str, Any] = {"images": [pictures[query.row] for query in queries]}
        if how.get("mode") == "bm25":
            by = {"text": [captions[query.row] for query in queries]}
        found = rows_in(kb.search(**by, k=K + 1, **how), row_of)
        return [[row for row in rows if row != query.row][:K] for query, rows in zip(queries, found, strict=True)]

    return search


def rows_in(found: Neighbors, row_of: Mapping[int, int]) -> list[list[int]]:
    """The rows that are neighbors of each query."""
    return [[row_of[item] for item in items if item >= 0] for items in found.ids.tolist()]


def judge(found: Sequence[int], query: Query) -> list[float]:
    """The measures `QUALITY` of one query."""
    hits = np.isin(np.asarray(found, np.int64), list(query.relevant))
    ideal = (1 / np.log2(np.arange(min(K, len(query.relevant))) + 2)).sum()
    recalls = [hits[:k].sum() / min(k, len(query.relevant)) for k in (1, 5, 20)]
    gain = (hits / np.log2(np.arange(len(hits)) + 2)).sum() / ideal
    both = bool(query.parts) and all(part & set(found[:5]) for part in query.parts)
    return [float(value) for value in (*recalls, gain, both)]


def compare(values: np.ndarray, others: np.ndarray) -> list[float]:
    """The mean difference of the same queries `(n,)`, and its 95% interval."""
    difference = values - others
    half = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.nan
    return [float(difference.mean() + part) for part in (0, -half, half)]


def times(search: Search, queries: Sequence[Query]) -> list[float]:
    """Median and 99% quantile of one query's time, in ms."""
    each = []
    for query in queries:
        start = time.perf_counter()
        search([query])
        each.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(each)), float(np.quantile(each, 0.99))]


def show(kind: str, contestants: Mapping[str, Search], queries: Sequence[Query], timed: int) -> Results:
    """A table, printed."""
    columns = QUALITY if queries[0].parts else QUALITY[:4]
    asked = repr(queries[0].text) if queries[0].text else "a picture"
    print(f"\n{kind}: {len(queries)} queries, as {asked}\n{'':24}", *(f"{name:>10}" for name in columns), end="")
    print(*(f"{name:>10}" for name in TIMES if timed), f"{BESIDE:>26}" * (BASELINE in contestants), sep=" ")
    results: Results = {}
    own = {name: np.asarray([*map(judge, search(queries), queries)]) for name, search in contestants.items()}
    for name, values in own.items():
        facts: dict[str, Any] = dict(zip(columns, values.mean(0).tolist(), strict=False))
        if timed:
            facts |= dict(zip(TIMES, times(contestants[name], queries[:timed]), strict=True))
        print(f"{name:24}", *(f"{value:10.3f}" for value in facts.values()), end=" ")
        if BASELINE in own:
            mean, low, high = compare(values[:, 3], own[BASELINE][:, 3])
            facts[BESIDE] = [mean, low, high]
            print(f"   {mean:+.3f} [{low:+.3f}, {high:+.3f}]", end="")
        results[name] = facts
        print(flush=True)
    return results


def languages(package: Path, codes: list[str], count: int, timed: int) -> dict[str, Results]:
    """Each emoji once, under its name in another language; asked for by a keyword of that language that stands in
    it."""
    results = {}
    for language, labels, queries in language_queries(package, codes, count):
        contestants = {"bm25": by_words(labels), "bm25, --compounds": by_words(labels, Analyzer(compounds=True))}
        if language in STEMS:
            contestants["bm25, --language"] = by_words(labels, Analyzer(language))
        results[language] = show(
            f"{language}, keywords in {len(labels)} names", contestants | peers(labels), queries, timed
        )
    return results


def open_base(data: Path, items: int, out: Path, tokens: int) -> KnowledgeBase:
    """A knowledge base of so many drawings, taken at random; made once."""
    place = out / (f"kb-{items}-tokens-{tokens}" if tokens else f"kb-{items}")
    if not place.exists():
        table = pq.read_table(data)
        rows = np.sort(np.random.default_rng(0).permutation(len(table))[:items])
        pq.write_table(table.take(pa.array(rows)), out / "some.parquet")
        KnowledgeBase.build(place, out / "some.parquet", caption_column="name", tokens=tokens)
    return KnowledgeBase.open(place)


def sample(
    drawings: Drawings, pictures: Sequence[Image], package: Path | None, count: int, seeds: Sequence[int]
) -> dict[str, list[Query]]:
    """The queries of each kind, of all seeds, each once."""
    colored = list(colored_queries(drawings, pictures))
    vendors = [] if package is None else list(vendor_queries(package, drawings))
    kinds: dict[str, dict[Query, None]] = {}
    for seed in seeds:
        for kind, queries in text_queries(drawings, colored, vendors, count, seed=seed).items():
            kinds.setdefault(kind, {}).update(dict.fromkeys(queries))
    return {kind: list(queries) for kind, queries in kinds.items()}


def text_contestants(
    kb: KnowledgeBase, row_of: Mapping[int, int], texts: list[str], rerankers: Mapping[str, Reranker]
) -> dict[str, Search]:
    """Ours and the others."""
    return {
        "bm25 as written": by_us(kb, row_of, mode="bm25", typos=False),
        "bm25": by_us(kb, row_of, mode="bm25"),
        "dense": by_us(kb, row_of, mode="dense"),
        "hybrid as written": by_us(kb, row_of, typos=False),
        BASELINE: by_us(kb, row_of),
        "hybrid, alpha even": by_us(kb, row_of, alpha="even"),
        **{f"hybrid, {name}": by_us(kb, row_of, rerank=each) for name, each in rerankers.items()},
        "hybrid, cover": by_us(kb, row_of, covers=True),
        **peers(texts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("drawings.parquet"))
    parser.add_argument("--items", type=int, default=4000, help="drawings, taken at random")
    parser.add_argument("--queries", type=int, default=300, help="of each kind")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the queries")
    parser.add_argument("--timed", type=int, default=100, help="queries of each kind that are timed; 0: none")
    parser.add_argument("--languages", type=Path, help="the package emojibase-data, as npm packs it")
    parser.add_argument("--rerank", nargs="+", default=["color"], help="rerankers of hybrid searches")
    parser.add_argument("--only", nargs="+", help="kinds of queries; all but these are left out")
    parser.add_argument("--contestants", nargs="+", help="rows of the tables; all but these are left out")
    parser.add_argument("--out", type=Path, default=Path("runs/find"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokens = TOKENS if "late" in arguments.rerank else 0
    kb = open_base(arguments.data, arguments.items, arguments.out, tokens)
    held = kb.get(kb.ids().tolist())
    drawings = read_drawings(held)
    pictures = [picture for picture in held.images()[0] if picture is not None]
    texts = [f"{name} {' '.join(tags)}" for name, tags in zip(drawings.names, drawings.tags, strict=True)]
    row_of = {item: row for row, item in enumerate(held.ids[0].tolist())}
    opened = {name: load_reranker(open_reranker(name)) for name in arguments.rerank}
    rerankers = {each.name: each for each in opened.values() if each is not None}
    by_text = text_contestants(kb, row_of, texts, rerankers)
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
    kinds = sample(drawings, pictures, arguments.languages, arguments.queries, arguments.seeds)
    contests = [(kind, by_text, queries) for kind, queries in kinds.items()]
    looks = picture_queries(drawings, arguments.queries)
    contests += [(kind, by_look, queries) for kind, queries in looks.items()]
    results: dict[str, Results] = {}
    for kind, contestants, queries in contests:
        chosen = {name: each for name, each in contestants.items() if name in (arguments.contestants or contestants)}
        if chosen and kind in (arguments.only or kinds | dict.fromkeys(looks)):
            results[kind] = show(kind, chosen, queries, arguments.timed)
            (arguments.out / "find.json").write_text(json.dumps(results, indent=1))
    if arguments.languages is not None and not {*(arguments.only or LANGUAGES)}.isdisjoint(LANGUAGES):
        results |= languages(arguments.languages, drawings.codes, arguments.queries, arguments.timed)
    (arguments.out / "find.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
