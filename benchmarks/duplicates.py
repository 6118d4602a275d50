"""How well and how fast copies are found, beside perceptual hashes (imagehash, the method of imagededup), in this run;
and what the stages would take for a million pictures.

pip install imagehash   # only for this
python benchmarks/duplicates.py --out runs/duplicates [--data drawings.parquet --sample 300] [--items 100000]
"""

from __future__ import annotations

import argparse
import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.core import images
from bowerbird.data.item import decode_item
from bowerbird.data.sources.registry import read
from bowerbird.knowledge.duplicates import candidates
from bowerbird.knowledge.duplicates.find import find_duplicates
from bowerbird.knowledge.duplicates.scan import scan

THRESHOLD = 10
"""Bits of 64 up to which imagededup takes two hashes for one picture, by default."""
MILLION = 1_000_000
Change = Callable[[Image.Image, np.random.Generator], bytes]


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def scaled(picture: Image.Image, share: float) -> Image.Image:
    size = (round(picture.width * share), round(picture.height * share))
    return picture.resize(size, Image.Resampling.BICUBIC)


def cut(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A window of 80 to 90% of each edge."""
    width, height = (round(edge * share) for edge, share in zip(picture.size, rng.uniform(0.8, 0.9, 2), strict=True))
    left, top = rng.integers(0, picture.width - width + 1), rng.integers(0, picture.height - height + 1)
    return picture.crop((left, top, left + width, top + height))


KINDS: dict[str, Change] = {
    "re-saved": lambda p, rng: encoded(p, "JPEG", quality=int(rng.integers(50, 95))),
    "smaller": lambda p, rng: encoded(scaled(p, rng.uniform(0.55, 0.85))),
    "larger": lambda p, rng: encoded(scaled(p, rng.uniform(1.2, 2.2)), "JPEG", quality=85),
    "cropped": lambda p, rng: encoded(cut(p, rng)),
    "cropped, JPEG": lambda p, rng: encoded(cut(p, rng), "JPEG", quality=85),
    "rotated": lambda p, rng: encoded(p.rotate(90 * int(rng.integers(1, 4)))),
    "mirrored": lambda p, rng: encoded(p.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "JPEG", quality=85),
}


def plant(source: str, sample: int, path: Path) -> list[tuple[int, str]]:
    """Write pictures of `source` and a copy of two in three; returns of each row its source and kind."""
    items, rng = list(read(source)), np.random.default_rng(0)
    chosen = rng.choice(len(items), min(sample, len(items)), replace=False)
    rows: list[dict[str, Any]] = []
    truth, kinds = [], list(KINDS)
    for n, at in enumerate(chosen.tolist()):
        picture = decode_item(items[at])
        made = [("original", encoded(picture))]
        if n % 3:
            kind = kinds[n % len(kinds)]
            made.append((kind, KINDS[kind](picture, rng)))
        for kind, data in made:
            rows.append({"image": {"bytes": data, "path": f"{len(rows)}"}, "caption": f"{len(rows)}"})
            truth.append((at, kind))
    pq.write_table(pa.Table.from_pylist(rows), path)
    return truth


def score(pairs: set[tuple[int, int]], truth: list[tuple[int, str]]) -> str:
    """Recall by kind and how many pairs of different sources are among `pairs` of rows."""
    origin = {source: row for row, (source, kind) in enumerate(truth) if kind == "original"}
    found: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for row, (source, kind) in enumerate(truth):
        if kind != "original":
            found[kind].append((origin[source], row) in pairs)
    every = [hit for hits in found.values() for hit in hits]
    strangers = sum(truth[i][0] != truth[j][0] for i, j in pairs)
    kinds = ", ".join(f"{kind} {np.mean(hits):.0%}" for kind, hits in found.items())
    return f"recall {np.mean(every):.1%} ({kinds}); {strangers} pairs of different pictures"


def ours(kb: KnowledgeBase) -> set[tuple[int, int]]:
    """Pairs of rows in one group."""
    groups = [[int(item.name) for item in (g.kept, *g.copies)] for g in find_duplicates(kb).groups]
    return {(min(i, j), max(i, j)) for group in groups for i in group for j in group if i != j}


def hashes(data: list[bytes]) -> np.ndarray:
    import imagehash

    made = [imagehash.phash(images.decode(one, "picture")).hash.ravel() for one in data]
    return np.packbits(np.stack(made), axis=1)


def peer_pairs(codes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of hashes that differ by at most `THRESHOLD` bits."""
    index = faiss.IndexBinaryFlat(64)
    index.add(codes)
    for start in range(0, len(codes), 4096):
        limits, _, rows = index.range_search(codes[start : start + 4096], THRESHOLD + 1)
        own = np.repeat(np.arange(start, start + len(limits) - 1), np.diff(limits).astype(np.int64))
        yield from ((int(i), int(j)) for i, j in zip(own, rows, strict=True) if i < j)


def seconds(task: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    made = task()
    return time.perf_counter() - start, made


def scale(items: int, decoded: float) -> None:
    """The stages that compare, on grids of `items` random smooth pictures of which one in twenty has a copy."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (items, 4, 4, 3), np.uint8)
    grids = coarse.repeat(4, 1).repeat(4, 2)
    copies = rng.choice(items, items // 20, replace=False)
    sources = rng.choice(items, items // 20)
    noisy = grids[sources].astype(np.int16) + rng.integers(-4, 5, (len(copies), *grids.shape[1:]))
    grids[copies] = np.rot90(noisy.clip(0, 255).astype(np.uint8), axes=(1, 2))
    wholes, pairs = seconds(lambda: sum(1 for _ in candidates.whole_pairs(grids, np.arange(items))))
    some = np.stack([np.repeat(np.arange(2000), 6), rng.integers(0, items, 12_000)], 1)
    windows, _ = seconds(lambda: list(candidates.windows(grids, np.ones(items), some)))
    print(f"candidates among {items:,} grids: {wholes:.1f} s, {pairs:,} pairs ({len(copies):,} planted)")
    longer = (MILLION / items) ** 1.5  # lists grow with the square root
    a_pair = windows / len(some)
    print(f"windows: {1e6 * a_pair:.0f} us a pair of neighbors")
    print(
        f"a million would take: decoding {MILLION * decoded / 60:.0f} min at the rate of this sample, candidates"
        f" {wholes * longer / 60:.0f} min, windows of 6 pairs each {6 * MILLION * a_pair / 60:.0f} min; and, as the"
        " collection is: a search of each embedding, and looking at what is likely"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="drawn", help="a source of pictures; those that our code draws by default")
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--items", type=int, default=100_000, help="grids that the candidate stage is measured on")
    parser.add_argument("--out", type=Path, default=Path("runs/duplicates"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    shutil.rmtree(out / "kb", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    truth = plant(arguments.data, arguments.sample, out / "planted.parquet")
    kb = KnowledgeBase.build(out / "kb", out / "planted.parquet")[0]
    wall, pairs = seconds(lambda: ours(kb))
    reading, _ = seconds(lambda: scan(kb.store, kb.ids()))
    print(f"{len(truth)} pictures, {sum(kind != 'original' for _, kind in truth)} of them planted copies")
    print(f"ours: {wall:.2f} s, of which {reading:.2f} s read; {score(pairs, truth)}")
    data = [one["bytes"] for one in pq.read_table(out / "planted.parquet")["image"].to_pylist()]
    try:
        theirs, found = seconds(lambda: set(peer_pairs(hashes(data))))
    except ImportError:
        print("peer: not installed (pip install imagehash)")
    else:
        print(f"imagehash.phash, {THRESHOLD} bits: {theirs:.2f} s; {score(found, truth)}")
        print(f"ours takes {wall / theirs:.2f} of its time")
    scale(arguments.items, reading / len(truth))


if __name__ == "__main__":
    main()
