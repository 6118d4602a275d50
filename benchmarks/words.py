"""Word search over 10^6 captions: our BM25 beside bm25s with numba and LanceDB's own, one query at a time, and how
soon a new row is found.

Captions are eight words of a Zipf vocabulary (generator below). Each contestant is a process of its own. numba is
asked for only if it is there.

    python benchmarks/words.py --items 1000000 --out runs/words
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

K, QUERIES, VOCABULARY = 20, 300, 50_000
Search = Callable[[str], np.ndarray]


def captions_and_queries(items: int) -> tuple[list[str], list[str]]:
    """`items` captions and `QUERIES` queries of one to three words, neither too rare nor the commonest."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(letters[rng.integers(26, size=rng.integers(3, 10))]) + "o" for _ in range(VOCABULARY)]
    ranks = np.minimum(rng.zipf(1.15, size=(items, 8)) - 1, VOCABULARY - 1)
    captions = [" ".join(words[r] for r in row) for row in ranks.tolist()]
    queries = [" ".join(words[r] for r in rng.integers(5, 5000, size=rng.integers(1, 4))) for _ in range(QUERIES)]
    return captions, queries


def ours(captions: list[str], folder: Path) -> Search:
    """The word index of a knowledge base, from its files."""
    from bowerbird.knowledge.search import bm25

    bm25.save(bm25.build(captions, [""] * len(captions)), folder / "words")
    start = time.perf_counter()
    index = bm25.load(folder / "words")
    print(f"ours: opened in {time.perf_counter() - start:.2f} s", file=sys.stderr)
    return lambda text: bm25.best_rows(index, text, K)[0]


def bm25s_numba(captions: list[str], folder: Path) -> Search:
    """bm25s with its numba backend, over the same words, everything in memory."""
    import bm25s

    from bowerbird.knowledge.search import bm25
    from bowerbird.knowledge.search.words import words

    index = bm25s.BM25(method="lucene", k1=bm25.K1, b=bm25.B, backend="numba")
    index.compile()
    index.index([words(c) for c in captions], show_progress=False)
    search: Search = lambda text: index.retrieve([words(text)], k=K, show_progress=False)[0][0]  # noqa: E731
    for _ in range(3):
        search("warm up " + captions[0])
    return search


def lancedb_fts(captions: list[str], folder: Path) -> Search:
    """LanceDB's full-text index."""
    os.environ["LANCEDB_LOG"] = "error"
    import lancedb
    import pyarrow as pa
    from lancedb.index import FTS

    table = lancedb.connect(str(folder)).create_table(
        "rows", pa.table({"id": np.arange(len(captions)), "caption": captions})
    )
    table.create_index(
        "caption", config=FTS(with_position=False, stem=False, remove_stop_words=False, language="English")
    )
    table.wait_for_index(["caption_idx"])
    return lambda text: (
        table.search(text, query_type="fts").limit(K).select(["id", "_score"]).to_arrow()["id"].to_numpy()
    )


CONTESTANTS = {"ours": ours, "bm25s numba": bm25s_numba, "lancedb": lancedb_fts}


def contest(name: str, items: int) -> None:
    """Build and search in this process, and print the figures as JSON."""
    captions, queries = captions_and_queries(items)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        search = CONTESTANTS[name](captions, Path(folder))
        built = time.perf_counter() - start
        times = []
        for text in queries:
            start = time.perf_counter()
            search(text)
            times.append(time.perf_counter() - start)
    print(
        json.dumps(
            {"build s": built, "p50 ms": 1e3 * float(np.median(times)), "p99 ms": 1e3 * float(np.quantile(times, 0.99))}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS))
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        contest(arguments.contestant, arguments.items)
        return
    results = {}
    print(f"{arguments.items:,} captions\n{'':12} {'build s':>8} {'p50 ms':>8} {'p99 ms':>8}")
    for name in arguments.only:
        command = [sys.executable, __file__, "--contestant", name, "--items", str(arguments.items)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            print(f"{name:12} could not run: {done.stderr.strip().splitlines()[-1][:120]}")
            continue
        facts = results[name] = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name:12} {facts['build s']:8.1f} {facts['p50 ms']:8.2f} {facts['p99 ms']:8.2f}",
            *[x for x in done.stderr.splitlines() if x.startswith(name)],
            flush=True,
        )
    for peer in ("bm25s numba", "lancedb"):
        if {"ours", peer} <= set(results):
            print(f"ours / {peer}: p50 {results['ours']['p50 ms'] / results[peer]['p50 ms']:.2f}")


if __name__ == "__main__":
    main()
