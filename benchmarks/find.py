"""Text to picture on the drawings: names as they are, rare ones, mistyped ones, tags, and words of other languages.

Ours (`bm25`, `dense`, `hybrid`; "as written" is without near words) beside bm25s and SQLite's FTS5 with what they do by
themselves, over the same captions and tags, in one process. recall@k is the share of the relevant pictures (of the same
name; of the same emoji for tags and languages) among the first k, of as many as k can hold.

    npm pack emojibase-data    # names of emoji in other languages, optional
    python benchmarks/find.py --data drawings.parquet --languages emojibase-data-17.0.0.tgz --out runs/find
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sqlite3
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import bm25s
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bowerbird import KnowledgeBase
from bowerbird.knowledge.search import bm25
from bowerbird.knowledge.search.words import words

K = 20
LANGUAGES = ("de", "fr", "es", "ru", "ja", "zh", "ko", "th", "hi", "fi")
Search = Callable[[str], Sequence[int]]
Query = tuple[str, set[int]]
"""A text, and the rows that answer it."""


def by_bm25s(texts: list[str]) -> Search:
    """bm25s with its own tokenizer: words of two letters and more, English function words left out."""
    index = bm25s.BM25(method="lucene")
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def search(text: str) -> Sequence[int]:
        asked = bm25s.tokenize([text], stopwords="en", show_progress=False, return_ids=False)
        rows, scores = index.retrieve(asked, k=min(K, len(texts)), show_progress=False)
        found: list[int] = rows[0][scores[0] > 0].tolist()
        return found

    return search


def by_fts5(texts: list[str]) -> Search:
    """SQLite's full-text index: any of the words, by BM25."""
    base = sqlite3.connect(":memory:")
    base.execute("CREATE VIRTUAL TABLE found USING fts5(text)")
    base.executemany("INSERT INTO found(rowid, text) VALUES (?, ?)", enumerate(texts, 1))

    def search(text: str) -> Sequence[int]:
        asked = " OR ".join(f'"{word}"' for word in re.findall(r"[^\s\"]+", text))
        rows = base.execute("SELECT rowid FROM found WHERE found MATCH ? ORDER BY rank LIMIT ?", (asked, K))
        return [row - 1 for (row,) in rows]

    return search


def by_words(texts: list[str]) -> Search:
    """Our word index alone."""
    index = bm25.build(texts, [""] * len(texts))
    return lambda text: [row for row in bm25.best_rows(index, text, K)[0].tolist() if row >= 0]


def by_us(kb: KnowledgeBase, row_of: dict[int, int], mode: str, *, typos: bool) -> Search:
    """A search of the knowledge base, with captions, metadata and embeddings of what it finds."""

    def search(text: str) -> Sequence[int]:
        found = kb.search(text=text, k=K, mode=mode, typos=typos)
        return [row_of[item] for item in found.ids[0].tolist() if item >= 0]

    return search


def mistype(name: str, rng: random.Random) -> str | None:
    """A name with one mistake in its longest word; None where no word is long enough."""
    word = max(re.findall(r"[a-z]+", name), key=len, default="")
    if len(word) < 5:
        return None
    at, kind = rng.randrange(1, len(word) - 1), rng.randrange(4)
    letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
    put = {0: letter + word[at], 1: "", 2: letter, 3: word[at + 1] + word[at]}[kind]
    return name.replace(word, word[:at] + put + word[at + (2 if kind == 3 else 1) :], 1)


def queries_of(names: list[str], tags: list[str], codes: list[str], count: int) -> dict[str, list[Query]]:
    """The queries of each kind."""
    rng = random.Random(0)
    of_name: dict[str, set[int]] = {}
    of_code: dict[str, set[int]] = {}
    for row, (name, code) in enumerate(zip(names, codes, strict=True)):
        of_name.setdefault(name, set()).add(row)
        of_code.setdefault(code, set()).add(row)
    frequency = Counter(word for name in of_name for word in set(words(name)))
    chosen = rng.sample(sorted(of_name), min(count, len(of_name)))
    rare = [name for name in sorted(of_name) if any(frequency[word] == 1 for word in words(name))]
    typed = [(wrong, of_name[name]) for name in chosen if (wrong := mistype(name, rng))]
    described = [(tags[min(rows)], rows) for rows in of_code.values() if tags[min(rows)]]
    return {
        "names": [(name, of_name[name]) for name in chosen],
        "rare names": [(name, of_name[name]) for name in rng.sample(rare, min(count, len(rare)))],
        "mistyped names": typed,
        "tags": rng.sample(described, min(count, len(described))),
    }


def measure(search: Search, queries: list[Query]) -> dict[str, float]:
    """Means over the queries, and what one takes."""
    sums, times = Counter[str](), []
    for text, relevant in queries:
        start = time.perf_counter()
        found = search(text)
        times.append(1e3 * (time.perf_counter() - start))
        hits = np.isin(np.asarray(found, np.int64), list(relevant))
        for k in (1, 5, 20):
            sums[f"recall@{k}"] += hits[:k].sum() / min(k, len(relevant))
        ideal = (1 / np.log2(np.arange(min(K, len(relevant))) + 2)).sum()
        sums["nDCG@20"] += (hits / np.log2(np.arange(len(hits)) + 2)).sum() / ideal
    means = {name: float(sums[name]) / len(queries) for name in ("recall@1", "recall@5", "recall@20", "nDCG@20")}
    return {**means, "p50 ms": float(np.median(times)), "p99 ms": float(np.quantile(times, 0.99))}


def show(kind: str, contestants: dict[str, Search], queries: list[Query]) -> dict[str, dict[str, float]]:
    """A table, printed."""
    results = {}
    print(
        f"\n{kind}: {len(queries)} queries\n{'':20}", *(f"{n:>9}" for n in ("r@1", "r@5", "r@20", "nDCG", "p50", "p99"))
    )
    for name, search in contestants.items():
        results[name] = measure(search, queries)
        print(f"{name:20}", *(f"{value:9.3f}" for value in results[name].values()), flush=True)
    return results


def plain(code: str) -> str:
    """A hexcode without the mark that asks for a colored picture, as not everybody writes it."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def languages(package: Path, codes: list[str], count: int) -> dict[str, dict[str, dict[str, float]]]:
    """Each emoji once, under its name in another language; asked for by a keyword of that language that stands in
    it."""
    results = {}
    with tarfile.open(package) as archive:
        for language in LANGUAGES:
            file = archive.extractfile(f"package/{language}/data.json")
            entries = json.load(file) if file is not None else []
            known = {plain(entry["hexcode"]): entry for entry in entries if entry.get("label")}
            some = [known[code] for code in sorted({plain(code) for code in codes}) if code in known]
            labels = [entry["label"] for entry in some]
            rows_of: dict[str, set[int]] = {}
            for row, entry in enumerate(some):
                for tag in entry.get("tags", ()):
                    if tag.casefold() in entry["label"].casefold():
                        rows_of.setdefault(tag, set()).add(row)
            asked = sorted(rows_of.items())
            asked = random.Random(0).sample(asked, min(count, len(asked)))
            contestants = {"ours": by_words(labels), "bm25s": by_bm25s(labels), "SQLite FTS5": by_fts5(labels)}
            results[language] = show(f"{language}, keywords in {len(labels)} names", contestants, asked)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("drawings.parquet"))
    parser.add_argument("--items", type=int, default=4000, help="drawings, taken at random")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--languages", type=Path, help="the package emojibase-data, as npm packs it")
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
    names = list(held.captions[0])
    listed = [facts.get("tags") or [] for facts in held.metadata[0]]
    tags = [each if isinstance(each, str) else " ".join(each) for each in listed]
    codes = [str(facts["hexcode"]) for facts in held.metadata[0]]
    texts = [f"{name} {more}" for name, more in zip(names, tags, strict=True)]
    row_of = {item: row for row, item in enumerate(held.ids[0].tolist())}
    contestants: dict[str, Search] = {
        "bm25 as written": by_us(kb, row_of, "bm25", typos=False),
        "bm25": by_us(kb, row_of, "bm25", typos=True),
        "dense": by_us(kb, row_of, "dense", typos=False),
        "hybrid as written": by_us(kb, row_of, "hybrid", typos=False),
        "hybrid": by_us(kb, row_of, "hybrid", typos=True),
        "bm25s": by_bm25s(texts),
        "SQLite FTS5": by_fts5(texts),
    }
    kb.search(text="warm up", k=1)
    print(f"{len(kb):,} drawings")
    queries = queries_of(names, tags, codes, arguments.queries)
    results = {kind: show(kind, contestants, asked) for kind, asked in queries.items()}
    if arguments.languages is not None:
        results |= languages(arguments.languages, codes, arguments.queries)
    (arguments.out / "find.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
