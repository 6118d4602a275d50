"""From neighbors and settings to pictures: one function for every shell, the same pixels for the same seed.

What is written about a picture is in `records.py`, the files in `output.py`; `regeneration.py` goes the way back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import attempt
from bowerbird.core.progress import Progress
from bowerbird.core.text import with_article
from bowerbird.core.types import Neighbors
from bowerbird.diffusion.guidance import Guidance
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.systems.enlargement import Enlargement
from bowerbird.systems.knn.edit_source import CHANGE_THRESHOLD, PRESERVATION
from bowerbird.systems.patches import PatchDecoding
from bowerbird.systems.reference_settings import ReferenceSettings

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from bowerbird.systems.base import System

EDIT_SETTINGS = {
    "strength": "strength",
    "fidelity": "preservation",
    "show_source": "show_source",
    "least_change": "change_threshold",
}
"""The settings of an edit: as records call them, as `Settings` does."""
INSTRUCTED = {"image_guidance": "image_guidance", "least_change": "change_threshold"}
"""The same of an edit by instruction."""
IMAGE_GUIDANCE = 1.5
"""How much of the picture stays in an edit by instruction. Source: InstructPix2Pix, arXiv 2211.09800."""
BATCH = {"cpu": 2, "cuda": 32}
"""Pictures in one pass of the network. Always just so many, the last batch filled up: the kernels that multiply
matrices are chosen by shape, and another shape may round a picture's last bit another way. So `--from` gives the same
pixels, whatever it was one of. Two on a CPU: one picture takes 1.5 times as long as it would alone, and many take 1.3
times as long as in fours (`benchmarks/batch_size.py`)."""


@dataclass(frozen=True)
class Settings:
    """What of a generation is neither request nor neighbors; a model's own are `default_settings(pipe)`.

    Systems of several stages take `steps` and `guidance` for all, or one a stage. `guidance` balances text and
    neighbors in systems that read both; None is `Guidance.from_scale(guidance_scale)`. `sampler`, `height` and `width`
    None are the model's own. `guidance_interval`: see `RDMPipeline`. `enlargement`: of cascades, None as without
    settings of their own. `strength`, `preservation`, `show_source` and `change_threshold` are of edits, see
    `KNNDiffusionPipeline`; of edits by instruction `image_guidance` and `change_threshold`, see `InstructPipeline`.
    `references`: how a base model attends to its references, see `ReferencePipeline`; None is as usual. `tokens`: how
    they are drawn, where they are one by one; None is the model's own. `patches`: the windows that they are drawn with
    besides. `batch`: how many pictures go through a CPU's network at once, of a record; None is as usual.
    """

    steps: int | tuple[int, ...] = 20
    guidance_scale: float = 3.0
    sampler: str | None = None
    eta: float = 0.0
    height: int | None = None
    width: int | None = None
    seed: int = 0
    guidance: Guidance | tuple[Guidance, ...] | None = None
    strength: float = 1.0
    preservation: float = PRESERVATION
    show_source: bool = True
    change_threshold: float = CHANGE_THRESHOLD
    references: ReferenceSettings | None = None
    image_guidance: float = IMAGE_GUIDANCE
    guidance_interval: tuple[float, float] | None = None
    enlargement: Enlargement | None = None
    tokens: TokenSampling | None = None
    patches: PatchDecoding | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Step:
    """Where generating stands after a step: `pictures`, the rows of the batch in hand; `step`, from 1, of `steps` of
    that batch (of all stages together); `latents`, a row a picture and then what fills the batch up, for
    `System.preview`."""

    pictures: range
    step: int
    steps: int
    latents: Tensor


OnStep = Callable[[Step], None]
"""Hears every step; a BowerbirdError that it raises ends the generating."""


def default_settings(pipe: System) -> Settings:
    """The settings a model generates with unless asked otherwise."""
    own = pipe.defaults
    return Settings(
        steps=own.num_inference_steps,
        guidance_scale=own.guidance_scale,
        guidance_interval=own.guidance_interval,
        enlargement=own.enlargement,
        change_threshold=CHANGE_THRESHOLD if own.change_threshold is None else own.change_threshold,
    )


def generate(
    pipe: System,
    hits: Neighbors,
    settings: Settings,
    *,
    sources: Sequence[Image.Image] | None = None,
    picture_seeds: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
) -> list[Image.Image]:
    """One picture for each row of `hits`; picture i is drawn from `picture_seeds[i]` (`settings.seed + i` when None),
    the same to the last bit whichever others are generated with it.

    Another `batch` is faster for many, and moves last bits. `sources`: a picture to edit for each row. The pipeline is
    left as it was. Raises: BowerbirdError for settings that the system does not have.
    """
    options = _options(pipe, settings, edits=sources is not None)
    numbers = list(picture_seeds) if picture_seeds is not None else [settings.seed + i for i in range(len(hits))]
    made: list[Image.Image] = []
    batch = batch or batch_size(pipe, settings)
    # a configuration can be a network's own and still not fit the others, or need more memory than there is
    named = f"a model that was read from a directory ({type(pipe).__name__})"
    checked = (
        attempt(f"{named} cannot generate this", "take another model, or smaller pictures")
        if pipe.strange
        else nullcontext()
    )
    with checked, pipe.sampling_with(settings.sampler or pipe.defaults.sampler):
        for start in range(0, len(hits), batch):
            rows = [min(i, len(hits) - 1) for i in range(start, start + batch)]
            if sources is not None:
                options["source"] = [sources[i] for i in rows]
            generators = [seeds.picture_generator(numbers[i]) for i in rows]
            if on_step is not None:
                there = range(start, min(start + batch, len(hits)))
                options["callback_on_step_end"] = _step_callback(on_step, there, _count_steps(pipe, settings, options))
            out = pipe(neighbors=hits.rows(rows), generator=generators, **options)
            made += out.images[: len(hits) - start]
            if progress is not None:
                progress(len(made), len(hits))
    return made


def _step_callback(on_step: OnStep, pictures: range, steps: int) -> Any:
    """diffusers' callback that tells `on_step`; the stages of a cascade count on."""
    step = 0

    def after(pipe: Any, index: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        nonlocal step
        step += 1
        on_step(Step(pictures, step, max(step, steps), tensors["latents"]))
        return tensors

    return after


def _count_steps(pipe: System, settings: Settings, options: dict[str, Any]) -> int:
    """Steps that a batch takes: those of the stages that run, of an edit the share that `strength` leaves."""
    edge, sizes = settings.height or settings.width, pipe.capabilities.sizes
    stages = [i for i, size in enumerate(sizes) if len(sizes) == 1 or edge is None or size <= edge]
    steps = settings.steps
    total = sum(steps[i] for i in stages) if isinstance(steps, tuple) else steps * len(stages)
    return max(1, round(total * settings.strength)) if "source" in options else total


def check_numbers(settings: Settings) -> None:
    """Raises: BowerbirdError for a number that no sampler can use: the picture would be noise, or nothing."""
    for name in ("guidance_scale", "strength", "preservation", "change_threshold", "image_guidance"):
        if not math.isfinite(getattr(settings, name)):
            raise BowerbirdError(f"{name} is {getattr(settings, name)}; give a number, as in {getattr(Settings, name)}")
    if settings.image_guidance < 0:
        raise BowerbirdError(
            f"image_guidance is how much of the picture stays, 0 or more; got {settings.image_guidance}"
        )
    if not 0 <= settings.eta <= 1:
        raise BowerbirdError(f"eta is the share of fresh noise, 0 to 1; got {settings.eta}")


def batch_size(pipe: System, settings: Settings) -> int:
    """How many pictures go through the network at once."""
    if (own := pipe.batch_size(settings.height, settings.width)) is not None:
        return own
    return (settings.batch or BATCH["cpu"]) if pipe.device.type == "cpu" else BATCH["cuda"]


def _options(pipe: System, settings: Settings, *, edits: bool) -> dict[str, Any]:
    """The arguments of the pipeline's call that `settings` make. Raises: BowerbirdError for what it cannot do."""
    can, name = pipe.capabilities, type(pipe).__name__
    check_numbers(settings)
    options: dict[str, Any] = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "eta": settings.eta,
        "height": settings.height,
        "width": settings.width,
    }
    if settings.guidance is not None:
        if not can.reads_text:
            raise BowerbirdError(f"{name} reads no text to balance with its neighbors: it takes guidance_scale")
        options["guidance"] = settings.guidance
    if settings.references is not None:
        if not can.takes_references:
            raise BowerbirdError(
                f"{with_article(name)} reads neighbors by itself: `scale`, `layers`, `steps_from`, `steps_to`, `pool`,"
                " `negative_prompt` and `structure` are for base models of diffusers"
            )
        options |= asdict(settings.references)
    if isinstance(settings.steps, tuple) and can.stages == 1:
        raise BowerbirdError(f"{name} generates in one stage: it takes one number of steps")
    if settings.guidance_interval is not None:
        if not can.guidance_interval:
            raise BowerbirdError(f"{name} is guided in every step; leave `guidance_interval` out")
        options["guidance_interval"] = settings.guidance_interval
    if settings.enlargement is not None:
        if can.stages == 1:
            raise BowerbirdError(f"{name} has no stage that enlarges; leave `enlargement` out")
        options |= asdict(settings.enlargement)
    if edits and can.fills and settings.strength != 1:
        raise BowerbirdError(f"{name} fills holes from noise alone; leave `strength` out")
    if can.instructs and not edits:
        raise BowerbirdError(f"{name} edits a picture, and none is given; see bowerbird edit --help")
    if settings.tokens is not None:
        if not can.samples_tokens:
            raise BowerbirdError(f"{name} does not sample tokens one by one; leave `tokens` out")
        options["token_sampling"] = settings.tokens
    if settings.patches is not None:
        if not can.reads_patches:
            raise BowerbirdError(f"{name} does not support patch decoding; leave `patch_weight` out")
        options["patches"] = settings.patches
    if edits and can.fills:
        return options
    if edits:
        if not can.starts_from_image:
            raise BowerbirdError(f"{name} does not edit pictures; use a model like tiny-knn")
        taken = INSTRUCTED if can.instructs else EDIT_SETTINGS
        options |= {key: getattr(settings, key) for key in taken.values()}
    return options
