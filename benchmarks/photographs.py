"""What the extra `photos` finds: photographs by a photograph, and captions by words that they do not have.

`--photos`: small photographs with a label. Of each, the ten nearest: the share of the same label (precision@10), for
each encoder named and for histograms of 64 colors, which no network is needed for.
`--data`: drawings with names and tags. Captions are the names alone; asked is for a tag no word of which is in the
name. Recall@1, @5 and @20, where the emoji that have the tag are right, by words, by embeddings, by what captions mean,
and fused with and without that.

    pip install '.[photos]'
    python benchmarks/photographs.py --photos cifar10-test.parquet --data drawings.parquet --out runs/photographs
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bowerbird import KnowledgeBase, encoders
from bowerbird.knowledge.search import query
from bowerbird.knowledge.search.words import words

K = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--photos", type=Path, help="parquet with the columns image and label")
    parser.add_argument("--count", type=int, default=1000, help="photographs")
    parser.add_argument("--encoders", nargs="+", default=["small", "photos"])
    parser.add_argument("--data", type=Path, help="parquet with the columns image, name, tags, hexcode and style")
    parser.add_argument("--style", default="noto")
    parser.add_argument("--caption-encoder", default="minilm")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    if arguments.photos is not None:
        found["photographs"] = photographs(arguments.photos, arguments.count, arguments.encoders)
    if arguments.data is not None:
        found["captions"] = captions(arguments.data, arguments.style, arguments.caption_encoder, arguments.queries)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "photographs.json").write_text(json.dumps(found, indent=2))


def photographs(path: Path, count: int, names: Sequence[str]) -> dict[str, Any]:
    table = pq.read_table(path, columns=["image", "label"])
    table = table.take(np.random.default_rng(0).permutation(len(table))[:count])
    stored = [row["bytes"] if isinstance(row, dict) else row for row in table["image"].to_pylist()]
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in stored]
    labels = np.asarray(table["label"].to_pylist())
    ways: dict[str, Callable[[], np.ndarray]] = {"colors": lambda: np.stack([colors(picture) for picture in pictures])}
    for name in names:
        ways[name] = lambda name=name: encoders.load(name).embed_images(pictures)  # type: ignore[misc]
    made = {}
    for name, way in ways.items():
        start = time.perf_counter()
        vectors = way()
        seconds = time.perf_counter() - start
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        near = unit @ unit.T
        np.fill_diagonal(near, -np.inf)
        first = np.argsort(-near, axis=1)[:, :10]
        same = labels[first] == labels[:, None]
        spread = np.random.default_rng(0).choice(same.mean(1), (1000, len(same))).mean(1)
        made[name] = {
            "precision@10": round(float(same.mean()), 4),
            "interval": [round(float(edge), 4) for edge in np.quantile(spread, (0.025, 0.975))],
            "precision@1": round(float(same[:, 0].mean()), 4),
            "ms a picture": round(1000 * seconds / len(pictures), 1),
        }
        print(name, made[name], flush=True)
    return made


def colors(picture: Image.Image) -> np.ndarray:
    """Square roots of the shares of 64 colors."""
    levels = np.asarray(picture, np.int64) // 64
    counts = np.bincount((levels @ (16, 4, 1)).reshape(-1), minlength=64)
    shares: np.ndarray = np.sqrt(counts / counts.sum())
    return shares


def captions(path: Path, style: str, encoder: str, count: int) -> dict[str, Any]:
    table = pq.read_table(path, filters=[("style", "=", style)])
    names, tags = table["name"].to_pylist(), [list(every or ()) for every in table["tags"].to_pylist()]
    holders = defaultdict[str, set[int]](set)
    for row, (name, every) in enumerate(zip(names, tags, strict=True)):
        for tag in every:
            if not set(words(tag)) & set(words(name)):
                holders[tag].add(row)
    rng = np.random.default_rng(0)
    asked = [sorted(holders)[at] for at in rng.permutation(len(holders))[:count]]
    with tempfile.TemporaryDirectory(prefix="bowerbird-") as place:
        plain = pa.table({"image": table["image"], "caption": names, "row": pa.array(range(len(table)), pa.int64())})
        pq.write_table(plain, Path(place) / "named.parquet")
        source = Path(place) / "named.parquet"
        kb, _ = KnowledgeBase.build(Path(place) / "kb", source, caption_encoder=encoder)
        row_of = dict(zip(kb.ids().tolist(), (m["row"] for m in kb.get(kb.ids().tolist()).metadata[0]), strict=True))

        def two(text: str) -> list[int]:
            """Fused without captions, as without their encoder."""
            options = query.TextOptions("hybrid", kb.normalize)
            rows = query.by_text(kb.store.snapshot, kb.encoder, [text], K, allowed=None, options=options).found[0]
            ids: list[int] = kb.store.snapshot.ids_of(rows)[0].tolist()
            return ids

        ways: dict[str, Callable[[str], list[int]]] = {
            mode: lambda text, mode=mode: kb.search(text=text, k=K, mode=mode).ids[0].tolist()  # type: ignore[misc]
            for mode in ("bm25", "dense", "captions", "hybrid")
        }
        ways["hybrid without captions"] = two
        made = {}
        for name, way in ways.items():
            start = time.perf_counter()
            ranked = [[row_of[item] for item in way(text) if item >= 0] for text in asked]
            milliseconds = 1000 * (time.perf_counter() - start) / len(asked)
            recalls = {
                f"recall@{k}": round(float(np.mean([_recall(found[:k], holders[tag], k) for found, tag in pairs])), 3)
                for k in (1, 5, 20)
                for pairs in [list(zip(ranked, asked, strict=True))]
            }
            made[name] = {**recalls, "ms a query": round(milliseconds, 1)}
            print(name, made[name], flush=True)
    return {"items": len(table), "queries": len(asked), **made}


def _recall(found: Sequence[int], right: set[int], k: int) -> float:
    return len(set(found) & right) / min(k, len(right))


if __name__ == "__main__":
    main()
