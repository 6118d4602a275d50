"""Low-rank changes to a trained network's weights: W + B A, with A `(r, in)` and B `(out, r)` the only numbers that
train or are stored.

Source: LoRA, arXiv 2106.09685, section 4.1; a convolution's kernel counts among its inputs. Stored under the names
that diffusers and peft give such factors, so that `unet.load_lora_adapter(FILE, prefix=None)` reads the same file
where peft is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bowerbird.core.files import load_tensors, save_tensors
from bowerbird.models.weights import check_base

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

FOLDER = "factors"
FILE = "pytorch_lora_weights.safetensors"


class LowRank(nn.Module):
    """The parametrization weight -> weight + scale up @ down, with `up` zero at the start, so that nothing changes
    until it is trained. `deviation`: of the numbers in `down` at the start, None for rows of about length 1."""

    def __init__(self, weight: Tensor, rank: int, scale: float = 1.0, deviation: float | None = None) -> None:
        super().__init__()
        self.scale = scale
        inputs = weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, inputs) / (inputs**0.5 if deviation is None else 1 / deviation))
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        change = (self.up @ self.down).view_as(weight)
        return weight + (change if self.scale == 1 else self.scale * change)


def add_low_rank(
    network: nn.Module, names: Sequence[str], rank: int, *, scale: float = 1.0, deviation: float | None = None
) -> None:
    """Freeze `network` and let the weights of the linear and convolution layers whose name ends in one of `names`
    change by rank `rank`, times `scale`; `deviation`: see `LowRank`."""
    network.requires_grad_(False)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and name.endswith(tuple(names)):
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, scale, deviation))


def factors(network: nn.Module) -> dict[str, Tensor]:
    """The factors by their peft names: `LAYER.lora_A.weight`, and `LAYER.lora_B.weight`, shaped as the layers they
    would be."""
    found: dict[str, Tensor] = {}
    for name, layer in network.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            change: Any = layer.parametrizations.weight[0]
            kernel = layer.weight.shape[1:]
            found[f"{name}.lora_A.weight"] = change.down.detach().reshape(len(change.down), *kernel)
            found[f"{name}.lora_B.weight"] = change.up.detach().reshape(*change.up.shape, *[1] * (len(kernel) - 1))
    return found


def save_factors(network: nn.Module, out: Path, base_hash: str) -> None:
    """Write the factors in half precision; `base_hash` says whose weights they change."""
    save_tensors(out / FILE, {name: tensor.half() for name, tensor in factors(network).items()}, {"base": base_hash})


def merge(network: UNet2DConditionModel, path: Path, base_hash: str) -> UNet2DConditionModel:
    """`network` itself, its weights changed by the factors in the folder `path`. Raises: MismatchError when they are
    of another network."""
    check_base(path / FILE, base_hash)
    stored = load_tensors(path / FILE)
    with torch.no_grad():
        for name in sorted(name for name in stored if name.endswith(".lora_A.weight")):
            layer: Any = network.get_submodule(name.removesuffix(".lora_A.weight"))
            up, down = stored[name.replace("lora_A", "lora_B")].float(), stored[name].float()
            layer.weight += (up.flatten(1) @ down.flatten(1)).view_as(layer.weight).to(layer.weight.dtype)
    return network


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of `network` with every change merged in, under the names it had before."""
    state = {name: tensor for name, tensor in network.state_dict().items() if "parametrizations" not in name}
    for name, layer in network.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            state[f"{name}.weight"] = layer.weight.detach()
    return state
