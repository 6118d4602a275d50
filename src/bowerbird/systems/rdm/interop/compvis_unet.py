"""The U-Net of the published latent diffusion checkpoints: its sizes, read from its tensors, and its names in
diffusers.

Source: the released RDM configurations (arXiv 2204.11824) and the latent diffusion code they extend (arXiv
2112.10752). Blocks are counted flat there: `input_blocks.0` is the first convolution, then each level is its residual
blocks and, but for the last, a downsampling; `output_blocks` the same from below, with one residual block more a level
and the upsampling at the end of a level's last block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.torch_file import Stored

RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
HEAD_CHANNELS = 32
"""Channels of an attention head in every published model; no tensor's shape tells."""
MOST_LEVELS, MOST_BLOCKS = 10, 10


@dataclass(frozen=True)
class UNetLayout:
    """Sizes of a U-Net, from its tensors: `channels` and `attention` a level, from the finest."""

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    residual_blocks: int
    context_dim: int
    transformer_depth: int

    @property
    def per_level(self) -> int:
        """Flat blocks of a level, its down- or upsampling counted."""
        return self.residual_blocks + 1

    def config(self, sample_size: int, heads: tuple[int, ...]) -> dict[str, Any]:
        """The arguments of diffusers' `UNet2DConditionModel`; `heads` by level."""
        return {
            "sample_size": sample_size,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": self.channels,
            "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in self.attention),
            "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(self.attention)),
            "layers_per_block": self.residual_blocks,
            "cross_attention_dim": self.context_dim,
            "transformer_layers_per_block": self.transformer_depth,
            # diffusers reads this argument as the number of heads, not as their width
            "attention_head_dim": heads,
        }


def layout(tensors: Mapping[str, Stored]) -> UNetLayout:
    """The sizes of the U-Net whose tensors (by name within it) these are. Raises: BowerbirdError for a network of
    another make, saying which."""
    if "input_blocks.0.0.weight" not in tensors or "out.2.weight" not in tensors:
        raise BowerbirdError("no U-Net of latent diffusion (input_blocks.0.0, out.2) is in it")
    foreign = {
        "label_emb.weight": "is conditioned on class labels, not on neighbors",
        "id_predictor.1.weight": "predicts codebook entries",
        "middle_block.1.qkv.weight": "does not attend to neighbors (it is an unconditional model)",
    }
    for name, reason in foreign.items():
        if name in tensors or any(key.startswith(name.rsplit(".", 1)[0] + ".") for key in tensors):
            raise BowerbirdError(f"its U-Net {reason}; bowerbird takes RDM's")
    first = tensors["input_blocks.0.0.weight"]
    widths: list[list[int]] = [[]]
    attends: list[list[bool]] = [[]]
    for block in range(1, 1 + _count(tensors, "input_blocks") - 1):
        prefix = f"input_blocks.{block}"
        if f"{prefix}.0.op.weight" in tensors:
            widths.append([])
            attends.append([])
        elif f"{prefix}.0.in_layers.2.weight" in tensors:
            widths[-1].append(tensors[f"{prefix}.0.in_layers.2.weight"].shape[0])
            attends[-1].append(f"{prefix}.1.proj_in.weight" in tensors)
        else:
            raise BowerbirdError(
                f"its U-Net has no residual block and no downsampling at {prefix}; that layout is not known"
            )
    if (
        len(widths) > MOST_LEVELS
        or len(widths[0]) > MOST_BLOCKS
        or _count(tensors, "middle_block.1.transformer_blocks") > MOST_BLOCKS
    ):
        raise BowerbirdError("its U-Net has more levels or blocks than any model of its kind")
    uneven = any(len(set(level)) != 1 for level in widths) or any(len(set(level)) != 1 for level in attends)
    if uneven or len({len(level) for level in widths}) != 1:
        raise BowerbirdError("the levels of its U-Net differ in structure; diffusers has no such network")
    if tensors["input_blocks.1.0.emb_layers.1.weight"].shape[0] != widths[0][0]:
        raise BowerbirdError("its U-Net scales and shifts norms by time (use_scale_shift_norm); no published RDM does")
    if "middle_block.1.transformer_blocks.0.attn2.to_k.weight" not in tensors:
        raise BowerbirdError("the middle of its U-Net attends to nothing; bowerbird takes RDM's")
    if len(tensors["middle_block.1.proj_in.weight"].shape) != 4:
        raise BowerbirdError(
            "its U-Net projects into attention by matrices, as Stable Diffusion 2 does; no published RDM does"
        )
    return UNetLayout(
        in_channels=first.shape[1],
        out_channels=tensors["out.2.weight"].shape[0],
        channels=tuple(level[0] for level in widths),
        attention=tuple(level[0] for level in attends),
        residual_blocks=len(widths[0]),
        context_dim=tensors["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        transformer_depth=_count(tensors, "middle_block.1.transformer_blocks"),
    )


def _count(tensors: Mapping[str, Stored], prefix: str) -> int:
    """How many numbered parts there are below `prefix`."""
    depth = prefix.count(".") + 1
    found = {
        int(name.split(".")[depth])
        for name in tensors
        if name.startswith(prefix + ".") and name.split(".")[depth].isdigit()
    }
    return len(found)


def diffusers_name(name: str, sizes: UNetLayout) -> str | None:
    """What diffusers calls the tensor `name`; None for one that has no place in this layout."""
    stem, _, kind = name.rpartition(".")
    if stem in ENDS:
        return f"{ENDS[stem]}.{kind}"
    if stem == "input_blocks.0.0":
        return f"conv_in.{kind}"
    parts = name.split(".")
    if parts[0] == "middle_block" and len(parts) > 2:
        place = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}.get(parts[1])
        return None if place is None else _inside(place, ".".join(parts[2:-1]), kind)
    if (
        parts[0] not in ("input_blocks", "output_blocks")
        or len(parts) < 4
        or not (parts[1].isdigit() and parts[2].isdigit())
    ):
        return None
    sub, inner = int(parts[2]), ".".join(parts[3:-1])
    if parts[0] == "input_blocks":
        level, at = divmod(int(parts[1]) - 1, sizes.per_level)
        if at == sizes.residual_blocks:
            return f"down_blocks.{level}.downsamplers.0.conv.{kind}" if (sub, inner) == (0, "op") else None
        return _inside(f"down_blocks.{level}.{'attentions' if sub else 'resnets'}.{at}", inner, kind)
    level, at = divmod(int(parts[1]), sizes.per_level)
    if inner == "conv":
        return f"up_blocks.{level}.upsamplers.0.conv.{kind}"
    return _inside(f"up_blocks.{level}.{'attentions' if sub else 'resnets'}.{at}", inner, kind)


def _inside(place: str, inner: str, kind: str) -> str | None:
    """The name within a residual block, or within an attention block, where both say the same."""
    if ".attentions." in place:
        return f"{place}.{inner}.{kind}"
    return f"{place}.{RESIDUAL[inner]}.{kind}" if inner in RESIDUAL else None
