"""What Re-Imagen learns from: a picture, a text that a person might ask for it with, and neighbors, sampled from (seed,
step, rank) alone.

Knows pictures, words and their neighbors; no network.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.core.types import ABSENT
from bowerbird.data import augment, variation
from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.words import invented_name
from bowerbird.diffusion import schedulers
from bowerbird.knowledge.neighbors.tables import neighbor_table
from bowerbird.knowledge.search.words import whole
from bowerbird.systems.reimagen.config import ReImagenConfig

STYLED = ("{text}, {style} style", "{text} in {style} style", "a {style} drawing of {text}")
PLAIN = ("{text}", "{text}", "a picture of {text}", "a {text}", "the {text} icon")
SMOOTHED_OVER = 3
"""Pixels over which colors become one, the deviation of a Gaussian."""


def low_resolution(pixels: Tensor, low_size: int) -> Tensor:
    """`(…, C, S, S)` -> averaged to `low_size` and enlarged again (bilinear), which is how a stage sees the one below
    it."""
    flat = pixels.flatten(0, -4) if pixels.ndim > 4 else pixels
    return enlarge(F.interpolate(flat, size=low_size, mode="area"), pixels.shape[-1]).view(pixels.shape)


def enlarge(pixels: Tensor, size: int) -> Tensor:
    """`(n, C, s, s)` -> `(n, C, size, size)`, bilinear."""
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)


def back_projected(pixels: Tensor, low: Tensor) -> Tensor:
    """Pictures `(n, C, S, S)` in [-1, 1] shifted to the means of `low` `(n, C, s, s)`, smoothly: a small network that
    enlarges moves colors. Source: iterative back-projection (Irani and Peleg, 1991), one round."""
    difference = low - F.interpolate(pixels, size=low.shape[-1], mode="area")
    return (pixels + enlarge(difference, pixels.shape[-1])).clamp(-1, 1)


def smoothed(pixels: Tensor, colors: int) -> Tensor:
    """Pictures `(n, C, S, S)` in [-1, 1] whose neighboring pixels are one color where they differ by much less than
    `colors` of 255: the grain of flat areas goes, edges stay. Two rounds of a bilateral filter of 9 x 9 pixels (Tomasi
    and Manduchi, ICCV 1998)."""
    near, alike, edge = 2 * SMOOTHED_OVER**2, 2 * (colors / 127.5) ** 2, pixels.shape[-2:]
    places = [(dy, dx) for dy in range(9) for dx in range(9)]
    for _ in range(2):
        wide, total = F.pad(pixels, (4, 4, 4, 4), mode="replicate"), torch.zeros_like(pixels)
        weights = torch.zeros_like(pixels[:, :1])
        for dy, dx in places:
            other = wide[..., dy : dy + edge[0], dx : dx + edge[1]]
            apart = (other - pixels).square().sum(1, keepdim=True)
            weight = torch.exp(-((dy - 4) ** 2 + (dx - 4) ** 2) / near - apart / alike)
            total, weights = total + weight * other, weights + weight
        pixels = total / weights
    return pixels


class ReImagenBatch(TypedDict):
    """n items: pictures `clean` and noise `eps` `(n, 3, S, S)`, `timestep` `(n,)`, the `texts`; k neighbors of each,
    pictures `neighbors` `(n, k, 3, S, S)` with `captions` (n k of them) and `weights` `(n, k)`, 0 where dropped or
    absent; above the first stage the `level` `(n,)` and the noise `low_eps` of the picture of the stage below."""

    clean: Tensor
    neighbors: Tensor
    weights: Tensor
    texts: list[str]
    captions: list[str]
    eps: Tensor
    timestep: Tensor
    level: NotRequired[Tensor]
    low_eps: NotRequired[Tensor]


class ReImagenBatches:
    """Batches over one set of pictures; `tables`: the neighbors of each by the search, and by the search among other
    things. `source`: the same pictures as they came, which variations are made from."""

    def __init__(
        self,
        config: ReImagenConfig,
        pictures: Pictures,
        seed: int,
        encoder: Any = None,
        *,
        source: Pictures | None = None,
        drawn: int | None = None,
    ) -> None:
        """`drawn`: targets are among the first so many pictures (None: all); neighbors are among all."""
        self.config, self.pictures, self.seed = config, pictures, seed
        self.source = pictures if source is None else source
        self.opacity = self.source.opacity() if config.varied else None
        self.drawn = len(pictures) if drawn is None else drawn
        self.styles = pictures.column(config.style_key) if config.style_key else [""] * len(pictures)
        self.tables = self._tables(encoder)

    def _tables(self, encoder: Any) -> tuple[Tensor, Tensor]:
        """Neighbors of every picture, by the search and by the search among other things: `(n, k_stored)` each."""
        config, pictures = self.config, self.pictures
        tags = [" ".join(pictures.tags(row)) for row in range(len(pictures))]
        embeddings = None
        if config.search != "bm25" or config.max_similarity is not None:
            parts = [encoder.embed_images(tensors.to_pil(part)) for part in torch.split(pictures.pixels, 256)]
            raw = np.concatenate(parts)
            embeddings = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
        same = [whole(caption) for caption in pictures.captions]
        ids = np.asarray(pictures.ids, np.int64)
        found = [
            neighbor_table(
                config.search,
                pictures.captions,
                tags,
                config.k_stored,
                ids=ids,
                embeddings=embeddings,
                max_similarity=config.max_similarity,
                exclude=exclude,
            )
            for exclude in (None, same)
        ]
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    def batch(self, step: int, size: int, rank: int = 0) -> ReImagenBatch:
        """Pictures with texts and neighbors: one k for the batch (1..`config.k`); kind, view, names and dropouts
        sampled for each."""
        config = self.config
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        k = int(rng.integers(1, config.k + 1))
        rows = rng.integers(self.drawn, size=size)
        shares = np.array([kind.share for kind in config.draws])
        kinds = rng.choice(len(shares), size=size, p=shares / shares.sum())
        sets, texts, captions, weights, itself = [], [], [], [], []
        for i, row in enumerate(rows.tolist()):
            kind = config.draws[kinds[i]]
            near = self._neighbors(row, kind.kind, k, rng)
            itself.append(kind.kind == "itself")
            present = [r for r in near if r != ABSENT]
            pixels = tensors.to_float(self.pictures.pixels[[row, *[r if r != ABSENT else row for r in near]]])
            names = {self.pictures.captions[r]: self.pictures.captions[r] for r in [row, *present]}
            if rng.random() < config.view_probability:
                pixels = augment.exact_view(rng, self.pictures.size)(pixels)
                names = {name: invented_name(rng) for name in names}
            sets.append(pixels)
            texts.append(self._text(row, names[self.pictures.captions[row]], kind.style_named, rng))
            captions += [names[self.pictures.captions[r]] if r != ABSENT else "" for r in near]
            weights.append([float(r != ABSENT) for r in near])
        x = torch.stack(sets)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        clean, neighbors = x[:, 0], x[:, 1:].clone()
        own = torch.tensor(itself)
        present_weights = torch.tensor(weights)
        if config.varied and own.any():
            chosen = own & (torch.rand(size, generator=generator) < config.varied)
            clean, neighbors, texts, captions = self._vary(
                chosen, rows, clean, neighbors, texts, captions, rng, generator
            )
            present_weights[chosen, 1:] = 0.0
        if own.any():
            other = _other_form(neighbors[own, 0], generator, config.itself_change)
            if config.itself_exact:
                kept = torch.rand(len(other), generator=generator) < config.itself_exact
                other = torch.where(kept[:, None, None, None], neighbors[own, 0], other)
            neighbors[own, 0] = other
        luck = torch.rand(2, size, generator=generator)
        no_neighbors = luck[1] < config.neighbors_null
        batch: ReImagenBatch = {
            "clean": clean,
            "neighbors": neighbors,
            "weights": present_weights * (~no_neighbors)[:, None],
            "texts": ["" if luck[0, i] < config.text_null else text for i, text in enumerate(texts)],
            "captions": captions,
            "eps": torch.randn(clean.shape, generator=generator),
            "timestep": torch.randint(schedulers.TIMESTEPS, (size,), generator=generator),
        }
        if config.unet.low_size:
            batch["level"] = torch.randint(config.max_level, (size,), generator=generator)
            batch["low_eps"] = torch.randn(clean.shape, generator=generator)
        return batch

    def _vary(
        self,
        chosen: Tensor,
        rows: np.ndarray,
        clean: Tensor,
        neighbors: Tensor,
        texts: list[str],
        captions: list[str],
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, list[str], list[str]]:
        """The batch with the pictures that are `chosen` `(n,)` under variations, as targets and as their own first
        neighbors, and by invented names."""
        at = chosen.nonzero()[:, 0]
        if not len(at) or self.opacity is None:
            return clean, neighbors, texts, captions
        source = torch.from_numpy(rows)[at]
        change = variation.draw(len(at), generator)
        x = variation.apply(change, self.source.pixels[source], self.opacity[source], self.config.unet.sample_size)
        clean, neighbors, texts, captions = clean.clone(), neighbors.clone(), list(texts), list(captions)
        clean[at], neighbors[at, 0] = x, x
        k = neighbors.shape[1]
        for i in at.tolist():
            name = invented_name(rng)
            texts[i], captions[i * k] = str(rng.choice(PLAIN)).replace("{text}", name), name
        return clean, neighbors, texts, captions

    def _neighbors(self, row: int, kind: str, k: int, rng: np.random.Generator) -> list[int]:
        """k rows of D for the target `row`, -1 pads: the best in order in half the samples, else any of the best
        `pool`."""
        found = self.tables[1 if kind == "others" else 0][row]
        best = found[found != ABSENT].tolist()[: max(k, self.config.pool)]
        if rng.random() < 0.5:
            best = rng.permutation(best).tolist()
        best = [row, *best] if kind == "itself" else best
        return [int(r) for r in best[:k]] + [ABSENT] * (k - len(best[:k]))

    def _text(self, row: int, name: str, style_named: float, rng: np.random.Generator) -> str:
        """What a person might ask for: the name, at times with tags, in a phrase, and with the style with
        the probability `style_named`."""
        tags = [tag for tag in self.pictures.tags(row) if rng.random() < 0.5]
        known = name == self.pictures.captions[row]
        text = " ".join([name, *tags]) if known and tags and rng.random() < 0.3 else name
        style = self.styles[row]
        if style and rng.random() < style_named:
            return str(rng.choice(STYLED)).replace("{text}", text).replace("{style}", style)
        return str(rng.choice(PLAIN)).replace("{text}", text)


def _other_form(x: Tensor, generator: torch.Generator, change: float = 1.0) -> Tensor:
    """Pictures `(n, 3, S, S)`, a quarter of them mirrored, turned up to 10 degrees, at scale .9 to 1.1, shifted up to
    5%; each `change` times as often or as far."""
    n = len(x)
    drawn = torch.rand(5, n, generator=generator)
    x = torch.where((drawn[0] < 0.25 * change)[:, None, None, None], x.flip(3), x)
    return augment.affine(
        x,
        (drawn[1] * 2 - 1) * (0.175 * change),
        1 - 0.1 * change + 0.2 * change * drawn[2],
        (drawn[3:].T * 2 - 1) * (0.05 * change),
    )
