"""A prompt of several things gets one item of each before a second of any, from one function for every system."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError
from bowerbird.systems import coverage, jobs, loading, queries
from bowerbird.systems.phrases.parse import load_parser, parse_prompt
from tests.test_cli import bowerbird

NUMBERS = ("one", "two", "three", "four", "five", "six")
THINGS = (*(f"red apple {number}" for number in NUMBERS), "blue boat", "green tree", "lamp")
PROMPT = "a red apple and a blue boat"


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    """Six apples, and one each of other things."""
    place = tmp_path / "in"
    place.mkdir()
    colors = {"red": (220, 30, 40), "blue": (30, 40, 220), "green": (30, 160, 40), "lamp": (250, 220, 90)}
    for number, name in enumerate(THINGS):
        picture = Image.new("RGB", (64, 64), "white")
        picture.paste(colors[name.split()[0]], (8 + 2 * number, 8, 40 + 2 * number, 40 + 2 * number))
        picture.save(place / f"{number}.png")
    lines = [{"file_name": f"{number}.png", "text": name} for number, name in enumerate(THINGS)]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return KnowledgeBase.build(tmp_path / "kb", place, caption_column="text")[0]


def named(folder: Path, tags: dict[str, list[str]]) -> KnowledgeBase:
    """A drawing a name, with its tags."""
    folder.mkdir()
    lines = []
    for number, (name, own) in enumerate(tags.items()):
        Image.new("RGB", (64, 64), (20 * number, 120, 200)).save(folder / f"{number}.png")
        lines.append({"file_name": f"{number}.png", "text": name, "tags": own})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return KnowledgeBase.build(folder.with_name(folder.name + "-kb"), folder, caption_column="text")[0]


def test_what_an_item_is_called_wins_over_the_rules(tmp_path: Path) -> None:
    """A colon, a number and "plus" part phrases, but not those of a name that has them."""
    names = (
        "flag: Finland",
        "flag: Norway",
        "card two",
        "plus",
        "two hearts",
        "cat",
        "dog",
        "A button (blood)",
        "family: man, man, boy, boy",
    )
    kb = named(tmp_path / "names", {name: [] for name in names})
    expected = {
        "flag: Finland and a cat": ["flag: Finland", "a cat"],
        "card two and two hearts": ["card two", "two hearts"],
        "a dog and plus": ["a dog", "plus"],
        "cat plus dog": ["cat", "dog"],
        "a flag, Finland": ["a flag", "Finland"],
        "two cats": ["two cats"],
        "A button (blood) and family: man, man, boy, boy": ["A button (blood)", "family: man, man, boy, boy"],
    }
    parsed = {text: parse_prompt(text, parser=load_parser("rules"), kb=kb) for text in expected}
    assert {text: [phrase.text for phrase in read.phrases] for text, read in parsed.items()} == expected
    hits = queries.by_text(kb, ["flag: Finland and card two"], 2, cover=True, rerank="none")
    assert set(hits.captions[0]) == {"flag: Finland", "card two"}


def test_tags_of_one_item_are_one_thing(tmp_path: Path) -> None:
    """Covering the words of a description one by one found other things for each of its tags."""
    tags = {"mouse face": ["animal", "rodent"], "animal": [], "rodent": [], "red heart": [], "blue square": ["heart"]}
    kb = named(tmp_path / "tags", tags)

    def read(text: str) -> list[str]:
        return [phrase.text for phrase in parse_prompt(text, parser=load_parser("rules"), kb=kb).phrases]

    assert read("animal rodent mouse") == ["animal rodent mouse"]
    assert read("an animal and a rodent") == ["an animal", "a rodent"]
    assert read("red heart blue square") == ["red heart", "blue square"]
    found = kb.search(text="animal rodent mouse", k=3)
    assert coverage.cover(kb, found).ids.tolist() == found.ids.tolist()


def test_a_mistyped_name_is_covered_as_it_was_searched(tmp_path: Path) -> None:
    kb = named(tmp_path / "names", {"man in lotus position": [], "man": [], "position": [], "boat": []})
    found = kb.search(text="man in ltous position", k=2)
    assert found.corrected[0] == {"ltou": ("lotu",)}  # as the index has them
    assert coverage.cover(kb, found).captions[0][0] == "man in lotus position"


def things(captions: tuple[str, ...]) -> list[str]:
    return [" ".join(caption.split()[:2]) for caption in captions]


def test_each_thing_is_there_before_a_second_of_any(kb: KnowledgeBase) -> None:
    hits = queries.by_text(kb, [PROMPT, "a green tree"], 3, cover=True, rerank="none")
    assert things(hits.captions[0])[:2] == ["red apple", "blue boat"]
    assert hits.phrases[0][:2] == ("a red apple", "a blue boat")
    assert hits.mask.all()
    assert len(set(hits.ids[0].tolist())) == 3
    plain = queries.by_text(kb, ["a green tree"], 3, rerank="none")
    assert hits.ids[1].tolist() == plain.ids[0].tolist()  # one thing: as it was found
    assert queries.by_text(kb, [PROMPT], 1, cover=True).mask.all()


def test_what_nobody_has_is_said_and_the_rest_filled(kb: KnowledgeBase) -> None:
    found = kb.search(text="a lamp and a purple giraffe", k=4)
    hits = coverage.cover(kb, found)
    assert things(hits.captions[0])[0] == "lamp"
    assert [phrase.removeprefix("a ") for phrase in hits.phrases[0]] == ["lamp", "", "", ""]
    assert any("no item for 'a purple giraffe'" in note for note in hits.notes[0])
    assert set(hits.ids[0].tolist()) == set(found.ids[0].tolist())


def test_generation_records_it_and_the_command_line_takes_it(
    kb: KnowledgeBase, random_rdm: Path, tmp_path: Path
) -> None:
    pipe = loading.open_pipeline(str(random_rdm))
    ready = jobs.prepare(pipe, kb, jobs.Job(prompt=PROMPT, k=2, cover=True))
    assert things(ready.hits.captions[0]) == ["red apple", "blue boat"]
    assert ready.request["cover"] is True
    assert "cover" not in jobs.prepare(pipe, kb, jobs.Job(prompt=PROMPT, k=2)).request
    out = pipe(PROMPT, knowledge_base=kb, k=2, cover=True, num_inference_steps=1)
    assert things(out.neighbors.captions[0]) == ["red apple", "blue boat"]
    with pytest.raises(BowerbirdError, match="`cover` is about the things that a prompt names"):
        queries.make_request(unconditional=True, cover=True)
    shown = bowerbird("search", kb.path, "--text", PROMPT, "-k", "2", "--cover", "--json", cwd=tmp_path)
    results = json.loads(shown.stdout)["results"]
    assert [each["phrase"] for each in results] == ["a red apple", "a blue boat"]


def test_fields_hold_for_what_covers_and_for_rerankers(tmp_path: Path) -> None:
    """`artist:Blue` is no word: neither a thing to cover nor a color to keep, and nobody else's item comes in."""
    place = tmp_path / "in"
    place.mkdir()
    rows = [
        ("red boat", "Blue", "red"),
        ("red tree", "Blue", "red"),
        ("lamp", "Eve", "yellow"),
        ("boat", "Eve", "blue"),
    ]
    lines = []
    for number, (caption, artist, color) in enumerate(rows):
        Image.new("RGB", (32, 32), color).save(place / f"{number}.png")
        lines.append({"file_name": f"{number}.png", "text": caption, "artist": artist})
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    kb = KnowledgeBase.build(tmp_path / "kb", place, caption_column="text", tokens=4)[0]
    query = "artist:Blue boat, lamp"
    hits = coverage.cover(kb, kb.search(text=query, k=3), operators=True)
    assert sorted(hits.captions[0]) == ["", "red boat", "red tree"]
    assert hits.phrases[0][0] == "boat"
    assert [note for note in hits.notes[0] if "artist" in note] == []
    found = kb.search(text="artist:Blue boat", k=2, rerank="color")
    assert (set(found.captions[0]), found.notes) == ({"red boat", "red tree"}, ())
    late = kb.search(text="artist:Blue boat", k=2, rerank="late")
    assert late.scores.tolist() == kb.search(text="boat", k=2, rerank="late", where="artist = 'Blue'").scores.tolist()
    assert late.queries == ("artist:Blue boat",)


def test_and_of_other_languages(tmp_path: Path) -> None:
    """In German with stems: "Hunde" is what "ein Hund" is called."""
    pytest.importorskip("snowballstemmer")
    place = tmp_path / "in"
    place.mkdir()
    names = [*(f"roter Apfel {n}" for n in ("eins", "zwei", "drei")), "ein Hund im Garten", "perro", "gato y luna"]
    for number, name in enumerate(names):
        Image.new("RGB", (32, 32), (40 * number, 90, 30)).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(name)
    kb = KnowledgeBase.build(tmp_path / "kb", place, language="de")[0]
    for text, phrases in (
        ("rote Äpfel und Hunde", ("rote Äpfel", "Hunde")),
        ("un perro y un Apfel", ("un perro", "un Apfel")),
    ):
        hits = coverage.cover(kb, kb.search(text=text, k=2))
        assert hits.phrases == (phrases,)
        assert hits.notes == ((),)
    assert [p.text for p in parse_prompt("gato y luna", parser=load_parser("rules"), kb=kb).phrases] == ["gato y luna"]


def test_pictures_without_captions_are_covered_by_their_looks(tmp_path: Path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    for number, color in enumerate(("red", "blue", "green")):
        Image.new("RGB", (64, 64), color).save(place / f"{number}.png")
    kb = KnowledgeBase.build(tmp_path / "kb", place)[0]
    hits = coverage.cover(kb, kb.search(text="a red heart and a blue boat", k=2))
    assert hits.phrases == (("a red heart", "a blue boat"),)
    assert len({*hits.ids[0].tolist()}) == 2


def test_marks_of_other_scripts_part_things() -> None:
    parsed = parse_prompt("黒い猫、白い犬。🎉，tree", parser=load_parser("rules"))
    assert [phrase.text for phrase in parsed.phrases] == ["黒い猫", "白い犬", "🎉", "tree"]


def test_an_encoder_of_pictures_alone_covers_by_words(kb: KnowledgeBase) -> None:
    alone = KnowledgeBase.open(kb.path, encoder=kb.encoder)
    alone.encoder = _PicturesAlone(kb.encoder)
    hits = coverage.cover(alone, alone.search(text=PROMPT, k=2, mode="bm25"), search_mode="bm25")
    assert [caption.split()[1] for caption in hits.captions[0]] == ["apple", "boat"]
    lacking = coverage.cover(alone, alone.search(text="a red apple and a dragon", k=2, mode="bm25"), search_mode="bm25")
    assert "a dragon" in lacking.notes[0][0]


class _PicturesAlone:
    """An encoder that refuses texts."""

    embeds_text = False

    def __init__(self, whole: Any) -> None:
        self.whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def embed_text(self, texts: Sequence[str]) -> Any:
        raise BowerbirdError("no texts")


@pytest.mark.parametrize(
    "prompt",
    ["a photo of a fox", "a fox in watercolor", "fox, studio lighting, 4k", "a fox as a cartoon, flat vector art"],
)
def test_what_a_picture_is_and_how_it_looks_is_no_thing(prompt: str, tmp_path: Path) -> None:
    """Even where items are called so."""
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("fox", "photo", "watercolor", "studio", "lightning", "vector", "art", "cartoon")):
        Image.new("RGB", (16, 16), (30 * number, 90, 200 - 20 * number)).save(tmp_path / "in" / f"{name}.png")
        (tmp_path / "in" / f"{name}.txt").write_text(name)
    kb = KnowledgeBase.build(tmp_path / "kb", tmp_path / "in")[0]
    assert [phrase.head for phrase in parse_prompt(prompt, parser=load_parser("rules"), kb=kb).phrases] == ["fox"]
