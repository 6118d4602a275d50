"""What somebody meets who opens the library in a notebook: short representations, pictures, and errors that say what to
pass."""

import dataclasses
import io
from pathlib import Path

import pytest
from PIL import Image

import bowerbird as bb
from bowerbird.systems import common
from tests.faults.plain import PlainEncoder


@pytest.fixture
def kb(tmp_path: Path) -> bb.KnowledgeBase:
    for number, name in enumerate(("a red fox", "a blue cup")):
        Image.new("RGB", (8, 8), (90 * number, 40, 90)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(name)
    return bb.KnowledgeBase.build(tmp_path / "kb", tmp_path, encoder=PlainEncoder())[0]


def test_representations_are_short_and_show_pictures(kb: bb.KnowledgeBase) -> None:
    assert repr(kb) == f"KnowledgeBase({str(kb.path)!r}: 2 items, version 1, plain)"
    hits = kb.search("fox", k=1, mode="bm25")  # as one types it first
    assert repr(hits) == f"Neighbors: 1 query, 1 each\n  'fox': {hits.scores[0, 0]:.3f} 'a red fox'"
    assert Image.open(io.BytesIO(hits._repr_png_() or b"")).format == "PNG"
    many = kb.search(["fox", "zebra"] * 50, k=2, mode="bm25")
    assert len(repr(many).splitlines()) == 10
    assert "'zebra': none" in repr(many)
    assert many.rows([1])._repr_png_() is None
    assert "(no caption)" in repr(dataclasses.replace(hits, captions=(), metadata=()))


def test_what_is_passed_in_place_of_something_opened_is_named(kb: bb.KnowledgeBase) -> None:
    picture = Image.new("RGB", (8, 8))
    for neighbors, knowledge_base, says in (
        (None, str(kb.path), "and got str; open it: knowledge_base=KnowledgeBase.open"),
        ([picture], None, "and got list; of pictures of your own: Neighbors.from_images"),
    ):
        with pytest.raises(bb.BowerbirdError, match=says):
            common.check_call("pil", 1, neighbors=neighbors, knowledge_base=knowledge_base)
    common.check_call("pil", 1, neighbors=kb.search("fox"), knowledge_base=kb)
    with pytest.raises(bb.BowerbirdError, match="`pictures`: takes PIL images, and got str"):
        bb.Neighbors.from_images(["fox"], ["fox.png"], ["fox"])  # type: ignore[list-item]
    own = bb.Neighbors.from_images("my fox", [picture], "my fox")
    assert (own.queries, own.captions) == (("my fox",), (("my fox",),))  # not one for each letter


def test_the_way_out_that_errors_name_is_there() -> None:
    from bowerbird.systems.loading import load_pipeline

    assert bb.load_pipeline is load_pipeline
    assert {"load_pipeline", "KnowledgeBase"} <= set(dir(bb))
