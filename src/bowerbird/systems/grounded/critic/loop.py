"""Draft, look, ask for what is missing, look again, keep the better one.

Knows no pipeline: a function generates a picture from references, another one finds references for phrases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.grounded.critic.protocol import MISSING_FROM, Critic
from bowerbird.systems.phrases.phrase import ParsedPrompt, Phrase

if TYPE_CHECKING:
    from PIL import Image

MOST_PASSES = 16


class ForPhrase(Protocol):
    """What the loop reads of a reference: `choice.ChosenReference` is one."""

    @property
    def phrase(self) -> Phrase:
        """The phrase that it serves."""
        ...

    @property
    def item(self) -> int:
        """Its id."""
        ...


R = TypeVar("R", bound=ForPhrase)


@dataclass(frozen=True)
class Pass(Generic[R]):
    """One picture on the way: the references it was generated with, how much each phrase is `missing` from it (0..1),
    and its `score`, the mean of what is there."""

    references: tuple[R, ...]
    missing: tuple[float, ...]

    @property
    def score(self) -> float:
        """From 0, all is missing, to 1."""
        return 1 - sum(self.missing) / max(1, len(self.missing))


@dataclass(frozen=True)
class Refined(Generic[R]):
    """The best `picture`, which pass it is of, and every pass in order."""

    picture: Image.Image
    best: int
    passes: tuple[Pass[R], ...]
    critic: str

    @property
    def references(self) -> tuple[R, ...]:
        """Those of the best picture."""
        return self.passes[self.best].references

    def record(self, phrases: Sequence[Phrase]) -> dict[str, Any]:
        """What a picture's record says of the loop, as plain values."""
        return {
            "critic": self.critic,
            "phrases": [phrase.text for phrase in phrases],
            "best": self.best,
            "passes": [
                {
                    "references": [[each.phrase.text, each.item] for each in one.references],
                    "missing": [round(value, 4) for value in one.missing],
                    "score": round(one.score, 4),
                }
                for one in self.passes
            ],
        }


def refine(
    generate: Callable[[Sequence[R]], Image.Image],
    choose: Callable[[Sequence[Phrase], Sequence[int]], Sequence[R]],
    critic: Critic,
    prompt: ParsedPrompt,
    *,
    max_passes: int,
    first: Sequence[R] = (),
    missing_from: float = MISSING_FROM,
    max_references: int | None = None,
) -> Refined[R]:
    """The best of at most `max_passes` pictures; of equally good ones the first.

    `generate(references)` makes a picture of the prompt, the first one with `first`; `choose(phrases, tried)` finds
    references for phrases that are missing, none of the items `tried`. A reference whose phrase is seen stays, and the
    others give way where a picture has more than `max_references`. Ends when nothing is missing, nothing else is found,
    there is no room for it, or a pass is no better than the best before it.
    Raises: BowerbirdError for fewer than one pass, or a critic that does not say one number a phrase.
    """
    if not 1 <= max_passes <= MOST_PASSES:
        raise BowerbirdError(f"`max_passes` is from 1 to {MOST_PASSES}; got {max_passes}")
    phrases = prompt.phrases
    picture = generate(tuple(first))
    passes = [_look(critic, prompt, picture, first)]
    best = 0
    while len(passes) < max_passes:
        wanted = [p for p, value in zip(phrases, passes[best].missing, strict=True) if value >= missing_from]
        tried = sorted({each.item for one in passes for each in one.references})
        seen = [each for each in passes[best].references if each.phrase not in wanted]
        room = None if max_references is None else max(0, max_references - len(seen))
        found = choose(wanted, tried)[:room] if wanted else ()
        if not found:
            break
        renewed = {each.phrase for each in found}
        others = [each for each in passes[best].references if each.phrase in wanted and each.phrase not in renewed]
        references = [*seen, *found, *others][:max_references]
        references.sort(key=lambda each: each.phrase.start)
        again = generate(references)
        passes.append(_look(critic, prompt, again, references))
        if passes[-1].score <= passes[best].score:
            break
        picture, best = again, len(passes) - 1
    return Refined(picture, best, tuple(passes), critic.name)


def _look(critic: Critic, prompt: ParsedPrompt, picture: Image.Image, references: Sequence[R]) -> Pass[R]:
    scores = tuple(float(value) for value in critic.missing(prompt.text, prompt.phrases, picture))
    if len(scores) != len(prompt.phrases) or not all(0 <= value <= 1 for value in scores):
        raise BowerbirdError(
            f"critic {critic.name}: {len(prompt.phrases)} phrases, and it says {list(scores)}; it has to give a number"
            " from 0 (seen) to 1 (missing) for each"
        )
    return Pass(tuple(references), scores)
