"""What is done with the phrases of a prompt: what a person sets, and what it makes of one prompt.

numpy alone, so that the command line reads it in no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.systems.choice import MOST_REFERENCES, Choice, ChoiceSettings, ChosenReference, choose_references
from bowerbird.systems.grounded.critic.loop import MOST_PASSES
from bowerbird.systems.phrases.layout import WHOLE, Region, regions_for
from bowerbird.systems.phrases.parse import NAMES, RULES, load_parser, parse_prompt
from bowerbird.systems.phrases.phrase import ParsedPrompt, Phrase
from bowerbird.systems.reference_settings import FORMS

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

ENCODER = "encoder"
PASSES = 3
"""Pictures that a critic is given, unless it is said: a draft, and twice again."""


@dataclass(frozen=True, kw_only=True)
class PhraseSettings:
    """`phrases`: the parser (`phrases.parse.NAMES`), each phrase with references of its own. `structure`: a form of
    `structure.FORMS`. `critic`: `encoder`, or a directory or hub id of an image-text model, which looks at every
    picture, and has at most `max_passes` generated for each.

    Where one of these is given and no parser, it is `rules`. Raises: BowerbirdError for what does not go together.
    """

    phrases: str | None = None
    structure: str | None = None
    critic: str | None = None
    max_passes: int | None = None

    def __post_init__(self) -> None:
        if self.phrases is not None and self.phrases not in NAMES:
            raise BowerbirdError(f"`phrases` {self.phrases!r} is not known; choose one of {', '.join(NAMES)}")
        if self.structure is not None and self.structure not in FORMS:
            raise BowerbirdError(f"`structure` {self.structure!r} is not known; choose one of {', '.join(FORMS)}")
        if self.max_passes is not None and self.critic is None:
            raise BowerbirdError("`max_passes` is how many pictures a critic may look at; give it too (`critic`)")
        if self.max_passes is not None and not 1 <= self.max_passes <= MOST_PASSES:
            raise BowerbirdError(f"`max_passes` is from 1 to {MOST_PASSES}; got {self.max_passes}")

    @property
    def parser(self) -> str | None:
        """The parser's name, None where phrases play no part."""
        wanted = self.structure is not None or self.critic is not None
        return self.phrases or (RULES if wanted else None)

    @property
    def by_phrase(self) -> bool:
        """Whether references are looked for by phrases, and not by the whole prompt."""
        return self.phrases is not None or self.critic is not None


@dataclass(frozen=True)
class Plan:
    """A prompt with its phrases, the references chosen for them, and the part of the picture each is for."""

    prompt: ParsedPrompt
    choice: Choice
    regions: tuple[Region, ...]

    def region_of(self, phrase: Phrase) -> Region:
        """The part of the picture that a phrase is for."""
        return self.regions[self.prompt.phrases.index(phrase)]


def make_plan(prompt: str, kb: KnowledgeBase | None, *, parser: str, choice: ChoiceSettings | None = None) -> Plan:
    """The phrases of `prompt`, and the references for them in `kb`; none without one.

    Raises: BowerbirdError for brackets that do not pair up, or a parser that is not installed.
    """
    where = None if choice is None else choice.where
    read = parse_prompt(prompt, parser=load_parser(parser), kb=kb, where=where)
    if not read.text.strip():
        raise BowerbirdError("the prompt is empty; say what to generate")
    found = Choice(()) if kb is None or not read.phrases else choose_references(kb, read.phrases, settings=choice)
    return Plan(read, found, tuple(regions_for(read.text, read.phrases)))


def choice_for(
    k: int | None, most: int | None, *, where: str | None = None, search_mode: str | None = None
) -> ChoiceSettings:
    """How references are chosen for a base that takes at most `most` (None: any number) where `k` are asked for (None
    or 0: as usual). Raises: BowerbirdError for more than it takes."""
    if k and most and k > most:
        raise BowerbirdError(f"the base takes at most {most} reference{'s' * (most > 1)}; got `k={k}`")
    count = k or min(ChoiceSettings.max_references, most or MOST_REFERENCES)
    return ChoiceSettings(max_references=count, where=where, search_mode=search_mode or "hybrid")


def stack_rows(rows: Sequence[Neighbors]) -> Neighbors:
    """Rows of different numbers of references, of one knowledge base, as one."""
    most, dim = max(row.k for row in rows), max(row.embeddings.shape[-1] for row in rows)
    return Neighbors.stack([row.padded(most, dim) for row in rows])


def neighbors_of(
    kb: KnowledgeBase, plan: Plan, references: Sequence[ChosenReference], *, with_regions: bool
) -> Neighbors:
    """References as one row of neighbors of the prompt, each with its phrase and, `with_regions`, its region."""
    if not references:
        return Neighbors.empty([plan.prompt.text])
    hits = kb.get([each.item for each in references], scores=[each.score for each in references])
    regions = [plan.region_of(each.phrase) for each in references]
    placed = with_regions and any(region != WHOLE for region in regions)
    return replace(
        hits,
        queries=(plan.prompt.text,),
        phrases=(tuple(each.phrase.text for each in references),),
        regions=np.asarray([regions], np.float32) if placed else None,
    )
