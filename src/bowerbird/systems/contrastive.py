"""How the `small` encoder is trained: one embedding that says what a picture shows and what it looks like.

Three losses on pairs of pictures of one entity in two drawing styles:
picture-picture and picture-text InfoNCE (as in CLIP, arXiv 2103.00020), which make retrieval work, and a reconstruction of
the picture from its normalised embedding alone, which makes the embedding worth painting from: a purely contrastive one may
forget colour and layout, and RDM sees nothing but these vectors. The decoder of that loss is thrown away afterwards.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird import augment, seeds, tensors
from bowerbird.data import Pictures
from bowerbird.encoders.small_model import SmallEncoderConfig, SmallEncoderModel


class ContrastiveConfig(BaseModel):
    """Everything that shapes the encoder and its objective; stored in `recipe.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["small-encoder"] = "small-encoder"
    encoder: SmallEncoderConfig = SmallEncoderConfig()
    entity_key: str = "hexcode"
    reconstruction_weight: float = 10.0
    strong_fraction: float = 0.4


class PictureDecoder(nn.Module):
    """Embedding `(n, d)` -> picture `(n, 3, 32, 32)`; only there to teach the encoder."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.start = nn.Linear(embed_dim, 128 * 16)
        up: list[nn.Module] = []
        for below, above in ((128, 96), (96, 64), (64, 48)):
            up += [nn.GroupNorm(8, below), nn.SiLU(), nn.Conv2d(below, above * 4, 3, padding=1), nn.PixelShuffle(2)]
        self.up = nn.Sequential(*up, nn.GroupNorm(8, 48), nn.SiLU(), nn.Conv2d(48, 3, 3, padding=1))

    def forward(self, embedding: Tensor) -> Tensor:
        return self.up(self.start(embedding).view(-1, 128, 4, 4))


def info_nce(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of two `(n, d)` batches whose rows pair up; cosine similarity times `scale`."""
    logits = F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T * scale
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class ContrastiveObjective(nn.Module):
    """The encoder with its losses over one set of pictures: `batch(step, ...)` draws, `forward(batch)` scores."""

    def __init__(self, config: ContrastiveConfig, pictures: Pictures, seed: int) -> None:
        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.encoder = SmallEncoderModel(config.encoder)
            self.decoder = PictureDecoder(config.encoder.embed_dim)
        self.log_scale = nn.Parameter(torch.tensor([math.log(10.0), math.log(10.0)]))
        groups: dict[str, list[int]] = {}
        for row, key in enumerate(pictures.column(config.entity_key)):
            groups.setdefault(key or f"row {row}", []).append(row)
        self.groups = list(groups.values())

    def batch(self, step: int, size: int, rank: int = 0) -> dict[str, object]:
        """`size` entities, two pictures each (different where there are two), with a text and augmented alike within the pair."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        chosen = rng.choice(len(self.groups), size=min(size, len(self.groups)), replace=False)
        pairs = [rng.choice(g, size=2, replace=len(g) < 2) for g in (self.groups[i] for i in chosen)]
        strong = int(len(pairs) * self.config.strong_fraction)
        rows = torch.from_numpy(np.array(pairs))
        x = tensors.to_float(self.pictures.pixels[rows.T.reshape(-1)]).view(2, len(pairs), 3, self.pictures.size, self.pictures.size)
        parts = [x[:, strong:]]
        for i in range(strong):  # one strong change a pair, the same for both pictures, so that the pair still matches
            parts.append(augment.random_view(rng)(x[:, i])[:, None])
        x = torch.cat(parts, dim=1).flatten(0, 1)
        generator = seeds.torch_generator(self.seed, "jitter", step, rank)
        order = [*range(strong, len(pairs)), *range(strong)]
        texts = [self._text(int(pairs[i][0]), rng) for i in order[: len(pairs) - strong]]
        return {"pixels": augment.jitter(x, generator), "texts": texts}

    def _text(self, row: int, rng: np.random.Generator) -> str:
        """A caption as a person might type it: the name, the name and some tags, or tags alone, at times inside a phrase."""
        name, tags = self.pictures.captions[row], [str(t) for t in self.pictures.metadata[row].get("tags", [])]
        some = [t for t in tags if rng.random() < 0.5]
        text = name if rng.random() < 0.5 or not tags else " ".join([name, *some] if rng.random() < 0.6 else (some or tags))
        return str(rng.choice(["{}", "{}", "a picture of {}", "a {}", "an emoji of {}", "the {} icon"])).format(text)

    def forward(self, batch: dict[str, object]) -> Tensor:
        """The summed loss of one batch."""
        pixels, texts = batch["pixels"], batch["texts"]
        assert isinstance(pixels, Tensor)
        assert isinstance(texts, list)
        embedding = self.encoder.encode_pixels(pixels)
        first, second = embedding.chunk(2)
        words = self.encoder.encode_text(texts)
        scale = self.log_scale.clamp(max=math.log(50.0)).exp()
        n = len(texts)
        loss = info_nce(first, second, scale[0]) + 0.5 * info_nce(first[:n], words, scale[1]) + 0.5 * info_nce(second[:n], words, scale[1])
        unit = F.normalize(embedding.float(), dim=1) * math.sqrt(embedding.shape[1])
        painted = self.decoder(unit).float()
        target = F.interpolate(pixels, size=painted.shape[-1], mode="area")
        return loss + self.config.reconstruction_weight * F.l1_loss(painted, target)

    def export(self, out: Path) -> None:
        """Write the encoder as a directory that `bowerbird.encoders.load` opens."""
        from bowerbird.encoders.small import save_small

        save_small(self.encoder, out)

    def sheet(self, path: Path) -> None:
        """Pictures above, what their embeddings alone give back below."""
        from bowerbird.sheets import grid

        rows = list(range(0, len(self.pictures), max(1, len(self.pictures) // 16)))[:16]
        x = tensors.to_float(self.pictures.pixels[rows]).to(self.log_scale.device)
        with torch.no_grad():
            unit = F.normalize(self.encoder.encode_pixels(x).float(), dim=1) * math.sqrt(self.config.encoder.embed_dim)
            painted = F.interpolate(self.decoder(unit), size=self.pictures.size)
        grid([tensors.to_pil(x), tensors.to_pil(painted)]).save(path)
