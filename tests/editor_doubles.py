"""Tiny editors with random weights that need more than a class of diffusers: OmniGen, Qwen-Image-Edit-Plus and
Z-Image-Omni. The first two read pictures by torchvision, in whose place plain functions stand here."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from doubles import HIDDEN, WORDS, tokenizer


def z_image_omni() -> Any:
    """Call it with `max_sequence_length=32`."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageOmniPipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model, Siglip2ImageProcessorPil, Siglip2VisionConfig, Siglip2VisionModel

    torch.manual_seed(0)
    network = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        siglip_feat_dim=HIDDEN,
        axes_dims=[8, 4, 4],
        axes_lens=[512, 64, 64],
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
    words = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    sight = Siglip2VisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_patches=16,
        patch_size=8,
    )
    return ZImageOmniPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=Qwen3Model(words).eval(),
        tokenizer=tokenizer(32),
        transformer=network,
        siglip=Siglip2VisionModel(sight).eval(),
        siglip_processor=Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16),
    )


class _Transforms:
    """What OmniGen takes of torchvision."""

    @staticmethod
    def Compose(steps: list[Any]) -> Any:
        def run(value: Any) -> Any:
            for step in steps:
                value = step(value)
            return value

        return run

    @staticmethod
    def Lambda(step: Any) -> Any:
        return step

    @staticmethod
    def ToTensor() -> Any:
        return lambda picture: torch.from_numpy(np.asarray(picture, np.float32) / 255).movedim(-1, 0)

    @staticmethod
    def Normalize(*, mean: Any, std: Any, inplace: bool) -> Any:
        return lambda pixels: (pixels - 0.5) / 0.5


def omnigen(monkeypatch: pytest.MonkeyPatch) -> Any:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, OmniGenPipeline, OmniGenTransformer2DModel
    from diffusers.pipelines.omnigen import pipeline_omnigen, processor_omnigen

    monkeypatch.setattr(processor_omnigen, "transforms", _Transforms, raising=False)
    own = processor_omnigen.OmniGenMultiModalProcessor
    monkeypatch.setattr(pipeline_omnigen, "OmniGenMultiModalProcessor", own, raising=False)
    torch.manual_seed(0)
    network = OmniGenTransformer2DModel(
        hidden_size=16,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=32,
        num_layers=1,
        in_channels=4,
        time_step_dim=4,
        rope_scaling={"long_factor": [1, 1], "short_factor": [1, 1]},
        vocab_size=len(WORDS),
        pad_token_id=0,
    ).eval()
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1)
    return OmniGenPipeline(network, scheduler, vae, tokenizer(4096))


def qwen_edit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its pictures have 32 x 32 pixels, not a megapixel. `base.asked` keeps the texts that it read."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPlusPipeline,
        QwenImageTransformer2DModel,
    )
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
    from transformers import (
        BatchFeature,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
    )

    for name in ("CONDITION_IMAGE_SIZE", "VAE_IMAGE_SIZE"):
        monkeypatch.setattr(pipeline_qwenimage_edit_plus, name, 32 * 32)
    torch.manual_seed(0)
    network = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    ).eval()
    vae = AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()
    words = tokenizer(1024)
    signs = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    words.add_special_tokens({"additional_special_tokens": signs})
    start, picture, end, video = words.convert_tokens_to_ids(signs)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    sight = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = Qwen2_5_VLConfig(
        text_config={**text, "num_key_value_heads": 2, "rope_scaling": rope, "vocab_size": len(words)},
        vision_config={**sight, "patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1]},
        vision_start_token_id=start,
        image_token_id=picture,
        vision_end_token_id=end,
        video_token_id=video,
    )
    base = QwenImageEditPlusPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=words,
        processor=None,
        transformer=network,
    )
    pixels = Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16 * 16, max_pixels=32 * 32)
    base.asked = []

    def process(text: list[str], images: list[Any], padding: bool, return_tensors: str) -> Any:
        base.asked += text
        made = pixels(images=images, return_tensors="pt")
        counts = iter((made["image_grid_thw"].prod(1) // 4).tolist())
        whole = [re.sub(r"<\|image_pad\|>", lambda found: found[0] * next(counts), each) for each in text]
        return BatchFeature({**words(whole, padding=True, return_tensors="pt"), **made})

    base.processor = process
    return base
