"""StructureDiffusion: attributes stay with their things where each phrase of the prompt is encoded for itself.

Prompts and judge are of shapes that code draws, so that seeing needs no network: a half's thing is the shape whose
outline it overlaps most, in the color that is nearest to its median.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from PIL import Image

from bowerbird.core import contact_sheet, seeds
from bowerbird.core.types import Neighbors
from bowerbird.data.scenes.render import shape_mask
from bowerbird.data.scenes.words import COLORS, SHAPES, are_distinct, nearest_color
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import paired, per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.grounding import BASE, GUIDANCE, cut_out, generate, open_base, side_by_side
from bowerbird.systems.reference_settings import CONJUNCTION, MEAN

PROMPTS, SHOWN = 80, 16
PLAIN = "plain"
FORMS = {PLAIN: None, "structure": MEAN, "structure, conjunction": CONJUNCTION}
MEASURES = ("colors leaked", "colors exchanged", "a thing missing", "both right")
Colored = tuple[str, str]
"""A color and a shape."""


@dataclass(frozen=True)
class Seen:
    """What is in a half: None where nothing is."""

    color: str
    shape: str


def measure(experiment: Experiment) -> Finding:
    """Every prompt in every form, from the same noise."""
    found: dict[str, dict[str, list[np.ndarray]]] = {arm: {name: [] for name in MEASURES} for arm in FORMS}
    asked = draw_prompts(PROMPTS)
    prompts = [side_by_side((" ".join(left), " ".join(right))) for left, right in asked]
    first: dict[str, list[Image.Image]] = {}
    pipe = open_base(experiment)
    for seed in experiment.settings.seeds:
        for arm, form in FORMS.items():
            images = generate(experiment, pipe, Neighbors.empty(prompts), seed, structure=form)
            first.setdefault(arm, images)
            for name, values in judge(images, asked).items():
                found[arm][name].append(values)
    effects = [
        Effect(f"{name}: {PLAIN} − {arm}", paired(found[PLAIN][name], found[arm][name]), needed=needed)
        for arm, name, needed in (
            ("structure", "colors leaked", True),
            ("structure", "a thing missing", False),
            ("structure, conjunction", "colors leaked", False),
        )
    ]
    effects.append(
        Effect(
            f"both right: structure − {PLAIN}",
            paired(found["structure"]["both right"], found[PLAIN]["both right"]),
            needed=False,
        )
    )
    estimates = {arm: {name: per_entity(values) for name, values in each.items()} for arm, each in found.items()}
    rows = [
        (f"{name}, {arm}", e.mean, e.low, e.high)
        for name in MEASURES
        for arm, e in ((arm, each[name]) for arm, each in estimates.items())
    ]
    title = "Two colored shapes, side by side"
    plot = partial(plots.intervals, rows=rows, title=title, label="share of pictures")
    shown = np.linspace(0, len(prompts) - 1, min(SHOWN, len(prompts))).astype(int).tolist()
    lines = [(prompts[i], [images[i] for images in first.values()], list(first)) for i in shown]
    notes = (
        f"{len(prompts)} prompts in the form of CC-500, of two shapes in two colors that differ to the eye; guidance"
        f" {GUIDANCE:g}, {experiment.settings.sampling_steps} steps. Leaked: a half's thing is there in the other's"
        " color. No network judges: the shape by its outline, the color by the median. Intervals over prompts."
    )
    named = {arm: {name: asdict(value) for name, value in each.items()} for arm, each in estimates.items()}
    return Finding(effects, named, notes, plot, lambda path: contact_sheet.labeled_grid(lines).save(path))


def draw_prompts(count: int) -> list[tuple[Colored, Colored]]:
    """Pairs of different shapes in colors that differ from each other and from white."""
    rng = seeds.numpy_generator(0, "leakage")
    colors = [color for color in COLORS if are_distinct(color, "white")]
    found: list[tuple[Colored, Colored]] = []
    while len(found) < count:
        left, right = (str(color) for color in rng.choice(colors, 2, replace=False))
        shapes = [str(shape) for shape in rng.choice(SHAPES, 2, replace=False)]
        if are_distinct(left, right) and ((left, shapes[0]), (right, shapes[1])) not in found:
            found.append(((left, shapes[0]), (right, shapes[1])))
    return found


def look(image: Image.Image, half: int) -> Seen | None:
    """What stands in a half of a picture, as `Seen`."""
    cut = cut_out(image, half)
    if cut is None:
        return None
    pixels, there = cut
    red, green, blue = np.median(pixels[there], 0).astype(int).tolist()
    return Seen(nearest_color((red, green, blue)), max(SHAPES, key=lambda shape: _overlap(there, shape)))


def judge(images: list[Image.Image], asked: list[tuple[Colored, Colored]]) -> dict[str, np.ndarray]:
    """Of each picture, as numbers: whether a color is at the other thing, both are, a thing is not there, and all is
    right."""
    found = np.zeros((len(MEASURES), len(images)))
    for at, (image, pair) in enumerate(zip(images, asked, strict=True)):
        seen = [look(image, half) for half in (0, 1)]
        of_other = [
            each is not None and each.color == other[0] for each, other in zip(seen, reversed(pair), strict=True)
        ]
        right = [each == Seen(*wanted) for each, wanted in zip(seen, pair, strict=True)]
        lacking = [each is None or each.shape != wanted[1] for each, wanted in zip(seen, pair, strict=True)]
        found[:, at] = any(of_other), all(of_other), any(lacking), all(right)
    return dict(zip(MEASURES, found, strict=True))


def _overlap(there: np.ndarray, shape: str) -> float:
    """Intersection over union of a mask and a shape that fills its box."""
    height, width = there.shape
    drawn = Image.fromarray((shape_mask(shape).numpy() * 255).astype(np.uint8)).resize((width, height))
    filled = np.asarray(drawn) > 127
    return float((filled & there).sum() / max(1, (filled | there).sum()))


CLAIM = Claim(
    name="structure-leakage",
    says="Where each phrase is encoded for itself, fewer colors go to the other thing of a prompt.",
    source="StructureDiffusion, arXiv 2212.05032, section 4",
    varies="the values that cross-attention reads: of the prompt, or of its phrases at their places",
    measures="share of pictures in which a color is at the other thing, in which one is missing, and all is right",
    measure=measure,
    models=(BASE,),
)
