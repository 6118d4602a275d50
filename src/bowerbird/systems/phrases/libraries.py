"""Phrases by a language library, where one is installed: spaCy, TextBlob, stanza. None is loaded unless it is asked
for, and none downloads anything here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.phrases import word_classes as classes
from bowerbird.systems.phrases.grammar import tokens
from bowerbird.systems.phrases.phrase import Phrase


class SpacyParser:
    """spaCy's noun chunks. `language`: a loaded pipeline, or the name of an installed model."""

    def __init__(self, language: Any = "en_core_web_sm") -> None:
        """Raises: BowerbirdError when spaCy or the model is not installed."""
        if isinstance(language, str):
            spacy = _imported("spacy")
            try:
                language = spacy.load(language)
            except OSError as error:
                raise BowerbirdError(
                    f"spaCy's model {language!r} is not installed; python -m spacy download {language}, or use the"
                    " parser `rules`"
                ) from error
        self.language = language

    def parse(self, prompt: str) -> list[Phrase]:
        """Its noun chunks, without pronouns."""
        chunks = [chunk for chunk in self.language(prompt).noun_chunks if chunk.root.pos_ != "PRON"]
        return [_spanned(prompt, chunk.start_char, chunk.end_char, chunk.root.text) for chunk in chunks]


class TextBlobParser:
    """TextBlob's chunks, by the lexicon that lies in its package."""

    def __init__(self, chunker: Callable[..., str] | None = None) -> None:
        """`chunker`: `textblob.en.parse`, taken from the library when None. Raises: BowerbirdError when it is not
        installed."""
        self.chunker = chunker or _imported("textblob.en").parse

    def parse(self, prompt: str) -> list[Phrase]:
        """Its chunks NP that have a noun."""
        phrases: list[Phrase] = []
        start = end = -1
        head = ""
        for text, tag, chunk, first, last in self._words(prompt):
            if chunk != "I-NP" and head:
                phrases.append(_spanned(prompt, start, end, head))
            if chunk != "I-NP":
                start, head = (first if chunk == "B-NP" else -1), ""
            if start >= 0:
                end, head = last, text if tag.startswith("NN") else head
        return [*phrases, _spanned(prompt, start, end, head)] if head else phrases

    def _words(self, prompt: str) -> Iterator[tuple[str, str, str, int, int]]:
        """Word, tag and chunk, and where it stands; words that the library rewrote are passed over."""
        at = 0
        for token in str(self.chunker(prompt, relations=False, lemmata=False)).split():
            parts = token.split("/")
            text = parts[0].replace("&slash;", "/")
            found = prompt.find(text, at)
            if len(parts) >= 3 and found >= 0:
                at = found + len(text)
                yield text, parts[1], parts[2], found, at


class StanzaParser:
    """The smallest noun phrases of stanza's constituency tree. `pipeline`: one with `tokenize,pos,constituency`, made
    from what is on this disk when None."""

    def __init__(self, pipeline: Any = None) -> None:
        """Raises: BowerbirdError when stanza or its English models are not there."""
        if pipeline is None:
            stanza = _imported("stanza")
            try:
                pipeline = stanza.Pipeline(
                    "en", processors="tokenize,pos,constituency", download_method=None, verbose=False
                )
            except Exception as error:  # it raises what its readers of files raise
                raise BowerbirdError(
                    "stanza's English models are not on this disk; python -c \"import stanza; stanza.download('en')\","
                    " or use the parser `rules`"
                ) from error
        self.pipeline = pipeline

    def parse(self, prompt: str) -> list[Phrase]:
        """Its noun phrases that hold no other."""
        phrases: list[Phrase] = []
        for sentence in self.pipeline(prompt).sentences:
            places = [(token.start_char, token.end_char) for token in sentence.tokens]
            for first, last, tags in _smallest(sentence.constituency, 0):
                nouns = [n for n, tag in enumerate(tags) if tag.startswith("NN")]
                if nouns and last <= len(places):
                    begin, end = places[first + nouns[-1]]
                    phrases.append(_spanned(prompt, places[first][0], places[last - 1][1], prompt[begin:end]))
        return phrases


PARSERS: Mapping[str, Callable[[], Any]] = {"spacy": SpacyParser, "textblob": TextBlobParser, "stanza": StanzaParser}
"""By name, what makes each."""


def _smallest(tree: Any, first: int) -> list[tuple[int, int, list[str]]]:
    """The noun phrases of a tree that hold no other: their first leaf, the one after the last, and the leaves' tags."""
    if not tree.children:
        return []
    found: list[tuple[int, int, list[str]]] = []
    at = first
    for child in tree.children:
        found += _smallest(child, at)
        at += _leaves(child)
    tags = [str(tag) for tag in _tags(tree)]
    return [(first, at, tags)] if tree.label == "NP" and not found else found


def _leaves(tree: Any) -> int:
    return sum(map(_leaves, tree.children)) if tree.children else 1


def _tags(tree: Any) -> list[str]:
    """The label over each leaf."""
    if all(not child.children for child in tree.children):
        return [tree.label] * len(tree.children)
    return [tag for child in tree.children for tag in (_tags(child) if child.children else [tree.label])]


def _spanned(prompt: str, start: int, end: int, head: str) -> Phrase:
    """The phrase at a place, its other words before the head as attributes."""
    text = prompt[start:end]
    at = text.rfind(head)
    before = [token for token in tokens(text[: max(0, at)]) if token.word and token.word not in classes.CLOSED]
    return Phrase(text, start, end, head, tuple(token.text for token in before))


def _imported(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise BowerbirdError(
            f"the parser {name!r} needs the library {name}; pip install {name}, or use the parser `rules`"
        ) from error
