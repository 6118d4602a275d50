"""What a person should know of how pictures were made: a few short lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bowerbird.systems.notes import readable

if TYPE_CHECKING:
    from typing import Any

    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System
    from bowerbird.systems.jobs import Job, Prepared


def notes_of(
    pipe: System,
    kb: KnowledgeBase | None,
    job: Job,
    prepared: Prepared,
    refinements: list[dict[str, Any]] | None,
    sources: Sequence[Image.Image] | None = None,
) -> list[str]:
    """The lines of a job whose pictures are made."""
    from bowerbird.systems.refinement import still_missing
    from bowerbird.systems.unfamiliar import find_warnings

    usual = pipe.defaults.k
    notes = []
    if kb is not None and job.k is None and job.items is None and len(kb) < usual:
        notes.append(f"the knowledge base holds {len(kb)} items, fewer than the model's usual {usual} neighbors")
    notes += readable(note for row in prepared.hits.notes for note in row)
    if refinements is not None:
        lacks = sorted({text for record in refinements for text in still_missing(record)})
        notes += [f"the critic does not see {text!r}" for text in lacks]
    elif prepared.plan is not None:
        notes += [f"no reference for {phrase.text!r}: {why}" for phrase, why in prepared.plan.choice.without]
    warned = find_warnings(pipe, prepared.hits, prepared.settings, sources)
    return [*notes, *dict.fromkeys(line for row in warned for line in row)]
