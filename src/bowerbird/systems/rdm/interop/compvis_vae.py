"""The first stage of the published latent diffusion checkpoints, VQ or KL: its sizes, read from its tensors, and its
names in diffusers.

A VQ stage encodes to what lies *before* the codebook and snaps to the codebook when it decodes; diffusers' `VQModel`
does the same.
Source: latent diffusion, arXiv 2112.10752.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.torch_file import Stored

RESIDUAL = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
MIDDLE = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}
ENDS = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
MOST = 16
WHOLE = ("quant_conv", "post_quant_conv", "quantize.embedding")


@dataclass(frozen=True)
class FirstStageLayout:
    """Sizes of a first stage, from its tensors: `channels` and `attention` a level, from the finest; `codes` is 0 for
    a KL stage."""

    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    residual_blocks: int
    latent_channels: int
    embed_dim: int
    codes: int

    @property
    def factor(self) -> int:
        """Pixels a side that become one place of the latents."""
        return 2 ** (len(self.channels) - 1)

    @property
    def class_name(self) -> str:
        """The diffusers class."""
        return "VQModel" if self.codes else "AutoencoderKL"

    def config(self, sample_size: int, scale_factor: float) -> dict[str, Any]:
        """The arguments of diffusers' `VQModel` or `AutoencoderKL`."""
        shared = {
            "sample_size": sample_size,
            "block_out_channels": self.channels,
            "down_block_types": tuple("AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in self.attention),
            "up_block_types": tuple(
                "AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(self.attention)
            ),
            "layers_per_block": self.residual_blocks,
            "latent_channels": self.latent_channels,
            "scaling_factor": scale_factor,
        }
        return shared | ({"num_vq_embeddings": self.codes, "vq_embed_dim": self.embed_dim} if self.codes else {})


def layout(tensors: Mapping[str, Stored]) -> FirstStageLayout:
    """The sizes of the first stage whose tensors (by name within it) these are. Raises: BowerbirdError for one of
    another make."""
    needed = (
        "encoder.conv_in.weight",
        "encoder.mid.attn_1.q.weight",
        "decoder.conv_in.weight",
        "quant_conv.weight",
        "post_quant_conv.weight",
    )
    lacking = [name for name in needed if name not in tensors]
    if lacking:
        raise BowerbirdError(
            f"its first stage has no {lacking[0]}; bowerbird takes the VQ and KL autoencoders of latent diffusion"
        )
    channels, attention, level = [], [], 0
    while level < MOST and f"encoder.down.{level}.block.0.conv1.weight" in tensors:
        channels.append(tensors[f"encoder.down.{level}.block.0.conv1.weight"].shape[0])
        attention.append(f"encoder.down.{level}.attn.0.q.weight" in tensors)
        level += 1
    blocks = 0
    while blocks < MOST and f"encoder.down.0.block.{blocks}.conv1.weight" in tensors:
        blocks += 1
    code = tensors.get("quantize.embedding.weight")
    latent = tensors["decoder.conv_in.weight"].shape[1]
    embed = tensors["post_quant_conv.weight"].shape[1]
    if code is None and (embed != latent or tensors["quant_conv.weight"].shape[0] != 2 * embed):
        raise BowerbirdError(
            f"its KL autoencoder has {latent} channels inside and {embed} outside; diffusers has no such network"
        )
    if code is not None and code.shape[1] != embed:
        raise BowerbirdError(
            f"its codebook holds vectors of {code.shape[1]} numbers where {embed} are read; the file is of two models"
        )
    return FirstStageLayout(
        tuple(channels), tuple(attention), blocks, latent, embed, 0 if code is None else code.shape[0]
    )


def diffusers_name(name: str, sizes: FirstStageLayout) -> str | None:
    """What diffusers calls the tensor `name`; None for one that has no place in this layout."""
    stem, _, kind = name.rpartition(".")
    if stem in WHOLE:
        return name
    side, _, rest = stem.partition(".")
    if side not in ("encoder", "decoder"):
        return None
    if rest in ENDS:
        return f"{side}.{ENDS[rest]}.{kind}"
    parts = rest.split(".")
    if parts[0] == "mid" and len(parts) == 3 and parts[1] in MIDDLE:
        inner = (ATTENTION if parts[1] == "attn_1" else RESIDUAL).get(parts[2])
        return None if inner is None else f"{side}.mid_block.{MIDDLE[parts[1]]}.{inner}.{kind}"
    if parts[0] != ("down" if side == "encoder" else "up") or len(parts) < 4 or not parts[1].isdigit():
        return None
    level = int(parts[1]) if side == "encoder" else len(sizes.channels) - 1 - int(parts[1])
    place = f"{side}.{parts[0]}_blocks.{level}"
    if parts[2] in ("downsample", "upsample") and parts[3:] == ["conv"]:
        return f"{place}.{parts[2]}rs.0.conv.{kind}"
    if parts[2] not in ("block", "attn") or len(parts) != 5:
        return None
    inner = (ATTENTION if parts[2] == "attn" else RESIDUAL).get(parts[4])
    return (
        None
        if inner is None
        else f"{place}.{'attentions' if parts[2] == 'attn' else 'resnets'}.{parts[3]}.{inner}.{kind}"
    )


def is_matrix(name: str) -> bool:
    """Whether diffusers keeps the weight called `name` as a matrix where the checkpoint has a 1 x 1 convolution: those
    inside attention."""
    return ".attentions." in name and name.endswith(".weight") and "group_norm" not in name
