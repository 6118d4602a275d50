"""The judge: a classifier that measures read, trained apart from every generator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import files, images, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.weight_files import file_fingerprint
from bowerbird.models.classifier import ClassifierModel

if TYPE_CHECKING:
    from PIL import Image


class Evaluator:
    """A trained `ClassifierModel` with its labels; also a `FeatureExtractor` (the layer before the verdicts)."""

    name, dim = "evaluator", 256

    def __init__(self, path: Path) -> None:
        config = files.read_json(path / "config.json", "evaluator")
        if config.get("type") != "bowerbird-evaluator":
            raise BowerbirdError(
                f"{path}: no evaluator; train one: bowerbird train evaluator --data SOURCE --out {path}"
            )
        self.entities, self.styles = list(config["entities"]), list(config["styles"])
        self.size = int(config.get("size", 64))
        self.preprocessing = f"middle square, bicubic to {self.size} px, on white"
        self.model = ClassifierModel(config["channels"], len(self.entities), len(self.styles))
        self.model.load_state_dict(files.load_tensors(path / "model.safetensors"))
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
