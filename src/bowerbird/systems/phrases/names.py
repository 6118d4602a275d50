"""Phrases by the knowledge base's own words: what its items are called is exactly what can be retrieved.

The index of words is asked, nothing is kept beside it: so many searches a prompt, however many items there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bowerbird.core.types import ABSENT
from bowerbird.data.captions import EVERY as CAPTIONS
from bowerbird.knowledge.search.bm25 import further_words
from bowerbird.knowledge.search.words import exact, follow, name_words, words
from bowerbird.systems.phrases import word_classes as classes
from bowerbird.systems.phrases.grammar import JOINING, Token, is_place, of_no_thing, tokens
from bowerbird.systems.phrases.phrase import Phrase

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

MOST_TOKENS, LONGEST = 128, 8
"""Words and marks of a prompt that are looked at, more than a text encoder reads; words of a name."""
DEPTH = 8
"""Items by words that may carry a name."""


@dataclass(frozen=True)
class _Span:
    """The tokens from `start` to before `end`, which may be a name; `whole`: only where they are all that an item is
    called, mark for mark, as "flag: Finland", "two hearts" and "plus" have what ends a phrase elsewhere."""

    start: int
    end: int
    whole: bool = False


def find_names(kb: KnowledgeBase, prompt: str, where: str | None = None) -> list[Phrase]:
    """The names of items of `kb` in `prompt`, the longest first where they overlap, in their order: whole captions,
    tags or file names, and several words that follow each other in a caption. What an item is called wins over the
    rules of the grammar."""
    read = tokens(prompt)[:MOST_TOKENS]
    if not read or not len(kb):
        return []
    unknown, looks = _unknown(kb, read, where), of_no_thing(prompt)
    spans = [
        span
        for span in _spans(prompt, read, unknown)
        if not any(a <= read[span.start].start and read[span.end - 1].end <= b for a, b in looks)
    ]
    if not spans:
        return []
    texts = [prompt[read[span.start].start : read[span.end - 1].end] for span in spans]
    found = kb.search(text=texts, k=min(DEPTH, len(kb)), mode="bm25", where=where, typos=False, operators=False)
    items = sorted({*found.ids.ravel().tolist()} - {ABSENT})
    names = dict(zip(items, kb.names(items) if items else (), strict=True))
    taken: list[tuple[int, int]] = []
    order = sorted(range(len(spans)), key=lambda n: (spans[n].start - spans[n].end, spans[n].start))
    for number in order:
        start, end, text = spans[number].start, spans[number].end, texts[number]
        if any(start < b and a < end for a, b in taken):
            continue
        rows = zip(found.ids[number].tolist(), found.captions[number], found.metadata[number], strict=True)
        if spans[number].whole:
            if any(i in names and _is_called(text, caption, more) for i, caption, more in rows):
                taken.append((start, end))
            continue
        own, parts = words(text), all(read[at].word not in classes.CLOSED for at in range(start, end))
        if any(i in names and is_name(own, caption, more, names[i], parts=parts) for i, caption, more in rows):
            taken.append((start, end))
    return [_phrase(prompt, read[a:b]) for a, b in sorted(taken)]


def is_name(own: Sequence[str], caption: str, metadata: Mapping[str, Any], file: str, *, parts: bool) -> bool:
    """Whether the words `own` are what an item is called: its whole caption, another of its captions, a tag, its file
    name; or, of several words and with `parts`, words that follow each other in its caption."""
    if not own:
        return False
    called, tags = _captions(caption, metadata), metadata.get("tags") or ()
    labels = map(str, tags) if isinstance(tags, list) else re.split("[,;|]", str(tags or ""))
    if name_words(file) == own or any(words(text) == own for text in (*called, *labels)):
        return True
    return parts and len(own) > 1 and any(follow(own, words(text)) for text in called)


def _captions(caption: str, metadata: Mapping[str, Any]) -> list[str]:
    others = metadata.get(CAPTIONS)
    return [caption, *(map(str, others) if isinstance(others, list) else ())]


def _is_called(text: str, caption: str, metadata: Mapping[str, Any]) -> bool:
    """Whether a text is the whole of an item's caption, or of another of its captions."""
    return exact(text) in map(exact, _captions(caption, metadata))


def have_together(kb: KnowledgeBase, text: str, where: str | None = None) -> bool:
    """Whether an item of `kb` has every word of a text in its caption, tags and file name."""
    own = set(words(text))
    found = kb.search(text=text, k=min(DEPTH, len(kb)), mode="bm25", where=where, typos=False, operators=False)
    items = [item for item in found.ids[0].tolist() if item != ABSENT]
    rows = zip(found.captions[0], found.metadata[0], kb.names(items) if items else (), strict=False)
    return any(own <= {*words(caption), *words(further_words(more)), *name_words(name)} for caption, more, name in rows)


def _unknown(kb: KnowledgeBase, read: Sequence[Token], where: str | None) -> set[str]:
    """The words that no item has, so that no name has them."""
    asked = sorted({token.word for token in read if token.word and token.word not in classes.CLOSED})
    if not asked:
        return set()
    found = kb.search(text=asked, k=1, mode="bm25", where=where, typos=False, operators=False)
    return {word for word, there in zip(asked, found.mask[:, 0], strict=True) if not there}


def _spans(prompt: str, read: Sequence[Token], unknown: set[str]) -> Iterator[_Span]:
    """The runs of words that may be a name: no word that no item has, not adjectives alone; and where there is a mark
    between them, or a word of a closed class at their ends, names only as a whole."""
    every = [token.word for token in read]
    closed = [
        not word or word in classes.CLOSED or (word in classes.SIDES and is_place(every, at))
        for at, word in enumerate(every)
    ]
    for start in range(len(read)):
        counted, marked = 0, False
        for end in range(start + 1, len(read) + 1) if every[start] else ():
            last = end - 1
            counted += bool(every[last])
            if every[last] in unknown or counted > LONGEST or end - start > 2 * LONGEST:
                break
            marked |= not every[last] or (last > start and not _adjacent(prompt, read, last))
            if every[start] in classes.ARTICLES and not marked:
                continue
            if marked or closed[start] or closed[last] or every[last] in classes.FINITE_VERBS:
                if _may_be_whole(read, start, end):
                    yield _Span(start, end, whole=True)
            elif not _is_adjective(every[start:end]):
                yield _Span(start, end)


def _may_be_whole(read: Sequence[Token], start: int, end: int) -> bool:
    """Whether a run that no phrase would be may be what an item is called: not with "and" at an end nor an article or
    a comma at its last, and a word of a closed class alone only where a thing is named, as in "a plus and a minus" and
    not in "a cat plus a dog"."""
    first, last = read[start].word, read[end - 1]
    if end - start > 1:
        return first not in JOINING and last.word not in classes.ARTICLES | JOINING and last.text not in ",;:"
    before, after = read[start - 1].word if start else "", read[end].word if end < len(read) else ""
    return (not before or before in classes.ARTICLES | JOINING) and (not after or after in JOINING)


def _is_adjective(words: Sequence[str]) -> bool:
    """Whether the last of a run is no noun: a square is one after another word, as in "blue square"."""
    nouns = classes.ALSO_NOUNS if len(words) > 1 else frozenset()
    return words[-1] in classes.ADJECTIVES - nouns


def _adjacent(prompt: str, read: Sequence[Token], at: int) -> bool:
    return not prompt[read[at - 1].end : read[at].start].strip()


def _phrase(prompt: str, parts: Sequence[Token]) -> Phrase:
    text = prompt[parts[0].start : parts[-1].end]
    return Phrase(text, parts[0].start, parts[-1].end, text)


def merge(prompt: str, names: Sequence[Phrase], phrases: Sequence[Phrase]) -> list[Phrase]:
    """Phrases by rules with the names that a knowledge base knows: a name is the head of the phrase that it ends, and
    joins the phrases that it runs across; a phrase without an article that is nothing but names is one for each."""
    found: list[Phrase] = []
    for group in _overlapping([*phrases, *names]):
        inside = [name for name in names if group[0] <= name.start and name.end <= group[1]]
        over = [phrase for phrase in phrases if group[0] <= phrase.start and phrase.end <= group[1]]
        if not inside:
            found += over
        elif len(inside) > 1 and _is_list(prompt, group, inside):
            starts = [group[0], *(name.end for name in inside)]
            found += [_headed(prompt, start, name.end, name) for start, name in zip(starts, inside, strict=False)]
        elif len(over) == 1 and (over[0].start, over[0].end) == group and inside[-1].end < group[1]:
            found += over  # a name within a longer one: "red apple" in "a red apple pie"
        else:
            found.append(_headed(prompt, *group, inside[-1]))
    return found


def unite(prompt: str, phrases: Sequence[Phrase], kb: KnowledgeBase, where: str | None = None) -> list[Phrase]:
    """Phrases of which those that stand side by side are one where an item has the words of both: "animal face mouse"
    describes a mouse by its tags, and "red heart blue square" names two things. An article, a mark, "and" or a
    preposition between them says that they are two."""
    found: list[Phrase] = []
    for phrase in phrases:
        if found and _side_by_side(prompt, found[-1], phrase):
            text = prompt[found[-1].start : phrase.end]
            if have_together(kb, text, where):
                found[-1] = Phrase(text, found[-1].start, phrase.end, text)
                continue
        found.append(phrase)
    return found


def _side_by_side(prompt: str, first: Phrase, second: Phrase) -> bool:
    """Whether nothing stands between two phrases that parts them."""
    between = [token.word for token in tokens(prompt[first.end : second.start])]
    opened = {phrase.text.split()[0].casefold() for phrase in (first, second)} & classes.DETERMINERS
    return not opened and all(word in classes.OTHERS for word in between)


def _overlapping(phrases: Sequence[Phrase]) -> list[tuple[int, int]]:
    """The stretches of the prompt that phrases cover."""
    groups: list[tuple[int, int]] = []
    for phrase in sorted(phrases, key=lambda each: each.start):
        if groups and phrase.start < groups[-1][1]:
            groups[-1] = groups[-1][0], max(groups[-1][1], phrase.end)
        else:
            groups.append((phrase.start, phrase.end))
    return groups


def _is_list(prompt: str, group: tuple[int, int], names: Sequence[Phrase]) -> bool:
    """Whether a stretch is names after one another: no article, and each word in a name or an adjective before one."""
    return all(
        any(name.start <= group[0] + token.start < name.end for name in names) or token.word in classes.ADJECTIVES
        for token in tokens(prompt[group[0] : group[1]])
    )


def _headed(prompt: str, start: int, end: int, name: Phrase) -> Phrase:
    """What stands at `prompt[start:end]`, with `name` as its head."""
    start += len(prompt[start:end]) - len(prompt[start:end].lstrip())
    before = [token for token in tokens(prompt[start : name.start]) if token.word and token.word not in classes.CLOSED]
    return Phrase(prompt[start:end], start, end, prompt[name.start : end], tuple(token.text for token in before))
