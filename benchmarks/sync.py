"""How long a sync of a catalog takes beside embedding, of which one item in a hundred changed; beside it LanceDB's
merge_insert of the same rows, in this run.

python benchmarks/sync.py --items 100000 --out runs/sync
"""

from __future__ import annotations

import argparse
import io
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bowerbird import KnowledgeBase

DIM, SIDE = 512, 48


class Projection:
    """Random numbers of a picture's pixels: an encoder that costs next to nothing, and says what it costs."""

    name, dim, fingerprint, shared_dim, picture_size = "projection", DIM, "00000000000000aa", DIM, 8

    def __init__(self) -> None:
        self.matrix = np.random.default_rng(0).normal(size=(192, DIM)).astype(np.float32)
        self.seconds = 0.0

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        start = time.perf_counter()
        pixels = np.stack([np.asarray(i.convert("RGB").resize((8, 8)), np.float32).reshape(192) for i in images])
        found: np.ndarray = pixels @ self.matrix / 255
        self.seconds += time.perf_counter() - start
        return found

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.ones((len(texts), DIM), np.float32)


def picture(number: int) -> bytes:
    """A JPEG of noise, some kilobytes."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def catalog(items: int, changed: Sequence[int] = ()) -> pa.Table:
    """`items` rows; of those `changed`, every other one has another picture, the rest another price."""
    numbers = {n: at for at, n in enumerate(changed)}
    rows: list[dict[str, Any]] = []
    for n in range(items):
        at = numbers.get(n)
        shown = n + 10**7 if at is not None and at % 2 == 0 else n
        price = n % 97 + (0.5 if at is not None and at % 2 else 0.0)
        facts = {
            "caption": f"article {n} of shelf {n % 50}",
            "price": price,
            "shelf": f"shelf {n % 50}",
            "stock": n % 7,
        }
        rows.append({"sku": f"A{n:07d}", "image": {"bytes": picture(shown), "path": f"{n}.jpg"}, **facts})
    return pa.Table.from_pylist(rows)


def seconds(task: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU time: a machine that others use shows the second best."""
    wall, processor = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - wall, time.process_time() - processor


def peer(folder: Path, before: pa.Table, after: pa.Table) -> tuple[float, float]:
    """LanceDB's upsert of all rows of the new catalog, which come with their vectors."""
    shutil.rmtree(folder, ignore_errors=True)
    vectors = np.random.default_rng(1).normal(size=(len(after), DIM)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
    table = lancedb.connect(str(folder)).create_table("rows", before.append_column("vector", column))
    new = after.append_column("vector", column)
    merge = table.merge_insert("sku").when_matched_update_all().when_not_matched_insert_all()
    return seconds(lambda: merge.execute(new))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("runs/sync"))
    arguments = parser.parse_args()
    out, items = arguments.out, arguments.items
    out.mkdir(parents=True, exist_ok=True)
    changed = sorted(np.random.default_rng(2).choice(items, items // 100, replace=False).tolist())
    before, after = catalog(items), catalog(items, changed)
    pq.write_table(before, out / "before.parquet")
    pq.write_table(after, out / "after.parquet")
    if not (out / "kb").exists():
        KnowledgeBase.build(out / "kb", out / "before.parquet", encoder=Projection())
    encoder = Projection()
    kb = KnowledgeBase.open(out / "kb", encoder=encoder)
    kb.restore(next(v for v in kb.versions if len(kb.at_version(v)) == items))  # of an earlier run of this
    wall, processor = seconds(lambda: kb.sync(out / "after.parquet", key="sku"))
    again, again_processor = seconds(lambda: kb.sync(out / "after.parquet", key="sku"))
    theirs, their_processor = peer(out / "lance", before, after)
    ours = wall - encoder.seconds
    print(f"{items:,} items, {len(changed):,} changed, {(out / 'after.parquet').stat().st_size / 1e6:.0f} MB")
    print(f"sync beside embedding: {ours:.2f} s ({processor - encoder.seconds:.2f} s of CPU)")
    print(f"once more, nothing changed: {again:.2f} s ({again_processor:.2f} s of CPU)")
    print(f"LanceDB merge_insert of all rows, vectors given: {theirs:.2f} s ({their_processor:.2f} s of CPU)")
    print(f"ours takes {ours / theirs:.2f} of its time")


if __name__ == "__main__":
    main()
