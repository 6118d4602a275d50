"""Encoders of ours as an `Encoder`: the bundled `small`, and those that describe patches too. They load from a
directory of `config.json` + `model.safetensors`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import files, images, tensors
from bowerbird.core.opening import opening
from bowerbird.models import network_files
from bowerbird.models.patch_encoder import PatchEncoderConfig, PatchEncoderModel
from bowerbird.models.small_encoder import PictureTower, SmallEncoderConfig, SmallEncoderModel

if TYPE_CHECKING:
    import torch
    from PIL import Image


BATCH = 16
"""Pictures that go through the network at once, always: with fewer the last bit depends on how many there are and on
the number of threads, and with more they fit the processor's caches less well (0.65 ms a picture in two threads,
against 1.2 with 64 on both cores at once)."""
MOST_EDGE = 4096
"""Of the pictures that an encoder looks at, in pixels."""

TYPES = {"bowerbird-small-encoder": SmallEncoderModel, "bowerbird-patch-encoder": PatchEncoderModel}
"""By what `config.json` says in `type`: the network."""


class SmallEncoder:
    """`Encoder` over a network of `TYPES`; always float32 and `BATCH` pictures at once, so that a picture's embedding
    never depends on its company."""

    def __init__(
        self, model: SmallEncoderModel | PatchEncoderModel, name: str, fingerprint: str, device: str = "cpu"
    ) -> None:
        self.model = model.float().eval().requires_grad_(False).to(device)
        self.name, self.fingerprint, self.dim, self.device = name, fingerprint, model.config.embed_dim, device
        self.shared_dim, self.picture_size = model.config.meaning_dim, model.config.image_size
        self.token_dim = self.shared_dim
        self.layout = model.config.layout if isinstance(model.config, PatchEncoderConfig) else None
        self.preprocessing = f"middle square, bicubic to {model.config.image_size} px, on white"

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """RGB pictures of any size -> raw float32 `(n, dim)`."""
        if not pictures:
            return np.zeros((0, self.dim), np.float32)
        return self._through(self.model.encode_pixels, pictures)

    def embed_images_with_tokens(self, pictures: Sequence[Image.Image]) -> tuple[np.ndarray, list[np.ndarray]]:
        """As `TokenEncoder`: the whole, and what each place of a grid adds to it."""
        import torch

        if not pictures:
            return self.embed_images(pictures), []

        def both(x: torch.Tensor) -> torch.Tensor:
            vectors, tokens = self.model.encode_with_tokens(x)
            return torch.cat([vectors, tokens.flatten(1)], 1)

        found = self._through(both, pictures)
        tokens = found[:, self.dim :].reshape(len(found), -1, self.token_dim)
        return np.ascontiguousarray(found[:, : self.dim]), list(tokens)

    def embed_text_tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        """As `TokenEncoder`: the whole, and each word."""
        import torch

        with torch.inference_mode():
            return [self.model.text_tokens(text).cpu().numpy() for text in texts]

    def _through(self, network: Callable[[torch.Tensor], torch.Tensor], pictures: Sequence[Image.Image]) -> np.ndarray:
        """What `network` makes of pixels, for one picture or more."""
        import torch

        chunks = [pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH)]

        def embed(chunk: Sequence[Image.Image]) -> torch.Tensor:
            pixels = self.pixels(chunk)
            batch = torch.cat([pixels, *[pixels[-1:]] * (BATCH - len(pixels))])
            with torch.inference_mode():
                return network(batch.to(self.device)).cpu()

        parts = tensors.side_by_side(embed, chunks) if self.device == "cpu" else [embed(chunk) for chunk in chunks]
        return torch.cat(parts)[: len(pictures)].numpy()

    def pixels(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """What the network is given of n pictures, float32 `(n, 3, S, S)` in [-1, 1]."""
        return tensors.to_float(tensors.stack([images.square(each, self.model.config.image_size) for each in pictures]))

    def tower(self) -> torch.nn.Module:
        """The network for pictures: pixels -> raw embeddings `(n, dim)`."""
        return PictureTower(self.model) if isinstance(self.model, SmallEncoderModel) else self.model

    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Float `(n, 3, S, S)` in [-1, 1], S the network's own size -> raw `(n, dim)`, all at once on the encoder's
        device: for trainings, where the last bit may depend on the batch."""
        import torch

        with torch.inference_mode():
            return self.model.encode_pixels(pixels.to(self.device))

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Texts in any script -> raw float32 `(n, dim)`."""
        import torch

        if not texts:
            return np.zeros((0, self.dim), np.float32)
        with torch.inference_mode():
            return self.model.encode_text(list(texts)).cpu().numpy()


def save_small(model: SmallEncoderModel | PatchEncoderModel, out: Path) -> None:
    """Write `model` to the directory `out`, weights in half precision (the rounding is far below what retrieval can
    see)."""
    import torch

    files.save_tensors(out / "model.safetensors", {k: v.to(torch.float16) for k, v in model.state_dict().items()})
    kind = next(kind for kind, network in TYPES.items() if type(model) is network)
    files.write_json(out / "config.json", {"type": kind, **asdict(model.config)})


def load_small(path: Path, *, name: str, device: str = "cpu") -> SmallEncoder:
    """Open a directory that `save_small` wrote; its fingerprint is the hash of both files."""
    config = network_files.check_config(path / "config.json")
    weights = files.load_tensors(path / "model.safetensors")

    def build() -> SmallEncoderModel | PatchEncoderModel:
        settings: dict[str, Any] = {key: value for key, value in config.items() if key != "type"}
        settings["channels"] = tuple(settings["channels"])
        if config.get("type") == "bowerbird-patch-encoder":
            return PatchEncoderModel(PatchEncoderConfig(**settings))
        return SmallEncoderModel(SmallEncoderConfig(**settings))

    with opening(f"encoder {name!r}", "fetch the directory again, or name another: --encoder small"):
        network_files.check_shapes(build, weights, path)
        model = build()
        if not 8 <= model.config.image_size <= MOST_EDGE:
            raise ValueError(f"its pictures are {model.config.image_size} pixels, 8 to {MOST_EDGE} are possible")
    model.load_state_dict(weights)
    network_files.check_finite(model, path)
    digest = hashlib.sha256((path / "config.json").read_bytes() + (path / "model.safetensors").read_bytes())
    return SmallEncoder(model, name, digest.hexdigest()[:16], device)
