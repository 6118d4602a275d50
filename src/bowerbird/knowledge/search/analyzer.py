"""How the texts of a knowledge base become words, and those of a query in the same way: by default as `words` has it,
or with the stems of a language, compounds taken apart, accents kept.

Stemming is Snowball's (M. Porter, R. Boulton), by the package snowballstemmer. A word is stemmed as it is written and
loses its accents then, as the endings of French or Russian are known by them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.knowledge.search import words
from bowerbird.knowledge.search.words import FUNCTION_WORDS

LANGUAGES: Mapping[str, str] = {
    **{"ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english"},
    **{"es": "spanish", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi"},
    **{"hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian"},
    **{"nb": "norwegian", "ne": "nepali", "nl": "dutch", "pt": "portuguese", "ro": "romanian", "ru": "russian"},
    **{"sr": "serbian", "sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish"},
}
"""Codes of the languages whose stems Snowball knows, with the name that it has for each."""
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Analyzer:
    """`language`: a code of `LANGUAGES` whose stems stand for words, None for singulars of English nouns. `compounds`:
    find a word in longer ones, and the parts of a longer one. `keep_accents`: a word with an accent is another."""

    language: str | None = None
    compounds: bool = False
    keep_accents: bool = False

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Analyzer:
        """The one that the `text` of a manifest or index describes (`recorded`, `tag`). Raises: BowerbirdError for what
        this bowerbird does not know."""
        found = facts.get("text")
        if found is None:
            return PLAIN
        own = {key: value for key, value in found.items() if key != "stemmer"} if isinstance(found, dict) else {}
        language, flags = own.pop("language", None), list(own.values())
        if own.keys() - {"compounds", "keep_accents"} or not all(isinstance(flag, bool) for flag in flags) or not found:
            raise BowerbirdError(f"text settings {ascii(found)[:80]} are not known; another bowerbird made this")
        return cls(None if language is None else check_language(language), **own)

    def recorded(self) -> dict[str, Any]:
        """What a manifest holds of it, under `text`; nothing of `PLAIN`."""
        return {} if self == PLAIN else {"text": {key: value for key, value in self.described().items() if value}}

    def tag(self) -> dict[str, Any]:
        """`recorded` with the version of the stems, another one of which makes another index."""
        version = {"stemmer": _stemmer_version()} if self.language else {}
        return {key: facts | version for key, facts in self.recorded().items()}

    def described(self) -> dict[str, Any]:
        """What a person is shown of it."""
        return {"language": self.language, "compounds": self.compounds, "keep_accents": self.keep_accents}

    def words(self, text: str) -> list[str]:
        """What a text can be found by (`words.words`)."""
        return words.words(text) if self == PLAIN else self._content(text, parts=True)

    def query_words(self, text: str) -> list[str]:
        """What a text asks for (`words.query_words`)."""
        return words.query_words(text) if self == PLAIN else self._content(self._asked_for(text), parts=False)

    def sequence(self, text: str) -> list[str]:
        """Every word of a text in its order (`words.sequence`)."""
        return words.sequence(text) if self == PLAIN else list(map(self._form, self._all(text, parts=False)))

    def whole(self, text: str) -> str:
        """One token for a text as a whole (`words.whole`)."""
        return words.whole_of(self.words(text), text)

    def query_wholes(self, text: str) -> list[str]:
        """The tokens of captions that a text may ask for as a whole: as it stands, without the words that only ask, and
        what stands before a comma, as in "a fox, watercolor"."""
        bare = self._asked_for(text)
        first = words.first_clause(bare)
        return [token for token in dict.fromkeys(map(self.whole, (text, bare, first))) if token]

    def _asked_for(self, text: str) -> str:
        return words.thing_asked_for(text) if self.language in (None, "en") else text

    def _content(self, text: str, *, parts: bool) -> list[str]:
        every = self._all(text, parts=parts)
        if self.language in (None, "en"):
            every = [word for word in every if word not in FUNCTION_WORDS]
        return list(map(self._form, every))

    def _all(self, text: str, *, parts: bool) -> list[str]:
        return words.all_words(text, parts=parts, accents=self.keep_accents or self.language is not None)

    @property
    def _form(self) -> Callable[[str], str]:
        """A word as it stands in the index."""
        return words.singular if self.language is None else _forms(self.language, self.keep_accents)


PLAIN = Analyzer()


def check_language(language: object) -> str:
    """A code of `LANGUAGES`. Raises: BowerbirdError for any other, or where the stems are not installed."""
    if not isinstance(language, str) or language not in LANGUAGES:
        raise BowerbirdError(
            f"`language` {ascii(language)[:40]} has no stems here; choose one of {', '.join(LANGUAGES)}"
        )
    _stemmer_version()
    return language


@cache
def _stemmer_version() -> str:
    try:
        return metadata.version("snowballstemmer")
    except metadata.PackageNotFoundError as error:
        raise BowerbirdError(
            "words by the stems of a language need snowballstemmer: pip install 'bowerbird[words]'"
        ) from error


@cache
def _forms(language: str, keep_accents: bool) -> Callable[[str], str]:
    """From a word to its stem, without accents unless they are kept."""
    import snowballstemmer

    stemmer = snowballstemmer.stemmer(LANGUAGES[language])

    @lru_cache(1 << 16)
    def form(word: str) -> str:
        with _ONE_AT_A_TIME:  # a stemmer works on a word that it holds
            stem: str = stemmer.stemWord(word)
        return stem if keep_accents or stem.isascii() else words.without_accents(stem)

    return form
