"""The model card of imported weights: where they come from, and the conventions that generating must keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def card(report: dict[str, Any]) -> str:
    """README.md of an imported model, from `Plan.report`."""
    unet, vae, pipeline = report["unet"], report["vae"], report["pipeline"]
    scale, steps = pipeline["guidance_scale"], pipeline["num_inference_steps"]
    wanted = "at length 1" if pipeline["normalize_embeddings"] else "raw, as the encoder gives them"
    encoder = (
        pipeline["encoder_name"] or f"an encoder of {unet['cross_attention_dim']} numbers (the file does not say which)"
    )
    taken = "; ".join(f"{what}: {value}" for what, value in report["not in the file"].items())
    weights = "averaged (EMA)" if unet["weights"] == "ema" else "plain"
    return f"""---
library_name: diffusers
tags: [retrieval-augmented-diffusion]
---

Made by `bowerbird import compvis` from `{Path(report["file"]).name}`, a checkpoint in the layout that the
authors of retrieval-augmented diffusion published (arXiv 2204.11824, 2207.13038). The
weights are theirs, and so is their license: ask where you got the file.

- U-Net: {unet["parameters"]:,} parameters, {weights} weights; predicts noise.
- Not in the file, and so taken for granted: {taken}.
- First stage: {vae["class"]}, scale {vae["scaling_factor"]:g}, pictures of {vae["sample_size"]} px.
- Neighbors: embeddings of {encoder}, {wanted}. A model that is given the other kind loads
  without an error and generates wrong pictures.
- Null: zero vectors that no training showed it (`trained_null` is false). By default it generates as its
  authors' scripts do: guidance {scale:g}, {steps} DDIM steps. 10 to 20 steps of DPM-Solver++ are some ten times faster
  (`--sampler dpmsolver++ --steps 20`).

```python
import bowerbird as bb
pipe = bb.RDMPipeline.from_pretrained("this directory")
pipe(image=picture, knowledge_base=kb)
```

Plain diffusers opens the parts: `UNet2DConditionModel`, `{vae["class"]}` and `DDIMScheduler`, each with
`.from_pretrained(directory, subfolder=…)`; `encoder_hidden_states` are the neighbors' embeddings, {wanted},
as a sequence of k tokens. `bowerbird export` makes a directory that diffusers opens in one call.
"""
