"""Weights in 8 bits beside a layer's own, for products with few rows on the CPU: their time is that of reading the
weights, and a fourth is read.

A number is a whole of -127 to 127 times a scale for each output; what is read is rounded to bfloat16, and sums are in
float32. A whole passage (a prompt, a likelihood) still runs on the layer's own weights.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_ROWS = 64
LARGEST = 127
MULTIPLE = 32
"""Of the inputs of a layer: torch's kernel reads and writes past its rows where they are no multiple of 16, and what
that damages is seen much later, if at all (torch 2.13, `_weight_int8pack_mm` of 24 or 20 inputs)."""


@torch.no_grad()
def pack(layers: Iterable[nn.Module]) -> None:
    """Give each layer with a `weight` `(out, in)`, or `(out, in, 1)`, its 8 bits; those whose inputs are no multiple of
    `MULTIPLE` stay as they are."""
    for layer in layers:
        weight = layer.get_parameter("weight").flatten(1).float()
        if weight.shape[1] % MULTIPLE:
            continue
        scale = (weight.abs().amax(1).clamp(min=1e-12) / LARGEST).bfloat16()
        whole = (weight / scale[:, None].float()).round().clamp(-LARGEST, LARGEST).to(torch.int8)
        layer.__dict__["packed"] = (whole, scale)  # no buffer: neither saved nor moved


def multiply(layer: nn.Module, x: Tensor) -> Tensor:
    """What a linear layer makes of `x` `(…, in)`; of at most `MOST_ROWS` rows by its 8 bits, where it was packed."""
    packed, weight, bias = layer.__dict__.get("packed"), layer._parameters["weight"], layer._parameters.get("bias")
    assert weight is not None
    if packed is None or x.numel() > MOST_ROWS * x.shape[-1]:
        return F.linear(x, weight if weight.ndim == 2 else weight[:, :, 0], bias)
    made: Tensor = torch._weight_int8pack_mm(x.flatten(0, -2).bfloat16(), *packed).to(x.dtype)
    made = made.view(*x.shape[:-1], -1)
    return made if bias is None else made + bias
