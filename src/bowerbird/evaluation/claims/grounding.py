"""Where claims about base models with a knowledge base are measured: `tiny-sd` with its adapter, a knowledge base of
things it was shown and of things it was not, and the judge of whole pictures and of their halves.

The rare entities are those of `Benchmark`. Prompts of two things say which stands to the left, so that each half is
judged by itself: what is there is cut out of its ground and shown to the judge alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bowerbird.core import files, seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import for_stage
from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.words import KNOWN, with_article
from bowerbird.evaluation import features
from bowerbird.evaluation.claims.benchmark import Benchmark, temporary_knowledge_base
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.copies.detect import DESCRIPTOR
from bowerbird.evaluation.judge import Judge
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.models.weights import bundled
from bowerbird.systems import generation
from bowerbird.systems.choice import ChoiceSettings
from bowerbird.systems.grounded.adapter_file import ADAPTER, ENCODER
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.grounded.prompting import Plan, make_plan, stack_rows
from bowerbird.systems.grounded.structure import structured
from bowerbird.systems.phrases.parse import RULES, load_parser, parse_prompt
from bowerbird.systems.queries import Request
from bowerbird.systems.reference_settings import ReferenceSettings

if TYPE_CHECKING:
    from torch import Tensor

BASE, READS = "tiny-sd", "tiny-ip-adapter"
MODELS = (BASE, READS)
"""What these claims need that may not be bundled."""
GUIDANCE = 3.0
"""The scale that scenes of this base are measured at elsewhere (`benchmarks/grounded.py`)."""
BATCH = 32
APART = 40
"""From this difference of a channel, of 255, on a pixel is no ground."""
LEAST = 0.02
"""The share of a half below which there is nothing in it."""
SPECK = 0.1
"""A part of a thing is at least this share of its largest part; what is smaller is grain of the ground."""
EDGE = 64
"""What is cut out is shown to the judge at this edge."""


@dataclass
class Grounding:
    """The base with its adapter, the knowledge base `kb`, made with the adapter's `encoder`, and what judges; `known`:
    codes by name of things that the base was shown and that `kb` holds."""

    benchmark: Benchmark
    pipe: ReferencePipeline
    kb: KnowledgeBase
    known: dict[str, str]
    encoder: str

    @property
    def edge(self) -> int:
        """Of the base's pictures, in pixels."""
        return int(self.pipe.capabilities.sizes[-1])

    @property
    def rare(self) -> dict[str, str]:
        """Codes by name of the things that no model was shown."""
        return dict(zip(self.benchmark.names, self.benchmark.entities, strict=True))

    @cached_property
    def judge(self) -> Judge:
        """Names the entity among those of all drawings."""
        return self.benchmark.judge

    def search(self, prompts: Sequence[str], k: int) -> Neighbors:
        """The first k items for each prompt as a whole, with what the adapter reads of each."""
        if k == 0:
            return Neighbors.empty(prompts)
        return self.pipe.retrieve(Request(prompts=tuple(prompts), k=k, allow_no_neighbors=True), self.kb)

    def plan(self, prompt: str, most: int = 2) -> Plan:
        """The phrases of a prompt, and a reference for each."""
        return make_plan(prompt, self.kb, parser=RULES, choice=ChoiceSettings(max_references=most))

    def ground(self, plans: Sequence[Plan]) -> Neighbors:
        """The references of each plan, a row a prompt, each with its region where the prompt says one."""
        return stack_rows([self.pipe.ground(self.kb, plan, plan.choice.references) for plan in plans])

    def generate(
        self,
        hits: Neighbors,
        seed: int,
        *,
        how: ReferenceSettings | None = None,
        rows: Sequence[int] | None = None,
    ) -> list[Image.Image]:
        """`generate` with this set-up's base and adapter."""
        return generate(self.benchmark.experiment, self.pipe, hits, seed, how=how, rows=rows)

    def names(self, images: Sequence[Image.Image], codes: Sequence[str]) -> list[str]:
        """The code, of `codes`, that the judge sees in each picture of one thing."""
        columns = [self.judge.entities.index(code) for code in codes]
        seen = self.judge(self.judge.prepare(images))[1][:, columns].argmax(1).tolist() if images else []
        return [codes[at] for at in seen]

    def both_right(
        self, images: Sequence[Image.Image], wanted: Sequence[tuple[str, str]], codes: Sequence[str]
    ) -> np.ndarray:
        """Whether the judge sees the wanted thing in the left and in the right half of each picture, of `codes`."""
        cut = [cut_out(image, half) for image in images for half in (0, 1)]
        there = [i for i, each in enumerate(cut) if each is not None]
        seen = self.names([_shown(cut[i]) for i in there], codes)
        flat = [code for pair in wanted for code in pair]
        right = {i: code == flat[i] for i, code in zip(there, seen, strict=True)}
        return np.array([right.get(i, False) and right.get(i + 1, False) for i in range(0, len(cut), 2)])

    def ceiling(self, wanted: Sequence[tuple[str, str]], codes: Sequence[str]) -> float:
        """`both_right` of pictures in which the wanted drawings stand side by side: what the judge itself can do."""
        of = self.benchmark.experiment.drawings
        first: dict[str, int] = {}
        for row, code in enumerate(of.column("hexcode")):
            first.setdefault(code, row)
        edge = self.edge
        made = []
        for pair in wanted:
            canvas = Image.new("RGB", (edge, edge), "white")
            for half, code in enumerate(pair):
                drawing = tensors.to_pil(of.pixels[[first[code]]])[0].resize((edge * 2 // 5,) * 2)
                canvas.paste(drawing, (edge // 20 + half * edge // 2, edge * 3 // 10))
            made.append(canvas)
        return float(self.both_right(made, wanted, codes).mean())


@contextmanager
def grounding(experiment: Experiment) -> Iterator[Grounding]:
    """The set-up of an experiment; the knowledge base is gone with the block."""
    benchmark = Benchmark(experiment)
    folder = _folder(experiment.model(READS))
    pipe = open_base(experiment, folder / ADAPTER)
    known = _known(experiment, _folder(experiment.model(BASE)), len(benchmark.entities))
    chosen = {*benchmark.entities, *known.values()}
    codes = experiment.drawings.column("hexcode")
    pictures = experiment.drawings.select([i for i, code in enumerate(codes) if code in chosen])
    encoder = str(folder / ENCODER) if (folder / ENCODER).is_dir() else "small"  # as `export` leaves them
    with temporary_knowledge_base(pictures, encoder=encoder) as kb:
        yield Grounding(benchmark, pipe, kb, known, encoder)


def open_base(experiment: Experiment, adapter: Path | None = None) -> ReferencePipeline:
    """The base of an experiment, with an adapter's file."""
    pipe = ReferencePipeline.from_pretrained(experiment.model(BASE), adapter=adapter).to(experiment.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(
    experiment: Experiment,
    pipe: ReferencePipeline,
    hits: Neighbors,
    seed: int,
    *,
    how: ReferenceSettings | None = None,
    structure: str | None = None,
    rows: Sequence[int] | None = None,
) -> list[Image.Image]:
    """A picture for each row of `hits`, the same noise for row i in every arm of a seed; from the cache where the same
    was generated before. `structure`: the form in which prompts are read by their phrases. `rows`: the numbers of the
    rows where some are left out."""
    how, steps = how or ReferenceSettings(), experiment.settings.sampling_steps
    key = f"{pipe.fingerprint()} {seed} {steps} {GUIDANCE} {how} {structure} {experiment.device} {hits.queries} {rows}"
    digest = hashlib.sha256(f"{key} {hits.ids.shape}".encode())
    for part in (hits.embeddings, hits.effective_weights, hits.regions):
        digest.update(b"" if part is None else part.tobytes())

    def make() -> dict[str, Tensor]:
        settings = generation.Settings(
            steps=steps, guidance_scale=GUIDANCE, seed=1_000_000 * (seed + 1), references=how
        )
        report, done = for_stage(experiment.progress, "generating", len(hits)), 0
        made: dict[int, Image.Image] = {}
        with by_phrases(pipe, hits.queries, structure):
            for group in _alike(hits):  # the pipeline fills a batch up for each number of references in it
                numbers = [settings.seed + (row if rows is None else rows[row]) for row in group]
                batch = min(BATCH, len(group))
                images = generation.generate(pipe, hits.rows(group), settings, picture_seeds=numbers, batch=batch)
                made |= dict(zip(group, images, strict=True))
                report(done := done + len(group))
        return {"pixels": tensors.stack([made[row] for row in range(len(hits))])}

    return tensors.to_pil(features.load_or_make("samples", f"grounded-{digest.hexdigest()[:24]}", make)["pixels"])


def by_phrases(pipe: ReferencePipeline, prompts: Sequence[str], structure: str | None) -> AbstractContextManager[None]:
    """A block in which the base reads these prompts by their phrases, in the form `structure`; None: as it does."""
    if structure is None:
        return nullcontext()
    read = [parse_prompt(prompt, parser=load_parser(RULES)) for prompt in dict.fromkeys(prompts)]
    return structured(pipe.base, read, form=structure)


def likeness(images: Sequence[Image.Image], hits: Neighbors) -> np.ndarray:
    """How like each picture is to its first reference `(n,)`: the cosine of their copy descriptors."""
    pictures = [row[0] for row in hits.images()]
    there = [picture or Image.new("RGB", (EDGE, EDGE), "white") for picture in pictures]
    descriptor = features.load(DESCRIPTOR)
    found: np.ndarray = (descriptor.embed_images(list(images)) * descriptor.embed_images(there)).sum(1)
    return found


def pairs(first: Sequence[str], second: Sequence[str], count: int) -> list[tuple[str, str]]:
    """At most `count` pairs of a name of each list, no name twice on a side; never of a name with itself."""
    rng = seeds.numpy_generator(0, "pairs")
    left = [sorted(first)[at] for at in rng.permutation(len(first))]
    right = [sorted(second)[at] for at in rng.permutation(len(second))]
    if set(left) & set(right):
        right = left[1:] + left[:1]
    return [(a, b) for a, b in zip(left, right, strict=False) if a != b][:count]


def side_by_side(pair: tuple[str, str]) -> str:
    """The prompt of two things."""
    return f"{with_article(pair[0])} left of {with_article(pair[1])}"


def cut_out(image: Image.Image, half: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What stands on the ground in the left (0) or right (1) half of a picture: its pixels `(h, w, 3)`, and which of
    them are it, without specks; None where nothing is. The ground is the median of the picture's edge."""
    from scipy import ndimage

    pixels = np.asarray(image.convert("RGB")).astype(np.int16)
    ground = ground_of(pixels)
    middle = pixels.shape[1] // 2
    part = pixels[:, :middle] if half == 0 else pixels[:, middle:]
    there = (np.abs(part - ground) > APART).any(-1)
    labels, _ = ndimage.label(there)
    sizes = np.bincount(labels[there], minlength=1)
    there &= (sizes >= SPECK * sizes.max())[labels]
    if there.mean() < LEAST:
        return None
    rows, columns = np.nonzero(there)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return part[box].astype(np.uint8), there[box]


def ground_of(pixels: np.ndarray) -> np.ndarray:
    """The median color `(3,)` of a picture's outermost pixels."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.asarray(np.median(edge, 0)).astype(np.int16)


def at_edge(pictures: Pictures, edge: int) -> Pictures:
    """The pictures at another edge in pixels; themselves where it is theirs."""
    from torch.nn import functional as F

    if pictures.size == edge:
        return pictures
    scaled = F.interpolate(tensors.to_float(pictures.pixels), size=edge, mode="bicubic", antialias=True)
    return replace(pictures, pixels=tensors.to_uint8(scaled), alpha=None)


def _shown(cut: tuple[np.ndarray, np.ndarray] | None) -> Image.Image:
    """What was cut out, on white, filling most of a square."""
    assert cut is not None
    pixels, there = cut
    thing = Image.fromarray(np.where(there[..., None], pixels, 255).astype(np.uint8))
    scale = 0.9 * EDGE / max(thing.size)
    width, height = (max(1, round(edge * scale)) for edge in thing.size)
    canvas = Image.new("RGB", (EDGE, EDGE), "white")
    canvas.paste(thing.resize((width, height), Image.Resampling.BICUBIC), ((EDGE - width) // 2, (EDGE - height) // 2))
    return canvas


def _alike(hits: Neighbors) -> list[list[int]]:
    """The rows of `hits` by how many references they have, with which weights and regions."""
    groups: dict[bytes, list[int]] = {}
    weights = hits.effective_weights
    for row in range(len(hits)):
        regions = b"" if hits.regions is None else hits.regions[row][hits.mask[row]].tobytes()
        groups.setdefault(weights[row][hits.mask[row]].tobytes() + regions, []).append(row)
    return list(groups.values())


def _known(experiment: Experiment, base: Path, count: int) -> dict[str, str]:
    """At most `count` things that the base was shown, by its own list where it has one; codes by name."""
    trained = experiment.trainable
    codes = dict(zip((c.lower() for c in trained.captions), trained.column("hexcode"), strict=True))
    listed = base / KNOWN
    shown = files.read_json(listed, "list of what a model knows")["names"] if listed.is_file() else list(codes)
    names = sorted(name for name in shown if name in codes)
    if not names:
        raise BowerbirdError(f"{base}: none of what it was shown is among the drawings; give those it was trained on")
    order = seeds.numpy_generator(0, "known").permutation(len(names))[:count]
    return {names[at]: codes[names[at]] for at in sorted(order.tolist())}


def _folder(model: str) -> Path:
    return bundled(model) or Path(model)
