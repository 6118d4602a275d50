"""What becomes an item: patches, near-duplicates, a person's own filter, addresses, embeddings made elsewhere, on
however many processes."""

from __future__ import annotations

import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bowerbird import KnowledgeBase, encoders
from bowerbird.core import images
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.item import SourceItem
from bowerbird.data.sources import urls
from bowerbird.knowledge.ingest import embed
from bowerbird.knowledge.ingest.prepare import Choice
from bowerbird.knowledge.neighbors.export import write_neighbors
from bowerbird.knowledge.search import bm25
from bowerbird.knowledge.storage.directory import DirectoryStore
from tests.faults.plain import PlainEncoder, caption, picture, source


def resaved(data: bytes, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    images.decode(data, "x").resize((60, 60), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_patches_lie_in_their_pictures_and_are_cut_the_same_again(tmp_path: Path, drawn_folder: Path) -> None:
    kb, report = KnowledgeBase.build(tmp_path / "kb", drawn_folder, encoder=PlainEncoder(), patches=3)
    assert report.added == len(kb) == 3 * 36
    item = kb.get([int(kb.ids()[5])])
    facts, patch = item.metadata[0][0], item.images()[0][0]
    whole = images.read(drawn_folder / facts["patch_of"])
    corners = tuple(facts[f"patch_{name}"] for name in ("x_tl", "y_tl", "x_br", "y_br"))
    assert np.array_equal(np.asarray(whole.crop(corners)), np.asarray(patch))
    assert 0.5 * min(whole.size) - 1 <= corners[2] - corners[0] == corners[3] - corners[1] <= min(whole.size)
    assert kb.add(drawn_folder, patches=3).already_present == 108


def test_near_duplicates_are_left_out_and_named(tmp_path: Path, drawn_folder: Path) -> None:
    kb, _ = KnowledgeBase.build(tmp_path / "kb", drawn_folder)
    strange = tmp_path / "more"
    strange.mkdir()
    files = sorted(drawn_folder.rglob("*.png"))
    for number, file in enumerate(files[:5]):
        (strange / f"near-duplicate{number}.jpg").write_bytes(resaved(file.read_bytes()))
    colors = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    own = Image.fromarray(colors).resize((64, 64), Image.Resampling.NEAREST)
    own.save(strange / "own.png")
    own.resize((90, 90)).save(strange / "own-larger.png")
    report = kb.add(strange, dedup=0.99)
    assert {name for name, _, _ in report.duplicates} == {
        *(f"near-duplicate{n}.jpg" for n in range(5)),
        "own.png",
    }  # own-larger.png comes first
    assert report.added == 1
    by_name = {name: like for name, like, _ in report.duplicates}
    assert by_name["own.png"] == "own-larger.png"
    assert all(Path(by_name[f"near-duplicate{n}.jpg"]).name == files[n].name for n in range(5))
    with pytest.raises(BowerbirdError, match=r"0\.99"):
        kb.add(strange, dedup=7)


def test_a_persons_own_filter(tmp_path: Path) -> None:
    def keep(image: Image.Image, item: SourceItem) -> str | None:
        return f"{image.width} pixels of an odd thing" if item.metadata["number"] % 2 else None

    kb, report = KnowledgeBase.build(
        tmp_path / "kb", source(tmp_path / "a.parquet", range(10)), encoder=PlainEncoder(), filter_fn=keep
    )
    assert len(kb) == 5
    assert report.filtered == [f"{n}.png: 8 pixels of an odd thing" for n in (1, 3, 5, 7, 9)]


def odd_ones(image: Image.Image, item: SourceItem) -> str | None:
    return "is odd" if item.metadata.get("number", 0) % 2 else None


def test_copies_of_what_is_left_out_are_not_there_already(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for n in range(4):
        (tmp_path / "a" / f"broken{n}.png").write_text("no picture")
        (tmp_path / "a" / f"good{n}.png").write_bytes(picture(1))
    kb, report = KnowledgeBase.build(tmp_path / "kb", tmp_path / "a", encoder=PlainEncoder())
    assert (len(kb), report.added, report.already_present, len(report.unreadable)) == (1, 1, 3, 4)


def test_an_interrupted_build_goes_on_only_with_the_same_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = source(tmp_path / "a.parquet", range(1100))
    monkeypatch.setattr("bowerbird.knowledge.ingest.add.COMMIT_EVERY", 500)
    with monkeypatch.context() as patch:
        commit, times = DirectoryStore.commit, []
        patch.setattr(
            DirectoryStore,
            "commit",
            lambda self: (commit(self), times.append(1), len(times) < 2 or (_ for _ in ()).throw(KeyboardInterrupt))[0],
        )
        with pytest.raises(KeyboardInterrupt):
            KnowledgeBase.build(tmp_path / "kb", data, encoder=PlainEncoder())
    kb, report = KnowledgeBase.build(tmp_path / "kb", data, encoder=PlainEncoder(), filter_fn=odd_ones)
    assert report.already_present == 0
    assert all(m["number"] % 2 == 0 for m in kb.get(kb.ids().tolist()).metadata[0])


def test_a_source_that_changed_is_embedded_again(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for n in range(1, 8):
        (folder / f"{n:02d}.png").write_bytes(picture(n))
    encoder = PlainEncoder()
    embed.embed([folder], tmp_path / "parts", encoder, size=3)
    (folder / "00.png").write_bytes(picture(0))
    assert embed.embed([folder], tmp_path / "parts", encoder, size=3).items == 8
    assert len(KnowledgeBase.build(tmp_path / "kb", tmp_path / "parts", encoder=encoder)[0]) == 8
    for n in range(1, 7):
        (folder / f"{n:02d}.png").unlink()
    assert embed.embed([folder], tmp_path / "parts", encoder, size=3).items == 2  # no part of what was longer is left


class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            return
        self.send_response(200 if self.path.startswith("/picture") else 404)
        self.end_headers()
        if self.path.startswith("/picture"):
            self.wfile.write(picture(int(self.path[8:])))

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("url", "text"), [("url", "caption"), ("URL", "TEXT")])
def test_addresses_are_asked_only_when_allowed(tmp_path: Path, shop: str, url: str, text: str) -> None:
    listed = [f"{shop}/picture1", f"{shop}/nothing", f"{shop}/away", "file:///etc/hostname", None, f"{shop}/picture2"]
    pq.write_table(pa.table({url: listed, text: [f"c{n}" for n in range(6)]}), tmp_path / "list.parquet")
    with pytest.raises(BowerbirdError, match="`fetch_urls`"):
        KnowledgeBase.build(tmp_path / "kb", tmp_path / "list.parquet", encoder=PlainEncoder())
    with pytest.raises(BowerbirdError, match="this machine or its network"):
        KnowledgeBase.build(tmp_path / "kb", tmp_path / "list.parquet", encoder=PlainEncoder(), fetch_urls=True)
    kb, report = KnowledgeBase.build(
        tmp_path / "kb", tmp_path / "list.parquet", encoder=PlainEncoder(), fetch_urls=True, private_urls=True
    )
    assert sorted(kb.get(kb.ids().tolist()).captions[0]) == ["c0", "c5"]
    assert len(report.unreadable) == 4
    assert kb.get(kb.ids().tolist()).metadata[0][0][url].startswith(shop)
    assert next(urls.fetch(["ftp://127.0.0.1/x"])) == (b"", "ftp://127.0.0.1/x", "no http or https address")


def test_workers_and_parts_give_the_same_bits(tmp_path: Path, drawn_folder: Path) -> None:
    small = encoders.load("small")
    alone, _ = KnowledgeBase.build(tmp_path / "alone", drawn_folder, encoder=small)
    together, _ = KnowledgeBase.build(tmp_path / "together", drawn_folder, encoder=small, workers=2)
    report = embed.embed([drawn_folder], tmp_path / "parts", small, processes=1, size=10)
    assert (report.parts, report.items, report.before) == (4, 36, 0)
    last = tmp_path / "parts" / "part-0000-000003.parquet"
    before, kept = last.read_bytes(), (tmp_path / "parts" / "part-0000-000000.parquet").stat().st_mtime_ns
    last.unlink()
    assert embed.embed([drawn_folder], tmp_path / "parts", small, size=10).before == 3
    assert last.read_bytes() == before
    assert (tmp_path / "parts" / "part-0000-000000.parquet").stat().st_mtime_ns == kept
    with pytest.raises(BowerbirdError, match="new folder"):
        embed.embed([drawn_folder], tmp_path / "parts", small, Choice(patches=2), size=10)

    class Unasked(type(small)):  # type: ignore[misc]
        def embed_images(self, pictures: object) -> np.ndarray:
            raise AssertionError("embedded again")

    unasked = Unasked(small.model, small.name, small.fingerprint)  # type: ignore[attr-defined]
    brought, _ = KnowledgeBase.build(tmp_path / "brought", tmp_path / "parts", encoder=unasked)
    ids = np.sort(alone.ids()).tolist()
    for other in (together, brought):
        assert np.array_equal(other.get(ids).embeddings, alone.get(ids).embeddings)
    # another encoder has no use for these embeddings, and takes the pictures
    assert len(KnowledgeBase.build(tmp_path / "plain", tmp_path / "parts", encoder=PlainEncoder())[0]) == 36


def test_a_ray_cluster_gives_the_same_parts(tmp_path: Path, drawn_folder: Path) -> None:
    pytest.importorskip("ray")
    small = encoders.load("small")
    folders = [folder for folder in sorted(drawn_folder.iterdir()) if folder.is_dir()]
    for name, address in (("here", None), ("there", "local")):
        embed.embed(folders, tmp_path / name, small, size=10, ray_address=address)
    for part in sorted((tmp_path / "here").glob("part-*")):
        assert part.read_bytes() == (tmp_path / "there" / part.name).read_bytes()


def test_broken_pictures_are_told_of_in_parts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "good.png").write_bytes(picture(1))
    (tmp_path / "a" / "bad.png").write_text("no picture")
    report = embed.embed([tmp_path / "a"], tmp_path / "parts", PlainEncoder())
    assert report.items == 1
    assert "bad.png" in report.left_out[0]


def test_neighbors_of_a_whole_set(tmp_path: Path) -> None:
    """Against brute force: the guard holds, k are found wherever k are allowed, and counts are the numerator of p_D."""
    kb, _ = KnowledgeBase.build(tmp_path / "kb", source(tmp_path / "a.parquet", range(120)), encoder=PlainEncoder())
    for wrong in ({"mode": "magic"}, {"exclude_key": "nope"}):
        with pytest.raises(BowerbirdError, match=next(iter(wrong.values()))):
            write_neighbors(kb, tmp_path / "a.parquet", tmp_path / "g.parquet", 5, **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "g.parquet").exists()
    write_neighbors(
        kb, tmp_path / "a.parquet", tmp_path / "g.parquet", 5, exclude_key="number"
    )  # 0 is a value like any other
    written = write_neighbors(
        kb,
        tmp_path / "a.parquet",
        tmp_path / "g.parquet",
        5,
        max_similarity=0.995,
        exclude_key="kind",
        counts=tmp_path / "c.parquet",
    )
    graph = {row["id"]: row for row in pq.read_table(tmp_path / "g.parquet").to_pylist()}
    assert written == len(graph) == 120
    items = kb.get(kb.ids().tolist())
    unit = items.embeddings[0] / np.linalg.norm(items.embeddings[0], axis=1, keepdims=True)
    kinds = [m["kind"] for m in items.metadata[0]]
    for at, number in enumerate(items.ids[0].tolist()):
        similar = unit @ unit[at]
        similar[[i for i, kind in enumerate(kinds) if kind == kinds[at]]] = -np.inf
        similar[similar > 0.995] = -np.inf
        expected = items.ids[0][np.argsort(-similar, kind="stable")[: min(5, int(np.isfinite(similar).sum()))]].tolist()
        assert graph[number]["neighbors"] == expected
    counts = {row["id"]: row["count"] for row in pq.read_table(tmp_path / "c.parquet").to_pylist()}
    assert len(counts) == 120
    assert sum(counts.values()) == sum(len(row["neighbors"]) for row in graph.values())
    assert counts[graph[items.ids[0, 0]]["neighbors"][0]] > 0


def test_proposal_is_counted_as_in_the_graph(tmp_path: Path) -> None:
    kb, _ = KnowledgeBase.build(tmp_path / "kb", source(tmp_path / "a.parquet", range(60)), encoder=PlainEncoder())
    write_neighbors(kb, tmp_path / "a.parquet", tmp_path / "g.parquet", 4, counts=tmp_path / "c.parquet")
    assert kb.proposal(4) == {row["id"]: row["count"] for row in pq.read_table(tmp_path / "c.parquet").to_pylist()}


def test_words_of_captions_and_tags_are_weighed(tmp_path: Path) -> None:
    """Three to one is what writing the caption three times gives; with tags at 0 they find nothing; new items are
    weighed alike."""
    rows = {
        "image": [{"bytes": picture(n), "path": f"{n}"} for n in range(4)],
        "caption": ["red fox", "blue cat", "fox and dog", "gray owl"],
    }
    pq.write_table(pa.table({**rows, "tags": [["den"], ["fox", "fox"], ["pet"], ["night"]]}), tmp_path / "a.parquet")

    def scores(name: str, weights: tuple[int, int], text: str = "fox") -> dict[str, float]:
        kb, _ = KnowledgeBase.build(
            tmp_path / name, tmp_path / "a.parquet", encoder=PlainEncoder(), bm25_weights=weights
        )
        hits = kb.search(text=text, mode="bm25", k=4)
        return {c: round(float(s), 5) for c, s in zip(hits.captions[0], hits.scores[0], strict=True) if c}

    assert next(iter(scores("even", (1, 1)))) == "blue cat"
    assert next(iter(scores("captions", (5, 1)))) != "blue cat"
    assert "blue cat" not in scores("untagged", (1, 0))
    captions = [f"{c} {c} {c}" for c in ("red fox", "blue cat", "fox and dog", "gray owl")]
    by_hand = bm25.best_rows(bm25.build(captions, ["den", "fox fox", "pet", "night"]), "fox", 4)[1]
    weighed = bm25.best_rows(bm25.build(rows["caption"], ["den", "fox fox", "pet", "night"], (3, 1)), "fox", 4)[1]
    # the whole caption as a word of its own is counted thrice there and once here, which only lengthens the item
    np.testing.assert_allclose(weighed[weighed > 0], by_hand[by_hand > 0], rtol=0.1)
    assert scores("tagsonly", (0, 1), "fox") == {"blue cat": scores("tagsonly2", (0, 1), "fox")["blue cat"]}
    with pytest.raises(BowerbirdError, match="3,1"):
        scores("wrong", (1, -1))


def test_commands(tmp_path: Path) -> None:
    """Everything above from the command line, in one life."""
    from tests.test_cli import bowerbird

    (tmp_path / "p").mkdir()
    for n in range(12):
        (tmp_path / "p" / f"{n}.png").write_bytes(picture(n))
        (tmp_path / "p" / f"{n}.txt").write_text(caption(n))
    (tmp_path / "p" / "bad.png").write_text("x")
    (tmp_path / "mine.py").write_text(
        "def small(picture, item):\n    return 'seven' if item.name == '7.png' else None\n"
    )
    made = bowerbird(
        "kb",
        "build",
        "kb",
        "p",
        "--filter",
        "mine:small",
        "--dedup",
        "0.9999",
        "--report",
        "left.jsonl",
        "--bm25-weights",
        "2,1",
        "--workers",
        "1",
        "--json",
        cwd=tmp_path,
    )
    facts = json.loads(made.stdout)
    lines = [json.loads(line) for line in (tmp_path / "left.jsonl").read_text().splitlines()]
    assert facts["items"] + len(facts["duplicates"]) == 11
    assert {line["left out"] for line in lines} >= {"unreadable", "filter"}
    (tmp_path / "q.txt").write_text("red thing\n\nblue thing\n")
    found = [
        json.loads(line)
        for line in bowerbird(
            "search", "kb", "--queries", "q.txt", "--mode", "bm25", "-k", "3", cwd=tmp_path
        ).stdout.splitlines()
    ]
    assert [one["query"]["text"] for one in found] == ["red thing", "blue thing"]
    assert "red" in found[0]["results"][0]["caption"]
    bowerbird("kb", "neighbors", "kb", "p", "g.parquet", "-k", "2", "--counts", "c.parquet", cwd=tmp_path)
    assert pq.read_metadata(tmp_path / "g.parquet").num_rows == 12
    bowerbird("kb", "embed", "p", "--out", "parts", "--part", "5", cwd=tmp_path)
    bowerbird("kb", "build", "kb2", "parts", cwd=tmp_path)
    assert json.loads(bowerbird("kb", "info", "kb2", "--json", cwd=tmp_path).stdout)["items"] == 12
