"""Weights at 8 bits on disk: whole numbers from -127 to 127 with a scale for each output channel, half the size of half
precision. A network is opened from them in full, so that nothing that computes knows of it.

`models/packed_weights.py` is the other use of 8 bits, in memory and for speed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import load_tensors, save_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FILE = "weights_int8.safetensors"
SCALE = ".scale"
LARGEST = 127
LEAST_NUMBERS = 4096
"""Weights with fewer numbers, and those of one dimension, stay in half precision: they are a hundredth of the bytes."""


def save(network: nn.Module, folder: Path, half: tuple[str, ...] = ()) -> None:
    """Write `config.json` and the weights of a network of diffusers or transformers at 8 bits into `folder`.

    Weights are `(out, ...)`, and a scale covers everything that leads to one output. `half`: how the names of weights
    begin that stay in half precision, such as those of a U-Net's last block, whose rounding is seen the most.
    """
    import torch

    stored: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        small = tensor.ndim < 2 or tensor.numel() < LEAST_NUMBERS
        if not tensor.is_floating_point() or small or name.startswith(half):
            stored[name] = tensor.half() if tensor.is_floating_point() else tensor
            continue
        flat = tensor.float().flatten(1)
        scale = flat.abs().amax(1).clamp(min=1e-12) / LARGEST
        stored[name] = (flat / scale[:, None]).round().to(torch.int8).view(tensor.shape)
        stored[name + SCALE] = scale
    own: Any = network
    if hasattr(own, "save_config"):
        own.save_config(folder)
    else:
        own.config.save_pretrained(folder)
    save_tensors(folder / FILE, stored)


def load(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """The network of the class `kind` (of diffusers or transformers) that `save` wrote into `folder`.

    Raises: BowerbirdError when the weights are not those of its configuration.
    """
    stored = load_tensors(folder / FILE)
    scales = {name: stored.pop(name + SCALE) for name in list(stored) if name + SCALE in stored}
    for name, scale in scales.items():
        flat = stored[name].flatten(1).float() * scale[:, None]
        stored[name] = flat.view(stored[name].shape)
    stored = {name: v.to(dtype) if v.is_floating_point() else v for name, v in stored.items()}
    if hasattr(kind, "load_config"):
        network = kind.from_config(kind.load_config(folder, local_files_only=True))
    else:
        network = kind(kind.config_class.from_pretrained(folder, local_files_only=True))
    try:
        network.load_state_dict(stored, assign=True)
    except RuntimeError as error:
        raise BowerbirdError(
            f"{folder}: the weights are not those of its config.json; install bowerbird again"
        ) from error
    return network.eval()
