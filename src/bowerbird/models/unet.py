"""The U-Net of RDM: diffusers' `UNet2DConditionModel`, cross-attending to neighbor tokens in every attention block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from bowerbird.core.files import load_tensors, save_tensors
from bowerbird.models import network_files
from bowerbird.models.weights import check_base

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel

OWN = "own.safetensors"
"""The tensors in which a network differs from the one it was trained from, where only they are kept."""


class UNetConfig(BaseModel):
    """Sizes of the U-Net; the defaults are the bundled one (9.0M parameters)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    sample_size: int = Field(default=16, ge=1)
    in_channels: int = Field(default=4, ge=1)
    block_out_channels: tuple[int, ...] = (64, 128, 160)
    attention: tuple[bool, ...] = (False, True, True)
    layers_per_block: int = Field(default=1, ge=1)
    head_channels: int = Field(default=32, ge=1)
    cross_attention_dim: int = Field(default=256, ge=1)


def build_unet(config: UNetConfig, embed_dim: int | None) -> UNet2DConditionModel:
    """A new U-Net for neighbors of `embed_dim` numbers; None: for tokens of `config.cross_attention_dim` numbers, as
    they are.

    Embeddings enter through a trained linear map (`encoder_hid_proj`), whose bias is what the zero null becomes.
    """
    from diffusers import UNet2DConditionModel

    down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention)
    up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attention))
    return UNet2DConditionModel(
        sample_size=config.sample_size,
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=down,
        up_block_types=up,
        # diffusers reads this argument as the number of heads, not as their width
        attention_head_dim=tuple(max(1, c // config.head_channels) for c in config.block_out_channels),
        encoder_hid_dim=embed_dim,
        encoder_hid_dim_type=None if embed_dim is None else "text_proj",
        cross_attention_dim=config.cross_attention_dim,
    )


def for_embeddings(unet: UNet2DConditionModel, embed_dim: int) -> UNet2DConditionModel:
    """`unet` itself, whose map of embeddings is a new one, untrained, for those of `embed_dim` numbers."""
    import torch

    unet.encoder_hid_proj = torch.nn.Linear(embed_dim, unet.config.cross_attention_dim)
    unet.register_to_config(encoder_hid_dim=embed_dim, encoder_hid_dim_type="text_proj")
    return unet


def widen(unet: UNet2DConditionModel, in_channels: int, embed_dim: int | None) -> UNet2DConditionModel:
    """The same network reading further channels and longer embeddings (None: it reads tokens as they are); what is new
    counts nothing until it is trained, and every bias stays."""
    import torch
    from diffusers import UNet2DConditionModel

    # diffusers puts its defaults in the place of what is listed there
    said = {name: value for name, value in unet.config.items() if name != "_use_default_values"}
    with torch.random.fork_rng([]):
        wider = UNet2DConditionModel.from_config({**said, "in_channels": in_channels, "encoder_hid_dim": embed_dim})
    state = unet.state_dict()
    for name, parameter in wider.named_parameters():
        if parameter.shape != state[name].shape:
            grown = torch.zeros_like(parameter)
            grown[:, : state[name].shape[1]] = state[name]
            state[name] = grown
    wider.load_state_dict(state)
    return wider


def with_short_attention(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """`unet` itself, ready to be trained: see `short_attention.py`."""
    from bowerbird.models.short_attention import ShortAttention

    unet.set_attn_processor(ShortAttention())
    return unet


def save_over(unet: UNet2DConditionModel, base: UNet2DConditionModel, out: Path, base_hash: str) -> None:
    """Write the configuration of `unet`, and of its weights those in which it differs from `base`, in half precision;
    `base_hash` says which base."""
    import torch

    known = {name: tensor.half() for name, tensor in base.state_dict().items()}
    own = {name: tensor.half().contiguous() for name, tensor in unet.state_dict().items()}
    own = {name: tensor for name, tensor in own.items() if name not in known or not torch.equal(known[name], tensor)}
    unet.save_config(out)
    save_tensors(out / OWN, own, {"base": base_hash})


def load_over(path: Path, base: UNet2DConditionModel, dtype: torch.dtype, base_hash: str) -> UNet2DConditionModel:
    """The network that `save_over` wrote to `path`, with the rest of its weights from `base`. Raises: MismatchError
    when it is of another base."""
    from diffusers import UNet2DConditionModel

    check_base(path / OWN, base_hash)
    config, state = network_files.check_folder(path), base.state_dict() | load_tensors(path / OWN)
    network_files.check_shapes(lambda: UNet2DConditionModel.from_config(config), state, path)
    unet = UNet2DConditionModel.from_config(config)
    unet.load_state_dict(state)
    network_files.check_finite(unet, path)
    return (unet if unet.dtype == dtype else unet.to(dtype)).eval()
