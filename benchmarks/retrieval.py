"""Dense search at 10^5 and 10^6 vectors: our index beside ScaNN with RDM's settings, plain FAISS, and the time, memory
and recall of each.

Vectors are clustered (the generator is below), queries are drawn from the same clusters and are not in the database.
Each contestant is a process of its own, started by this one, so that its peak memory is its own; vectors are mapped
from one file by all. One query at a time.

    python benchmarks/retrieval.py --items 100000 1000000 --out runs/retrieval

ScaNN is asked for only if it is installed (pip install scann).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

K, DIM, QUERIES = 20, 512, 300


def generate(path: Path, items: int) -> None:
    """Unit vectors in clusters of about 100, themselves in 200 groups; the last `QUERIES` are the queries. Written
    block by block."""
    rng = np.random.default_rng(0)
    groups = rng.normal(size=(200, DIM)).astype(np.float32)
    centers = groups[rng.integers(200, size=max(1, items // 100))] + 0.9 * rng.normal(
        size=(max(1, items // 100), DIM)
    ).astype(np.float32)
    made = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(items + QUERIES, DIM))
    for start in range(0, len(made), 50_000):
        rows = slice(start, min(start + 50_000, len(made)))
        block = centers[rng.integers(len(centers), size=rows.stop - rows.start)] + 0.8 * rng.normal(
            size=(rows.stop - rows.start, DIM)
        ).astype(np.float32)
        made[rows] = block / np.linalg.norm(block, axis=1, keepdims=True)
    made.flush()


def ours(vectors: np.ndarray, memory: int, path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """The index of a knowledge base, as `kb build --memory` makes it."""
    from bowerbird.knowledge.search import ann, dense, planner

    chosen = planner.choose(len(vectors), DIM, memory)
    held = dense.Vectors(vectors, np.ones(len(vectors), np.float32))
    if chosen.kind == "flat":
        return lambda q: dense.exact(held, q, K)[0], chosen.describe()
    with tempfile.TemporaryDirectory() as folder:
        index = ann.build(held, chosen, Path(folder), lambda line: print(line, file=sys.stderr))
    if chosen.small:
        steps = dense.quantize(held, Path(tempfile.gettempdir()) / "small.npy")
        held = dense.Vectors(
            held.raw,
            held.lengths,
            dense.load_small(Path(tempfile.gettempdir()) / "small.npy"),
            steps,
            dense.RowFile(path),
        )
    facts = ann.tune(index, held, chosen, lambda line: print(line, file=sys.stderr))
    return (
        lambda q: dense.approximate(index, held, q, K, probes=facts["probes"], depth=facts["depth"])[0],
        f"{chosen.describe()}; {facts}",
    )


def scann(vectors: np.ndarray, memory: int, path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """ScaNN with the settings of RDM's retriever: sqrt(n) leaves, a twentieth searched, a tenth to train on, 2 k
    reordered."""
    import scann as peer

    leaves = int(np.sqrt(len(vectors)))
    built = (
        peer.scann_ops_pybind.builder(np.asarray(vectors), K, "dot_product")
        .tree(num_leaves=leaves, num_leaves_to_search=max(1, leaves // 20), training_sample_size=len(vectors) // 10)
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(2 * K)
        .build()
    )
    return lambda q: built.search(q[0], final_num_neighbors=K)[0][None], f"{leaves} leaves, {leaves // 20} searched"


def faiss_flat(vectors: np.ndarray, memory: int, path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """FAISS, every vector."""
    import faiss

    index = faiss.IndexFlatIP(DIM)
    index.add(np.asarray(vectors))
    return lambda q: index.search(q, K)[1], "flat"


def faiss_hnsw(vectors: np.ndarray, memory: int, path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """FAISS's graph over 8-bit vectors."""
    import faiss

    index = faiss.index_factory(DIM, "HNSW32_SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(np.asarray(vectors[:50_000]))
    index.add(np.asarray(vectors))
    faiss.ParameterSpace().set_index_parameter(index, "efSearch", 128)
    return lambda q: index.search(q, K)[1], "HNSW32_SQ8, efSearch 128"


def lancedb_pq(vectors: np.ndarray, memory: int, path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """LanceDB alone: its product quantization, refined from the stored vectors."""
    os.environ["LANCEDB_LOG"] = "error"
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfPq

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(vectors), 50_000):
            block = np.ascontiguousarray(vectors[start : start + 50_000])
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), DIM)
            yield pa.record_batch({"id": np.arange(start, start + len(block)), "vector": column})

    schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), DIM))])
    place = path.parent / "lancedb"
    shutil.rmtree(place, ignore_errors=True)
    table = lancedb.connect(str(place)).create_table("rows", pa.RecordBatchReader.from_batches(schema, batches()))
    lists = max(1, len(vectors) // 4096)
    table.create_index("vector", config=IvfPq(distance_type="cosine", num_partitions=lists, num_sub_vectors=DIM // 8))

    def search(q: np.ndarray) -> np.ndarray:
        asked = (
            table.search(q[0], vector_column_name="vector")
            .distance_type("cosine")
            .nprobes(20)
            .refine_factor(10)
            .limit(K)
        )
        return asked.select(["id", "_distance"]).to_arrow()["id"].to_numpy()[None]

    return search, f"IVF_PQ, {lists} lists, 20 probed, refined 10 k"


CONTESTANTS = {"ours": ours, "scann": scann, "faiss flat": faiss_flat, "faiss hnsw": faiss_hnsw, "lancedb": lancedb_pq}


def peak_bytes() -> int:
    """The most memory that this process has held, mapped files included."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def contest(name: str, path: Path, memory: int) -> None:
    """Build and search in this process, and print the figures as JSON."""
    whole = np.load(path, mmap_mode="r")
    vectors, queries = whole[:-QUERIES], np.ascontiguousarray(whole[-QUERIES:])
    before = peak_bytes()
    start = time.perf_counter()
    search, told = CONTESTANTS[name](vectors, memory, path)
    built, built_with = time.perf_counter() - start, peak_bytes() - before
    found, times = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(search(query[None])[0])
        times.append(time.perf_counter() - start)
    truth = np.load(path.with_suffix(".truth.npy"))
    hit = float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, truth, strict=True)]))
    facts = {
        "build s": built,
        "p50 ms": 1e3 * float(np.median(times)),
        "p99 ms": 1e3 * float(np.quantile(times, 0.99)),
        "recall@20": hit,
        "build MB": built_with / 1e6,
        "peak MB": (peak_bytes() - before) / 1e6,
    }
    print(json.dumps({**facts, "told": told}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--memory", type=int, default=2 * 1024**3)
    parser.add_argument("--out", type=Path, default=Path("runs/retrieval"))
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS))
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        contest(arguments.contestant, arguments.path, arguments.memory)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    for items in arguments.items:
        path = arguments.out / f"vectors-{items}.npy"
        if not path.exists():
            generate(path, items)
        if not path.with_suffix(".truth.npy").exists():
            from bowerbird.knowledge.search import dense

            whole = np.load(path, mmap_mode="r")
            truth = dense.exact(
                dense.Vectors(whole[:-QUERIES], np.ones(items, np.float32)), np.ascontiguousarray(whole[-QUERIES:]), K
            )[0]
            np.save(path.with_suffix(".truth.npy"), truth)
        print(
            f"{items:,} vectors of {DIM}\n{'':12} {'build s':>8} {'p50 ms':>8} {'p99 ms':>8} {'recall@20':>10}"
            f" {'build MB':>9} {'peak MB':>9}"
        )
        results = {}
        for name in arguments.only:
            command = [
                sys.executable,
                __file__,
                "--contestant",
                name,
                "--path",
                str(path),
                "--memory",
                str(arguments.memory),
            ]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                print(f"{name:12} could not run: {done.stderr.strip().splitlines()[-1][:120]}")
                continue
            facts = results[name] = json.loads(done.stdout.splitlines()[-1])
            figures = (
                f"{facts['build s']:8.1f} {facts['p50 ms']:8.2f} {facts['p99 ms']:8.2f} {facts['recall@20']:10.3f}"
            )
            figures += f" {facts['build MB']:9,.0f} {facts['peak MB']:9,.0f}"
            print(f"{name:12} {figures}   {facts['told']}", flush=True)
        if {"ours", "scann"} <= set(results):
            ratios = {
                key: results["ours"][key] / results["scann"][key]
                for key in ("p50 ms", "build s", "build MB", "peak MB")
            }
            print("ours / scann: " + ", ".join(f"{key} {ratio:.2f}" for key, ratio in ratios.items()))


if __name__ == "__main__":
    main()
