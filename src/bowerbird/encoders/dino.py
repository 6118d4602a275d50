"""DINOv2 and DINOv3 through transformers: pictures alone, by what they show, without any words.

The class token of the last layer after its norm, as the authors use it for retrieval. Sources: Oquab et al., DINOv2,
arXiv 2304.07193; Siméoni et al., DINOv3, arXiv 2508.10104.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.opening import opening
from bowerbird.core.weight_files import folder_fingerprint
from bowerbird.encoders import picture_input
from bowerbird.encoders.picture_input import BILINEAR, PictureInput
from bowerbird.encoders.pictures_alone import refuse_text
from bowerbird.models import network_files

if TYPE_CHECKING:
    from PIL import Image

NETWORKS = {
    "dinov2": ("Dinov2Model", PictureInput(224, 256)),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", PictureInput(224, 256)),
    "dinov3_vit": ("DINOv3ViTModel", PictureInput(224, None, BILINEAR)),
    "dinov3_convnext": ("DINOv3ConvNextModel", PictureInput(224, None, BILINEAR)),
}
"""By `model_type`: the class in transformers, and how its authors prepare a picture."""
BATCH = 16
UNUSED = ("mask_token",)
"""Weights of the training alone."""


class DinoEncoder:
    """`Encoder` over one of `NETWORKS`, for pictures alone."""

    embeds_text = False

    def __init__(self, model: Any, picture: PictureInput, name: str, fingerprint: str, device: str) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.picture, self.name, self.fingerprint, self.device = picture, name, fingerprint, device
        self.preprocessing = str(picture)
        config = model.config
        self.dim = self.shared_dim = int(config.hidden_sizes[-1] if _levels(config) else config.hidden_size)
        self.picture_size = picture.shortest or picture.size

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Raises: BowerbirdError for any text."""
        return refuse_text(texts, self.name, self.dim)

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> raw float32 `(n, dim)`."""
        import torch

        parts = [np.zeros((0, self.dim), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                pixels = torch.from_numpy(self.picture.array(pictures[start : start + BATCH]))
                found = self.model(pixel_values=pixels.to(self.device, self.model.dtype)).pooler_output
                parts.append(found.float().cpu().numpy())
        return np.concatenate(parts)


def load_dino(path: str | Path, *, name: str, device: str = "cpu") -> DinoEncoder:
    """Open a directory of DINOv2 or DINOv3. Raises: BowerbirdError when it is not complete."""
    import transformers

    folder = Path(path)
    with opening(f"encoder {name!r}", "fetch the directory again"):
        kind, usual = NETWORKS[network_files.check_config(folder / "config.json")["model_type"]]
        picture = picture_input.read(folder, usual)
        model = network_files.load_network(getattr(transformers, kind), folder, unused=UNUSED)
    return DinoEncoder(model, picture, name, folder_fingerprint(folder), device)


def _levels(config: Any) -> bool:
    return config.model_type == "dinov3_convnext"
