"""What neighbors a prompt has that are not what it names: a model mixes all of them into one picture.

In a collection where each thing is drawn once, the second neighbor of "green house" is another green thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bowerbird.core.credit import shown_name
from bowerbird.knowledge.search.bm25 import further_words
from bowerbird.knowledge.search.words import name_words, query_words, words

if TYPE_CHECKING:
    from bowerbird.core.types import Neighbors
    from bowerbird.knowledge.base import KnowledgeBase


def mixture_hint(kb: KnowledgeBase, hits: Neighbors, prompt: str) -> str | None:
    """A line for a person where some of the neighbors of `hits`, first row, have all words of `prompt` and some have
    not; None where all or none have."""
    items = [item for item in hits.ids[0].tolist() if item >= 0]  # neither absent nor a picture of the person's own
    asked, found = set(query_words(prompt)), kb.get(items) if items else None
    if found is None or not asked:
        return None
    rows = zip(found.captions[0], found.metadata[0], kb.names(items), strict=True)
    has_all = [asked <= {*words(text), *words(further_words(more)), *name_words(name)} for text, more, name in rows]
    named = sum(has_all)
    if named in (0, len(items)):
        return None
    first = shown_name(found.captions[0][has_all.index(True)], found.metadata[0][has_all.index(True)])
    which = f"is {first}" if named == 1 else f"are {first} and {named - 1} more"
    return (
        f"{named} of {len(items)} neighbors {which}; the others lack words of the prompt, and the model mixes all:"
        f" `k={named}` leaves them out"
    )
