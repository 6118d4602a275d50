"""Names that lost their dots: averaged weights of the released checkpoints are stored as
`diffusion_modelinput_blocks10in_layers0weight`.

Every name a U-Net of this make can have is known, so each dotless name is looked up among all of them; none of them
share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TypeVar

from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.rdm.interop import compvis_unet

T = TypeVar("T")
BLOCKS, SUBS, DEPTH = 100, 3, 10
WRAPPER = "diffusion_model"


def _stems() -> list[str]:
    residual = list(compvis_unet.RESIDUAL)
    within = [
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
    ]
    within += ["ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"]
    attention = [
        "norm",
        "proj_in",
        "proj_out",
        *(f"transformer_blocks.{depth}.{inner}" for depth in range(DEPTH) for inner in within),
    ]
    inner = [*residual, *attention, "op", "conv"]
    places = [
        f"{side}.{block}.{sub}"
        for side in ("input_blocks", "output_blocks")
        for block in range(BLOCKS)
        for sub in range(SUBS)
    ]
    places += [f"middle_block.{sub}" for sub in range(SUBS)]
    return [*compvis_unet.ENDS, "input_blocks.0.0", *(f"{place}.{each}" for place in places for each in inner)]


@cache
def _names() -> dict[str, str]:
    return {f"{stem}.{kind}".replace(".", ""): f"{stem}.{kind}" for stem in _stems() for kind in ("weight", "bias")}


def without_dots(name: str) -> str:
    """How the averaged weights call the tensor `name` of the U-Net."""
    return f"{WRAPPER}.{name}".replace(".", "")


def dotted(tensors: Mapping[str, T]) -> dict[str, T]:
    """The same tensors under their names within the U-Net. Raises: BowerbirdError for a name that no such U-Net has."""
    known, found = _names(), {}
    for name, tensor in tensors.items():
        plain = known.get(name.replace(".", "").removeprefix(WRAPPER))
        if plain is None:
            raise BowerbirdError(
                f"its averaged weights hold {name}, a name no published U-Net has; take the plain ones with --no-ema"
            )
        found[plain] = tensor
    return found
