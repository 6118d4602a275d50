"""Classifier-free guidance as pure functions on predictions; they serve noise, velocity and logits alike.

Everywhere in bowerbird: weight 1 = the conditional prediction, 0 = the unconditional one. Every form below is a sum of
predictions under some conditions dropped, whose coefficients add up to 1; those with a coefficient of 0 are never
computed, the others in one batch.

Source: arXiv 2207.12598 (classifier-free), Re-Imagen, arXiv 2209.14491, section 3.3 (the balance of text and
neighbors):
    text-enhanced       e_p = w_p e(c_p, c_n) - (w_p - 1) e(-, c_n)
    neighbor-enhanced  e_n = w_n e(c_p, c_n) - (w_n - 1) e(c_p, -)
    joint               w e(c_p, c_n) - (w - 1) e(-, -)
    weighted            eta e_p + (1 - eta) e_n
    interleaved         at each step e_p with probability eta, else e_n
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.diffusion.conditions import Conditioning

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""A network seen from here: (sample, timestep, conditioning) -> prediction of the sample's shape."""
Guided = Callable[[Tensor, Tensor, int], Tensor]
"""A prediction under guidance: (sample, timestep, number of the sampling step from 0) -> prediction."""


@dataclass(frozen=True)
class Guidance:
    """How two conditions are balanced: the form, the weights of text (w_p) and neighbors (w_n), and the share of
    text, `text_ratio`, the paper's eta.

    `joint` has one weight, `text_scale`, and no ratio. Raises: BowerbirdError for an unknown kind, or a ratio outside
    0..1.
    """

    kind: str = "interleaved"
    text_scale: float = 3.0
    neighbor_scale: float = 3.0
    text_ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in FORMS:
            raise BowerbirdError(f"guidance {self.kind!r} is not known; choose one of {', '.join(FORMS)}")
        if not (math.isfinite(self.text_scale) and math.isfinite(self.neighbor_scale)):
            raise BowerbirdError(
                f"guidance scales are finite numbers; got {self.text_scale} for the text and {self.neighbor_scale} for"
                " the neighbors"
            )
        if not 0 <= self.text_ratio <= 1:
            raise BowerbirdError(f"text_ratio is the share of text in guidance, from 0 to 1; got {self.text_ratio}")

    @staticmethod
    def from_scale(guidance_scale: float) -> Guidance:
        """The balance when only one number is given: it guides the neighbors, a quarter of its excess over 1 the text,
        a quarter of the steps enhance the text.

        Text is enhanced less because a small text tower says little of words it never met, and what it says of them
        should not be amplified.
        """
        return Guidance("interleaved", min(guidance_scale, 1 + (guidance_scale - 1) / 4), guidance_scale, 0.25)


def by_stage(
    guidance_scale: float,
    kind: str = "interleaved",
    *,
    text_ratio: Sequence[float] = (),
    text_scale: Sequence[float] = (),
    neighbor_scale: Sequence[float] = (),
) -> Guidance | tuple[Guidance, ...]:
    """A balance for all stages, or one a stage: each sequence holds one number, one a stage, or nothing for what
    `Guidance.from_scale(guidance_scale)` says.

    Raises: BowerbirdError when two sequences speak of different numbers of stages.
    """
    usual = Guidance.from_scale(guidance_scale)
    given = {"text_scale": text_scale, "neighbor_scale": neighbor_scale, "text_ratio": text_ratio}
    values = {name: list(each) or [getattr(usual, name)] for name, each in given.items()}
    stages = max(len(each) for each in values.values())
    wrong = [name for name, each in values.items() if len(each) not in (1, stages)]
    if wrong:
        raise BowerbirdError(
            f"{wrong[0]}: {len(values[wrong[0]])} numbers where another option has {stages}; give one, or one a stage"
        )
    texts, nears, ratios = (each * stages if len(each) == 1 else each for each in values.values())
    found = tuple(Guidance(kind, *numbers) for numbers in zip(texts, nears, ratios, strict=True))
    return found if stages > 1 else found[0]


def combine(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """`uncond + w (cond - uncond)`. Source: arXiv 2207.12598, equation 6, with w counted from the unconditional
    prediction."""
    return unconditional + guidance_scale * (conditional - unconditional)


def mixture(predict: Predict, terms: Sequence[tuple[float | Tensor, Conditioning]]) -> Guided:
    """The sum of predictions times their coefficients (a number, or one a picture `(B,)`), those that are not 0 in one
    batch."""
    used = [(weight, condition) for weight, condition in terms if isinstance(weight, Tensor) or weight != 0]
    if len(used) == 1 and not isinstance(used[0][0], Tensor) and used[0][0] == 1:
        only = used[0][1]
        return lambda x, t, step: predict(x, t, only)
    together = Conditioning.cat([condition for _, condition in used])

    def guided(x: Tensor, t: Tensor, step: int) -> Tensor:
        parts = predict(torch.cat([x] * len(used)), t, together).chunk(len(used))
        weighed = [_rowwise(weight, part) * part for (weight, _), part in zip(used, parts, strict=True)]
        return torch.stack(weighed).sum(0)

    return guided


def _rowwise(weight: float | Tensor, like: Tensor) -> float | Tensor:
    """One weight a picture, in the form in which it multiplies predictions, which `like` is one of: what they are of
    may be whole numbers, as codes are."""
    return weight.to(like).view(-1, *[1] * (like.ndim - 1)) if isinstance(weight, Tensor) else weight


def classifier_free(predict: Predict, conditioning: Conditioning, guidance_scale: float, *names: str) -> Guided:
    """Guidance away from the conditions called `names` ("neighbors" when none is named): one pass at weight 1 or 0,
    two in one batch otherwise. Raises: BowerbirdError for a scale that is not a finite number."""
    if not math.isfinite(guidance_scale):
        raise BowerbirdError(f"guidance_scale is {guidance_scale}; give a number, as in 3.0")
    null = conditioning.without(*(names or ("neighbors",)))
    if guidance_scale in (0.0, 1.0):
        only = conditioning if guidance_scale else null
        return lambda x, t, step: predict(x, t, only)
    both = Conditioning.cat([null, conditioning])

    def guided(x: Tensor, t: Tensor, step: int) -> Tensor:
        unconditional, conditional = predict(torch.cat([x, x]), t, both).chunk(2)
        return combine(unconditional, conditional, guidance_scale)

    return guided


def within_interval(
    guided: Guided, predict: Predict, conditioning: Conditioning, interval: tuple[float, float] | None
) -> Guided:
    """`guided` where the timestep lies in `interval`, both ends counted, and one pass without guidance elsewhere; None
    is everywhere.

    Early on guidance throws pictures off, late it changes nothing that is seen. Source: arXiv 2404.07724.
    """
    if interval is None:
        return guided
    low, high = interval
    return lambda x, t, step: guided(x, t, step) if low <= float(t) <= high else predict(x, t, conditioning)


def edit_guidance(
    predict: Predict,
    wanted: Conditioning,
    own: Conditioning,
    guidance_scale: float,
    preservation: float,
    unchanged: Callable[[Tensor, Tensor], Tensor],
) -> Guided:
    """Guidance of an edit: away from the picture's `own` embedding in the query's place, and `preservation` of
    the way to the picture as it is.

    e(y) + (w - 1) (e(y) - e(y_I)) + c (e_I - e(y_I)), where e_I, given by `unchanged(sample, timestep)`, is the
    prediction that speaks of the picture itself. What the network gets wrong of a picture it gets wrong under both
    queries, and that cancels; with c = 0 and w = 1 it is e(y).
    """
    if guidance_scale == 1 and preservation == 0:
        return lambda x, t, step: predict(x, t, wanted)
    both = Conditioning.cat([wanted, own])

    def guided(x: Tensor, t: Tensor, step: int) -> Tensor:
        asked_for, there = predict(torch.cat([x, x]), t, both).chunk(2)
        found = combine(there, asked_for, guidance_scale)
        return found + preservation * (unchanged(x, t) - there) if preservation else found

    return guided


def instruct(
    predict: Predict,
    both: Conditioning,
    image: Conditioning,
    neither: Conditioning,
    text_scale: float,
    image_scale: float,
) -> Guided:
    """Guidance by an instruction and by the picture it is about, each with a scale of its own.

    e(-, -) + s_I (e(I, -) - e(-, -)) + s_T (e(I, T) - e(I, -)). Source: InstructPix2Pix, arXiv 2211.09800, equation 3.
    """
    return mixture(predict, [(1 - image_scale, neither), (image_scale - text_scale, image), (text_scale, both)])


def text_enhanced(predict: Predict, conditioning: Conditioning, text_scale: float) -> Guided:
    """Away from the same neighbors without the text."""
    return classifier_free(predict, conditioning, text_scale, "text")


def neighbor_enhanced(predict: Predict, conditioning: Conditioning, neighbor_scale: float) -> Guided:
    """Away from the same text without the neighbors."""
    return classifier_free(predict, conditioning, neighbor_scale, "neighbors")


def joint(predict: Predict, conditioning: Conditioning, guidance_scale: float) -> Guided:
    """Away from both conditions at once: the plain form, which one condition comes to dominate."""
    return classifier_free(predict, conditioning, guidance_scale, "text", "neighbors")


def weighted(
    predict: Predict, conditioning: Conditioning, text_scale: float, neighbor_scale: float, eta: float | Tensor
) -> Guided:
    """Both single forms at every step, `eta` of the text-enhanced one (a number, or one a picture)."""
    both = eta * text_scale + (1 - eta) * neighbor_scale
    without_text, without_neighbors = eta * (1 - text_scale), (1 - eta) * (1 - neighbor_scale)
    return mixture(
        predict,
        [
            (without_text, conditioning.without("text")),
            (without_neighbors, conditioning.without("neighbors")),
            (both, conditioning),
        ],
    )


def interleaved(
    predict: Predict, conditioning: Conditioning, text_scale: float, neighbor_scale: float, text_steps: Tensor
) -> Guided:
    """One single form a step: the text-enhanced one where the boolean `text_steps` `(B, steps)` says so, a row a
    picture."""
    if text_scale == 1 and neighbor_scale == 1:
        return lambda x, t, step: predict(x, t, conditioning)
    both = Conditioning.cat([conditioning, conditioning])

    def guided(x: Tensor, t: Tensor, step: int) -> Tensor:
        rows = text_steps[:, step].to(x.device)
        whole = torch.zeros_like(rows)
        dropped = both.without("text", rows=torch.cat([rows, whole])).without(
            "neighbors", rows=torch.cat([~rows, whole])
        )
        without, full = predict(torch.cat([x, x]), t, dropped).chunk(2)
        return without + _rowwise(torch.where(rows, text_scale, neighbor_scale), full) * (full - without)

    return guided


def sample_text_steps(
    picture_seeds: Sequence[int], present: Sequence[bool], steps: int, eta: float, stage: int
) -> Tensor:
    """Which steps of `interleaved` enhance the text, R < eta for R uniform in [0, 1): boolean `(B, steps)`, row i from
    seed i alone.

    All of them in a row whose picture has no neighbor `present`: there is nothing else to enhance.
    """
    rows = [
        seeds.numpy_generator(seed, "interleave", stage).random(steps) < (eta if there else 1.0)
        for seed, there in zip(picture_seeds, present, strict=True)
    ]
    return torch.from_numpy(np.stack(rows))


def build_guidance(
    predict: Predict,
    conditioning: Conditioning,
    settings: Guidance,
    picture_seeds: Sequence[int],
    present: Sequence[bool],
    steps: int,
    stage: int = 1,
) -> Guided:
    """The form that `settings` name; `picture_seeds` and `stage` decide the draws of `interleaved`.

    A picture without a neighbor `present` is guided by its text alone, whatever the balance: absent and K = 0 are the
    same.
    """
    return FORMS[settings.kind](predict, conditioning, settings, Schedule(picture_seeds, present, steps, stage))


@dataclass(frozen=True)
class Schedule:
    """What a form may depend on beside the predictions: each picture's seed, whether it has a neighbor `present`, how
    many steps there are, and the number of the stage, from 1."""

    picture_seeds: Sequence[int]
    present: Sequence[bool]
    steps: int
    stage: int = 1


Form = Callable[[Predict, Conditioning, Guidance, Schedule], Guided]
"""A way to balance text and neighbors: from the network and its conditions to the guided prediction."""


def _joint(predict: Predict, conditioning: Conditioning, settings: Guidance, schedule: Schedule) -> Guided:
    return joint(predict, conditioning, settings.text_scale)


def _weighted(predict: Predict, conditioning: Conditioning, settings: Guidance, schedule: Schedule) -> Guided:
    ratio = settings.text_ratio
    if not any(schedule.present):
        return text_enhanced(predict, conditioning, settings.text_scale)
    eta = ratio if all(schedule.present) else torch.tensor([ratio if there else 1.0 for there in schedule.present])
    return weighted(predict, conditioning, settings.text_scale, settings.neighbor_scale, eta)


def _interleaved(predict: Predict, conditioning: Conditioning, settings: Guidance, schedule: Schedule) -> Guided:
    if not any(schedule.present):
        return text_enhanced(predict, conditioning, settings.text_scale)
    drawn = (schedule.picture_seeds, schedule.present, schedule.steps)
    text_steps = sample_text_steps(*drawn, settings.text_ratio, schedule.stage)
    return interleaved(predict, conditioning, settings.text_scale, settings.neighbor_scale, text_steps)


FORMS: dict[str, Form] = {"interleaved": _interleaved, "weighted": _weighted, "joint": _joint}
"""The forms by name. Another one joins by an entry of its own: `FORMS["mine"] = form`."""
