"""The bundled `small` encoder as an `Encoder`: loads from a directory of `config.json` + `model.safetensors`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bowerbird import checkpoint, images, tensors
from bowerbird.encoders.small_model import SmallEncoderConfig, SmallEncoderModel

if TYPE_CHECKING:
    from PIL import Image


SIXTEEN = 16
"""Pictures go through the network in multiples of this: below it, the last bit depends on how many there are and on the number of threads."""


class SmallEncoder:
    """`Encoder` over `SmallEncoderModel`; always float32, in batches of 16 to 64, so a picture's embedding never depends on its batch."""

    def __init__(self, model: SmallEncoderModel, name: str, fingerprint: str, device: str = "cpu") -> None:
        self.model = model.float().eval().requires_grad_(False).to(device)
        self.name, self.fingerprint, self.dim, self.device = name, fingerprint, model.config.embed_dim, device
        self.shared_dim = model.config.meaning_dim
        self.preprocessing = f"middle square, bicubic to {model.config.image_size} px, on white"

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """RGB pictures of any size -> raw float32 `(n, dim)`."""
        import torch

        if not pictures:
            return np.zeros((0, self.dim), np.float32)
        size = self.model.config.image_size
        chunks = [pictures[i : i + 64] for i in range(0, len(pictures), 64)]
        parts = []
        with torch.inference_mode():
            for chunk in chunks:
                squares = [images.square(p, size) for p in chunk]
                squares += [squares[-1]] * (-len(squares) % SIXTEEN)
                parts.append(self.model.encode_pixels(tensors.to_float(tensors.stack(squares)).to(self.device))[: len(chunk)])
        return torch.cat(parts).cpu().numpy()

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Texts in any script -> raw float32 `(n, dim)`."""
        import torch

        if not texts:
            return np.zeros((0, self.dim), np.float32)
        with torch.inference_mode():
            return self.model.encode_text(list(texts)).cpu().numpy()


def save_small(model: SmallEncoderModel, out: Path) -> None:
    """Write `model` to the directory `out`, weights in half precision (the rounding is far below what retrieval can see)."""
    import torch

    checkpoint.save_tensors(out / "model.safetensors", {k: v.to(torch.float16) for k, v in model.state_dict().items()})
    checkpoint.write_json(out / "config.json", {"type": "bowerbird-small-encoder", **asdict(model.config)})


def load_small(path: Path, *, name: str, device: str = "cpu") -> SmallEncoder:
    """Open a directory that `save_small` wrote; its fingerprint is the hash of both files."""
    config = checkpoint.read_json(path / "config.json", "small encoder")
    config.pop("type", None)
    config["channels"] = tuple(config["channels"])
    model = SmallEncoderModel(SmallEncoderConfig(**config))
    model.load_state_dict(checkpoint.load_tensors(path / "model.safetensors"))
    digest = hashlib.sha256((path / "config.json").read_bytes() + (path / "model.safetensors").read_bytes())
    return SmallEncoder(model, name, digest.hexdigest()[:16], device)
