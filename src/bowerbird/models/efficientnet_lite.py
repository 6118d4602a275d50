"""EfficientNet-Lite0: a small convolutional network for photographs, as trained on ImageNet.

Source: Tan and Le, EfficientNet, arXiv 1905.11946; the Lite form (no squeeze-and-excitation, ReLU6) by Google, 2020.
Weights carry the names of the PyTorch port (Melas-Kyriazi; ML Illustrated for Lite). The classifier is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE, DIM = 224, 1280
STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4))
LAST = (6, 3, 1, 320, 1)
"""Of each stage: expansion, kernel, stride of its first block, channels, blocks."""


class SameConv(nn.Conv2d):
    """A convolution whose output has the input's size over the stride, padded as TensorFlow does: the odd pixel below
    and to the right."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        across, down = (max((-(-edge // stride) - 1) * stride + kernel - edge, 0) for edge in (x.shape[3], x.shape[2]))
        return super().forward(F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2)))


def _conv(below: int, above: int, kernel: int, stride: int = 1, groups: int = 1) -> SameConv:
    return SameConv(below, above, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Expand, filter each channel, project: an inverted bottleneck, added to its input where the shapes agree."""

    def __init__(self, below: int, above: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = below * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = _conv(below, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = _conv(inner, inner, kernel, stride, inner), _norm(inner)
        self._project_conv, self._bn2 = _conv(inner, above, 1), _norm(above)
        self.expands, self.adds = expansion > 1, stride == 1 and below == above

    def forward(self, x: Tensor) -> Tensor:
        made = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        made = F.relu6(self._bn1(self._depthwise_conv(made)))
        made = self._bn2(self._project_conv(made))
        return made + x if self.adds else made


class EfficientNetLite0(nn.Module):
    """Float `(n, 3, 224, 224)` -> the mean of the last feature map, `(n, 1280)`."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _conv(3, 32, 3, 2), _norm(32)
        blocks, below = [], 32
        for expansion, kernel, stride, channels, count in (*STAGES, LAST):
            for at in range(count):
                blocks.append(Block(below, channels, expansion, kernel, stride if at == 0 else 1))
                below = channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _conv(below, DIM, 1), _norm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return torch.mean(F.relu6(self._bn1(self._conv_head(x))), (2, 3))
