"""The tokens of CLIP, SigLIP and SigLIP2, in the space that their pictures and texts share.

Each token goes alone through what the whole goes through at the end: CLIP's projection of the class token (as MaskCLIP
has it, arXiv 2112.01071), SigLIP's attention pooling with nothing else to attend to. These models are trained on whole
pictures and texts, so their tokens agree less than those of models for late interaction.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def image_tokens(model: Any, made: Any, output: Any) -> list[np.ndarray]:
    """The patches of each picture as unit vectors float32 `(m, d)`; `made`: what went into the vision half, `output`:
    what came out."""
    vision, hidden = model.vision_model, output.last_hidden_state
    if model.config.model_type == "clip":
        found = model.visual_projection(vision.post_layernorm(hidden[:, 1:]))
        return _unit(found, None)
    mask = made.get("pixel_attention_mask")
    head = vision.head
    places = hidden.flatten(0, 1)[:, None]
    found = head(places).reshape(hidden.shape)
    return _unit(found, None if mask is None else mask.bool())


def text_tokens(model: Any, made: Any, output: Any) -> list[np.ndarray]:
    """The tokens of each text as unit vectors float32 `(m, d)`, without padding and marks of beginning and end."""
    hidden = output.last_hidden_state
    if model.config.model_type == "clip":
        mask = made["attention_mask"].bool().clone()
        mask[:, 0] = False
        last = made["attention_mask"].sum(1) - 1
        mask[range(len(mask)), last] = False
        return _unit(model.text_projection(hidden), mask)
    pad = model.config.text_config.pad_token_id
    mask = made["input_ids"] != (1 if pad is None else pad)
    return _unit(model.text_model.head(hidden), mask)


def _unit(tokens: Any, mask: Any) -> list[np.ndarray]:
    """`(n, m, d)` -> n of `(up to m, d)`; where nothing is left, all of it."""
    scaled = (tokens.float() / tokens.float().norm(dim=-1, keepdim=True).clamp(min=1e-12)).cpu()
    rows = [each if mask is None or not mask[i].any() else each[mask[i].cpu()] for i, each in enumerate(scaled)]
    return [row.numpy() for row in rows]
