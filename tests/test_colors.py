"""A color that the prompt names is kept: what contradicts it does not become a neighbor, where others agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bowerbird import KnowledgeBase, Neighbors
from bowerbird.data.color_words import color_shares, colors_in, has_color
from bowerbird.data.scenes.words import COLORS
from bowerbird.knowledge.rerank.color_request import ColoredThing, read_colors
from bowerbird.systems import queries
from bowerbird.systems.mixture import mixture_hint
from tests.test_cli import bowerbird

RGB = {"red": (221, 46, 68), "yellow": (255, 204, 77), "green": (119, 178, 85)}


def apple(color: str, size: int = 0) -> Image.Image:
    """A round fruit with a brown stem and a green leaf."""
    picture = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((30, 6, 33, 20), fill=(130, 80, 50))
    draw.ellipse((34, 8, 46, 15), fill=RGB["green"])
    draw.ellipse((10 - size, 16, 54 + size, 60), fill=RGB[color], outline=(20, 20, 20))
    return picture


def apples(folder: Path, *, captions: bool) -> KnowledgeBase:
    """Three apples of each color, the red ones last; with `captions` that name the color, or all "apple"."""
    folder.mkdir()
    lines = []
    for color in ("green", "yellow", "red"):
        for i in range(3):
            name = f"{len(lines):02d}.png"
            apple(color, 2 * i).save(folder / name)
            lines.append({"file_name": name, "text": f"{color} apple" if captions else "apple"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return KnowledgeBase.build(folder.with_name(folder.name + "-kb"), folder)[0]


@pytest.mark.parametrize("captions", [True, False])
def test_only_neighbors_of_the_asked_color(tmp_path: Path, captions: bool) -> None:
    kb = apples(tmp_path / "apples", captions=captions)
    for prompt, color in (("a red apple", "red"), ("golden apple", "yellow")):
        hits = queries.by_text(kb, [prompt], 4)
        shares = [color_shares(picture) for picture in hits.images()[0] if picture is not None]
        assert len(shares) == 3  # all that there are: a fourth would contradict
        assert all(max(each, key=lambda name: each[name]) == color for each in shares)
        assert "of another color" in hits.notes[0][0]
    assert int(queries.by_text(kb, ["a red apple"], 4, rerank=False).mask.sum()) == 4


@pytest.mark.parametrize("below", ["", "b misc"])
def test_names_of_files_say_what_pictures_without_a_caption_show(tmp_path: Path, below: str) -> None:
    """A red star takes no green apple's place, and what was left out is called by its file's name, also where the name
    of its folder is its caption."""
    folder = tmp_path / "things" / below
    folder.mkdir(parents=True)
    for color in ("red", "green", "yellow"):
        apple(color, 1).save(folder / f"{color} apple.png")
        for margin, thing in enumerate(("star", "kite", "boat"), 10):  # of one size they would be one item
            picture = Image.new("RGB", (64, 64), "white")
            picture.paste(RGB[color], (margin, margin, 54, 54))
            picture.save(folder / f"{color} {thing}.png")
    kb = KnowledgeBase.build(tmp_path / "kb", tmp_path / "things")[0]
    hits = queries.by_text(kb, ["yellow apple"], 2)
    assert [Path(m["file_name"]).name for m, there in zip(hits.metadata[0], hits.mask[0], strict=True) if there] == [
        "yellow apple.png"
    ]
    assert "'green apple.png'" in hits.notes[0][0]


def telephones(folder: Path, colors: list[tuple[int, int, int]]) -> KnowledgeBase:
    """One a color, all called the same."""
    folder.mkdir()
    for number, color in enumerate(colors):
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).rectangle((10 + number, 20, 54, 44), fill=color)
        picture.save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text("telephone")
    return KnowledgeBase.build(folder.with_name(folder.name + "-kb"), folder)[0]


def test_what_has_the_color_comes_before_what_nearly_has_it(tmp_path: Path) -> None:
    """Pink speaks neither for red nor against it: "red telephone" found the pink ones, as the search had them first."""
    kb = telephones(tmp_path / "phones", [(245, 150, 170)] * 8 + [(200, 30, 40)] * 2)

    def red(hits: Neighbors) -> list[bool]:
        shares = [color_shares(picture) for picture in hits.images()[0] if picture is not None]
        return [has_color(each, frozenset({"red"})) is True for each in shares]

    assert not all(red(kb.search(text="red telephone", k=2, mode="bm25")))
    hits = kb.search(text="red telephone", k=4, rerank="color", mode="bm25")
    assert red(hits) == [True, True, False, False]
    two = kb.search(text="red telephone", k=2, rerank="color", mode="bm25")
    assert red(two) == [True, True]
    assert "its color is not sure" in two.notes[0][0]
    assert kb.search(text="blue telephone", k=4, rerank="color", mode="bm25").notes == (("no neighbor is blue",),)
    pink = kb.search(text="pink telephone", k=8, rerank="color", mode="bm25")
    assert red(pink) == [False] * 8


def test_the_thing_counts_beside_its_color(tmp_path: Path) -> None:
    """ "pink fruit" found whatever is called pink before any fruit, as that is the rarer word."""
    place = tmp_path / "things"
    place.mkdir()
    names = ["pink heart", *["fruit"] * 5]
    for number, name in enumerate(names):
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).ellipse((8, 8, 50, 30 + 5 * number), fill=(245, 150, 170) if number < 2 else "green")
        picture.save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(name)
    kb = KnowledgeBase.build(tmp_path / "kb", place)[0]
    assert kb.search(text="pink fruit", k=1, mode="bm25").captions == (("pink heart",),)
    hits = kb.search(text="pink fruit", k=1, mode="bm25", rerank="color")
    assert hits.captions == (("fruit",),)
    assert has_color(color_shares(hits.images()[0][0] or picture), frozenset({"pink"}))


def test_few_pictures_are_opened_for_a_color_and_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kb = telephones(tmp_path / "phones", [(245, 150, 170)] * 8)
    opened: list[int] = []
    pictures = KnowledgeBase.pictures

    def counted(self: KnowledgeBase, ids: np.ndarray, *, at_least: int | None = None) -> Any:
        opened.extend(ids.ravel().tolist())
        return pictures(self, ids, at_least=at_least)

    monkeypatch.setattr(KnowledgeBase, "pictures", counted)
    monkeypatch.setattr("bowerbird.knowledge.rerank.picture_colors.MOST_PICTURES", 5)
    for most in (5, 8, 8):  # at most five a query, and none twice
        assert kb.search(text="red telephone", k=8, rerank="color").mask.all()
        assert len(opened) == len(set(opened)) == most
    KnowledgeBase.open(kb.path).search(text="red telephone", k=8, rerank="color")
    assert len(opened) == 13


def test_nothing_is_left_out_where_nothing_agrees_or_no_color_is_named(tmp_path: Path) -> None:
    kb = apples(tmp_path / "apples", captions=True)
    blue = queries.by_text(kb, ["a blue apple", "an apple"], 4)
    assert blue.mask.all()
    assert blue.notes == (("no neighbor is blue",), ())
    kept = queries.by_text(kb, ["an apple"], 4, rerank=False)
    assert queries.by_text(kb, ["an apple"], 4).ids.tolist() == kept.ids.tolist()


def test_a_color_belongs_to_the_words_after_it() -> None:
    def colored(prompt: str) -> list[tuple[str, str]]:
        found = read_colors(prompt)
        each: tuple[ColoredThing, ...] = () if found is None else found.colored
        return [(" ".join(sorted(one.colors)), " ".join(sorted(one.things))) for one in each]

    assert colored("a cat wearing a crimson hat") == [("red", "hat")]
    assert colored("red apple and green pears") == [("red", "apple"), ("green", "pear")]
    assert colored("red or green apples") == [("green red", "apple")]
    assert colored("a fox on a red background") == []
    assert colored("an apple") == []


def test_a_picture_says_its_color_without_its_ground() -> None:
    for color in RGB:
        shares = color_shares(apple(color))
        assert [name for name in RGB if has_color(shares, frozenset({name}))] == [color]
    for name, rgb in COLORS.items():
        if name != "white":
            disc = Image.new("RGB", (64, 64), "white")
            ImageDraw.Draw(disc).ellipse((10, 10, 54, 54), fill=rgb)
            assert has_color(color_shares(disc), colors_in(name.split())) is True, name
    lines = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(lines).ellipse((10, 10, 54, 54), outline="black", width=3)
    assert has_color(color_shares(lines), frozenset({"red"})) is None
    assert has_color(color_shares(Image.new("RGB", (64, 64), "red")), frozenset({"green"})) is None  # all ground


def test_the_record_and_the_sheet_say_what_was_left_out(
    tmp_path: Path, random_rdm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bowerbird.core import provenance
    from bowerbird.systems import jobs, loading, output, records

    titles: list[str] = []
    monkeypatch.setattr(
        "bowerbird.core.contact_sheet.labeled_grid",
        lambda rows, **_: titles.extend(row[0] for row in rows) or Image.new("RGB", (8, 8)),
    )
    kb = apples(tmp_path / "apples", captions=True)
    pipe = loading.open_pipeline(str(random_rdm))
    made: list[dict[str, Any]] = []
    for rerank in (True, False):
        ready = jobs.prepare(pipe, kb, jobs.Job(prompt="red apple", n=1, k=4, rerank=rerank))
        blank = [Image.new("RGB", (64, 64))]
        made += records.generation_records(
            pipe, "m", kb, ready.hits, blank, ready.settings, dict(ready.request), fingerprint="0"
        )
    paths = output.write([Image.new("RGB", (64, 64))], made[:1], ready.hits, tmp_path / "out")
    assert re.fullmatch(r"left out, of another color: \d+ '\w+ apple'", provenance.read_png(paths[0])["retrieval"][0])
    assert re.fullmatch(r"000  red apple \(left out, of another color: '\w+ apple'.*\)", titles[0])  # no number
    assert jobs.notes(ready, jobs.Job(prompt="red apple")) == []
    assert {each["caption"] for each in made[0]["neighbors"]} == {"red apple"}
    assert "retrieval" not in made[1]
    assert [each["request"]["rerank"] for each in made] == ["color", "none"]


def test_one_reranker_by_name_everywhere(tmp_path: Path) -> None:
    """Each name means the same to a search, the command line and a line of prompts; a reranker of one's own is taken
    too, and gets the search to ask again."""
    from bowerbird.core.errors import BowerbirdError
    from bowerbird.knowledge.rerank.protocol import Task, reorder
    from bowerbird.systems import prompt_file
    from bowerbird.systems.jobs import Job

    class Last:
        """Prefers what the search likes least among all that there are."""

        name, reads_pictures = "last", False

        def rerank(self, task: Task) -> Neighbors:
            found = task.find(range(len(task)), len(task.base))
            return reorder(found, -found.scores, task.k, measure="last")

    kb = apples(tmp_path / "apples", captions=True)
    plain = kb.search(text=["red apple", "apple"], k=9)
    last = kb.search(text=["red apple", "apple"], k=3, rerank=Last())
    assert last.ids.tolist() == [row[::-1][:3] for row in plain.ids.tolist()]
    np.testing.assert_array_equal(last.measures["last"], last.scores)
    np.testing.assert_array_equal(last.measures["similarity"], plain.measures["similarity"][:, ::-1][:, :3])
    assert kb.search(text="red apple", k=4, rerank="auto").mask.sum() == 3
    assert kb.search(text="red apple", k=4).mask.all()
    with pytest.raises(BowerbirdError, match="choose one of auto, none, color"):
        kb.search(text="red apple", rerank="colour")
    with pytest.raises(BowerbirdError, match="texts or pictures"):
        kb.search(ids=[int(plain.ids[0, 0])], k=2, rerank="color")
    for name, said in (("color", 3), ("none", 4), ("auto", 3)):
        shown = bowerbird("search", kb.path, "--text", "red apple", "-k", "4", "--rerank", name, "--json", cwd=tmp_path)
        found = json.loads(shown.stdout)
        assert (found["rerank"], len(found["results"])) == ("color" if name == "auto" else name, said)
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "rerank": false}\n{"prompt": "a", "rerank": "color"}\n"a"\n')
    jobs = prompt_file.read_jobs(tmp_path / "p.jsonl", Job(), has_kb=True)
    assert [job.rerank for job in jobs] == ["none", "color", "auto"]


def test_a_prompt_whose_neighbors_are_other_things_too_is_hinted_at(tmp_path: Path) -> None:
    """Where each thing is drawn once, further neighbors are other things, and the picture a mixture."""
    folder = tmp_path / "things" / "misc"
    folder.mkdir(parents=True)
    for number, name in enumerate(("green_house", "green tree", "green star", "old house")):
        apple("green", number).save(folder / f"{name}.png")
    (folder / "old house.txt").write_text("a green house")
    kb = KnowledgeBase.build(tmp_path / "kb", tmp_path / "things")[0]

    def hint(prompt: str, k: int) -> str | None:
        return mixture_hint(kb, queries.by_text(kb, [prompt], k, rerank="none"), prompt)

    assert (hint("green tree", 3) or "").startswith("1 of 3 neighbors is 'green tree.png'; the others lack words")
    of_two = r"2 of 4 neighbors are '(green_house.png|a green house)' and 1 more;.*`k=2`"
    assert re.match(of_two, hint("green house", 4) or "")
    assert hint("green tree", 1) is hint("house", 2) is hint("green", 4) is hint("red ball", 2) is None
