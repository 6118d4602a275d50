"""What encoders of pictures alone say to a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bowerbird.core.errors import BowerbirdError


def refuse_text(texts: Sequence[str], name: str, dim: int) -> np.ndarray:
    """`(0, dim)` for no texts. Raises: BowerbirdError for any, with the ways there are to search by words."""
    if texts:
        raise BowerbirdError(
            f"encoder {name!r} embeds pictures alone, no text; search by picture or by the words of captions"
            " (`mode=bm25`), or build the knowledge base with `caption_encoder=minilm`, or with an encoder of both:"
            " CLIP, SigLIP2, Qwen3-VL-Embedding"
        )
    return np.zeros((0, dim), np.float32)
