"""A critic without a language model: the knowledge base's encoder looks for what a phrase's own pictures look like.

Similarities of a text and a picture mean nothing by themselves (see `systems/relevance.py`), so each phrase is measured
between two of its own: that of items which have nothing to do with it, and that of the items found for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import seeds
from bowerbird.core.images import on_background
from bowerbird.systems.choice import ChoiceSettings, choose_references
from bowerbird.systems.phrases.phrase import Phrase
from bowerbird.systems.relevance import unit

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase

ANCHORS = 4
"""Items that say what a phrase looks like."""
SAMPLE = 500
"""Items that stand for any other."""
USUAL = 0.9
"""The share of other items that are less like a phrase than what counts as not there: a picture has several parts, and
the best of them is always a little like anything."""


@dataclass(frozen=True, eq=False)
class _Scale:
    """What is looked for, unit `(d,)`, and the cosines at which it counts as missing and as there."""

    vector: np.ndarray
    missing: float
    there: float


class EncoderCritic:
    """Looks at the whole picture and at its parts; the part most like a phrase counts."""

    def __init__(self, kb: KnowledgeBase, settings: ChoiceSettings | None = None) -> None:
        """`settings`: which items may say what a phrase looks like."""
        self.kb = kb
        self.name = f"encoder {kb.encoder_name} {kb.encoder_fingerprint}"
        self.settings = replace(settings or ChoiceSettings(), max_references=ANCHORS, per_phrase=ANCHORS)
        self._scales: dict[str, _Scale] = {}
        self._others: np.ndarray | None = None

    def missing(self, prompt: str, phrases: Sequence[Phrase], picture: Image.Image) -> np.ndarray:
        """1 where no part of the picture is more like the phrase than other items are, 0 where one is as like it as its
        own items are, and in proportion between."""
        encoder = self.kb.encoder
        parts = unit(encoder.embed_images(list(parts_of(on_background(picture)))), encoder.shared_dim)
        scores = []
        for phrase in phrases:
            scale = self._scale(phrase)
            best = float((parts @ scale.vector).max())
            scores.append(1 - (best - scale.missing) / max(scale.there - scale.missing, 1e-6))
        return np.clip(np.asarray(scores, np.float32), 0, 1)

    def _scale(self, phrase: Phrase) -> _Scale:
        if phrase.query not in self._scales:
            self._scales[phrase.query] = self._make_scale(phrase)
        return self._scales[phrase.query]

    def _make_scale(self, phrase: Phrase) -> _Scale:
        dim = self.kb.encoder.shared_dim
        vector = unit(self.kb.encoder.embed_text([phrase.query]), dim)[0]
        own = [chosen.item for chosen in choose_references(self.kb, [phrase], settings=self.settings).references]
        others = self._sample() @ vector
        if not own:
            return _Scale(vector, float(np.quantile(others, USUAL)), float(others.max(initial=0)))
        items = unit(self.kb.get(own).embeddings[0], dim)
        # the text led by its own items: a small encoder knows few names, but what carries one shows what to look for
        vector = unit(vector + unit(items.mean(0), dim), dim)
        return _Scale(vector, float(np.quantile(self._sample() @ vector, USUAL)), float((items @ vector).mean()))

    def _sample(self) -> np.ndarray:
        if self._others is None:
            chosen = seeds.numpy_generator(0, "critic").permutation(self.kb.ids())[:SAMPLE].tolist()
            self._others = unit(self.kb.get(chosen).embeddings[0], self.kb.encoder.shared_dim)
        return self._others


def parts_of(picture: Image.Image) -> Iterator[Image.Image]:
    """The whole picture, its halves and quarters, and its middle."""
    width, height = picture.size
    spans = ((0, 1), (0, 0.5), (0.5, 1))
    boxes = [(left, top, right, bottom) for left, right in spans for top, bottom in spans]
    for left, top, right, bottom in (*boxes, (0.25, 0.25, 0.75, 0.75)):
        box = (round(left * width), round(top * height), round(right * width), round(bottom * height))
        if box[2] > box[0] and box[3] > box[1]:
            yield picture.crop(box)
