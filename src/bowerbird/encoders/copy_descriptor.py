"""`tiny-copies`: the bundled descriptor of near copies. Two views of one picture lie near each other in it, whatever
was done to them.

Trained by `training/objectives/copy_descriptor.py`. It looks at 64 px; SSCD (`sscd.py`) sees more, where its
weights are at hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core import files, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import square
from bowerbird.core.opening import opening
from bowerbird.core.text import in_shell
from bowerbird.models import network_files
from bowerbird.models.small_encoder import ResidualBlock

if TYPE_CHECKING:
    from PIL import Image

TYPE = "bowerbird-copy-descriptor"
SIZE = 64
BATCH = 16
"""Pictures a pass of the network: what it works on then stays in the processor's cache."""
POWER = 3.0
"""Of generalized-mean pooling, as in SSCD: between the mean (1) and the strongest place (infinity)."""


class CopyModel(nn.Module):
    """Float `(n, 3, 64, 64)` in [-1, 1] -> unit vectors `(n, dim)`."""

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, channels[0], 3, padding=1),
            ResidualBlock(channels[0]),
        ]
        for below, above in pairwise(channels):
            layers += [nn.Conv2d(below, above, 3, stride=2, padding=1), ResidualBlock(above)]
        self.trunk = nn.Sequential(*layers, nn.GroupNorm(8, channels[-1]))
        self.head = nn.Linear(channels[-1], dim)

    def forward(self, x: Tensor) -> Tensor:
        places = F.softplus(self.trunk(x).float())
        pooled = places.clamp(min=1e-4).pow(POWER).mean((2, 3)).pow(1 / POWER)
        return F.normalize(self.head(pooled).float(), dim=1)


class CopyDescriptor:
    """A `FeatureExtractor` over `CopyModel`; float32, in full batches, so that a picture's vector never depends
    on its batch."""

    def __init__(self, path: Path, name: str = "tiny-copies") -> None:
        """Open the directory that `save` wrote. Raises: BowerbirdError when there is none."""
        config = network_files.check_config(path / "config.json")
        if config.get("type") != TYPE:
            raise BowerbirdError(
                f"{path}: no copy descriptor; train one: bowerbird train tiny-copies --data SOURCE --out"
                f" {in_shell(path)}"
            )
        weights = files.load_tensors(path / "model.safetensors")
        with opening(f"copy descriptor {str(path)!r}", "fetch it or train it again: bowerbird train tiny-copies"):
            self.name, self.dim = name, int(config["dim"])
            network_files.check_shapes(lambda: CopyModel(config["channels"], self.dim), weights, path)
            self.model = CopyModel(config["channels"], self.dim)
        self.model.load_state_dict(weights)
        network_files.check_finite(self.model, path)
        self.model.float().eval().requires_grad_(False)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
        self.preprocessing = f"middle square, bicubic to {SIZE} px, on white"
        content = (path / "config.json").read_bytes() + (path / "model.safetensors").read_bytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> unit float32 `(n, dim)`."""
        parts = [np.zeros((0, self.dim), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                chunk = [square(p.convert("RGB"), SIZE) for p in pictures[start : start + BATCH]]
                pixels = tensors.to_float(tensors.stack(chunk))
                if len(chunk) < BATCH:  # kernels are chosen by shape, and their roundings differ
                    pixels = torch.cat([pixels, pixels.new_zeros(BATCH - len(chunk), 3, SIZE, SIZE)])
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                parts.append(self.model(pixels)[: len(chunk)].numpy())
        return np.concatenate(parts)


def save(model: CopyModel, channels: Sequence[int], out: Path) -> None:
    """Write `model` to the directory `out`, weights in half precision."""
    files.save_tensors(out / "model.safetensors", {k: v.to(torch.float16) for k, v in model.state_dict().items()})
    files.write_json(out / "config.json", {"type": TYPE, "channels": list(channels), "dim": model.head.out_features})
