"""IP-Adapter (arXiv 2308.06721) in the SD family: Stable Diffusion 1 and 2, SDXL, LCM.

Each cross-attention gets a second key and value for the pictures' tokens, and adds what it reads. The weights are in
diffusers' own processors, put in for the length of a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.torch_file import Stored
from bowerbird.systems.grounded.adapter_file import (
    PENULTIMATE,
    POOLED,
    AdapterFacts,
    EncoderNeed,
    layer_shapes,
    recorded_need,
)
from bowerbird.systems.grounded.bases import SD, BaseFacts, cross_attentions
from bowerbird.systems.grounded.injectors.protocol import (
    Injection,
    Injector,
    InjectorCapabilities,
    Restored,
    Task,
    restoring,
)
from bowerbird.systems.grounded.picture_tokens import picture_tokens, tokens_shape
from bowerbird.systems.grounded.references import Reference, relative_weights, stack_embeddings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAIN_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor")
SDXL_BLOCKS = {"style": {"up_blocks.0.attentions.1": 1.0}, "content": {"down_blocks.2.attentions.1": 1.0}}
"""Found by InstantStyle (arXiv 2404.02733): the blocks of SDXL that carry style and layout."""
SD1_BLOCKS = {
    "style": dict.fromkeys(("down_blocks.0", "down_blocks.1", "up_blocks.2", "up_blocks.3", "mid_block"), 1.0),
    "content": {"down_blocks.2.attentions.0": 0.25, "down_blocks.2.attentions.1": 1.0},
}
"""What users of Stable Diffusion 1 settled on (ComfyUI_IPAdapter_plus); its author calls it experimental."""


class IPAdapter(Injector):
    """The plain adapter (4 tokens of the pooled embedding), plus (16 of the hidden states) and full (257)."""

    kind: ClassVar[str] = "ip-adapter"

    def __init__(self, base: Any, facts: AdapterFacts | None = None) -> None:
        super().__init__(base, facts)
        assert facts is not None
        unet = base.unet
        strange = {type(unet.attn_processors[name]).__name__ for name in cross_attentions(unet)} - set(PLAIN_PROCESSORS)
        if strange:
            raise BowerbirdError(
                f"the base's attention has processors of its own ({', '.join(sorted(strange))}), which an adapter would"
                " take the place of; remove them first, by unload_ip_adapter(), unfuse_qkv_projections() or"
                " set_default_attn_processor()"
            )
        state = {"image_proj": facts.read("image_proj."), "ip_adapter": facts.read("ip_adapter.")}
        # modules draw their first weights from torch's own generator
        with torch.random.fork_rng(devices=[]), restoring() as changes:
            unslice(changes, unet)
            made = unet._convert_ip_adapter_attn_to_diffusers([state], low_cpu_mem_usage=False)
            projection = unet._convert_ip_adapter_image_proj_to_diffusers(state["image_proj"], low_cpu_mem_usage=False)
        from diffusers.models.embeddings import MultiIPAdapterImageProjection

        self.processors = {name: made[name].eval().requires_grad_(False) for name in cross_attentions(unet)}
        self.projection = MultiIPAdapterImageProjection([projection]).eval().requires_grad_(False)
        self.blocks = known_blocks(base)

    @staticmethod
    def recognize(tensors: Mapping[str, Stored]) -> AdapterFacts | None:
        """An IP-Adapter of the SD family: layers without bias, of several widths or of one."""
        widths, layers = [s[0] for s in layer_shapes(tensors)], layer_shapes(tensors)
        if not layers or any(name.endswith(("to_k_ip.bias", "norm_ip.linear.weight")) for name in tensors):
            return None
        found = _projection(tensors)
        if found is None or any(shape[1] != found[1] for shape in layers):
            return None
        kind, dim, tokens, encoder = found
        path = next(iter(tensors.values())).file
        if (own := recorded_need(path)) is not None:
            kind, tokens, encoder = _of_ours(path, own, tokens, encoder)
        return AdapterFacts(path, IPAdapter.kind, kind, BaseFacts("", SD, dim, tuple(widths)), tokens, encoder, tensors)

    @property
    def capabilities(self) -> InjectorCapabilities:
        """Any number of references as a set, each with its weight, region, and the blocks that are known."""
        return InjectorCapabilities(
            takes="embeds" if self.encoder is not None and self.encoder.output == POOLED else "tokens",
            regions=True,
            layers=("all", *self.blocks),
            step_window=True,
            mixed_batches=True,
        )

    @property
    def reads_blank(self) -> bool:
        """As the adapters that read hidden states were trained."""
        return self.encoder is not None and self.encoder.output == PENULTIMATE

    @contextmanager
    def inject(self, task: Task) -> Iterator[Injection]:
        """A block in which the U-Net's cross-attentions read the references' tokens."""
        unet, first = self.base.unet, task.references[0]
        device, dtype = self.base._execution_device, unet.dtype
        shares = relative_weights(first)
        embeds = batch_embeddings(task.references).to(device, dtype)
        if self.encoder is not None and self.encoder.layout is not None:
            embeds = picture_tokens(embeds, self.encoder.layout)
        with restoring() as changes:
            install(changes, unet, self.processors, device, dtype)
            changes.set(unet, "encoder_hid_proj", self.projection.to(device, dtype))
            set_config(changes, unet, "encoder_hid_dim_type", "ip_image_proj")
            changes.set(self.base, "prepare_ip_adapter_image_embeds", guided(embeds, task.blank))
            call: dict[str, Any] = {"ip_adapter_image_embeds": [embeds]}
            if shares is not None:
                call["cross_attention_kwargs"] = {"ip_adapter_masks": [_masks(first, task, device)]}

            def switch(on: bool) -> None:
                for name, processor in self.processors.items():
                    scale = task.settings.scale * self.block_scale(name, task.settings.layers) if on else 0.0
                    processor.scale = [scale if shares is None else [scale * share for share in shares]]

            yield Injection(call, switch)

    def block_scale(self, processor: str, layers: str) -> float:
        """How much of the scale the layer of this processor gets."""
        if layers == "all":
            return 1.0
        return max((s for place, s in self.blocks[layers].items() if processor.startswith(f"{place}.")), default=0.0)


def known_blocks(base: Any) -> dict[str, dict[str, float]]:
    """The blocks of `base` that carry style and content, none where nobody looked at a network of its form."""
    unet, name = base.unet, type(base).__name__
    kinds = tuple(unet.config.down_block_types)
    cross = "CrossAttnDownBlock2D"
    if name == "StableDiffusionXLPipeline" and kinds == ("DownBlock2D", cross, cross):
        found = SDXL_BLOCKS
    elif kinds == (cross, cross, cross, "DownBlock2D") and unet.config.cross_attention_dim == 768:
        found = SD1_BLOCKS
    else:
        return {}
    names = cross_attentions(unet)
    there = all(any(each.startswith(f"{place}.") for each in names) for part in found.values() for place in part)
    return found if there else {}


def install(
    changes: Restored, network: Any, processors: Mapping[str, torch.nn.Module], device: Any, dtype: torch.dtype
) -> None:
    """Put `processors` into `network` until the block ends."""
    before = dict(network.attn_processors)
    changes.undo_by(lambda: network.set_attn_processor(dict(before)))
    network.set_attn_processor({**before, **{name: each.to(device, dtype) for name, each in processors.items()}})


def unslice(changes: Restored, unet: Any) -> None:
    """Attention without slices until the block ends: diffusers cannot make an adapter's processors beside sliced ones,
    which want their size."""
    from diffusers.models.attention_processor import AttnProcessor

    before = dict(unet.attn_processors)
    sliced = [name for name, each in before.items() if type(each).__name__ == "SlicedAttnProcessor"]
    if sliced:
        changes.undo_by(lambda: unet.set_attn_processor(dict(before)))
        unet.set_attn_processor({**before, **{name: AttnProcessor() for name in sliced}})


def set_config(changes: Restored, network: Any, name: str, value: Any) -> None:
    """Set an entry of a network's configuration until the block ends, as diffusers' loaders set it: as an attribute."""
    config, before = network.config, getattr(network.config, name, None)
    changes.undo_by(lambda: setattr(config, name, before))
    setattr(config, name, value)


def guided(embeds: Tensor, blank: Tensor | None) -> Callable[..., Any]:
    """What stands in for the pipeline's own way of preparing embeddings, which mixes the references of a batch's
    pictures (diffusers#9813): those of each picture `(B, K, …)`, after `blank` or zeros for the passes without."""
    without = torch.zeros_like(embeds) if blank is None else blank.to(embeds).expand_as(embeds)

    def prepare(image: Any, given: Any, device: Any, count: int, guidance: bool) -> list[Tensor]:
        return [torch.cat([without, embeds]) if guidance else embeds]

    return prepare


def batch_embeddings(references: Sequence[Sequence[Reference]]) -> Tensor:
    """The embeddings of the references of each picture `(B, K, …)`."""
    return torch.from_numpy(np.stack([stack_embeddings(row) for row in references]))


def _masks(references: Sequence[Reference], task: Task, device: Any) -> Tensor:
    """The references' regions `(1, K, height, width)`, at an eighth of the picture's size."""
    height, width = max(1, task.height // 8), max(1, task.width // 8)
    return torch.from_numpy(np.stack([each.mask(height, width) for each in references]))[None].to(device)


def _projection(tensors: Mapping[str, Stored]) -> tuple[str, int, int, EncoderNeed] | None:
    """Kind, text dimension, tokens a picture and encoder, by the shapes of the part that reads the embedding."""
    shape = {name.removeprefix("image_proj."): each.shape for name, each in tensors.items()}
    if "proj.weight" in shape and "norm.weight" in shape:
        rows, dim = shape["proj.weight"]
        context = shape["norm.weight"][0]
        return "an IP-Adapter", context, rows // context, EncoderNeed(POOLED, dim)
    if "proj.3.weight" in shape:
        return (
            "an IP-Adapter (full)",
            shape["proj.3.weight"][0],
            257,
            EncoderNeed(PENULTIMATE, shape["proj.0.weight"][1]),
        )
    if "latents" in shape and "proj_out.weight" in shape:
        need = EncoderNeed(PENULTIMATE, shape["proj_in.weight"][1])
        return "an IP-Adapter (plus)", shape["proj_out.weight"][0], shape["latents"][1], need
    return None


def _of_ours(path: Path, own: EncoderNeed, tokens: int, by_shape: EncoderNeed) -> tuple[str, int, EncoderNeed]:
    """Kind, tokens a picture and encoder of an adapter whose header names an encoder of bowerbird's. Raises:
    BowerbirdError when its tensors are of another."""
    read, width = (tokens, own.dim) if own.layout is None else tokens_shape(own.layout)
    if width != by_shape.dim or (own.layout is None) != (by_shape.output == POOLED):
        raise BowerbirdError(f"{path}: its header names {own.title}, and its weights read another; fetch it again")
    return "an IP-Adapter" if own.layout is None else "an IP-Adapter (patches)", read, own
