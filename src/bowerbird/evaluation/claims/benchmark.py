"""Where claims about single things are measured: those no model was trained on, found by their words, generated, and
named by an independent judge.

The things are the rare entities of the drawings, or as many known ones beside them. Pictures are cached by weights,
neighbors, prompts and settings, so that a second run measures without generating.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird import encoders
from bowerbird.core import seeds, tensors
from bowerbird.core.disk import disk_errors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import encode_png
from bowerbird.core.progress import for_stage
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion.guidance import Guidance
from bowerbird.encoders.load import place_of
from bowerbird.evaluation.claims.experiment import Experiment, open_pipeline, steps_of
from bowerbird.evaluation.features import load_or_make
from bowerbird.evaluation.judge import Judge, train_judge
from bowerbird.evaluation.metrics.intervals import Estimate, over_groups
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.knowledge.search import bm25
from bowerbird.systems import generation
from bowerbird.training.recipes.judge import judge as judge_recipe
from bowerbird.training.recipes.judge import style_judge as style_judge_recipe

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from bowerbird.training.recipe import Recipe

MODEL = "tiny-reimagen"
TRAINED_STYLES = ("flat", "fluent", "noto", "twemoji")
"""Styles that the network saw of other entities; a prompt can name them."""
UNSEEN_STYLE = "openmoji"
STYLE_JUDGE_STEPS = 1000
SCALE = 3.0
"""Guidance scale of both systems where a claim does not vary it: the commands' default."""


@dataclass
class Benchmark:
    """The rare entities of an experiment's drawings (with `known`: as many that models were trained on), the judges,
    and generation. `encoder`: whose embeddings neighbors have."""

    experiment: Experiment
    known: bool = False
    encoder: str = "small"
    _pipes: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def drawings(self) -> Pictures:
        """All drawings of these entities. Raises: BowerbirdError when there are too few."""
        code, rare = (
            self.experiment.drawings.column("hexcode"),
            [m.get("split") == "rare" for m in self.experiment.drawings.metadata],
        )
        chosen = {c for c, r in zip(code, rare, strict=True) if r}
        if len(chosen) < 4:
            raise BowerbirdError(
                "these claims need 4 entities with split = 'rare', which no model is trained on; the data has"
                f" {len(chosen)}"
            )
        if self.known:
            others = sorted(set(code) - chosen)
            chosen = {others[i] for i in seeds.numpy_generator(0, "known").permutation(len(others))[: len(chosen)]}
        return self.experiment.drawings.select([i for i, c in enumerate(code) if c in chosen])

    @cached_property
    def embeddings(self) -> np.ndarray:
        """The drawings as the encoder sees them, raw `(n, d)`."""
        return encoders.load(self.encoder).embed_images(tensors.to_pil(self.drawings.pixels))

    @cached_property
    def entities(self) -> list[str]:
        """Their codes, in order."""
        return sorted(set(self.drawings.column("hexcode")))

    @cached_property
    def names(self) -> list[str]:
        """What each is called."""
        called = dict(zip(self.drawings.column("hexcode"), self.drawings.captions, strict=True))
        return [called[entity] for entity in self.entities]

    @cached_property
    def judge(self) -> Judge:
        """Names the entity; trained on all drawings, as it has to know these."""
        recipe = judge_recipe()
        return self._train(recipe, min(recipe.train.steps, self.experiment.settings.judge_steps))

    @cached_property
    def style_judge(self) -> Judge:
        """Names the style; the same training as the style claim's."""
        return self._train(style_judge_recipe(), STYLE_JUDGE_STEPS)

    def _train(self, recipe: Recipe, steps: int) -> Judge:
        run = self.experiment
        return train_judge(recipe, run.drawings, steps=steps, device=run.device, progress=run.progress)

    def name_entities(self, images: Sequence[Image.Image]) -> np.ndarray:
        """The entity, by its number among the rare ones, that the judge sees in each, int64 `(n,)`."""
        columns = [self.judge.entities.index(entity) for entity in self.entities]
        return self.judge(self.judge.prepare(images))[1][:, columns].argmax(1).numpy()

    def name_styles(self, images: Sequence[Image.Image]) -> np.ndarray:
        """The style the judge sees in each."""
        return np.array(
            [self.style_judge.styles[i] for i in self.style_judge(self.style_judge.prepare(images))[2].argmax(1)]
        )

    def share_named(self) -> float:
        """The share of the real drawings whose entity the judge names."""
        truth = np.array([self.entities.index(code) for code in self.drawings.column("hexcode")])
        return float((self.name_entities(tensors.to_pil(self.drawings.pixels)) == truth).mean())

    def describe_judges(self) -> str:
        """What the judges make of the real drawings, in words for a claim's notes."""
        real = tensors.to_pil(self.drawings.pixels)
        entity = self.share_named()
        style = float((self.name_styles(real) == np.array(self.drawings.column("style"))).mean())
        return (
            f"Of these real drawings the judges name the entity of {entity:.0%} (all seen in training) and the style of"
            f" {style:.0%} (nine in ten seen)."
        )

    def rows_of(self, entity: str) -> dict[str, int]:
        """The row of each style's drawing of an entity."""
        codes, styles = self.drawings.column("hexcode"), self.drawings.column("style")
        return {styles[i]: i for i in range(len(codes)) if codes[i] == entity}

    def sample(self, entities: Sequence[int], most: int) -> list[int]:
        """At most `most` of them, at random, in order."""
        return sorted(seeds.numpy_generator(0, "entities").permutation(list(entities))[:most].tolist())

    def search(
        self,
        prompts: Sequence[str],
        k: int,
        *,
        styles: Sequence[str] | None = None,
        leave_out: Sequence[str] | None = None,
    ) -> Neighbors:
        """The k drawings that BM25 finds for each prompt in a database of the rare entities in `styles` (all when
        None).

        `leave_out`: a style for each prompt that is not among its results.
        """
        drawings, style = self.drawings, np.array(self.drawings.column("style"))
        index = bm25.build(drawings.captions, [""] * len(drawings))
        inside = np.isin(style, list(styles)) if styles is not None else np.ones(len(drawings), bool)
        ids = np.full((len(prompts), k), ABSENT, np.int64)
        for i, prompt in enumerate(prompts):
            allowed = inside if leave_out is None else inside & (style != leave_out[i])
            ids[i] = bm25.search(index, np.arange(len(drawings)), prompt, k, allowed)[0]
        return self.neighbors_at(prompts, ids)

    def neighbors_at(self, prompts: Sequence[str], rows: np.ndarray) -> Neighbors:
        """The drawings at `rows` `(n, k)` as the neighbors of each prompt; k = 0: none."""
        return neighbors_at(self.drawings, prompts, rows)

    def with_embeddings(self, hits: Neighbors) -> Neighbors:
        """The same neighbors with their embeddings, for models that generate from those."""
        there = hits.mask[..., None]
        return replace(
            hits, embeddings=np.where(there, self.embeddings[np.where(hits.mask, hits.ids, 0)], 0).astype(np.float32)
        )

    def pipeline(self, model: str) -> Any:
        """The pipeline called `model`, opened once."""
        if model not in self._pipes:
            self._pipes[model] = open_pipeline(model, self.experiment.device)
        return self._pipes[model]

    def generate(
        self,
        hits: Neighbors,
        seed: int,
        guidance: Guidance | None = None,
        *,
        model: str = MODEL,
        sources: Sequence[Image.Image] | None = None,
        **edit: Any,
    ) -> list[Image.Image]:
        """One picture for each row of `hits`; from the cache where the same was generated before. `sources`: what to
        edit; `edit`: settings of that, or of generating."""
        pipe = self.pipeline(model)
        guidance = Guidance.from_scale(SCALE) if guidance is None and pipe.capabilities.reads_text else guidance
        steps = steps_of(pipe, self.experiment.settings)
        key = (
            f"{pipe.fingerprint()} {self.drawings.fingerprint()} {seed} {steps} {guidance} {self.experiment.device}"
            f" {hits.queries} {hits.captions}"
        )
        digest = hashlib.sha256(
            key.encode()
            + hits.ids.tobytes()
            + hits.embeddings.tobytes()
            + (b"" if hits.weights is None else hits.weights.tobytes())
        )
        if sources is not None or edit:
            digest.update(f"{sorted(edit.items())}".encode() + b"".join(source.tobytes() for source in sources or ()))

        def generate() -> dict[str, Tensor]:
            how = {"guidance_scale": SCALE, **edit}
            settings = generation.Settings(steps=steps, seed=1_000_000 * (seed + 1), guidance=guidance, **how)
            report = for_stage(self.experiment.progress, "generating", len(hits))
            images = generation.generate(pipe, hits, settings, sources=sources, batch=32, progress=report)
            return {"pixels": tensors.stack(images)}

        return tensors.to_pil(load_or_make("samples", f"pictures-{digest.hexdigest()[:24]}", generate)["pixels"])


def neighbors_at(pictures: Pictures, prompts: Sequence[str], rows: np.ndarray) -> Neighbors:
    """The `pictures` at `rows` `(n, k)` as the neighbors of each prompt; k = 0: none."""
    ids = np.asarray(rows, np.int64)
    if ids.shape[1] == 0:
        return Neighbors.empty(prompts)

    def load(rows: np.ndarray) -> list[list[Image.Image | None]]:
        return [
            [None if i == ABSENT else tensors.to_pil(pictures.pixels[[i]])[0] for i in row] for row in rows.tolist()
        ]

    captions = tuple(tuple("" if i == ABSENT else pictures.captions[i] for i in row) for row in ids.tolist())
    metadata = tuple(tuple({} if i == ABSENT else pictures.metadata[i] for i in row) for row in ids.tolist())
    return Neighbors(
        ids=ids,
        scores=(ids != ABSENT).astype(np.float32),
        embeddings=np.zeros((*ids.shape, 0), np.float32),
        captions=captions,
        metadata=metadata,
        weights=None,
        queries=tuple(prompts),
        load_images=load,
    )


def per_entity(outcomes: Sequence[np.ndarray]) -> Estimate:
    """Mean and interval of outcomes, one array a seed with a value an entity: the bootstrap draws entities."""
    return over_groups(np.stack([np.asarray(o, np.float64) for o in outcomes], 1))


def paired(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Estimate:
    """`per_entity` of how much more the first has than the second, each entity and seed with its own."""
    return per_entity([np.asarray(a, np.float64) - b for a, b in zip(first, second, strict=True)])


@contextmanager
def temporary_knowledge_base(pictures: Pictures, *, encoder: str = "small") -> Iterator[KnowledgeBase]:
    """A knowledge base of `pictures` on disk, with the `encoder`; gone with the block."""
    with tempfile.TemporaryDirectory() as folder:
        table = write_table(pictures, Path(folder) / "pictures.parquet")
        yield KnowledgeBase.build(Path(folder) / "kb", str(table), encoder=encoder)[0]


def write_table(pictures: Pictures, path: Path, columns: Sequence[str] = ("hexcode", "style", "split")) -> Path:
    """The pictures with captions and metadata `columns` as a parquet file that a knowledge base can read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = tensors.to_pil(pictures.pixels)
    rows = [
        {
            "name": caption,
            **{key: str(metadata.get(key, "")) for key in columns},
            "image": {"bytes": encode_png(image), "path": None},
        }
        for image, caption, metadata in zip(images, pictures.captions, pictures.metadata, strict=True)
    ]
    with disk_errors(path):
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def encoder_of(model: str) -> str:
    """What opens the encoder whose embeddings the pipeline called `model` was trained to read, by what it records.
    Raises: BowerbirdError where that encoder is not on this machine."""
    config = open_pipeline(model, "cpu").config
    return place_of(encoders.load_recorded(config.encoder_name, config.encoder_fingerprint))
