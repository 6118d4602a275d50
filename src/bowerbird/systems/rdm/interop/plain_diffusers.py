"""An RDM of ours as a directory that diffusers opens in one call, without bowerbird.

diffusers' `StableDiffusionPipeline` runs the same loop when it is given embeddings in place of a prompt: the
neighbors' as `prompt_embeds` `(1, k, d)`, zeros as `negative_prompt_embeds`. It knows no shift of the latents, so
that goes into the autoencoder's first 1 x 1 convolution, which is exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article

if TYPE_CHECKING:
    from bowerbird.systems.rdm.pipeline import RDMPipeline


def export(pipe: RDMPipeline, out: str | Path) -> None:
    """Write `pipe` to the directory `out`. Raises: BowerbirdError when it has parts that diffusers does not know."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, VQModel

    if not isinstance(pipe.vae, AutoencoderKL | VQModel):
        raise BowerbirdError(
            f"it generates through {with_article(type(pipe.vae).__name__)}, which diffusers does not have; only"
            " models with an autoencoder can be exported"
        )
    # a copy, as that pipeline changes the one it is given: it wants this offset, which our trailing times do not look
    # at
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, steps_offset=1)
    plain = StableDiffusionPipeline(
        vae=_without_shift(pipe.vae),
        unet=pipe.unet,
        scheduler=scheduler,
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with files.atomic_directory(out) as folder:
        plain.save_pretrained(folder)
        (folder / "README.md").write_text(_card(pipe), encoding="utf-8")


def _without_shift(vae: Any) -> Any:
    """The same autoencoder for latents z / scale, the shift folded in: W (z + s) + b = W z + (W s + b)."""
    import torch

    shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
    if not shift:
        return vae
    changed = type(vae).from_config(vae.config)
    changed.load_state_dict(vae.state_dict())
    changed.register_to_config(shift_factor=None)
    with torch.no_grad():
        conv = changed.post_quant_conv
        conv.bias += conv.weight.sum(dim=(1, 2, 3)) * shift
    return changed.to(vae.dtype)


def _card(pipe: RDMPipeline) -> str:
    config = pipe.config
    length = "d ** 0.5" if config.embedding_length is None else f"{config.embedding_length:g}"
    scaled = (
        f"e / e.norm(dim=-1, keepdim=True) * {length}"
        if config.normalize_embeddings
        else "e  # as the encoder gives them"
    )
    settings = f"guidance_scale={config.guidance_scale:g}, num_inference_steps={config.num_inference_steps}"
    call = f"pipe(prompt_embeds=e, negative_prompt_embeds=torch.zeros_like(e), {settings}"
    generated = f"images = {call}).images"
    if type(pipe.vae).__name__ == "VQModel":  # whose decoder that pipeline calls with an argument it does not take
        generated = (
            f'latents = {call}, output_type="latent").images\nimages = pipe.vae.decode(latents /'
            " pipe.vae.config.scaling_factor).sample"
        )
    return f"""---
library_name: diffusers
---

Exported by `bowerbird export`: a retrieval-augmented diffusion model for plain diffusers. It generates from neighbors'
embeddings `e` `(1, k, d)` of
the encoder {config.encoder_name!r}, given in place of a prompt; searching them, provenance and k that varies within a
batch are bowerbird's.

```python
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained("this directory", text_encoder=None, tokenizer=None)
e = {scaled}
{generated}
```
"""
