"""A whole knowledge base of many items: made from a folder of embeddings, opened, searched, changed; time, peak memory
and disk of each step.

The folder is in clip-retrieval's layout, so nothing is embedded: what is timed is what a knowledge base itself costs.
Vectors are those of retrieval.py, captions those of words.py. Steps run in processes of their own, so that each peak
is its own.

    python benchmarks/scale.py --items 1000000 --memory 2G --out runs/scale
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import retrieval
import words

PART = 100_000


class Stranger:
    """Stands for the encoder that the embeddings are of; it is not asked."""

    name, dim, fingerprint, shared_dim = "stranger", retrieval.DIM, "0123456789abcdef", retrieval.DIM

    def embed_images(self, pictures: Sequence[object]) -> np.ndarray:
        raise NotImplementedError

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        raise NotImplementedError


def folder_of(out: Path, items: int) -> Path:
    """The clip-retrieval folder, once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = out / f"source-{items}"
    if not folder.exists():
        vectors = out / f"vectors-{items}.npy"
        if not vectors.exists():
            retrieval.generate(vectors, items)
        captions, _ = words.captions_and_queries(items)
        whole = np.load(vectors, mmap_mode="r")
        for part, start in enumerate(range(0, items, PART)):
            (folder / "img_emb").mkdir(parents=True, exist_ok=True)
            (folder / "metadata").mkdir(exist_ok=True)
            stop = min(items, start + PART)
            np.save(folder / "img_emb" / f"img_emb_{part:04d}.npy", np.asarray(whole[start:stop], np.float16))
            table = pa.table(
                {
                    "image_path": [f"{n}.jpg" for n in range(start, stop)],
                    "caption": captions[start:stop],
                    "number": range(start, stop),
                }
            )
            pq.write_table(table, folder / "metadata" / f"metadata_{part:04d}.parquet")
    return folder


def step(name: str, out: Path, items: int, memory: int) -> dict[str, float]:
    """One step in this process."""
    from bowerbird import KnowledgeBase
    from bowerbird.knowledge.search import dense

    path = out / f"kb-{items}"
    before = retrieval.peak_bytes()
    encoder = Stranger()
    queries = np.ascontiguousarray(np.load(out / f"vectors-{items}.npy", mmap_mode="r")[-100:])
    facts: dict[str, float] = {}

    def timed(what: str, start: float) -> None:
        facts[what] = time.perf_counter() - start

    start = time.perf_counter()
    if name == "build":
        shutil.rmtree(path, ignore_errors=True)
        told = lambda line: print(line, file=sys.stderr)  # noqa: E731
        kb, _ = KnowledgeBase.build(path, folder_of(out, items), encoder=encoder, memory=memory, on_message=told)
        timed("build s", start)
        facts["disk MB"] = kb.info()["bytes"] / 1e6
    elif name == "open":
        import bm25s  # noqa: F401
        import faiss  # noqa: F401
        import lancedb  # noqa: F401

        dense.exact(dense.Vectors(queries, np.ones(len(queries), np.float32)), queries, 1)
        start = time.perf_counter()
        kb = KnowledgeBase.open(path, encoder=encoder)
        kb.search(embeddings=queries[:1], k=4)
        timed("open and first search s", start)
        times = []
        for query in queries:
            start = time.perf_counter()
            kb.search(embeddings=query[None], k=4)
            times.append(time.perf_counter() - start)
        facts["search p50 ms"] = 1e3 * float(np.median(times))
    else:
        kb = KnowledgeBase.open(path, encoder=encoder, memory=memory)
        ids = kb.ids()[:1000].tolist()
        start = time.perf_counter()
        kb.remove(ids=ids)
        timed("remove 1,000 s", start)
        start = time.perf_counter()
        kb.search(embeddings=queries[:1], k=4)
        timed("search after it s", start)
        start = time.perf_counter()
        kb.search(embeddings=queries[:1], k=4, where="number % 1000 = 7")
        timed("search with a condition s", start)
    facts["peak MB"] = (retrieval.peak_bytes() - before) / 1e6
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--out", type=Path, default=Path("runs/scale"))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        from bowerbird.knowledge.search.planner import parse_memory

        print(json.dumps(step(arguments.step, arguments.out, arguments.items, parse_memory(arguments.memory))))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder_of(arguments.out, arguments.items)
    for name in ("build", "open", "change"):
        command = [
            sys.executable,
            __file__,
            "--step",
            name,
            "--out",
            str(arguments.out),
            "--items",
            str(arguments.items),
            "--memory",
            arguments.memory,
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(
            name, {key: round(value, 3) for key, value in json.loads(done.stdout.splitlines()[-1]).items()}, flush=True
        )


if __name__ == "__main__":
    main()
