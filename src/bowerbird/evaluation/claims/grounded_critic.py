"""A critic that asks for what a draft lacks, against as many pictures without being asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
from PIL import Image

from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import paired, per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.grounding import GUIDANCE, MODELS, Grounding, grounding, pairs, side_by_side
from bowerbird.systems.choice import ChoiceSettings, ChosenReference, choose_references
from bowerbird.systems.grounded.critic.encoder import EncoderCritic
from bowerbird.systems.grounded.critic.loop import Refined, refine
from bowerbird.systems.grounded.critic.protocol import Critic
from bowerbird.systems.grounded.prompting import Plan, stack_rows
from bowerbird.systems.phrases.phrase import Phrase
from bowerbird.systems.reference_settings import ReferenceSettings

PAIRS, PASSES = 40, 3
SCALE = 1.0
"""That adapters are trained at."""
OTHER_SEEDS = 1000
"""Pictures beside the first of a seed are drawn from seeds so far on."""
LOOP, BEST, ALONE, ONE = (
    "the loop",
    "references, the best of as many",
    "the base alone, the best of as many",
    "references, one picture",
)


class NotYet(Exception):  # no error: what the loop asks for is generated with that of other prompts
    """The picture that a loop asks for is not there yet."""


class Remembering:
    """A critic that looks at each picture of a prompt once: loops are begun again when more pictures are there."""

    def __init__(self, critic: Critic) -> None:
        self.critic, self.name = critic, critic.name
        self._known: dict[tuple[str, bytes], np.ndarray] = {}

    def missing(self, prompt: str, phrases: Sequence[Phrase], picture: Image.Image) -> np.ndarray:
        """As the critic says."""
        key = prompt, picture.tobytes()
        if key not in self._known:
            self._known[key] = self.critic.missing(prompt, phrases, picture)
        return self._known[key]


def measure(experiment: Experiment) -> Finding:
    """A thing that the base was shown beside one that it was not, so that a draft lacks one of them."""
    right: dict[str, list[np.ndarray]] = {}
    passes: list[int] = []
    how = ReferenceSettings(scale=SCALE)
    with grounding(experiment) as setup:
        rare, known = setup.rare, setup.known
        chosen = pairs(list(known), list(rare), PAIRS)
        wanted = [(known[a], rare[b]) for a, b in chosen]
        codes = sorted({*known.values(), *rare.values()})
        plans = [setup.plan(side_by_side(pair)) for pair in chosen]
        critic = Remembering(EncoderCritic(setup.kb))
        both, none = setup.ground(plans), setup.search([plan.prompt.text for plan in plans], 0)
        for seed in experiment.settings.seeds:
            loops = refine_together(setup, plans, critic, seed, how)
            passes += [len(each.passes) for each in loops]
            others = [seed, *(seed + OTHER_SEEDS * number for number in range(1, PASSES))]
            tries = {arm: [setup.generate(h, s, how=how) for s in others] for arm, h in ((BEST, both), (ALONE, none))}
            made = {
                LOOP: [each.picture for each in loops],
                **{arm: _best(critic, plans, several) for arm, several in tries.items()},
                ONE: tries[BEST][0],
            }
            for arm, images in made.items():
                right.setdefault(arm, []).append(setup.both_right(images, wanted, codes).astype(float))
        ceiling = setup.ceiling(wanted, codes)
    estimates = {arm: per_entity(values) for arm, values in right.items()}
    effects = [
        Effect(f"both right: {LOOP} − {BEST}", paired(right[LOOP], right[BEST])),
        Effect(f"both right: {LOOP} − {ALONE}", paired(right[LOOP], right[ALONE])),
        Effect(f"both right: {LOOP} − {ONE}", paired(right[LOOP], right[ONE]), needed=False),
    ]
    rows = [(arm, e.mean, e.low, e.high) for arm, e in estimates.items()]
    title = f"A known thing beside a rare one, at most {PASSES} passes"
    plot = partial(plots.intervals, rows=rows, title=title, label="both right, share of pictures", mark=ceiling)
    notes = (
        f"{len(plans)} prompts of a thing that the base was shown left of one that it was not; the critic is the"
        f" knowledge base's encoder. The loop took {np.mean(passes):.1f} passes on average, the others {PASSES}, whose"
        f" best is chosen by the same critic. Scale {SCALE:g}, guidance {GUIDANCE:g},"
        f" {experiment.settings.sampling_steps} steps. Named among {len(codes)}; of the real drawings side by side the"
        f" judge names both in {ceiling:.0%}. Intervals over prompts."
    )
    return Finding(effects, {arm: asdict(value) for arm, value in estimates.items()}, notes, plot)


def refine_together(
    setup: Grounding, plans: Sequence[Plan], critic: Critic, seed: int, how: ReferenceSettings
) -> list[Refined[ChosenReference]]:
    """The loop of every plan, as `refinement.refine_pictures` runs it, the pictures that all ask for in one batch: a
    loop that asks for one which is not there is begun again when it is."""
    made: dict[tuple[int, tuple[int, ...]], Image.Image] = {}
    found: dict[int, Refined[ChosenReference]] = {}
    for _ in range(PASSES + 1):
        wanted: dict[int, tuple[ChosenReference, ...]] = {}
        for number, plan in enumerate(plans):
            if number not in found:
                _go_on(setup, plan, number, critic, made, wanted, found)
        if not wanted:
            break
        hits = stack_rows([setup.pipe.ground(setup.kb, plans[number], wanted[number]) for number in wanted])
        images = setup.generate(hits, seed, how=how, rows=list(wanted))
        for (number, references), image in zip(wanted.items(), images, strict=True):
            made[number, tuple(each.item for each in references)] = image
    return [found[number] for number in range(len(plans))]


def _go_on(
    setup: Grounding,
    plan: Plan,
    number: int,
    critic: Critic,
    made: dict[tuple[int, tuple[int, ...]], Image.Image],
    wanted: dict[int, tuple[ChosenReference, ...]],
    found: dict[int, Refined[ChosenReference]],
) -> None:
    """Run a loop over the pictures that are there: it ends in `found`, or with what it asks for in `wanted`."""

    def draw(references: Sequence[ChosenReference]) -> Image.Image:
        key = number, tuple(each.item for each in references)
        if key not in made:
            wanted[number] = tuple(references)
            raise NotYet
        return made[key]

    def choose(phrases: Sequence[Phrase], tried: Sequence[int]) -> Sequence[ChosenReference]:
        return choose_references(setup.kb, phrases, settings=ChoiceSettings(max_references=2), exclude=tried).references

    try:
        found[number] = refine(draw, choose, critic, plan.prompt, max_passes=PASSES)
    except NotYet:
        return


def _best(critic: Critic, plans: Sequence[Plan], several: Sequence[Sequence[Image.Image]]) -> list[Image.Image]:
    """Of each prompt's pictures the one that lacks least."""
    chosen = []
    for plan, images in zip(plans, zip(*several, strict=True), strict=True):
        lacks = [float(critic.missing(plan.prompt.text, plan.prompt.phrases, image).sum()) for image in images]
        chosen.append(images[int(np.argmin(lacks))])
    return chosen


CLAIM = Claim(
    name="grounded-critic",
    says="A critic that asks for references of what a draft lacks gives more than as many pictures without it.",
    source="ImageRAG, arXiv 2502.09411, section 3",
    varies="what three passes are used for: a draft that is looked at and generated again, or three pictures",
    measures="share of pictures in which an independent judge names both things, each in its half",
    measure=measure,
    models=MODELS,
)
