"""What a text is found by, in the scripts people write: the right words, in the right order."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from bowerbird import BowerbirdError, KnowledgeBase
from bowerbird.data.filters import filter_rows
from bowerbird.knowledge.search import bm25, build, phrases, terms, typos
from bowerbird.knowledge.search.analyzer import PLAIN
from bowerbird.knowledge.search.words import name_words, query_words, whole, words
from tests.faults.plain import PlainEncoder
from tests.test_own_classes import run

CAPTIONS = {
    "zh": ("北京烤鸭", "一盘北京烤鸭", "上海小笼包", "黒猫"),
    "ja": ("ハス", "バス", "パス", "味噌ラーメンの写真"),
    "hi": ("दिल", "दाल", "दल"),
    "th": ("แมวดำ", "หมา"),
    "ko": ("빨간 사과를 먹다", "개 사진"),
    "emoji": ("🦊", "🐺", "👩🏽‍🚀 in space", "👍🏽", "it", "♥"),
    "en": ("die Straße", "a fox", "a glass", "the bus", "two dishes", "a cherry", "potatoes", "Łódź, naïve café’s"),
}


@pytest.fixture(scope="module")
def index() -> tuple[bm25.Words, list[str]]:
    every = [caption for group in CAPTIONS.values() for caption in group]
    return bm25.build(every, [""] * len(every)), every


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("烤鸭", ["北京烤鸭", "一盘北京烤鸭"]),
        ("北京烤鸭", ["北京烤鸭", "一盘北京烤鸭"]),
        ("猫", ["黒猫"]),
        ("ラーメン", ["味噌ラーメンの写真"]),
        ("ﾗｰﾒﾝ", ["味噌ラーメンの写真"]),
        ("パス", ["パス"]),
        ("ハス", ["ハス"]),
        ("दाल", ["दाल"]),
        ("แมว", ["แมวดำ"]),
        ("사과", ["빨간 사과를 먹다"]),
        ("개", ["개 사진"]),
        ("🦊", ["🦊"]),
        ("👩‍🚀", ["👩🏽‍🚀 in space"]),
        ("🚀", ["👩🏽‍🚀 in space"]),
        ("👍", ["👍🏽"]),
        ("❤", []),
        ("♥️", ["♥"]),
        ("it", ["it"]),
        ("the", []),
        ("strasse", ["die Straße"]),
        ("STRASSE", ["die Straße"]),
        ("foxes", ["a fox"]),
        ("glasses", ["a glass"]),
        ("buses", ["the bus"]),
        ("dish", ["two dishes"]),
        ("cherries", ["a cherry"]),
        ("potato", ["potatoes"]),
        ("lodz cafe", ["Łódź, naïve café’s"]),
    ],
)
def test_what_is_found(index: tuple[bm25.Words, list[str]], query: str, found: list[str]) -> None:
    rows, scores = bm25.best_rows(index[0], query, 3)
    assert [index[1][row] for row in rows if row >= 0] == found
    assert (scores[: len(found)] > 0).all()


def test_an_ending_joins_no_two_words() -> None:
    apart = ["tens", "tense", "dens", "dense", "browse", "brow", "tea", "please", "plea", "moose", "moo", "axe", "ox"]
    apart += ["horse", "house", "bus", "use", "lass", "less", "base", "bass", "rose", "row"]
    assert len({words(word)[0] for word in apart}) == len(apart)
    for plural, one in (
        ("axes", "axe"),
        ("shoes", "shoe"),
        ("cookies", "cookie"),
        ("houses", "house"),
        ("pies", "pie"),
    ):
        assert words(plural) == words(one)


def test_a_caption_that_is_the_query_comes_first() -> None:
    """Before one that has the word more often, or a shorter item, and before one of the same words in other forms."""
    captions = ["fox fox fox", "a fox", "foxes", "the fox", "fox"]
    index = bm25.build(captions, ["", "", "", "red animal in a wood with snow", "red animal in a wood with snow"])
    for query, first in (("the fox", 3), ("fox", 4), ("foxes", 2)):
        rows, scores = bm25.best_rows(index, query, 5)
        assert rows[0] == first
        assert rows[-1] == 0
        assert (np.diff(scores) <= 0).all()


def test_the_same_whether_indexed_or_come_since(tmp_path: Path) -> None:
    """Captions that are the query come first from either side; so do words of file names behind those of captions."""
    for number, (part, caption) in enumerate(
        (("a", "fox fox fox"), ("a", "it"), ("b", "fox"), ("b", "烤鸭"), ("b", ""))
    ):
        (tmp_path / part).mkdir(exist_ok=True)
        name = tmp_path / part / f"IMG_12{number}4"
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(f"{name}.png")
        name.with_suffix(".txt").write_text(caption)
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path / "a", encoder=PlainEncoder())
    kb.search(text="fox", k=1, mode="bm25")
    kb.add(tmp_path / "b")
    again, _ = KnowledgeBase.build(tmp_path / "kb2", [tmp_path / "a", tmp_path / "b"], encoder=PlainEncoder())
    for one in (kb, again):
        hits = one.search(text="fox", k=2, mode="bm25")
        assert hits.captions[0] == ("fox", "fox fox fox")
        assert one.search(text="烤鸭", k=1, mode="bm25").captions == (("烤鸭",),)
        names = one.search(text="img 1204", k=5, mode="bm25")
        assert names.captions[0][0] == "fox fox fox"
        assert names.mask.sum() == 5


def test_names_are_a_field_of_less_weight() -> None:
    names = ["red_fox.png", "IMG_1234.jpg", "0.png", "pictures.parquet[2]"]
    index = bm25.build(["a red fox", "", "fox tail by 1234 birds", ""], [""] * 4, names=names)
    assert bm25.best_rows(index, "1234", 4)[0].tolist() == [2, 1, -1, -1]
    plain = bm25.build(["a red fox", "", "fox tail by 1234 birds", ""], [""] * 4)
    np.testing.assert_array_equal(bm25.best_rows(index, "fox", 4)[1], bm25.best_rows(plain, "fox", 4)[1])
    assert bm25.best_rows(index, "parquet", 4)[0].tolist() == [-1] * 4
    assert name_words("C:\\photos\\Red-Fox 2.JPG") == ["red", "fox", "2"]


def test_an_index_of_earlier_words_is_made_again(
    kb_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "in" / "1.png")
    (tmp_path / "in" / "1.txt").write_text("烤鸭")
    monkeypatch.setattr(build, "LAYOUT", build.LAYOUT - 1)
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path / "in", encoder=PlainEncoder())
    kb.search(text="x", k=1, mode="bm25")
    monkeypatch.undo()
    KnowledgeBase.open(tmp_path / "kb").search(text="x", k=1, mode="bm25")
    manifest = json.loads((tmp_path / "kb" / "index" / "manifest.json").read_text())
    assert manifest["layout"] == build.LAYOUT


def test_whole_texts() -> None:
    assert whole("The red Foxes") == whole("a red fox") != whole("red")
    assert whole("it") != whole("the")
    assert whole("  …") == ""
    assert query_words("烤鸭") == ["烤鸭"]


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("a picture of a screwdriver", ["screwdriver"]),
        ("Please draw me a red fox for my app", ["red", "fox"]),
        ("could you generate two icons showing a fox, please?", ["two", "fox"]),
        ("show jumping", ["show", "jumping"]),  # no request
        ("framed picture", ["framed", "picture"]),
        ("a picture of", ["picture"]),
    ],
)
def test_words_that_only_ask_are_not_searched(prompt: str, asked: list[str]) -> None:
    assert query_words(prompt) == asked


@pytest.mark.parametrize("language", [None, "en"])
@pytest.mark.parametrize(
    "prompt", ["a picture of a yarn", "please draw yarn for my app", "yarn, drawn small on white", "Yarn， watercolor"]
)
def test_a_prompt_finds_what_it_names(prompt: str, language: str | None, tmp_path: Path) -> None:
    names = ["framed picture", "picture", "white small square", "small app", "drawing pin", "yarn", "my yarn ball"]
    (tmp_path / "in").mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (16, 16), (30 * number, 90, 200 - 20 * number)).save(tmp_path / "in" / f"{number}.png")
        (tmp_path / "in" / f"{number}.txt").write_text(name)
    kb = KnowledgeBase.build(tmp_path / "kb", tmp_path / "in", language=language)[0]
    for mode in ("bm25", "hybrid"):
        assert kb.search(text=prompt, k=1, mode=mode).captions[0][0] == "yarn"


def test_near_words_are_those_of_the_exact_distance() -> None:
    """Against the definition, letter by letter: a letter more, less, other, or two swapped."""

    def edits(word: str) -> set[str]:
        cuts = [(word[:n], word[n:]) for n in range(len(word) + 1)]
        letters = "abcdefghijklmnopqrstuvwxyz"
        made = {a + b[1:] for a, b in cuts if b} | {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
        return made | {a + c + b[n:] for a, b in cuts for c in letters for n in (0, 1) if n <= len(b)}

    once = edits("ladybug")
    known = typos.lexicon([*sorted(once), "ladybugsx", "yladbug", "fox", "img1234"])
    assert typos.near_words(known, "ladybug") == {word: int(word != "ladybug") for word in once}
    long = typos.lexicon(["butterfly", "butetfrly", "utterflies", "butter"])
    assert typos.near_words(long, "butterfly") == {"butterfly": 0, "butetfrly": 2}
    assert not typos.near_words(typos.lexicon(["烤鸭", "1234"]), "ladybug")


def test_a_mistyped_word_is_found_and_said(tmp_path: Path) -> None:
    """In both segments, scored below the word itself; never where an item has the word, and not when turned off."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    captions = ["red ladybug", "a boat", "goat", "red fox", "ladybugs, two of them", "café"]
    for number, caption in enumerate(captions):
        name = tmp_path / ("a" if number < 4 else "b") / f"{number}.png"
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(name)
        name.with_suffix(".txt").write_text(caption, encoding="utf-8")
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path / "a", encoder=PlainEncoder())
    kb.search(text="fox", k=1, mode="bm25")
    kb.add(tmp_path / "b")
    found = kb.search(text=["ladybgu", "ladybug", "boat", "caef", "xof", "1235"], k=3, mode="bm25")
    assert set(found.captions[0][:2]) == {captions[0], captions[4]}
    assert found.corrected == ({"ladybgu": ("ladybug",)}, {}, {}, {"caef": ("cafe",)}, {}, {})
    assert found.captions[2] == ("a boat", "", "")
    assert found.captions[3][0] == "café"
    assert (found.scores[0, :2] < found.scores[1, :2]).all()
    assert kb.search(text="ladybgu", k=1, mode="hybrid").captions[0][0] in (captions[0], captions[4])
    assert not kb.search(text="ladybgu", k=1, mode="bm25", typos=False).mask.any()
    kb.remove(where="caption LIKE '%boat%'")
    assert kb.search(text="boat", k=1, mode="bm25").captions == (("goat",),)
    shown, said = run("search", str(tmp_path / "kb"), "--text", "ladybgu", "--mode", "bm25", "--json")
    assert json.loads(shown)["corrected"] == {"ladybgu": ["ladybug"]}
    assert "'ladybgu'" in said
    assert "'ladybug'" in said


@pytest.mark.parametrize(
    ("text", "words_of", "phrases", "where"),
    [
        ('a "red fox" in snow', "a red fox in snow", ("red fox",), None),
        ("sku:ABC-12 fox", "fox", (), "regexp_like(`SKU`, …)"),
        ('Artist:"d\'Arc, J." year:1990', "d'Arc, J. 1990", (), "regexp_like(`artist`, …) AND `year` = 1990"),
        ("SKU:1990", "1990", (), "lower(`SKU`) IN (lower('1990'))"),
        ("artist:が", "が", (), "lower(`artist`) IN (lower('\u304c'), lower('\u304b\u3099'))"),
        (
            "„roter Apfel“ «oie» »Gans« 「黒い猫」",
            "roter Apfel oie Gans 黒い猫",
            ("roter Apfel", "oie", "Gans", "黒い猫"),
            None,
        ),
        ("year:old http://a.b note:x 5:30", "year:old http://a.b note:x 5:30", (), None),
        ("year:19.0 year:99999999999999999999", "year:99999999999999999999", (), "`year` = 19"),
        ('12" pan', '12" pan', (), None),
        ('""', '""', (), None),
    ],
)
def test_a_query_taken_apart(text: str, words_of: str, phrases: tuple[str, ...], where: str | None) -> None:
    columns = {"SKU": "string", "artist": "string", "year": "int64", "tags": "list<item: string>"}
    found = terms.parse(text, columns)
    shown = found.where and re.sub(r"'\(\?i\)(?:[^']|'')*'", "…", found.where)
    assert (found.text, found.phrases, shown) == (words_of, phrases, where)


@pytest.mark.parametrize("kind", ["string", "list<item: string>"])
def test_a_field_has_its_value_whatever_its_accents(kind: str) -> None:
    names = [
        *("José Peña", "Jose\u0301 Pen\u0303a", "JOSE PENA", "José Peñas", "a José Peña", "Josè Pena"),
        *("Ærø Straße", "Aero Strasse", "АЁ", "ае", "C++ (a.b)", "C++ (axb)", "O’Łódź", "O'Lodz", "한É", "か", "が"),
    ]
    rows = [{"artist": name if kind == "string" else ["x", name]} for name in names]

    def found(value: str) -> list[str]:
        where = terms.parse(f'artist:"{value}"', {"artist": kind}).where
        return [names[at] for at in filter_rows(rows, where)]

    for written in ("jose pena", "José Peña", "jose\u0301 PEN\u0303A"):
        assert found(written) == [names[at] for at in (0, 1, 2, 5)]
    assert found("ærø strasse") == found("aero straße") == ["Ærø Straße", "Aero Strasse"]
    assert found("АЕ") == ["АЁ", "ае"]
    assert found("c++ (a.b)") == ["C++ (a.b)"]
    assert found("o'lodz") == ["O’Łódź", "O'Lodz"]
    assert found(unicodedata.normalize("NFD", "한e")) == ["한É"]
    assert found("か") == ["か"]
    assert found("José Peñ") == found("é" * 1000) == []


def test_phrases_and_fields(tmp_path: Path) -> None:
    """In rows indexed and in rows that came since, with a condition and without."""
    rows = [
        ("a red fox", "ABC-12", 1, {"artist": "Zoe\u0308"}),
        ("fox by a red barn", "abc-12", 2, {}),
        ("Red foxes", "X", 1, {}),
        ("barn", "ABC-12", 1, {"artist": "Zo\u00eb", "tags": ["Old", "Farm"]}),
    ]
    for part, some in (("a", rows[:2]), ("b", rows[2:])):
        (tmp_path / part).mkdir()
        lines = []
        for number, (caption, sku, year, more) in enumerate(some):
            Image.new("RGB", (8, 8), (90 * number, 40 * len(part), ord(part))).save(tmp_path / part / f"{number}.png")
            row = {"file_name": f"{number}.png", "text": caption, "SKU": sku, "year": year}
            lines.append(json.dumps(row | more))
        (tmp_path / part / "metadata.jsonl").write_text("\n".join(lines))
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path / "a", encoder=PlainEncoder())
    kb.search(text="fox", k=1, mode="bm25")
    kb.add(tmp_path / "b")

    def found(text: str, mode: str = "bm25", **options: Any) -> set[str]:
        hits = kb.search(text=text, k=4, mode=mode, **options)
        return {caption for caption, there in zip(hits.captions[0], hits.mask[0], strict=True) if there}

    assert found("red fox") == {rows[0][0], rows[1][0], rows[2][0]}
    for mode in ("bm25", "hybrid", "dense"):
        assert found('"red fox"', mode) == {"a red fox", "Red foxes"}
        assert found('"red fox" sku:abc-12', mode) == {"a red fox"}
        assert found("SKU:ABC-12", mode) == {rows[0][0], rows[1][0], "barn"}
    assert found('"fox red"') == found('"red foz"') == set()
    assert found('"red fox"', where="year = 1") == {"a red fox", "Red foxes"}
    assert found("barn year:1") == {"barn"}
    assert found("nowhere:1 barn") == {"fox by a red barn", "barn"}
    assert found('""') == set()
    assert found("tags:farm") == found("tags:FARM") == {"barn"}
    assert found("artist:Zoë") == found("artist:ZOE\u0308") == {"a red fox", "barn"}
    assert found('"red fox"', operators=False) == found("red fox")
    several = kb.search(text=["fox", '"a red barn"'], k=2, mode="hybrid")
    assert several.captions[1] == ("fox by a red barn", "")
    assert several.queries == ("fox", '"a red barn"')
    assert "phrases and fields" in run("search", str(tmp_path / "kb"), "--text", '"fox red"', "--mode", "bm25")[1]


def test_words_of_a_language(tmp_path: Path) -> None:
    """Stems, parts of compounds and accents, the same whether indexed or come since, and opened again."""
    captions = {"a": ("Hundehütte", "ein Haus am See", "Café"), "b": ("die Häuser", "Schäferhunde", "Cafe")}
    for part, texts in captions.items():
        (tmp_path / part).mkdir()
        for number, caption in enumerate(texts):
            name = tmp_path / part / f"{number}"
            Image.new("RGB", (8, 8), (40 * number, len(caption), 90 * (part == "a"))).save(f"{name}.png")
            name.with_suffix(".txt").write_text(caption)
    options: dict[str, Any] = {"encoder": PlainEncoder(), "language": "de", "compounds": True, "keep_accents": True}
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path / "a", **options)
    kb.add(tmp_path / "b")
    KnowledgeBase.build(tmp_path / "whole", [tmp_path / "a", tmp_path / "b"], **options)
    plain, _ = KnowledgeBase.build(tmp_path / "plain", [tmp_path / "a", tmp_path / "b"], encoder=PlainEncoder())
    for one in (
        kb,
        KnowledgeBase.open(tmp_path / "kb", encoder=PlainEncoder()),
        KnowledgeBase.open(tmp_path / "whole"),
    ):
        for query, found in (
            ("Haus", {"ein Haus am See", "die Häuser"}),
            ("Hund", {"Hundehütte", "Schäferhunde"}),
            ("Hausmeister", {"ein Haus am See", "die Häuser"}),
            ("Café", {"Café"}),
        ):
            hits = one.search(text=query, mode="bm25", k=6, typos=False)
            assert set(hits.captions[0]) - {""} == found, query
    assert set(plain.search(text="Cafe", mode="bm25", k=6).captions[0]) >= {"Café", "Cafe"}
    assert plain.search(text="Hund", mode="bm25", k=6, typos=False).mask.sum() == 0
    assert kb.manifest["text"] == {"language": "de", "compounds": True, "keep_accents": True}
    assert kb.info()["indexes"]["bm25"]["analyzer"]["language"] == "de"
    assert "text" not in plain.manifest
    with pytest.raises(BowerbirdError, match="choose one of"):
        KnowledgeBase.build(tmp_path / "no", tmp_path / "a", encoder=PlainEncoder(), language="xx")
    assert not (tmp_path / "no").exists()


def test_a_phrase_as_it_stands_is_found_as_by_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first look over all captions finds is a part of what their words say, and no more."""
    captions = ["A Photo, of it", "photo-of", "photo_of", "photo\u2019s of", "photos of", "photo's of", "photo #of"]
    captions += ["of photo", "photo 'sof", "xphoto of", "photo ofx", "photo\u00e9 of", "photo of e\u0301", "photo\nof"]
    captions += ["PHOTO OF.", "ofphoto of", "photo of's", "photo of, in a photo", "photo"]
    table = pa.table({"caption": captions, "name": ["a.png"] * len(captions)})
    for phrase in ("photo of", "Photos of", "photo, OF"):
        quoted = phrases.rows_that_say(table, np.arange(len(captions)), phrase, PLAIN)
        assert len(quoted) > len(captions) // 2
        with monkeypatch.context() as words_alone:
            words_alone.setattr(phrases, "_as_quoted", lambda column, phrase: np.zeros(len(column), bool))
            assert phrases.rows_that_say(table, np.arange(len(captions)), phrase, PLAIN).tolist() == quoted.tolist()


def test_han_characters_that_nobody_has_side_by_side(tmp_path: Path) -> None:
    captions = ("黒い猫", "白い犬", "黒猫の家族", "赤い花")
    lines = []
    for number, caption in enumerate(captions):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": caption}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path, encoder=PlainEncoder())

    def found(text: str, **options: Any) -> list[str]:
        return [caption for caption in kb.search(text=text, k=3, mode="bm25", **options).captions[0] if caption]

    assert found("黒猫") == ["黒猫の家族"]  # side by side where there is one
    assert found("白犬") == ["白い犬"]
    assert found("白犬", typos=False) == found('"白犬"') == []
    assert kb.search(text="赤鳥", k=1, mode="bm25").corrected == ({"赤鳥": ("赤",)},)
    kb.remove(where="caption = '黒猫の家族'")
    assert found("黒猫") == ["黒い猫"]
