"""The U-Net of RDM: diffusers' `UNet2DConditionModel`, cross-attending to neighbour tokens in every attention block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class UNetConfig(BaseModel):
    """Sizes of the U-Net; the defaults are the bundled one (9.0M parameters)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sample_size: int = 16
    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (64, 128, 160)
    attention: tuple[bool, ...] = (False, True, True)
    layers_per_block: int = 1
    head_channels: int = 32
    cross_attention_dim: int = 256


def build_unet(config: UNetConfig, embed_dim: int) -> UNet2DConditionModel:
    """A new U-Net for neighbours of `embed_dim` numbers.

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
        encoder_hid_dim_type="text_proj",
        cross_attention_dim=config.cross_attention_dim,
    )
