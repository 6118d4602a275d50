"""From a prompt to its phrases, and where in the picture they belong."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.phrases import grammar
from bowerbird.systems.phrases.brackets import escape, read_brackets
from bowerbird.systems.phrases.layout import WHOLE, regions_for
from bowerbird.systems.phrases.libraries import SpacyParser, StanzaParser, TextBlobParser
from bowerbird.systems.phrases.names import LONGEST, MOST_TOKENS, find_names, is_name, merge
from bowerbird.systems.phrases.parse import load_parser, parse_prompt
from bowerbird.systems.phrases.phrase import Phrase, PhraseParser

# prompt -> phrases as (text, head, attributes)
GRAMMAR: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "a red heart left of a blue square on yellow": [
        ("a red heart", "heart", ("red",)),
        ("a blue square", "square", ("blue",)),
    ],
    "A red car and a white sheep.": [("A red car", "car", ("red",)), ("a white sheep", "sheep", ("white",))],
    "a black and white cat": [("a black and white cat", "cat", ("black", "white"))],
    "a big, red ball": [("a big, red ball", "ball", ("big", "red"))],
    "a red and a blue square": [("a red", "square", ("red",)), ("a blue square", "square", ("blue",))],
    "a photo of a fox wearing a hat, digital art, highly detailed": [("a fox", "fox", ()), ("a hat", "hat", ())],
    "the roof of a house": [("the roof", "roof", ()), ("a house", "house", ())],
    "a bowl of soup on a wooden table": [
        ("a bowl of soup", "bowl of soup", ()),
        ("a wooden table", "table", ("wooden",)),
    ],
    "a left shoe and the right hand": [("a left shoe", "shoe", ("left",)), ("the right hand", "hand", ("right",))],
    "a man sits on the left": [("a man", "man", ())],
    "red heart blue square": [("red heart", "heart", ("red",)), ("blue square", "square", ("blue",))],
    "an old truck parked near the sea": [("an old truck", "truck", ("old",)), ("the sea", "sea", ())],
    "a flying bird above a building": [("a flying bird", "bird", ("flying",)), ("a building", "building", ())],
    "a white flag next to a solid blue flag": [
        ("a white flag", "flag", ("white",)),
        ("a solid blue flag", "flag", ("solid", "blue")),
    ],
    "above a green square and red rectangle": [
        ("a green square", "square", ("green",)),
        ("red rectangle", "rectangle", ("red",)),
    ],
    "a bench that sits on a stone patio": [("a bench", "bench", ()), ("a stone patio", "patio", ("stone",))],
    "a bowl full of green apples": [("a bowl", "bowl", ()), ("green apples", "apples", ("green",))],
    "🦊 beside 🏠": [("🦊", "🦊", ()), ("🏠", "🏠", ())],
    "on yellow": [],
    "": [],
}


@pytest.mark.parametrize("prompt", GRAMMAR)
def test_the_grammar_finds_noun_phrases_at_their_places(prompt: str) -> None:
    found = grammar.phrases(prompt)
    assert [(p.text, p.head, p.attributes) for p in found] == GRAMMAR[prompt]
    assert all(prompt[p.start : p.end] == p.text for p in found)


def test_two_phrases_of_every_prompt_like_those_of_cc_500() -> None:
    colors, things = ("red", "blue", "white", "brown", "gold"), ("car", "sheep", "bench", "teddy bear", "fire hydrant")
    for color, other in pairwise(colors):
        for thing in things:
            first, second = f"a {color} {thing}", f"an {other} apple"
            assert [p.text for p in grammar.phrases(f"{first} and {second}")] == [first, second]


def test_brackets_are_the_phrases_and_leave_the_prompt() -> None:
    read = read_brackets(r"a [red fox] beside a [ light house ], \[not this\] and \\ and c:\x")
    assert read.text == r"a red fox beside a  light house , [not this] and \ and c:\x"
    assert [(p.text, p.head) for p in read.phrases] == [("red fox", "fox"), ("light house", "house")]
    assert all(read.text[p.start : p.end] == p.text for p in read.phrases)
    assert read_brackets(escape(r"a [b] \[")).text == r"a [b] \["


@pytest.mark.parametrize("prompt", ["a [red fox", "a red] fox", "a [[red] fox]", "a [] fox", "a [  ] fox"])
def test_brackets_that_do_not_pair_up_are_one_line(prompt: str) -> None:
    with pytest.raises(BowerbirdError, match="bracket") as error:
        read_brackets(prompt)
    assert "\n" not in str(error.value)


def test_names_of_the_knowledge_base_are_found_whole(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    read = [
        (p.text, p.head)
        for p in find_names(kb, "a blue cup of coffee and cups of coffee on red, red heart apple violin")
    ]
    assert read == [("blue cup of coffee", "blue cup of coffee"), ("red heart", "red heart")]
    assert find_names(kb, "violin on the left") == find_names(kb, "!!") == find_names(kb, "") == []
    assert find_names(kb, "blue cup of coffee", where="color = 'red'") == []


def test_a_long_prompt_costs_no_more_than_a_few_hundred_searches(
    kb_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kb = KnowledgeBase.open(kb_path)
    asked: list[str] = []
    search = KnowledgeBase.search

    def count(self: KnowledgeBase, **how: Any) -> Any:
        asked.extend(how["text"])
        return search(self, **how)

    monkeypatch.setattr(KnowledgeBase, "search", count)
    found = find_names(kb, "red heart blue star green apple " * 500)
    assert len(found) == MOST_TOKENS // 2
    assert len(asked) <= (LONGEST + 1) * MOST_TOKENS


def test_names_shape_the_phrases_of_the_grammar(kb_path: Path) -> None:
    kb, rules = KnowledgeBase.open(kb_path), load_parser("rules")
    read = {
        prompt: [(p.text, p.head, p.attributes) for p in parse_prompt(prompt, parser=rules, kb=kb).phrases]
        for prompt in ("a shiny red heart", "a red apple pie", "green pine tree red heart", "a [pine] tree")
    }
    assert read == {
        "a shiny red heart": [("a shiny red heart", "red heart", ("shiny",))],
        "a red apple pie": [("a red apple pie", "pie", ("red", "apple"))],
        "green pine tree red heart": [("green pine tree", "green pine tree", ()), ("red heart", "red heart", ())],
        "a [pine] tree": [("pine", "pine", ())],
    }


def test_a_name_joins_the_phrases_it_runs_across() -> None:
    prompt = "a big cat with wry smile and a dog"
    name = "cat with wry smile"
    at = prompt.index(name)
    merged = merge(prompt, [Phrase(name, at, at + len(name), name)], grammar.phrases(prompt))
    assert [(p.text, p.head, p.attributes) for p in merged] == [
        ("a big cat with wry smile", name, ("big",)),
        ("a dog", "dog", ()),
    ]


def test_what_an_item_is_called() -> None:
    assert is_name(["hot", "dog"], "a Hot Dog", {}, "", parts=False)
    assert is_name(["hot", "dog"], "lunch", {"tags": "food; hot dogs"}, "", parts=False)
    assert is_name(["hot", "dog"], "lunch", {"tags": ["hot dog"]}, "", parts=False)
    assert is_name(["hot", "dog"], "lunch", {}, "shop/hot_dog.png", parts=False)
    assert is_name(["hot", "dog"], "a man eats a hot dog outside", {}, "", parts=True)
    assert not is_name(["hot", "dog"], "a man eats a hot dog outside", {}, "", parts=False)
    assert not is_name(["hot", "dog"], "a dog on a hot day", {}, "", parts=True)
    assert not is_name(["dog"], "a man and a dog", {}, "", parts=True)


def test_a_parser_of_ones_own_is_held_to_the_prompt() -> None:
    class Own:
        def __init__(self, *phrases: Phrase) -> None:
            self.phrases = phrases

        def parse(self, prompt: str) -> list[Phrase]:
            return list(self.phrases)

    assert isinstance(Own(), PhraseParser)
    good = Own(Phrase("fox", 6, 9), Phrase("red", 2, 5))
    assert [p.text for p in parse_prompt("a red fox", parser=good).phrases] == ["red", "fox"]
    with pytest.raises(BowerbirdError, match="offsets count"):
        parse_prompt("a red fox", parser=Own(Phrase("fox", 0, 3)))
    with pytest.raises(BowerbirdError, match="overlap"):
        parse_prompt("a red fox", parser=Own(Phrase("red fox", 2, 9), Phrase("fox", 6, 9)))
    with pytest.raises(BowerbirdError, match="choose one of rules, brackets, spacy, textblob, stanza"):
        load_parser("nltk")


def test_libraries_behind_the_protocol() -> None:
    prompt = "it is a red heart by the old town/city"
    expected = [("a red heart", "heart", ("red",)), ("the old town/city", "town/city", ("old",))]

    def chunk(text: str, root: str, pos: str = "NOUN") -> Any:
        at = prompt.index(text)
        noun = SimpleNamespace(text=root, pos_=pos)
        return SimpleNamespace(start_char=at, end_char=at + len(text), root=noun)

    chunks = [chunk("it", "it", "PRON"), chunk("a red heart", "heart"), chunk("the old town/city", "town/city")]
    spacy = SpacyParser(lambda text: SimpleNamespace(noun_chunks=chunks))

    said = (
        "it/PRP/B-NP/O is/VBZ/B-VP/O a/DT/B-NP/O red/JJ/I-NP/O heart/NN/I-NP/O by/IN/B-PP/O the/DT/B-NP/O old/JJ/I-NP/O"
    )
    textblob = TextBlobParser(lambda text, **_: f"{said} town&slash;city/NN/I-NP/O")

    def tree(label: str, *children: Any) -> Any:
        return SimpleNamespace(label=label, children=children)

    def leaf(tag: str) -> Any:
        return tree(tag, tree("word"))

    inner = tree(
        "NP",
        tree("NP", leaf("DT"), leaf("JJ"), leaf("NN")),
        tree("PP", leaf("IN"), tree("NP", leaf("DT"), leaf("JJ"), leaf("NN"))),
    )
    root = tree("ROOT", tree("S", tree("NP", leaf("PRP")), tree("VP", leaf("VBZ"), inner)))
    places, at = [], 0
    for word in prompt.split():
        at = prompt.index(word, at)
        places.append(SimpleNamespace(start_char=at, end_char=at + len(word)))
    sentence = SimpleNamespace(tokens=places, constituency=root)
    stanza = StanzaParser(lambda text: SimpleNamespace(sentences=[sentence]))

    for parser in (spacy, textblob, stanza):
        found = parse_prompt(prompt, parser=parser).phrases
        assert [(p.text, p.head, p.attributes) for p in found] == expected, type(parser).__name__


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its lexicon open
def test_textblob_itself() -> None:
    pytest.importorskip("textblob")
    found = TextBlobParser().parse("a red car and a white sheep")
    assert [(p.text, p.head) for p in found] == [("a red car", "car"), ("a white sheep", "sheep")]


def test_spacy_itself() -> None:
    spacy = pytest.importorskip("spacy")
    from spacy.tokens import Doc

    vocabulary = spacy.blank("en").vocab

    def read(text: str) -> Any:  # as a model would read it; none is needed for the chunks
        pos, deps = ["DET", "ADJ", "NOUN"] * 2, ["det", "amod", "ROOT", "det", "amod", "appos"]
        return Doc(vocabulary, words=text.split(), pos=pos, deps=deps, heads=[2, 2, 2, 5, 5, 2])

    found = SpacyParser(read).parse("a red car the white sheep")
    assert [(p.text, p.head, p.attributes) for p in found] == [
        ("a red car", "car", ("red",)),
        ("the white sheep", "sheep", ("white",)),
    ]


def test_a_library_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("spacy", "textblob", "textblob.en", "stanza"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("spacy", "textblob", "stanza"):
        with pytest.raises(BowerbirdError, match=f"pip install {name}, or use the parser `rules`"):
            load_parser(name)


# -- places ------------------------------------------------------------------------------------------------------------

LEFT, RIGHT, TOP, BOTTOM = (0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1)
LAYOUTS: dict[str, list[tuple[float, ...]]] = {
    "a cat left of a dog": [LEFT, RIGHT],
    "a cat is to the left of a dog": [LEFT, RIGHT],
    "a cat to the right of a dog": [RIGHT, LEFT],
    "a cat above a dog": [TOP, BOTTOM],
    "a cat sits under a dog": [BOTTOM, TOP],
    "a cat on the right and a dog on the left": [RIGHT, LEFT],
    "on the left, a cat, and on the right a dog": [LEFT, RIGHT],
    "a cat left of a dog left of a fish": [(0, 0, 1 / 3, 1), (1 / 3, 0, 2 / 3, 1), (2 / 3, 0, 1, 1)],
    "a cat above a dog left of a fish": [TOP, (0, 0.5, 0.5, 1), RIGHT],
    "a cat beside a dog": [WHOLE, WHOLE],
    "a cat and a left shoe": [WHOLE, WHOLE],
}


@pytest.mark.parametrize("prompt", LAYOUTS)
def test_regions_are_what_the_prompt_says(prompt: str) -> None:
    np.testing.assert_allclose(regions_for(prompt, grammar.phrases(prompt)), LAYOUTS[prompt])
