"""The independent evaluator: a network that names the entity and the drawing style of a picture, for measuring only.

It shares no weights with any model that paints and is never a condition. It is trained on all public pictures, the rare
entities and every style included, because it has to recognise them; it is blurred, noised and shifted in training so that a
painted picture is not judged by its texture. Its penultimate features serve the Fréchet distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird import augment, checkpoint, images, seeds, tensors
from bowerbird.data import Pictures
from bowerbird.encoders.files import file_fingerprint
from bowerbird.encoders.small_model import ResidualBlock
from bowerbird.errors import BowerbirdError

if TYPE_CHECKING:
    from PIL import Image


class ClassifierConfig(BaseModel):
    """Sizes, labels, the share of pictures held out, the share blurred or noised, how far they are moved; stored in `recipe.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["classifier"] = "classifier"
    channels: tuple[int, ...] = (32, 64, 128, 192)
    entity_key: str = "hexcode"
    style_key: str = "style"
    held_out: float = 0.0
    degraded: float = 0.5
    jitter: float = 1.0


class ClassifierModel(nn.Module):
    """Picture `(n, 3, 64, 64)` in [-1, 1] -> features `(n, F)`, entity logits `(n, E)`, style logits `(n, S)`."""

    def __init__(self, channels: Sequence[int], entities: int, styles: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, channels[0], 5, padding=2), ResidualBlock(channels[0])]
        for below, above in pairwise(channels):
            layers += [nn.Conv2d(below, above, 3, stride=2, padding=1), ResidualBlock(above)]
        self.trunk = nn.Sequential(*layers, nn.GroupNorm(8, channels[-1]), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.features = nn.Linear(4 * channels[-1], 256)
        self.entity, self.style = nn.Linear(256, entities), nn.Linear(256, styles)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features(self.trunk(x))
        hidden = F.silu(features)
        return features, self.entity(hidden), self.style(hidden)


class ClassifierObjective(nn.Module):
    """Cross-entropy on entity and style; a `held_out` share of the pictures is never drawn (none of the others is touched)."""

    def __init__(self, config: ClassifierConfig, pictures: Pictures, seed: int) -> None:
        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        entity, style = pictures.column(config.entity_key), pictures.column(config.style_key)
        self.entities, self.styles = sorted(set(entity)), sorted(set(style))
        self.entity_labels = torch.tensor([self.entities.index(e) for e in entity])
        self.style_labels = torch.tensor([self.styles.index(s) for s in style])
        shuffled = seeds.numpy_generator(seed, "held out").permutation(len(pictures))
        self.rows = np.sort(shuffled[int(len(pictures) * config.held_out) :])
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.model = ClassifierModel(config.channels, len(self.entities), len(self.styles))

    def batch(self, step: int, size: int, rank: int = 0) -> dict[str, object]:
        """`size` pictures, moved and tinted; a share of them blurred or noised."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "jitter", step, rank)
        rows = torch.from_numpy(rng.choice(self.rows, size=size))
        x = augment.jitter(tensors.to_float(self.pictures.pixels[rows]), generator, self.config.jitter)
        quarter = int(size * self.config.degraded / 2)
        if quarter:
            x[:quarter] = F.interpolate(F.avg_pool2d(x[:quarter], 2), scale_factor=2, mode="bilinear")
        x[quarter : 2 * quarter] += 0.15 * torch.randn(x[quarter : 2 * quarter].shape, generator=generator)
        return {"pixels": x, "entity": self.entity_labels[rows], "style": self.style_labels[rows]}

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Entity cross-entropy + 0.3 style cross-entropy, both lightly smoothed."""
        _, entity, style = self.model(batch["pixels"])
        return F.cross_entropy(entity.float(), batch["entity"], label_smoothing=0.05) + 0.3 * F.cross_entropy(
            style.float(), batch["style"], label_smoothing=0.05
        )

    def export(self, out: Path) -> None:
        """Write weights and labels for `load_evaluator`."""
        checkpoint.save_tensors(out / "model.safetensors", self.model.state_dict())
        checkpoint.write_json(
            out / "config.json",
            {"type": "bowerbird-evaluator", "channels": self.config.channels, "entities": self.entities, "styles": self.styles, "size": self.pictures.size},
        )

    def sheet(self, path: Path) -> None:
        """The augmented pictures of one batch: what the evaluator learns from."""
        from bowerbird.sheets import grid

        pixels = self.batch(0, 64)["pixels"]
        assert isinstance(pixels, Tensor)
        painted = tensors.to_pil(pixels)
        grid([painted[i : i + 16] for i in range(0, 64, 16)]).save(path)


class Evaluator:
    """A trained `ClassifierModel` with its labels; also a `FeatureExtractor` (the layer before the verdicts)."""

    name, dim = "evaluator", 256

    def __init__(self, path: Path) -> None:
        config = checkpoint.read_json(path / "config.json", "evaluator")
        if config.get("type") != "bowerbird-evaluator":
            raise BowerbirdError(f"{path}: no evaluator; train one: bowerbird train evaluator --data SOURCE --out {path}")
        self.entities, self.styles = list(config["entities"]), list(config["styles"])
        self.size = int(config.get("size", 64))
        self.preprocessing = f"middle square, bicubic to {self.size} px, on white"
        self.model = ClassifierModel(config["channels"], len(self.entities), len(self.styles))
        self.model.load_state_dict(checkpoint.load_tensors(path / "model.safetensors"))
        self.model.eval().requires_grad_(False)
        self.fingerprint = file_fingerprint(path / "model.safetensors")

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> float32 `(n, 256)`."""
        if not pictures:
            return np.zeros((0, self.dim), np.float32)
        return self(self.prepare(pictures))[0].numpy()

    def prepare(self, pictures: Sequence[Image.Image]) -> Tensor:
        """n pictures of any size -> uint8 `(n, 3, size, size)`."""
        return tensors.stack([images.square(p.convert("RGB"), self.size) for p in pictures])

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 `(n, 3, size, size)` -> float32 features `(n, 256)`, entity logits `(n, E)`, style logits `(n, S)`."""
        parts = [self.model(tensors.to_float(chunk)) for chunk in torch.split(pixels, 128)]
        features, entity, style = (torch.cat(p) for p in zip(*parts, strict=True))
        return features, entity, style
