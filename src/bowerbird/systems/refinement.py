"""Pictures that a critic looks at: generated, looked at, and generated again with references for what they lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import Progress
from bowerbird.core.types import Neighbors
from bowerbird.systems import generation
from bowerbird.systems.choice import ChoiceSettings, ChosenReference, choose_references
from bowerbird.systems.grounded.critic.loop import refine
from bowerbird.systems.grounded.critic.protocol import MISSING_FROM, Critic
from bowerbird.systems.grounded.prompting import ENCODER, PASSES, Plan, stack_rows
from bowerbird.systems.phrases.phrase import Phrase

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.grounded.pipeline import ReferencePipeline
    from bowerbird.systems.jobs import Job, Prepared


@dataclass(frozen=True)
class RefinedPictures:
    """The best picture of each seed, the references of each, a row a picture, and what its record says of the way."""

    images: list[Image.Image]
    hits: Neighbors
    records: list[dict[str, Any]] | None = None


def refine_job(
    pipe: ReferencePipeline,
    kb: KnowledgeBase,
    job: Job,
    prepared: Prepared,
    *,
    critic: Critic | None = None,
    progress: Progress | None = None,
    on_step: generation.OnStep | None = None,
) -> RefinedPictures:
    """The pictures of a prepared job with a critic, which is opened where none is given; `on_step` hears every step of
    every pass. Raises: BowerbirdError for a job without one."""
    if prepared.plan is None or job.critic is None:
        raise BowerbirdError("refine_job: the job has no `critic`; generate it with generation.generate")
    return refine_pictures(
        pipe,
        kb,
        prepared.plan,
        critic or load_critic(job.critic, kb, prepared.choice, device=str(pipe.device)),
        prepared.settings,
        count=job.n,
        max_passes=job.max_passes or PASSES,
        choice=prepared.choice,
        progress=progress,
        on_step=on_step,
    )


def still_missing(record: Mapping[str, Any]) -> list[str]:
    """The phrases that the best picture of a way lacks, by its record."""
    best = record["passes"][record["best"]]["missing"]
    return [text for text, value in zip(record["phrases"], best, strict=True) if value >= MISSING_FROM]


def say_missing(record: Mapping[str, Any]) -> str:
    """A line about the phrases that the best picture of a way lacks; empty where it lacks none."""
    lacks = still_missing(record)
    return f"the critic does not see {', '.join(map(repr, lacks))}" if lacks else ""


def load_critic(name: str, kb: KnowledgeBase, choice: ChoiceSettings | None = None, *, device: str = "cpu") -> Critic:
    """The critic called `name`: `encoder`, that of `kb`, or a directory or hub id of an image-text model."""
    if name == ENCODER:
        from bowerbird.systems.grounded.critic.encoder import EncoderCritic

        return EncoderCritic(kb, choice)
    from bowerbird.systems.grounded.critic.yes_no import load_yes_no

    return load_yes_no(name, device=device)


def refine_pictures(
    pipe: ReferencePipeline,
    kb: KnowledgeBase,
    plan: Plan,
    critic: Critic,
    settings: generation.Settings,
    *,
    count: int,
    max_passes: int,
    choice: ChoiceSettings | None = None,
    progress: Progress | None = None,
    on_step: generation.OnStep | None = None,
) -> RefinedPictures:
    """`count` pictures of a plan's prompt, picture i from `settings.seed + i` in every pass, the best of at most
    `max_passes` each. The first is the base's own, where it generates without references."""
    choice = choice or ChoiceSettings()
    can = pipe.capabilities

    def choose(phrases: Sequence[Phrase], tried: Sequence[int]) -> Sequence[ChosenReference]:
        return choose_references(kb, phrases, settings=choice, exclude=tried).references

    images, rows, records = [], [], []
    for number in range(count):

        def draw(references: Sequence[ChosenReference], seed: int = settings.seed + number) -> Image.Image:
            hits = pipe.ground(kb, plan, references)
            return generation.generate(pipe, hits, settings, picture_seeds=[seed], on_step=on_step)[0]

        found = refine(
            draw,
            choose,
            critic,
            plan.prompt,
            max_passes=max_passes,
            first=() if can.without_neighbors else plan.choice.references,
            max_references=choice.max_references,
        )
        images.append(found.picture)
        rows.append(pipe.ground(kb, plan, found.references))
        records.append(found.record(plan.prompt.phrases))
        if progress is not None:
            progress(number + 1, count)
    return RefinedPictures(images, replace(stack_rows(rows), load_images=kb.pictures), records)
