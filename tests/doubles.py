"""Tiny base models with random weights, one a family, in diffusers' own classes; and adapters for them in the layouts
that people publish. Each has under 0.4 M parameters and is made in a fraction of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

CONTEXT, PROJECTION, HIDDEN = 16, 20, 24
WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    *[
        "a",
        "red",
        "blue",
        "fox",
        "wolf",
        "on",
        "snow",
        "square",
        "heart",
        "image",
        "picture",
        "shows",
        "of",
        "the",
        "in",
    ],
]


def tokenizer(length: int = 8) -> Any:
    """Words by number, as transformers' fast tokenizers are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=length
    )


def clip_text(width: int, projection: int | None = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=projection or width,
        eos_token_id=2,
        bos_token_id=1,
        pad_token_id=0,
    )
    return (CLIPTextModel if projection is None else CLIPTextModelWithProjection)(config).eval()


def t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


def latent_vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    ).eval()


def sd(context: int = CONTEXT, **changes: Any) -> Any:
    """Stable Diffusion in small: 16 px, cross-attention of 16 dimensions."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=2,
    ).eval()
    parts = {"vae": latent_vae(), "text_encoder": clip_text(context), "tokenizer": tokenizer(), "unet": unet}
    parts |= {
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
    }
    pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False, **changes)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def lcm() -> Any:
    """A latent consistency model in small: its U-Net reads the guidance scale, and nothing is computed without the
    prompt."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel

    parts = {name: part for name, part in sd().components.items() if name != "image_encoder"}
    torch.manual_seed(0)
    parts["unet"] = UNet2DConditionModel.from_config(
        {**parts["unet"].config, "time_cond_proj_dim": 8, "_use_default_values": []}
    ).eval()
    parts["scheduler"] = LCMScheduler(clip_sample=False, original_inference_steps=50)
    pipe = LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sdxl() -> Any:
    """SDXL in small, with its three levels, so that its style and content blocks are where they are known."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=2,
        block_out_channels=(8, 8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * CONTEXT,
        attention_head_dim=(2, 2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + CONTEXT,
        transformer_layers_per_block=(1, 1, 2),
    ).eval()
    pipe = StableDiffusionXLPipeline(
        vae=latent_vae(),
        text_encoder=clip_text(CONTEXT),
        text_encoder_2=clip_text(CONTEXT, CONTEXT),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd3() -> Any:
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    ).eval()
    vae = AutoencoderKL(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    ).eval()
    pipe = StableDiffusion3Pipeline(
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=clip_text(16, 16),
        tokenizer=tokenizer(),
        text_encoder_2=clip_text(16, 16),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5(32),
        tokenizer_3=tokenizer(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=12,
        guidance_embeds=False,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    vae = AutoencoderKL(
        sample_size=32,
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    ).eval()
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": vae,
        "text_encoder": clip_text(12),
        "tokenizer": tokenizer(),
        "text_encoder_2": t5(32),
        "tokenizer_2": tokenizer(),
        "transformer": network,
    }


def flux() -> Any:
    from diffusers import FluxPipeline

    pipe = FluxPipeline(**flux_parts())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def kontext() -> Any:
    from diffusers import FluxKontextPipeline

    pipe = FluxKontextPipeline(**flux_parts())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def klein() -> Any:
    """FLUX.2 klein in small. Its text encoder has two layers: call it with `text_encoder_out_layers=(1,)`."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    network = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    ).eval()
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    ).eval()
    config = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    words = tokenizer(32)
    words.chat_template = "{{ messages[0].content }}"
    pipe = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(config).eval(),
        tokenizer=words,
        transformer=network,
        is_distilled=True,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


# -- encoders and adapters ---------------------------------------------------------------------------------------------


def vision(folder: Path, projection: int = PROJECTION, seed: int = 0) -> Path:
    """The vision half of a CLIP in a folder, as h94's `image_encoder` is."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=projection,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    """A whole CLIP in a folder, with the vision half that `vision` has by its form."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(3)
    sight = {"hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    words = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**sight, "image_size": 32, "patch_size": 8, "projection_dim": PROJECTION},
        text_config={**words, "vocab_size": len(WORDS), "max_position_embeddings": 16, "projection_dim": PROJECTION},
        projection_dim=PROJECTION,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    from transformers import CLIPImageProcessorPil

    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def vision_half(whole: Path, folder: Path) -> Path:
    """The vision half of a whole CLIP in a folder of its own, as adapters have it beside them."""
    from transformers import CLIPVisionModelWithProjection

    CLIPVisionModelWithProjection.from_pretrained(whole).save_pretrained(folder)
    return folder


def siglip(folder: Path) -> Path:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    SiglipVisionModel(config).save_pretrained(folder)
    return folder


def _widths(unet: Any) -> list[int]:
    from bowerbird.systems.grounded.bases import facts_of_unet

    return list(facts_of_unet(unet)[1])


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: each.contiguous() for name, each in tensors.items()}, path)
    return path


def ip_adapter_tensors(widths: list[int], context: int = CONTEXT, dim: int = PROJECTION) -> dict[str, torch.Tensor]:
    """The plain adapter: four tokens of a pooled embedding."""
    g = torch.Generator().manual_seed(0)
    found = {
        "image_proj.proj.weight": torch.randn(4 * context, dim, generator=g) * 0.1,
        "image_proj.proj.bias": torch.zeros(4 * context),
        "image_proj.norm.weight": torch.ones(context),
        "image_proj.norm.bias": torch.zeros(context),
    }
    for at, width in enumerate(widths):
        for name in ("k", "v"):
            found[f"ip_adapter.{2 * at + 1}.to_{name}_ip.weight"] = torch.randn(width, context, generator=g) * 0.3
    return found


def ip_adapter(folder: Path, base: Any, context: int = CONTEXT, dim: int = PROJECTION) -> Path:
    """h94's layout: the adapter's file, and `image_encoder` beside it."""
    vision(folder / "image_encoder", dim)
    tensors = ip_adapter_tensors(_widths(base.unet), context, dim)
    return write(folder / "any name.safetensors", tensors)


def resampler(context: int, dim: int = HIDDEN, layers: int = 4, time: int = 0) -> dict[str, torch.Tensor]:
    """The part of IP-Adapter plus that makes tokens of hidden states; with a time step that of SD3."""
    g, inner = torch.Generator().manual_seed(1), 64

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g) * 0.1

    found = {"latents": some(1, 4, inner), "proj_in.weight": some(inner, dim), "proj_in.bias": torch.zeros(inner)}
    found |= {"proj_out.weight": some(context, inner), "proj_out.bias": torch.zeros(context)}
    found |= {"norm_out.weight": torch.ones(context), "norm_out.bias": torch.zeros(context)}
    for at in range(layers):
        part = {
            f"0.{n}.{w}": torch.ones(inner) if w == "weight" else torch.zeros(inner)
            for n in ("norm1", "norm2")
            for w in ("weight", "bias")
        }
        part |= {
            "0.to_q.weight": some(64, inner),
            "0.to_kv.weight": some(128, inner),
            "0.to_out.weight": some(inner, 64),
        }
        part |= {"1.0.weight": torch.ones(inner), "1.0.bias": torch.zeros(inner)}
        part |= {"1.1.weight": some(4 * inner, inner), "1.3.weight": some(inner, 4 * inner)}
        if time:
            part |= {"2.1.weight": some(4 * inner, inner), "2.1.bias": torch.zeros(4 * inner)}
        found |= {f"layers.{at}.{name}": each for name, each in part.items()}
    if time:
        found |= {
            "time_embedding.linear_1.weight": some(inner, time),
            "time_embedding.linear_1.bias": torch.zeros(inner),
        }
        found |= {
            "time_embedding.linear_2.weight": some(inner, inner),
            "time_embedding.linear_2.bias": torch.zeros(inner),
        }
    return {f"image_proj.{name}": each for name, each in found.items()}


def ip_adapter_plus(folder: Path, base: Any) -> Path:
    vision(folder / "image_encoder")
    layers = {k: v for k, v in ip_adapter_tensors(_widths(base.unet)).items() if k.startswith("ip_adapter.")}
    return write(folder / "plus.safetensors", {**resampler(CONTEXT), **layers})


def ip_adapter_sd3(folder: Path, base: Any) -> Path:
    siglip(folder / "image_encoder")
    g, width, inner = torch.Generator().manual_seed(2), 32, 64
    found = resampler(width, time=320)
    for at in range(len(base.transformer.attn_processors)):
        part = {"norm_ip.linear.weight": torch.randn(2 * width, inner, generator=g) * 0.1}
        part |= {"norm_ip.linear.bias": torch.zeros(2 * width)}
        part |= {f"to_{n}_ip.weight": torch.randn(width, width, generator=g) * 0.3 for n in "kv"}
        part |= {f"norm_{n}.weight": torch.ones(8) for n in ("q", "k", "ip_k")}
        found |= {f"ip_adapter.{at}.{name}": each for name, each in part.items()}
    return write(folder / "sd3.safetensors", found)


def ip_adapter_flux(folder: Path, base: Any) -> Path:
    """XLabs' names."""
    vision(folder / "image_encoder")
    g, joint, width = torch.Generator().manual_seed(3), 32, 32
    found = {
        "ip_adapter_proj_model.proj.weight": torch.randn(4 * joint, PROJECTION, generator=g) * 0.1,
        "ip_adapter_proj_model.proj.bias": torch.zeros(4 * joint),
        "ip_adapter_proj_model.norm.weight": torch.ones(joint),
        "ip_adapter_proj_model.norm.bias": torch.zeros(joint),
    }
    for at in range(len(base.transformer.transformer_blocks)):
        for name in "kv":
            place = f"double_blocks.{at}.processor.ip_adapter_double_stream_{name}_proj"
            found[f"{place}.weight"] = torch.randn(width, joint, generator=g) * 0.3
            found[f"{place}.bias"] = torch.zeros(width)
    return write(folder / "ip_adapter.safetensors", found)


def redux(folder: Path) -> Path:
    siglip(folder / "image_encoder")
    g, joint = torch.Generator().manual_seed(4), 32
    found = {
        "redux_up.weight": torch.randn(3 * joint, HIDDEN, generator=g) * 0.1,
        "redux_up.bias": torch.zeros(3 * joint),
        "redux_down.weight": torch.randn(joint, 3 * joint, generator=g) * 0.1,
        "redux_down.bias": torch.zeros(joint),
    }
    return write(folder / "image_embedder" / "diffusion_pytorch_model.safetensors", found)


def pictures(count: int, size: tuple[int, int] = (32, 32)) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)) for _ in range(count)]
