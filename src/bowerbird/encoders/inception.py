"""Inception-v3 for the standard FID: the network of 2015 as the public ports of it lay out its weights, 2,048 features
a picture.

Weights are not bundled. Give a file: `.safetensors` or `.pth` with the names below (read without running anything), or
a TorchScript archive whose `layers` map a prepared batch to features. Preprocessing is pinned, because FID moves by
points with it: each channel resized to 299 x 299 by Pillow's antialiased bicubic filter in float32, not rounded, then
(x - 128) / 128.
Source: Szegedy et al., arXiv 1512.00567; resizing: Parmar et al., arXiv 2104.11222.
Differs from the 2015 paper, as the FID port does: average pools do not count their padding, the last block pools by
maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core import files
from bowerbird.core.weight_files import file_fingerprint, load_script, load_state

if TYPE_CHECKING:
    from PIL import Image

SIZE = 299


class ConvBN(nn.Module):
    """Convolution without bias, batch norm (epsilon 0.001), ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """35 x 35: 1x1, 5x5, double 3x3 and pooled branches."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBN(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = ConvBN(inputs, 48, 1), ConvBN(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3 = (
            ConvBN(inputs, 64, 1),
            ConvBN(64, 96, 3, padding=1),
            ConvBN(96, 96, 3, padding=1),
        )
        self.branch_pool = ConvBN(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(_average(x))], 1
        )


class BlockB(nn.Module):
    """35 x 35 -> 17 x 17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = ConvBN(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3 = (
            ConvBN(inputs, 64, 1),
            ConvBN(64, 96, 3, padding=1),
            ConvBN(96, 96, 3, stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """17 x 17: seven-wide convolutions taken apart into rows and columns."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        row: dict[str, Any] = {"kernel": (1, 7), "padding": (0, 3)}
        column: dict[str, Any] = {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = ConvBN(inputs, 192, 1)
        self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = (
            ConvBN(inputs, width, 1),
            ConvBN(width, width, **row),
            ConvBN(width, 192, **column),
        )
        self.branch7x7dbl_1, self.branch7x7dbl_2 = ConvBN(inputs, width, 1), ConvBN(width, width, **column)
        self.branch7x7dbl_3, self.branch7x7dbl_4, self.branch7x7dbl_5 = (
            ConvBN(width, width, **row),
            ConvBN(width, width, **column),
            ConvBN(width, 192, **row),
        )
        self.branch_pool = ConvBN(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_5(
            self.branch7x7dbl_4(self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x))))
        )
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    """17 x 17 -> 8 x 8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = ConvBN(inputs, 192, 1), ConvBN(192, 320, 3, stride=2)
        self.branch7x7x3_1, self.branch7x7x3_2 = ConvBN(inputs, 192, 1), ConvBN(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3, self.branch7x7x3_4 = ConvBN(192, 192, (7, 1), padding=(3, 0)), ConvBN(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """8 x 8: the widest block; its pooled branch averages, or takes the maximum in the last one."""

    def __init__(self, inputs: int, *, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = ConvBN(inputs, 320, 1)
        self.branch3x3_1 = ConvBN(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = (
            ConvBN(384, 384, (1, 3), padding=(0, 1)),
            ConvBN(384, 384, (3, 1), padding=(1, 0)),
        )
        self.branch3x3dbl_1, self.branch3x3dbl_2 = ConvBN(inputs, 448, 1), ConvBN(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = (
            ConvBN(384, 384, (1, 3), padding=(0, 1)),
            ConvBN(384, 384, (3, 1), padding=(1, 0)),
        )
        self.branch_pool = ConvBN(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        return torch.cat(
            [*parts, self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)], 1
        )


class InceptionV3(nn.Module):
    """`(n, 3, 299, 299)` in [-1, 1] -> pooled features `(n, 2048)`; 21,785,568 parameters without the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = (
            ConvBN(3, 32, 3, stride=2),
            ConvBN(32, 32, 3),
            ConvBN(32, 64, 3, padding=1),
        )
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = ConvBN(64, 80, 1), ConvBN(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (
            BlockC(768, 128),
            BlockC(768, 160),
            BlockC(768, 160),
            BlockC(768, 192),
        )
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, maximum=False), BlockE(2048, maximum=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


def prepare(picture: Image.Image) -> np.ndarray:
    """An RGB picture of any size -> float32 `(3, 299, 299)`, about -1 to 1 (the filter may overshoot)."""
    from PIL import Image

    channels = [
        np.asarray(Image.fromarray(np.asarray(band, np.float32)).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        for band in picture.convert("RGB").split()
    ]
    return (np.stack(channels) - 128) / 128


class InceptionFeatures:
    """A `FeatureExtractor` over `InceptionV3` or a TorchScript port of it."""

    name = "inception-v3"
    dim = 2048
    preprocessing = (
        "every channel by Pillow's bicubic filter in float32 to 299 x 299 (no cropping), not rounded, (x - 128) / 128"
    )

    def __init__(self, path: str | Path) -> None:
        """Read weights from `path`. Raises: BowerbirdError when the file is none of the three kinds."""
        self.fingerprint = file_fingerprint(path)
        self.model: Any = (
            _open_script(Path(path)) if Path(path).suffix in (".pt", ".torchscript", ".ts") else _open_port(Path(path))
        )

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> float32 `(n, 2048)`."""
        parts = [np.zeros((0, self.dim), np.float32)]
        with torch.inference_mode():
            for i in range(0, len(pictures), 32):
                batch = torch.from_numpy(np.stack([prepare(p) for p in pictures[i : i + 32]]))
                parts.append(self.model(batch).reshape(len(batch), self.dim).float().numpy())
        return np.concatenate(parts)


def _open_script(path: Path) -> Any:
    script = load_script(path)
    return (
        script.layers if hasattr(script, "layers") else script
    )  # the part behind the archive's own resizing, where it has one


def _open_port(path: Path) -> InceptionV3:
    model = InceptionV3()
    state = files.load_tensors(path) if path.suffix == ".safetensors" else load_state(path)
    wanted = model.state_dict()
    state = {k: v for k, v in state.items() if not k.startswith(("fc.", "AuxLogits."))}
    state |= {k: torch.tensor(0) for k in wanted if k.endswith("num_batches_tracked") and k not in state}
    load_exactly(model, state, path)
    return model.eval().requires_grad_(False)


def load_exactly(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put `state` into `model`. Raises: BowerbirdError naming the first missing or unknown name."""
    from bowerbird.core.errors import BowerbirdError

    wanted = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    there = {k: tuple(v.shape) for k, v in state.items()}
    wrong = sorted(k for k in wanted.keys() | there.keys() if wanted.get(k) != there.get(k))
    if wrong:
        raise BowerbirdError(
            f"{path}: not the weights of {type(model).__name__}: {wrong[0]} is {there.get(wrong[0])}, expected"
            f" {wanted.get(wrong[0])}"
        )
    model.load_state_dict(state)
