"""How long a search takes: as a whole process from the shell, and inside one process beside the bare libraries below
it.

python benchmarks/search.py --data drawings.parquet --out runs/search
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bm25s
import faiss
import numpy as np

from bowerbird import KnowledgeBase
from bowerbird.knowledge.search import bm25, dense
from bowerbird.knowledge.search.words import words


def seconds(task: Callable[[], object], repeats: int) -> float:
    """Median wall time of `task`."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("drawings.parquet"))
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    arguments = parser.parse_args()
    path = arguments.out / "kb"
    if not path.exists():
        start = time.perf_counter()
        KnowledgeBase.build(path, arguments.data)
        print(f"built in {time.perf_counter() - start:.1f} s")
    kb = KnowledgeBase.open(path)
    print(f"{len(kb):,} items")
    for mode, goal in (("bm25", 1.5), ("dense", 3.5), ("hybrid", 3.5)):
        command = [
            sys.executable,
            "-m",
            "bowerbird",
            "search",
            str(path),
            "--text",
            "red fox",
            "--mode",
            mode,
            "--json",
        ]
        took = seconds(partial(subprocess.run, command, check=True, capture_output=True), 5)
        print(f"whole process, {mode:7} {took:6.2f} s  (goal below {goal})")
    everything = kb.get(kb.ids().tolist())
    vectors, captions = everything.embeddings[0], list(everything.captions[0])
    query = vectors[:1]
    index, by_words = faiss.IndexFlatIP(vectors.shape[1]), bm25.build(captions, [""] * len(captions))
    index.add(dense.prepare(vectors, True))
    ours = seconds(lambda: kb.search(embeddings=query, k=20), 200)
    bare = seconds(lambda: index.search(dense.prepare(query, True), 20), 200)
    print(f"in process, dense: ours {ours * 1e3:.2f} ms, FAISS flat alone {bare * 1e3:.2f} ms, ratio {ours / bare:.2f}")
    ours = seconds(lambda: kb.search(text="red fox", k=20, mode="bm25"), 200)
    bm25.save(by_words, folder := Path(tempfile.mkdtemp()))
    theirs = bm25s.BM25.load(str(folder))
    bare = seconds(lambda: theirs.retrieve([words("red fox")], k=20, show_progress=False), 200)
    print(
        f"in process, bm25: ours {ours * 1e3:.2f} ms, bm25s alone {bare * 1e3:.2f} ms, ratio {ours / bare:.2f} (ours"
        " adds captions, metadata, embeddings)"
    )


if __name__ == "__main__":
    main()
