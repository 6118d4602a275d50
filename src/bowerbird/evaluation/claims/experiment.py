"""Where claims are measured: domains of pictures, trainings by recipe, databases in memory, samples with their
features.

Trainings come from the cache (`training.cached`), and so do features of samples: what was generated once with the same
weights, neighbors and settings is not generated again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import cache, seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.half_precision import has_fast_bfloat16
from bowerbird.core.progress import Progress
from bowerbird.core.types import Encoder, Neighbors
from bowerbird.data.pictures import Pictures
from bowerbird.evaluation.features import load_or_make
from bowerbird.evaluation.judge import Judge, train_judge
from bowerbird.knowledge.neighbors import graph
from bowerbird.models.unet import UNetConfig
from bowerbird.models.weights import bundled
from bowerbird.systems import generation
from bowerbird.systems.latent_cache import part_rows
from bowerbird.systems.rdm.objective import RDMConfig
from bowerbird.training.cached import train_once
from bowerbird.training.config import TrainConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.judge import judge as judge_recipe

if TYPE_CHECKING:
    from torch import Tensor

    from bowerbird.systems.base import System
    from bowerbird.systems.patches import PatchDecoding


NETWORKS = ("unet", "transformer")
"""Folders of a model's directory that hold the network that was trained."""


@dataclass(frozen=True)
class Settings:
    """What of a run of claims moves a figure."""

    seeds: tuple[int, ...] = (0, 1, 2)
    train_steps: int = 500
    pictures: int = 400
    sampling_steps: int = 12
    guidance_scale: float = 1.0
    held_out: float = 0.1
    judge_steps: int = 800

    def training(self, seed: int) -> TrainConfig:
        """How every network of a claim is trained from nothing: for `train_steps`, without sheets."""
        return TrainConfig(
            steps=self.train_steps,
            learning_rate=1e-3,
            warmup_steps=100,
            cooldown_fraction=0.4,
            ema_decay=0.99,
            save_every=200,
            sheet_every=10**6,
            seed=seed,
        )


@dataclass(frozen=True)
class Database:
    """Items in memory: unit embeddings `(m, d)` and p_D counts `(m,)` by k."""

    embeddings: np.ndarray
    counts: Callable[[int], np.ndarray]

    def nearest(self, queries: np.ndarray, k: int) -> Neighbors:
        """The k nearest items of each unit query `(n, d)`. Raises: BowerbirdError for a k larger than the database."""
        if k > len(self.embeddings):
            raise BowerbirdError(f"k is {k}, and the database holds {len(self.embeddings)} items")
        positions, scores = graph.knn_graph(
            queries,
            self.embeddings,
            k,
            query_ids=np.full(len(queries), -2),
            database_ids=np.arange(len(self.embeddings)),
        )
        return self.at(positions, scores)

    def at(self, positions: np.ndarray, scores: np.ndarray | None = None) -> Neighbors:
        """The items at `positions` `(n, k)`, all of them there."""
        captions = tuple(("",) * positions.shape[1] for _ in range(len(positions)))
        return Neighbors(
            ids=positions,
            scores=np.ones(positions.shape, np.float32) if scores is None else scores,
            embeddings=self.embeddings[positions],
            captions=captions,
        )

    def sample(self, n: int, k: int, *, seed: int, top_m: float | None = 1.0) -> Neighbors:
        """n pseudo-queries from p_D kept to its top fraction (None: any item alike), and the k nearest of each, itself
        among them."""
        weights = None if top_m is None else graph.proposal(self.counts(k), top_m)
        rows = seeds.numpy_generator(seed, "pseudo-queries").choice(len(self.embeddings), size=n, p=weights)
        return self.nearest(self.embeddings[rows], k)

    def subset(self, size: int, *, seed: int) -> Database:
        """A random part of it; p_D is not defined there."""
        rows = np.sort(seeds.numpy_generator(seed, "subset").permutation(len(self.embeddings))[:size])
        return Database(self.embeddings[rows], _no_counts)


def _no_counts(k: int) -> np.ndarray:
    raise BowerbirdError("p_D is counted on the whole database only")


@dataclass
class Domain:
    """Pictures of one kind: those trainings draw from (X and D), those held out as the measure, and how they are fed
    to a network."""

    name: str
    whole: Pictures
    settings: Settings
    size: int
    autoencoder: str
    in_channels: int
    label_key: str
    device: str = "cpu"
    progress: Progress | None = None
    _latents: dict[int, Any] = field(default_factory=dict)

    @cached_property
    def _parts(self) -> tuple[list[int], list[int]]:
        order = seeds.numpy_generator(0, "held out", self.name).permutation(len(self.whole)).tolist()
        cut = min(2000, round(len(order) * self.settings.held_out))
        return sorted(order[cut:]), sorted(order[:cut])

    @cached_property
    def pictures(self) -> Pictures:
        """X and D together."""
        return self.whole.select(self._parts[0])

    @cached_property
    def held_out(self) -> Pictures:
        """The measure: pictures that are in neither."""
        return self.whole.select(self._parts[1])

    @cached_property
    def judge(self) -> Judge:
        """A classifier of the domain's labels, trained on all of it; its features measure distances."""
        recipe = judge_recipe()
        system = recipe.system.model_copy(update={"entity_key": self.label_key, "style_key": self.label_key})
        recipe = recipe.model_copy(update={"name": f"judge-{self.name}", "size": self.size, "system": system})
        steps = self.settings.judge_steps
        return train_judge(recipe, self.whole, steps=steps, device=self.device, progress=self.progress)

    @cached_property
    def real(self) -> np.ndarray:
        """Features of the held-out pictures `(n, 256)`."""
        return self.judge(self.whole.pixels[self._parts[1]])[0].numpy()

    def recipe(self, seed: int, *, k: int = 4, neighbors: bool = True) -> Recipe:
        """RDM of this domain at the size claims are run at: X and D disjoint halves, fixed k, mirror images as the
        only change."""
        unet = UNetConfig(in_channels=self.in_channels, block_out_channels=(32, 64, 96))
        system = RDMConfig(
            unet=unet,
            autoencoder=self.autoencoder,
            k=k,
            vary_k=False,
            neighbors=neighbors,
            views=2,
            view_probability=1.0,
            database_share=0.5,
            pool=k,
        )
        train = self.settings.training(seed)
        name = f"claim-{self.name}-" + (f"k{k}" if neighbors else "none")
        return Recipe(name=name, system=system, train=train, size=self.size)

    def model(self, seed: int, *, k: int = 4, neighbors: bool = True) -> Path:
        """The trained pipeline's directory."""
        return train_once(
            self.recipe(seed, k=k, neighbors=neighbors), self.pictures, device=self.device, progress=self.progress
        )

    def database(self, seed: int) -> Database:
        """D of the trainings with `seed`, with the counts its training graph gives."""
        latents = self._latent_cache(seed)
        vectors = latents.embeddings[0].float().numpy()
        return Database(_unit(vectors), latents.counts)

    def merge_databases(self, other: Domain, seed: int) -> Database:
        """D with `other`'s D in it, and p_D counted over both from 2,000 pictures of X: a general database."""
        both = np.concatenate([self.database(seed).embeddings, other.database(seed).embeddings])
        queries = self.queries(seed, 2000)

        def counts(k: int) -> np.ndarray:
            found, _ = graph.knn_graph(
                queries, both, k, query_ids=np.full(len(queries), -2), database_ids=np.arange(len(both))
            )
            return graph.neighbor_counts(found, len(both), k)

        return Database(both, counts)

    def queries(self, seed: int, n: int) -> np.ndarray:
        """Unit embeddings `(n, d)` of n pictures of X, drawn by seed: what retrieval meets in training."""
        x_rows, _ = part_rows(_rdm(self.recipe(seed)), len(self.pictures), seed)
        rows = seeds.numpy_generator(seed, "queries").choice(x_rows, size=n, replace=len(x_rows) < n)
        return _unit(self.encoder.embed_images(tensors.to_pil(self.pictures.pixels[np.sort(rows)])))

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of its recipes."""
        from bowerbird import encoders

        return encoders.load(_rdm(self.recipe(0)).encoder)

    def _latent_cache(self, seed: int) -> Any:
        if seed not in self._latents:
            from bowerbird.training.recipe import build_objective

            recipe = self.recipe(seed)
            latents = build_objective(
                recipe, self.pictures, cache.directory("latents"), device=self.device, caches=cache.directory("latents")
            ).cache
            self._latents = {seed: latents}  # one at a time: they are large
        return self._latents[seed]

    def features(
        self,
        model: Path,
        hits: Neighbors,
        *,
        seed: int,
        guidance_scale: float | None = None,
        patches: PatchDecoding | None = None,
    ) -> np.ndarray:
        """Features of one picture generated from each row of `hits`, float32 `(n, 256)`; from the cache where there.
        `patches`: the windows that tokens are drawn with besides."""
        weight = self.settings.guidance_scale if guidance_scale is None else guidance_scale
        digest = hashlib.sha256(
            f"{_hash_of(model)} {self.judge.fingerprint} {self.settings.sampling_steps} {weight} {seed}"
            f" {self.device}".encode()
        )
        digest.update(np.ascontiguousarray(hits.embeddings).tobytes())
        if patches is not None:
            digest.update(f"{patches.settings} {patches.key}".encode())

        def generate() -> dict[str, Tensor]:
            pipe = open_pipeline(model, self.device)
            settings = generation.Settings(
                steps=steps_of(pipe, self.settings),
                guidance_scale=weight,
                seed=1_000_000 * (seed + 1),
                patches=patches,
            )
            images = generation.generate(pipe, hits, settings, batch=32)
            return {"features": self.judge(tensors.stack(images))[0].float()}

        return load_or_make("samples", digest.hexdigest()[:24], generate)["features"].numpy()


def open_pipeline(model: str | Path, device: str) -> System:
    """The pipeline called or in `model`, its networks in bfloat16 where that is faster; latents stay float32."""
    import torch

    from bowerbird.systems import loading

    pipe = loading.open_pipeline(str(model)).to(device)
    for network in pipe.networks if has_fast_bfloat16(device) else ():
        network.to(torch.bfloat16)
    return pipe


def steps_of(pipe: System, settings: Settings) -> int | tuple[int, ...]:
    """How many steps a picture takes: those of the settings, or where tokens are drawn one by one, one each."""
    return pipe.defaults.num_inference_steps if pipe.capabilities.samples_tokens else settings.sampling_steps


def _hash_of(model: Path) -> str:
    """The fingerprint of the network that was trained, and of the one that its pictures are decoded by."""
    from bowerbird.core.weight_files import file_fingerprint

    [file] = [each for part in NETWORKS if (each := model / part / "diffusion_pytorch_model.safetensors").is_file()]
    return " ".join(file_fingerprint(each) for each in (file, *sorted((model / "vae").glob("*.safetensors"))))


def _rdm(recipe: Recipe) -> RDMConfig:
    assert isinstance(recipe.system, RDMConfig)
    return recipe.system


def _unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-12)).astype(np.float32)


@dataclass
class Experiment:
    """What a claim is given: settings, the domains there are, the pictures with entity and style columns, and the
    directories of `models` that are not bundled."""

    settings: Settings
    domains: list[Domain]
    drawings: Pictures
    device: str = "cpu"
    progress: Progress | None = None
    models: Mapping[str, str] = field(default_factory=dict)

    def model(self, name: str) -> str:
        """What opens the model called `name`: the directory that was given for it, or that of a training of its recipe,
        or the bundled one. Raises: BowerbirdError where there is none."""
        trained = Path("runs") / name / "model"
        if name in self.models or (trained.is_dir() and bundled(name) is None):
            return self.models.get(name, str(trained))
        if bundled(name) is None:
            raise BowerbirdError(
                f"model {name!r} is not bundled: give it, {name}=DIR (`models`), or train it: bowerbird train {name}"
            )
        return name

    @property
    def trainable(self) -> Pictures:
        """The drawings a network may be trained on."""
        return select_trainable(self.drawings)

    def each_seed(self, measure: Callable[[int], float]) -> list[float]:
        """`measure(seed)` for each seed, in order."""
        return [measure(seed) for seed in self.settings.seeds]


def select_trainable(drawings: Pictures) -> Pictures:
    """The drawings that a network may be trained on: neither rare things nor the share-alike style, as no model of ours
    is."""
    rows = enumerate(drawings.metadata)
    return drawings.select([i for i, row in rows if row.get("split") != "rare" and row.get("style") != "openmoji"])
