"""Late interaction: what MaxSim over stored tokens costs a query, and what it finds.

Speed: 100 candidates of `--tokens` tokens, the scores by our product of matrices and by the plain einsum of ColBERT's
formula over a padded array (as `score_retrieval` of transformers does it, in torch), and a whole re-ranked search
beside the plain one. Quality: names -> drawings and drawing -> others of the same name, with and without.

    python benchmarks/late.py --data drawings.parquet --encoder small --out runs/late
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bowerbird import KnowledgeBase
from bowerbird.knowledge.rerank.tokens import max_sim, unit

CANDIDATES = 100


def percentiles(call: Callable[[], Any], times: int) -> tuple[float, float]:
    """p50 and p99 of a call, in ms."""
    call()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - start))
    return float(np.median(taken)), float(np.quantile(taken, 0.99))


def by_einsum(query: np.ndarray, items: Sequence[np.ndarray]) -> np.ndarray:
    """ColBERT's formula as it is written, over items padded to one length."""
    padded = np.zeros((len(items), max(map(len, items)), query.shape[1]), np.float32)
    for row, item in enumerate(items):
        padded[row, : len(item)] = item
    found: np.ndarray = np.einsum("qd,nmd->nqm", query, padded).max(2).mean(1)
    return found


def by_torch(query: np.ndarray, items: Sequence[np.ndarray]) -> np.ndarray:
    """As transformers' `score_retrieval` does it."""
    import torch

    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(item) for item in items], batch_first=True)
    found: np.ndarray = torch.einsum("bnd,csd->bcns", torch.from_numpy(query)[None], padded).amax(3).mean(2)[0].numpy()
    return found


def speed(tokens: int, dim: int, asked: int) -> dict[str, Any]:
    """Scores of 100 items alone, on random unit vectors."""
    rng = np.random.default_rng(0)
    query = unit(rng.normal(size=(asked, dim)))
    items = [unit(rng.normal(size=(tokens, dim))) for _ in range(CANDIDATES)]
    ways: dict[str, Callable[..., np.ndarray]] = {"ours": max_sim, "einsum": by_einsum, "torch": by_torch}
    found = {}
    for name, way in ways.items():
        np.testing.assert_allclose(way(query, items), max_sim(query, items), atol=1e-5)
        p50, p99 = percentiles(partial(way, query, items), 200)
        found[name] = {"p50 ms": p50, "p99 ms": p99}
    ours = found["ours"]["p50 ms"]
    line = ", ".join(f"{name} {each['p50 ms']:.3f} / {each['p99 ms']:.3f}" for name, each in found.items())
    print(f"MaxSim of {asked} x {CANDIDATES} x {tokens} tokens of {dim}, p50 / p99 in ms: {line}")
    print("  ratio to ours:", ", ".join(f"{name} {each['p50 ms'] / ours:.2f}" for name, each in found.items()))
    return found


def found_in(rows: np.ndarray, relevant: set[int], k: int) -> float:
    return len(set(rows[:k].tolist()) & relevant) / min(k, len(relevant))


def quality(kb: KnowledgeBase, count: int) -> dict[str, dict[str, float]]:
    """Recall at 1, 5 and 20 by a name, and by a picture of the same name, each with the first search alone and with
    late re-ranking; and milliseconds of a query."""
    held = kb.get(kb.ids().tolist())
    of_name: dict[str, list[int]] = {}
    for item, name in zip(held.ids[0].tolist(), held.captions[0], strict=True):
        of_name.setdefault(name, []).append(item)
    rng = random.Random(0)
    names = rng.sample(sorted(of_name), min(count, len(of_name)))
    several = [name for name in sorted(of_name) if len(of_name[name]) > 1]
    several = rng.sample(several, min(count, len(several)))
    results: dict[str, dict[str, float]] = {}
    for kind, mode in (("names, dense", "dense"), ("names, hybrid", "hybrid"), ("a drawing", "image")):
        for rerank in ("none", "late"):
            sums, taken = np.zeros(3), []
            for name in several if mode == "image" else names:
                own = of_name[name][0] if mode == "image" else -1
                options: dict[str, Any] = {"k": 21, "rerank": rerank}
                if mode == "image":
                    options["images"] = [kb.pictures(np.array([[own]]))[0][0]]
                else:
                    options |= {"text": name, "mode": mode}
                start = time.perf_counter()
                rows = kb.search(**options).ids[0]
                taken.append(1e3 * (time.perf_counter() - start))
                relevant = set(of_name[name]) - {own}
                sums += [found_in(rows[rows != own], relevant, k) for k in (1, 5, 20)]
            means = dict(zip(("r@1", "r@5", "r@20"), (sums / len(taken)).tolist(), strict=True))
            means |= {"p50 ms": float(np.median(taken)), "p99 ms": float(np.quantile(taken, 0.99))}
            results[f"{kind}, {rerank}"] = means
            print(f"{kind + ', ' + rerank:24}", *(f"{key} {value:.3f}" for key, value in means.items()), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("drawings.parquet"))
    parser.add_argument("--items", type=int, default=4000, help="drawings, taken at random")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--where", help="SQL over the drawings, as in \"split = 'test'\"")
    parser.add_argument("--out", type=Path, default=Path("runs/late"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"speed": {f"{m} x {d}": speed(m, d, 12) for m, d in ((16, 144), (64, 128))}}
    table = pq.read_table(arguments.data)
    rows = np.sort(np.random.default_rng(0).permutation(len(table))[: arguments.items])
    pq.write_table(table.take(pa.array(rows)), arguments.out / "some.parquet")
    place = arguments.out / f"kb-{Path(arguments.encoder).parent.name}-{arguments.items}-{arguments.tokens}"
    if not place.exists():
        KnowledgeBase.build(
            place,
            arguments.out / "some.parquet",
            encoder=arguments.encoder,
            caption_column="name",
            where=arguments.where,
            tokens=arguments.tokens,
        )
    kb = KnowledgeBase.open(place, encoder=arguments.encoder)
    kb.search(text="warm up", k=1, rerank="late")
    print(f"{len(kb):,} drawings, encoder {kb.encoder_name}, {arguments.tokens} tokens")
    results["quality"] = quality(kb, arguments.queries)
    (arguments.out / "late.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
