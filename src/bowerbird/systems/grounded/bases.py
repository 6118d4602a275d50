"""What a base model is, as far as an adapter has to fit it: read from its configuration, before any weight is."""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article
from bowerbird.models import network_files

SD, SD3, FLUX, IN_CONTEXT, PLAIN = "sd", "sd3", "flux", "in-context", "plain"
BASES = {
    "StableDiffusionPipeline": SD,
    "StableDiffusionXLPipeline": SD,
    "LatentConsistencyModelPipeline": SD,
    "StableDiffusionImg2ImgPipeline": SD,
    "StableDiffusionXLImg2ImgPipeline": SD,
    "StableDiffusionInpaintPipeline": SD,
    "StableDiffusionXLInpaintPipeline": SD,
    "StableDiffusionControlNetPipeline": SD,
    "StableDiffusionXLControlNetPipeline": SD,
    "StableDiffusion3Pipeline": SD3,
    "FluxPipeline": FLUX,
    "FluxKontextPipeline": IN_CONTEXT,
    "Flux2Pipeline": IN_CONTEXT,
    "Flux2KleinPipeline": IN_CONTEXT,
    "QwenImageEditPlusPipeline": IN_CONTEXT,
    "OmniGenPipeline": IN_CONTEXT,
    "ZImageOmniPipeline": IN_CONTEXT,
    "QwenImagePipeline": PLAIN,
    "ZImagePipeline": PLAIN,
    "SanaPipeline": PLAIN,
    "PixArtSigmaPipeline": PLAIN,
}
"""The pipelines of diffusers that can be a base, with how they take references: by adapters of three families, as a
list of pictures, or not at all."""
BY_TORCHVISION = ("OmniGenPipeline", "QwenImageEditPlusPipeline")
"""Those whose pictures diffusers or transformers read by torchvision, and not without it."""
CALL = "generation_config.json"
"""The file beside a base's `model_index.json` that says how it generates unless asked otherwise: `num_inference_steps`
and `guidance_scale`, either or both."""
NAMES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
"""The bases of the SD family by the dimension of their cross-attention."""

TRANSFORMERS = {SD3: "Stable Diffusion 3", FLUX: "FLUX.1"}


@dataclass(frozen=True)
class BaseFacts:
    """A base by its pipeline's class, its `family`, and what an adapter must agree with: the dimension `context_dim` of
    its text tokens, and the `widths` of the layers that an adapter enters, in the order of its file."""

    pipeline: str
    family: str
    context_dim: int = 0
    widths: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        """The base in words, with what distinguishes it."""
        if self.family == SD:
            return describe_sd(self.context_dim, len(self.widths))
        name = TRANSFORMERS.get(self.family, self.pipeline)
        return f"{name} ({len(self.widths)} layers of {self.widths[0]})" if self.widths else name


def describe_sd(context_dim: int, layers: int) -> str:
    """A base of the SD family by the dimension and number of its cross-attentions."""
    name = NAMES.get(context_dim, "an SD-family model")
    return f"{name} (cross-attention {context_dim}, {layers} layers)"


def family_of(pipeline: str) -> str:
    """The family of the diffusers pipeline of this class name. Raises: BowerbirdError for one that is no base here."""
    if pipeline not in BASES:
        raise BowerbirdError(f"{with_article(pipeline)} takes no references here; a base is one of {', '.join(BASES)}")
    return BASES[pipeline]


def check_libraries(pipeline: str) -> None:
    """Raises: BowerbirdError where this pipeline of diffusers needs a library that is not installed."""
    if pipeline in BY_TORCHVISION and importlib.util.find_spec("torchvision") is None:
        raise BowerbirdError(
            f"{with_article(pipeline)} reads pictures by the library torchvision, which is not installed; pip install"
            " torchvision, the version that goes with your torch"
        )


def name_of(base: Any) -> str:
    """The pipeline of `BASES` that an open one is or is made from, else its own name."""
    return next((kind.__name__ for kind in type(base).__mro__ if kind.__name__ in BASES), type(base).__name__)


def facts_of(base: Any) -> BaseFacts:
    """The facts of a pipeline that is open. Raises: BowerbirdError for one that is no base here."""
    name = name_of(base)
    family = family_of(name)
    if family == SD:
        return BaseFacts(name, family, *facts_of_unet(base.unet))
    if family in (SD3, FLUX):
        return BaseFacts(name, family, *_transformer_facts(dict(base.transformer.config)))
    return BaseFacts(name, family)


def facts_of_folder(pipeline: str, folder: Path) -> BaseFacts:
    """The facts of the model in `folder`, from its configurations alone. Raises: BowerbirdError."""
    family = family_of(pipeline)
    if family == SD:
        import torch
        from diffusers import UNet2DConditionModel

        config = network_files.check_config(folder / "unet" / "config.json")
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
        return BaseFacts(pipeline, family, *facts_of_unet(unet))
    if family in (SD3, FLUX):
        config = network_files.check_config(folder / "transformer" / "config.json")
        return BaseFacts(pipeline, family, *_transformer_facts(config))
    return BaseFacts(pipeline, family)


def cross_attentions(unet: Any) -> list[str]:
    """The names of a U-Net's cross-attention processors, in the order in which adapters store their layers."""
    return [name for name in unet.attn_processors if not name.endswith("attn1.processor")]


def facts_of_unet(unet: Any) -> tuple[int, tuple[int, ...]]:
    """The dimension of a U-Net's text tokens, and the widths of its cross-attentions in the order of adapters."""
    channels = list(unet.config.block_out_channels)

    def width(name: str) -> int:
        kind, number = name.split(".")[:2]
        if kind == "mid_block":
            return int(channels[-1])
        return int((channels if kind == "down_blocks" else channels[::-1])[int(number)])

    dim = unet.config.cross_attention_dim
    return int(dim if isinstance(dim, int) else max(dim)), tuple(map(width, cross_attentions(unet)))


def _transformer_facts(config: dict[str, Any]) -> tuple[int, tuple[int, ...]]:
    width = int(config["attention_head_dim"]) * int(config["num_attention_heads"])
    return int(config.get("joint_attention_dim", 0)), (width,) * int(config["num_layers"])


def inputs_of(base: Any) -> tuple[str, ...]:
    """What the call of a base of the SD family needs beside a prompt."""
    name = name_of(base)
    if "Inpaint" in name:
        return ("image", "mask_image")
    return ("image",) if "Img2Img" in name or "ControlNet" in name else ()


def edge_limits(base: Any, most: int) -> tuple[int, int]:
    """What height and width are multiples of (else diffusers refuses them, or quietly generates another size), and the
    largest that the base can have, at most `most`."""
    factor, kind = int(getattr(base, "vae_scale_factor", 8)), name_of(base)
    if kind == "SanaPipeline":
        return 32, most
    if kind == "StableDiffusion3Pipeline":
        step = factor * int(base.patch_size)
        return step, min(most, step * int(base.transformer.config.get("pos_embed_max_size") or most))
    return 8 if BASES.get(kind) == SD or kind == "PixArtSigmaPipeline" else 2 * factor, most


@dataclass(frozen=True)
class UsualCall:
    """How a base generates unless asked otherwise."""

    steps: int
    guidance_scale: float
    guidance_name: str


FEW_STEPS = UsualCall(4, 1.0, "guidance_scale")


def usual_call(base: Any) -> UsualCall:
    """What the base's own call takes where nothing is said, and the name of the argument that guides it; four steps
    without guidance for one that its configuration calls distilled."""
    parameters = inspect.signature(base.__call__).parameters
    steps = parameters["num_inference_steps"].default
    if base.config.get("is_distilled", False) and "num_inference_steps" in parameters:
        return FEW_STEPS
    kind = name_of(base)
    if kind == "FluxPipeline" and not base.transformer.config.get("guidance_embeds", True):
        return UsualCall(4, 0.0, "guidance_scale")
    name = "true_cfg_scale" if kind.startswith("QwenImage") else "guidance_scale"
    scale = parameters[name].default if name in parameters else 1.0
    return UsualCall(int(steps or 50), float(1.0 if scale is None else scale), name)


def written_call(folder: Path, usual: UsualCall) -> UsualCall:
    """`usual`, with what `CALL` in a base's `folder` says of it. Raises: BowerbirdError where that is none."""
    if not (folder / CALL).is_file():
        return usual
    said = files.read_json(folder / CALL, "note on how a base generates")
    said = {key: value for key, value in said.items() if value is not None}  # transformers' file may say null
    steps, scale = said.get("num_inference_steps", usual.steps), said.get("guidance_scale", usual.guidance_scale)
    whole, number = type(steps) is int and 1 <= steps <= 1000, type(scale) in (int, float) and 0 <= scale <= 100
    if not whole or not number:
        raise BowerbirdError(
            f"{folder / CALL}: num_inference_steps is a number from 1 to 1000 and guidance_scale one from 0 to 100;"
            " correct it, or take the file away"
        )
    return replace(usual, steps=steps, guidance_scale=float(scale))


def edge_of_folder(folder: Path) -> int | None:
    """`trained_edge` of the Stable Diffusion in `folder`, by its configurations alone; None where they do not say."""
    places = [folder / part / "config.json" for part in ("unet", "vae")]
    if not all(place.is_file() for place in places):
        return None
    unet, vae = map(network_files.check_config, places)
    size, channels = unet.get("sample_size"), vae.get("block_out_channels")
    if type(size) is not int or not isinstance(channels, list):
        return None
    return size * int(2 ** (len(channels) - 1))


def trained_edge(base: Any) -> int:
    """The edge in pixels that a base was made for."""
    factor = int(getattr(base, "vae_scale_factor", 8))
    unet = getattr(base, "unet", None)
    if unet is not None:
        size = unet.config.sample_size
        return max(size if isinstance(size, list | tuple) else [size]) * factor
    return int(getattr(base, "default_sample_size", 1024 // factor)) * factor
