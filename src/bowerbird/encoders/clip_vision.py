"""The vision half of a CLIP alone: what IP-Adapters have beside them.

A knowledge base that is built with it holds what the adapter reads. It knows no texts, so it is searched by picture or
by the words of its captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.opening import opening
from bowerbird.core.weight_files import folder_fingerprint
from bowerbird.encoders.pictures_alone import refuse_text
from bowerbird.models import network_files

if TYPE_CHECKING:
    from PIL import Image


class ClipVisionEncoder:
    """`Encoder` over transformers' `CLIPVisionModelWithProjection`, for pictures alone."""

    embeds_text = False

    def __init__(self, model: Any, image_processor: Any, name: str, fingerprint: str, device: str) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.image_processor = image_processor
        self.name, self.fingerprint, self.device = name, fingerprint, device
        self.preprocessing = "the shorter edge to the network's size, the middle square"
        self.dim = self.shared_dim = int(model.config.projection_dim)
        self.picture_size = int(model.config.image_size)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Raises: BowerbirdError for any text."""
        return refuse_text(texts, self.name, self.dim)

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> raw float32 `(n, dim)`."""
        import torch

        parts = [np.zeros((0, self.dim), np.float32)]
        with torch.inference_mode():
            for picture in pictures:
                pixels = self.image_processor(images=picture, return_tensors="pt")["pixel_values"]
                parts.append(self.model(pixels.to(self.device)).image_embeds.float().cpu().numpy())
        return np.concatenate(parts)


def load_clip_vision(path: str | Path, *, name: str, device: str = "cpu") -> ClipVisionEncoder:
    """Open the vision half of a CLIP in a directory. Raises: BowerbirdError when it is not complete."""
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    with opening(f"encoder {name!r}", "fetch the directory again"):
        model = network_files.load_network(CLIPVisionModelWithProjection, Path(path))
    size = int(model.config.image_size)
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return ClipVisionEncoder(model, processor, name, folder_fingerprint(path), device)
