"""How good a pair of pictures is for its two prompts, by an encoder of texts and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Encoder
from bowerbird.systems.instruct.prompt_pairs.prompts import PromptPair


@dataclass(frozen=True)
class PairScores:
    """Cosines: each picture with its prompt, the change of the pictures with that of the prompts (the directional
    similarity of StyleGAN-NADA), and the two pictures."""

    original: float
    edited: float
    direction: float
    image: float


@dataclass(frozen=True)
class Thresholds:
    """What a pair reaches at least; the paper's values, which are of CLIP ViT-L/14."""

    text: float = 0.2
    direction: float = 0.2
    image: float = 0.7

    def failed(self, scores: PairScores) -> str | None:
        """The first that a pair does not reach, None where it reaches all."""
        if min(scores.original, scores.edited) < self.text:
            return "text"
        if scores.direction < self.direction:
            return "direction"
        return "image" if scores.image < self.image else None


class PairJudge:
    """Scores the pairs of one edit; its prompts are embedded once."""

    def __init__(self, encoder: Encoder, prompts: PromptPair) -> None:
        self.encoder = encoder
        self.texts = _unit(encoder.embed_text([prompts.original, prompts.edited])[:, : encoder.shared_dim])

    def score(self, pictures: tuple[Image.Image, Image.Image]) -> PairScores:
        """The scores of a pair."""
        shown = _unit(self.encoder.embed_images([*pictures])[:, : self.encoder.shared_dim])
        by_text = (shown * self.texts).sum(1)
        change, wanted = _unit(shown[1:] - shown[:1])[0], _unit(self.texts[1:] - self.texts[:1])[0]
        return PairScores(float(by_text[0]), float(by_text[1]), float(change @ wanted), float(shown[0] @ shown[1]))


def check_encoder(encoder: Encoder) -> None:
    """Raises: BowerbirdError for an encoder that reads no text."""
    if encoder.shared_dim < 1:
        raise BowerbirdError(
            f"`encoder` {encoder.name!r} reads no text, so it cannot say whether a picture shows its prompt; give"
            " small, or a CLIP such as openai/clip-vit-large-patch14"
        )


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays so, and its cosines are 0."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
