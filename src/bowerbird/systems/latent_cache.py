"""What a latent diffusion on neighbors' embeddings learns from: latents and embeddings of the data under several
views, and who is near whom.

The autoencoder and the encoder are frozen, so all of it is computed once (`build_latents`) and kept
(`cached_latents`); `neighbor_sampling.sample_neighbors` picks the views and neighbors of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.core.cache import memoize
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.half_precision import has_fast_bfloat16
from bowerbird.core.types import ABSENT, Encoder, Neighbors
from bowerbird.data import augment, variation
from bowerbird.data.pictures import Pictures
from bowerbird.knowledge.neighbors.graph import knn_graph, neighbor_counts
from bowerbird.systems.components import weights_hash
from bowerbird.systems.objective import RunContext
from bowerbird.systems.settings import Amount, column


class NeighborStrategy(BaseModel):
    """A share of the training samples whose neighbors all have the target's value of the metadata key `within` (None:
    any)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    share: Amount
    within: str | None = column(None)


class CacheSettings(Protocol):
    """The settings of a system that shape its latent cache and what is sampled from it."""

    @property
    def k_stored(self) -> int: ...
    @property
    def pool(self) -> int: ...
    @property
    def mix(self) -> tuple[NeighborStrategy, ...]: ...
    @property
    def max_similarity(self) -> float | None: ...
    @property
    def exclude_key(self) -> str | None: ...
    @property
    def views(self) -> int: ...
    @property
    def view_probability(self) -> float: ...
    @property
    def database_share(self) -> float: ...
    @property
    def itself(self) -> float: ...
    @property
    def varied(self) -> float: ...
    @property
    def varied_views(self) -> int: ...
    @property
    def picture_size(self) -> int | None: ...
    def model_dump_json(self, *, include: set[str]) -> str: ...
    def model_copy(self, *, update: dict[str, Any]) -> Self: ...


SettingsT = TypeVar("SettingsT", bound=CacheSettings)


@dataclass(frozen=True)
class LatentCache:
    """Frozen inputs of a training: latents `(V, n, C, h, w)` of X (tokens, int16 `(V, n, N)`, for a discrete model)
    and embeddings `(V, m, d)` of D under V views (view 0 unchanged; from `varied_from` on each picture under a random
    variation of its own), float16; one table `(n, k_stored)` of rows of D a mix; `ids` (m,) of D. X and D are the same
    n = m pictures unless `database_share` parts them. `nearest` `(n, k_stored)`: the guarded neighbors that p_D
    counts."""

    latents: Tensor
    embeddings: Tensor
    tables: tuple[Tensor, ...]
    nearest: Tensor
    ids: np.ndarray
    varied_from: int | None = None

    def to_tensors(self) -> dict[str, Tensor]:
        """The form it is stored in."""
        tables = {f"table{number}": table for number, table in enumerate(self.tables)}
        ids = torch.from_numpy(self.ids)
        stored = {"latents": self.latents, "embeddings": self.embeddings, "ids": ids, "nearest": self.nearest, **tables}
        return stored if self.varied_from is None else {**stored, "varied_from": torch.tensor(self.varied_from)}

    @staticmethod
    def from_tensors(stored: Mapping[str, Tensor]) -> LatentCache:
        """What `to_tensors` gave."""
        tables = tuple(stored[f"table{number}"] for number in range(sum(name.startswith("table") for name in stored)))
        varied_from = int(stored["varied_from"]) if "varied_from" in stored else None
        fixed = stored["latents"], stored["embeddings"], tables, stored["nearest"], stored["ids"].numpy()
        return LatentCache(*fixed, varied_from)

    def counts(self, k: int) -> np.ndarray:
        """How often each row of D is among the k neighbors of X: the numerator of p_D, `(m,)`."""
        return neighbor_counts(self.nearest.numpy(), len(self.ids), k)

    def examples(self, k: int, count: int = 8) -> list[tuple[int, Tensor]]:
        """Items spread over X, each with its k nearest rows of D, fewer where there are not so many: what a sheet
        shows. An item without any is none."""
        there = (self.tables[0] != ABSENT).any(1).nonzero()[:, 0]
        items = there[np.linspace(0, len(there) - 1, count).astype(int)].tolist() if len(there) else []
        nearest = [self.tables[0][item] for item in items]
        return [(item, row[row != ABSENT][:k]) for item, row in zip(items, nearest, strict=True)]

    def neighbors(self, rows: Tensor) -> Neighbors:
        """The rows of D at `rows` `(k,)`, unchanged, as the neighbors of one query."""
        shape = (1, len(rows))
        embeddings = self.embeddings[0, rows].float().numpy()[None]
        return Neighbors(
            ids=self.ids[rows.numpy()][None],
            scores=np.ones(shape, np.float32),
            embeddings=embeddings,
            captions=(("",) * len(rows),),
            metadata=(({},) * len(rows),),
        )


def check_neighbors(cache: LatentCache, settings: CacheSettings, run: RunContext) -> LatentCache:
    """`cache` itself. Raises: BowerbirdError when its leak guard left no item a neighbor to be trained with."""
    if run.database is None and bool((cache.nearest == ABSENT).all()):
        if len(cache.ids) < 2:
            raise BowerbirdError("one picture has no neighbor to learn from, as it is none of its own; give more")
        key = "" if settings.exclude_key is None else f", exclude_key {settings.exclude_key!r}"
        raise BowerbirdError(
            f"none of the {cache.latents.shape[1]} pictures has a neighbor to learn from: the guard (max_similarity"
            f" {settings.max_similarity}{key}) takes all for near-duplicates; give other pictures, or set"
            " max_similarity=null in the recipe's system"
        )
    return cache


def check_edge(cache: LatentCache, pictures: Pictures, sample_size: int) -> None:
    """Raises: BowerbirdError when the latents are not of the edge `sample_size` that a network is built for."""
    edge = int(cache.latents.shape[-1])
    if edge != sample_size:
        raise BowerbirdError(
            f"pictures of {pictures.size} px give latents of edge {edge}, and the network's is {sample_size}; set"
            f" size={round(pictures.size * sample_size / edge)}, or system.unet.sample_size={edge}"
        )


def views_of(config: CacheSettings, size: int, seed: int) -> list[augment.View]:
    """The views of a run on pictures of edge `size`: unchanged, mirrored, then random exact ones."""
    rng = seeds.numpy_generator(seed, "views")
    return [augment.IDENTITY, augment.View(symmetry=4), *(augment.exact_view(rng, size) for _ in range(config.views))][
        : config.views
    ]


def part_rows(config: CacheSettings, n: int, seed: int, held_out: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The rows of X and of D among n pictures: the same, or disjoint with `database_share` of them in D; with
    `held_out` X is the first so many, and D all."""
    if held_out is not None:
        return np.arange(held_out), np.arange(n)
    if not config.database_share:
        return np.arange(n), np.arange(n)
    order = seeds.numpy_generator(seed, "database").permutation(n)
    size = round(n * config.database_share)
    return np.sort(order[size:]), np.sort(order[:size])


def part_size(device: str, edge: int = 64) -> int:
    """How many pictures of this edge are taken at once; a GPU that is given few waits for the next, and one that is
    given many large ones has no memory for them."""
    most = 64 if device == "cpu" else 512
    return max(1, min(most, most * 64**2 // edge**2))


@torch.no_grad()
def encode_latents(autoencoder: Any, x: Tensor, device: str) -> Tensor:
    """Float `(n, 3, S, S)` in [-1, 1] -> the scaled latents' means, float16 `(n, C, h, w)` on the CPU."""
    shift, scale = float(autoencoder.config.shift_factor or 0.0), float(autoencoder.config.scaling_factor)
    parts = []
    for part in torch.split(x, part_size(device, x.shape[-1])):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=has_fast_bfloat16(device)):
            mean = autoencoder.encode(part.to(device)).latent_dist.mean
        parts.append(((mean.float() - shift) * scale).half().cpu())
    return torch.cat(parts)


def latents_place(
    settings: CacheSettings, pictures: Pictures, network: Any, encoder: Encoder, run: RunContext
) -> tuple[Path, str]:
    """The file that keeps the latents of a run, and the key of all they are made from: data, settings, seed, the
    `encoder`, and the frozen `network` that encodes the pictures."""
    shaped_by = {"k_stored", "mix", "max_similarity", "exclude_key", "views", "database_share"}
    if settings.varied_views:
        shaped_by |= {"varied_views", "picture_size"}
    elif settings.picture_size is not None:
        shaped_by.add("picture_size")
    shaping = settings.model_dump_json(include=shaped_by)
    key = hashlib.sha256(
        f"{pictures.fingerprint()} {encoder.fingerprint} {weights_hash(network)} {shaping} {run.seed}".encode()
    ).hexdigest()
    if run.database is not None:
        key = hashlib.sha256(f"{key} {len(run.database)}".encode()).hexdigest()
    shared, name = run.caches, "cache" if run.database is None else "validation"
    return (run.out / f"{name}.safetensors" if shared is None else shared / f"{key[:16]}.safetensors"), key


def with_database(settings: SettingsT, pictures: Pictures, run: RunContext) -> tuple[SettingsT, Pictures]:
    """Pictures that are held out, before those they find neighbors in, all of them unchanged; of a training both
    arguments as they are."""
    if run.database is None:
        return settings, pictures
    once = {"views": 1} | ({"varied_views": 0} if settings.varied_views else {})
    return settings.model_copy(update=once), pictures.concat(run.database)


def cached_latents(
    settings: CacheSettings,
    pictures: Pictures,
    network: Any,
    encoder: Encoder,
    run: RunContext,
    encode: Callable[..., Tensor] = encode_latents,
) -> LatentCache:
    """The latents of a run, from its file where the same were made before; moves `network` to the run's device.

    `encode(network, pictures, device=…)`: float pictures `(n, 3, S, S)` in [-1, 1] -> what the model generates in.
    """
    settings, everything = with_database(settings, pictures, run)
    path, key = latents_place(settings, everything, network, encoder, run)
    network.to(run.device)
    held_out = None if run.database is None else len(pictures)

    def make() -> dict[str, Tensor]:
        return build_latents(
            settings,
            everything,
            lambda x: encode(network, x, device=run.device),
            encoder,
            run.seed,
            held_out,
            device=run.device,
        ).to_tensors()

    return LatentCache.from_tensors(memoize(path, key, make))


@torch.no_grad()
def build_latents(
    config: CacheSettings,
    pictures: Pictures,
    encode: Callable[[Tensor], Tensor],
    encoder: Encoder,
    seed: int,
    held_out: int | None = None,
    *,
    device: str = "cpu",
) -> LatentCache:
    """Encode X and embed D under every view, and find the neighbors of the unchanged X in the unchanged D, guarded.

    `held_out`: see `part_rows`. `encode`: float pictures `(n, 3, S, S)` in [-1, 1] -> what the model generates in, on
    the CPU. Views and variations are computed on `device`. Raises: BowerbirdError where the settings do not go
    together, or name a column that the data lacks.
    """
    x_rows, d_rows = part_rows(config, len(pictures), seed, held_out)
    size = pictures.size if config.picture_size is None else config.picture_size
    if config.varied_views and config.database_share:
        raise BowerbirdError("varied_views needs every picture in both parts; set system.database_share=0")

    def latents_of(view: augment.View) -> Tensor:
        return torch.cat([encode(view(x)) for x in _parts(pictures, x_rows, size, device)])

    def embed(view: augment.View, rows: np.ndarray) -> Tensor:
        return torch.cat([embed_tensors(encoder, view(x)) for x in _parts(pictures, rows, size, device)])

    views = views_of(config, size, seed)
    latents, embeddings = [latents_of(view) for view in views], [embed(view, d_rows) for view in views]
    for number in range(config.varied_views):
        parts = [
            (encode(x), embed_tensors(encoder, x))
            for x in _varied(pictures, size, seeds.torch_generator(seed, "varied", number), device)
        ]
        latents.append(torch.cat([part[0] for part in parts]))
        embeddings.append(torch.cat([part[1] for part in parts]))
    database = F.normalize(embeddings[0].float(), dim=1).numpy()
    queries = (
        database
        if np.array_equal(x_rows, d_rows)
        else F.normalize(embed(augment.IDENTITY, x_rows).float(), dim=1).numpy()
    )
    item_ids = np.asarray(pictures.ids, np.int64)
    guard: dict[str, Any] = {
        "query_ids": item_ids[x_rows],
        "database_ids": item_ids[d_rows],
        "max_similarity": config.max_similarity,
    }
    if config.exclude_key is not None:
        guard["exclude"] = _columns(pictures, config.exclude_key, x_rows, d_rows)
    tables = []
    for part in config.mix:
        within = _columns(pictures, part.within, x_rows, d_rows) if part.within else None
        if within is not None and not any(within[0]):
            raise BowerbirdError(f"the recipe mixes neighbors within {part.within!r}, but the data has no such column")
        table, _ = knn_graph(queries, database, config.k_stored, within=within, **guard)
        tables.append(torch.from_numpy(table))
    nearest, _ = knn_graph(queries, database, config.k_stored, **guard)
    return LatentCache(
        torch.stack(latents),
        torch.stack(embeddings),
        tuple(tables),
        torch.from_numpy(nearest),
        item_ids[d_rows],
        len(views) if config.varied_views else None,
    )


def fit_size(pixels: Tensor, size: int) -> Tensor:
    """uint8 `(n, 3, S, S)` as float in [-1, 1], brought to `size`."""
    x = tensors.to_float(pixels)
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, size=size, mode="bicubic", antialias=True).clamp(-1, 1)


def _parts(pictures: Pictures, rows: np.ndarray, size: int, device: str) -> Iterator[Tensor]:
    """The pictures at `rows` in parts, as floats of the edge `size` on `device`."""
    for part in torch.split(pictures.pixels[rows], part_size(device)):
        yield fit_size(part.to(device), size)


def _varied(pictures: Pictures, size: int, generator: torch.Generator, device: str) -> Iterator[Tensor]:
    """All pictures in parts, each picture under a random variation of its own."""
    alpha = pictures.opacity()
    for rows in torch.split(torch.arange(len(pictures)), part_size(device)):
        change = variation.draw(len(rows), generator)
        yield variation.apply(change, pictures.pixels[rows].to(device), alpha[rows].to(device), size)


def embed_tensors(encoder: Encoder, x: Tensor) -> Tensor:
    """The embeddings of float pictures `(n, 3, S, S)` in [-1, 1], float16 `(n, d)` on the CPU; by the encoder's own
    fast way for tensors where it has one and the size is its own."""
    fast = getattr(encoder, "embed_pixels", None)
    if fast is not None and getattr(encoder, "layout", None) is not None and x.shape[-1] == encoder.picture_size:  # type: ignore[attr-defined]
        embedded: Tensor = fast(x)
        return embedded.half().cpu()
    return torch.from_numpy(encoder.embed_images(tensors.to_pil(x))).half()


def _columns(pictures: Pictures, key: str, x_rows: np.ndarray, d_rows: np.ndarray) -> tuple[list[str], list[str]]:
    column = pictures.column(key)
    return [column[i] for i in x_rows], [column[i] for i in d_rows]
