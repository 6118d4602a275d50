"""From a prompt to its phrases: brackets where a person set some, else a parser's with the knowledge base's names."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.phrases.brackets import read_brackets
from bowerbird.systems.phrases.grammar import RuleParser
from bowerbird.systems.phrases.libraries import PARSERS
from bowerbird.systems.phrases.names import find_names, merge, unite
from bowerbird.systems.phrases.phrase import ParsedPrompt, PhraseParser, check_phrases

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

RULES, BRACKETS = "rules", "brackets"
NAMES = (RULES, BRACKETS, *PARSERS)
"""The parsers by name; `brackets`: only what a person marked."""


@cache
def load_parser(name: str) -> PhraseParser | None:
    """The parser called `name`, loaded once, None for `brackets`. Raises: BowerbirdError for another name, or a library
    that is not installed."""
    if name == BRACKETS:
        return None
    if name == RULES:
        return RuleParser()
    if name not in PARSERS:
        raise BowerbirdError(f"parser {name!r} is not known; choose one of {', '.join(NAMES)}")
    made: PhraseParser = PARSERS[name]()
    return made


def parse_prompt(
    prompt: str, *, parser: PhraseParser | None, kb: KnowledgeBase | None = None, where: str | None = None
) -> ParsedPrompt:
    """The prompt without brackets, and its phrases: those in brackets alone where there are any, else those of
    `parser` with the names of items of `kb` that satisfy `where`, those that one item has together as one. parser
    None: brackets alone.

    Raises: BowerbirdError for brackets that do not pair up, or a parser whose phrases are not in the prompt.
    """
    marked = read_brackets(prompt)
    if marked.explicit or parser is None:
        return marked
    found = check_phrases(marked.text, parser.parse(marked.text), type(parser).__name__)
    if kb is None:
        return ParsedPrompt(marked.text, found)
    merged = merge(marked.text, find_names(kb, marked.text, where), found)
    return ParsedPrompt(marked.text, tuple(unite(marked.text, merged, kb, where)))
