"""SSCD, the copy-detection descriptor, from a local TorchScript file (the published form; weights are not bundled).

Source: Pizzi et al., arXiv 2202.10261; thresholds 0.5 (Somepalli et al., arXiv 2212.03860) and 0.75 (about 90%
precision, SSCD).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.weight_files import file_fingerprint, load_script

if TYPE_CHECKING:
    from PIL import Image

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
THRESHOLDS = (0.5, 0.75)


class SSCDFeatures:
    """A `FeatureExtractor`. `square=True`: 320 x 320, batches of 32 (faster); False: short edge 288, one by one,
    nothing cropped."""

    name = "sscd"

    def __init__(self, path: str | Path, *, square: bool = True) -> None:
        """Open the archive at `path`. Raises: BowerbirdError when it is none or returns no vectors."""
        import torch

        self.fingerprint, self.square, self.model = (
            file_fingerprint(path) + ("-320" if square else "-288"),
            square,
            load_script(path),
        )
        self.preprocessing = (
            "resized to 320 x 320" if square else "short edge resized to 288"
        ) + ", bilinear, ImageNet mean and deviation"
        with torch.inference_mode():
            probe = self.model(torch.zeros(1, 3, 320, 320))
        if not isinstance(probe, torch.Tensor) or probe.ndim != 2:
            raise BowerbirdError(f"{path}: gives no vector a picture; expected an SSCD TorchScript archive")
        self.dim = int(probe.shape[1])

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> raw float32 `(n, dim)`."""
        import torch

        step = 32 if self.square else 1
        parts = [np.zeros((0, self.dim), np.float32)]
        with torch.inference_mode():
            for i in range(0, len(pictures), step):
                batch = torch.from_numpy(np.stack([prepare(p, square=self.square) for p in pictures[i : i + step]]))
                parts.append(self.model(batch).float().numpy())
        return np.concatenate(parts)


def prepare(picture: Image.Image, *, square: bool) -> np.ndarray:
    """An RGB picture -> float32 `(3, 320, 320)`, or `(3, h, w)` with a short edge of 288, in ImageNet's
    normalization."""
    from PIL import Image

    factor = 288 / min(picture.size)
    size = (320, 320) if square else (round(picture.width * factor), round(picture.height * factor))
    pixels = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    return ((pixels - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)).transpose(2, 0, 1)
