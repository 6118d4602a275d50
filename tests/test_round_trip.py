"""What is exported and built again is the same knowledge base: items, names, captions, and what a search finds."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.knowledge.export import export
from bowerbird.knowledge.search import dense
from tests.faults.plain import PlainEncoder, picture

ODD = (
    "a\u2028b",
    "c\u2029d",
    "e\x85f",
    "g\x0ch",
    "i\x0bj",
    "k\nl",
    " m ",
    "",
    "\ufeffn",
    "caf\u0065\u0301",
    '"o"',
    "p\tq",
)


def plain(color: int) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (8, 8), (color, 40, 200)).save(made, "PNG")
    return made.getvalue()


def rows_of(kb: KnowledgeBase) -> dict[int, tuple[str, str]]:
    """Caption and name by id."""
    ids = kb.ids().tolist()
    return {item: (kb.get([item]).captions[0][0], kb.name(item)) for item in ids}


@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_a_folder_comes_back_with_names_captions_and_order(tmp_path: Path, form: str) -> None:
    words, rng = ["red", "green", "blue", "fox", "wolf", "cat"], np.random.default_rng(0)
    (tmp_path / "in" / "pictures").mkdir(parents=True)
    for n in range(60):  # few colors and words: many equal scores in both halves of a search
        place = tmp_path / "in" / "pictures" / f"photo {n:02d}.png"
        place.write_bytes(plain(n % 4))
        place.with_suffix(".txt").write_text(f"{' '.join(rng.choice(words, 3))}")
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path / "in", encoder=PlainEncoder())
    export(kb, tmp_path / "out", form=form)
    again, report = KnowledgeBase.build(tmp_path / "again", tmp_path / "out", encoder=PlainEncoder())
    assert report.unreadable == []
    assert rows_of(again) == rows_of(kb)
    assert rows_of(kb)[int(kb.ids()[0])][1].startswith("pictures/photo ")
    # a third, whose rows stand in another order, half of them beside the index
    by_name = sorted((tmp_path / "in" / "pictures").glob("*.png"), reverse=True)
    other, _ = KnowledgeBase.build(tmp_path / "other", by_name[:30], encoder=PlainEncoder())
    other.add(by_name[30:])
    for mode in ("dense", "bm25", "hybrid"):
        for k in (3, 20):
            wanted = kb.search(text=["red fox", "cat"], k=k, mode=mode)
            found = again.search(text=["red fox", "cat"], k=k, mode=mode)
            np.testing.assert_array_equal(found.ids, wanted.ids)
            np.testing.assert_array_equal(found.scores, wanted.scores)
            if mode == "dense":
                np.testing.assert_array_equal(other.search(text=["red fox", "cat"], k=k, mode=mode).ids, wanted.ids)


def test_odd_captions_and_names_come_back(tmp_path: Path) -> None:
    names = [
        "../up.png",
        "/etc/a.png",
        "a.png",
        "A.png",
        "a.png/b.png",
        ".hidden.png",
        "con:x?.png",
        "n" * 400,
        "",
        "x.tar/1.jpg",
    ]
    names += ["a.mask.png", "no suffix"]
    images = [{"bytes": picture(n), "path": name} for n, name in enumerate(names)]
    table = {
        "image": images,
        "caption": ODD,
        "text": ["t"] * 12,
        "Caption": ["other"] * 12,
        "n": [math.nan, *range(11)],
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path / "a.parquet", encoder=PlainEncoder())
    export(kb, tmp_path / "out")
    again, _ = KnowledgeBase.build(tmp_path / "again", tmp_path / "out", encoder=PlainEncoder())
    assert sorted(again.ids().tolist()) == sorted(kb.ids().tolist())
    assert {caption for caption, _ in rows_of(again).values()} == set(ODD)
    lines = (tmp_path / "out" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 12  # for whoever splits at every line break there is
    facts = [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in lines]
    assert [row.get("n") for row in facts].count(None) == 1
    assert {row["text_"] for row in facts} == {"t"}
    parquet, _ = KnowledgeBase.build(tmp_path / "third", export_parquet(kb, tmp_path), encoder=PlainEncoder())
    assert rows_of(parquet) == rows_of(kb)


def export_parquet(kb: KnowledgeBase, folder: Path) -> Path:
    export(kb, folder / "parquet", form="parquet")
    return folder / "parquet"


def test_equal_vectors_are_ordered_by_id_wherever_their_rows_stand() -> None:
    """A product of matrices sums a row by where it stands: equal vectors get scores that differ in the last bit."""
    rng = np.random.default_rng(0)
    queries = dense.prepare(rng.normal(size=(5, 256)), True)
    for count, distinct in ((40, 4), (300, 3), (1000, 1)):
        base = rng.normal(size=(distinct, 256)).astype(np.float32)
        raw, ids = base[rng.integers(0, distinct, count)], rng.permutation(10**6)[:count]
        found = set()
        for _ in range(4):
            order = rng.permutation(count)
            vectors = dense.Vectors(raw[order], dense.lengths_of(raw[order], True))
            near = dense.nearest(vectors, queries, 7)
            within = dense.rounding(vectors, queries, near[0])
            here = ids[order]
            rows, scores = dense.settle_ties(
                near, queries, 7, within, vectors.scaled, lambda rows, here=here: np.where(rows < 0, -1, here[rows])
            )
            assert (np.diff(scores, axis=1) <= 0).all()
            found.add(here[rows].tobytes())
        assert len(found) == 1
