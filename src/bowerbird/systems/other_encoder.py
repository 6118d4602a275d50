"""A knowledge base that was made with another encoder than a model was trained with: it is searched by its own, and the
pictures that are found are embedded again by the model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import ABSENT, Encoder, Neighbors
from bowerbird.models.weights import bundled

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

AT_ONCE = 64
"""Pictures that are decoded and embedded at once."""


def read_with(kb: KnowledgeBase, config: Any) -> KnowledgeBase:
    """`kb` itself, or as the model of this `config` reads it: with the embeddings of the encoder that the model was
    trained with, made of the pictures that a search finds. Raises: MismatchError when that encoder is not on this
    machine."""
    wanted, there = config.encoder_fingerprint, kb.encoder_fingerprint
    if not wanted or there == wanted:
        return kb
    name = str(config.encoder_name)
    try:
        encoder = _recorded(name, wanted, kb.device)
        if encoder.fingerprint != wanted:
            raise BowerbirdError(f"encoder {name!r} is another one here: {encoder.fingerprint}")
    except BowerbirdError as error:
        # one of a folder goes by the folder's name alone, which opens nothing elsewhere
        again = name if "/" in name or bundled(name) is not None else "DIR, the folder of that encoder"
        raise MismatchError(
            f"{kb.path}: its embeddings are of encoder {kb.encoder_name!r} ({there}), the model was trained with"
            f" {name!r} ({wanted}), which is not here; build it again: bowerbird kb build NEW SOURCE --encoder {again}"
        ) from error
    return cast("KnowledgeBase", _Reader(kb, encoder))


@lru_cache(maxsize=4)
def _recorded(name: str, fingerprint: str, device: str) -> Encoder:
    from bowerbird import encoders

    return encoders.load_recorded(name, fingerprint, device=device)


class _Reader:
    """`kb` for a model that reads the embeddings of `encoder`; what is not said here is the knowledge base's own."""

    def __init__(self, kb: KnowledgeBase, encoder: Encoder) -> None:
        self._kb, self.encoder = kb, encoder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what copies and pickles look for before there is a base
            raise AttributeError(name)
        return getattr(self._kb, name)

    def at_version(self, version: int) -> KnowledgeBase:
        """As `KnowledgeBase.at_version`."""
        return cast("KnowledgeBase", _Reader(self._kb.at_version(version), self.encoder))

    def __len__(self) -> int:
        return len(self._kb)

    @property
    def encoder_fingerprint(self) -> str:
        """That of the embeddings that are read."""
        return self.encoder.fingerprint

    def search(self, *args: Any, **how: Any) -> Neighbors:
        """As `KnowledgeBase.search`. Raises: MismatchError for `embeddings`, which the knowledge base has none like."""
        if how.get("embeddings") is not None:
            raise MismatchError(f"{self._kb.path}: it has no embeddings of {self.encoder.name!r}; search by `images`")
        return self._read(self._kb.search(*args, **how))

    def get(self, ids: Sequence[int], scores: Sequence[float] | None = None) -> Neighbors:
        """As `KnowledgeBase.get`."""
        return self._read(self._kb.get(ids, scores))

    def _read(self, hits: Neighbors) -> Neighbors:
        """`hits` with the embeddings of their pictures. Raises: BowerbirdError for an item without a picture."""
        chosen, index = np.unique(hits.ids, return_inverse=True)
        made = np.zeros((len(chosen), self.encoder.dim), np.float32)
        there = np.flatnonzero(chosen > ABSENT)
        for part in np.split(there, range(AT_ONCE, len(there), AT_ONCE)):
            pictures = [picture for picture in self._kb.pictures(chosen[part][None])[0] if picture is not None]
            if len(pictures) < len(part):
                raise BowerbirdError(
                    f"{self._kb.path}: some of its items have no picture to embed with {self.encoder.name!r}, which"
                    " the model reads; build it from pictures"
                )
            if pictures:
                made[part] = self.encoder.embed_images(pictures)
        return replace(hits, embeddings=made[index.reshape(hits.ids.shape)])
