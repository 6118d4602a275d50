"""From neighbors to what an injector reads of them: embeddings that a knowledge base stores, or what the adapter's
encoder makes of the pictures."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import Neighbors
from bowerbird.systems.grounded import picture_encoder
from bowerbird.systems.grounded.injectors.protocol import Injector
from bowerbird.systems.grounded.picture_encoder import PictureEncoder
from bowerbird.systems.grounded.references import Reference, references_of

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase

REMEMBERED = 64
"""Embeddings of pictures that are kept, so that many pictures of one prompt encode its references once."""
PAD = "pad"


class ReferenceReader:
    """Reads neighbors for an `injector`. `encoder`: the adapter's, None where it is not at hand. `fit`: how pictures
    become squares, None for `pad`, or as stored. `where`: the device and number format to encode in."""

    def __init__(
        self,
        injector: Injector,
        encoder: PictureEncoder | None,
        fit: str | None,
        where: Callable[[], tuple[torch.device, torch.dtype]],
    ) -> None:
        self.injector, self.encoder, self.fit, self.where = injector, encoder, fit, where
        self._embedded: OrderedDict[tuple[Any, ...], np.ndarray] = OrderedDict()
        self._stored: dict[str, bool] = {}
        self._id: str | None = None

    @property
    def encoder_id(self) -> str:
        """What `Neighbors.encoder` says of embeddings that the injector reads."""
        if self._id is None:
            need = self.injector.encoder
            named = "" if need is None else f"{need.output}-{need.dim}"
            self._id = named if self.encoder is None else self.encoder.fingerprint
        return self._id

    def reads_stored(self, kb: KnowledgeBase) -> bool:
        """Whether the embeddings that `kb` stores are what the adapter reads, so that no picture is decoded."""
        need = self.injector.encoder
        if need is None or self.injector.capabilities.takes != "embeds" or self.fit not in (None, "crop"):
            return False
        if kb.encoder_fingerprint not in self._stored:
            self._stored[kb.encoder_fingerprint] = picture_encoder.holds_same_embeddings(kb, need, self.encoder)
        return self._stored[kb.encoder_fingerprint]

    def check(self, kb: KnowledgeBase) -> None:
        """Raises: MismatchError where neither the embeddings of `kb` serve nor its pictures can be encoded."""
        if self.injector.encoder is not None and not self.reads_stored(kb):
            self._encoder_for(f"{kb.path}: its embeddings are of encoder {kb.encoder_name!r} ({kb.dim} dimensions)")

    def read(self, hits: Neighbors, kb: KnowledgeBase | None = None) -> Neighbors:
        """`hits` with the embedding that the adapter reads of each: as `kb` stores it, or of its picture; as they are
        where the injector reads more than that. Raises: MismatchError where there is neither."""
        if self.injector.capabilities.takes != "embeds":
            return hits
        if kb is not None and self.reads_stored(kb):
            picture_encoder.check_raw(hits.embeddings[hits.mask], str(kb.path))
            return replace(hits, encoder=self.encoder_id)
        where = f"these neighbors' embeddings are of another encoder ({hits.embeddings.shape[-1]} dimensions)"
        if kb is not None:
            self.check(kb)
        encoder = self._encoder_for(where)
        pictures = hits.images()
        made = np.zeros((*hits.ids.shape, encoder.need.dim), np.float32)
        for row, column in zip(*np.nonzero(hits.mask), strict=True):
            picture = pictures[row][column]
            if picture is None:
                raise BowerbirdError(
                    f"neighbor {int(hits.ids[row, column])} has no picture to encode; build the knowledge base from"
                    " pictures, or with the adapter's encoder"
                )
            made[row, column] = self._embed(picture)
        return replace(hits, embeddings=made, encoder=self.encoder_id)

    def references(self, hits: Neighbors) -> list[list[Reference]]:
        """The references of each row, with what the injector reads of each."""
        takes, need = self.injector.capabilities.takes, self.injector.encoder
        if takes == "embeds":
            assert need is not None
            # what says nothing of its encoder comes from a record, or from somebody who knows
            fits = hits.encoder in ("", self.encoder_id) and hits.embeddings.shape[-1] == need.dim
            if hits.k and hits.mask.any() and not fits:
                hits = self.read(hits)
            picture_encoder.check_raw(hits.embeddings[hits.mask], "these neighbors")
            return [references_of(hits, row, None) for row in range(len(hits))]
        pictures: list[list[Image.Image | None]] = hits.images() if hits.k else [[] for _ in range(len(hits))]
        rows = [references_of(hits, row, pictures[row]) for row in range(len(hits))]
        return [[self._filled(each) for each in row] for row in rows]

    def picture(self, picture: Image.Image) -> Image.Image:
        """A picture as encoder or base see it; one that is so already comes back the same."""
        if self.injector.encoder is not None and self.encoder is not None:
            return self.encoder.prepare(picture, self.fit or PAD)
        return self.injector.prepare_picture(picture, self.fit or PAD)

    def blank(self) -> torch.Tensor | None:
        """What the adapter reads in the passes without references, None for zeros."""
        if self.encoder is None or not self.injector.reads_blank:
            return None
        key = ("blank", *self.where())
        if key not in self._embedded:
            self._embedded[key] = self.encoder.blank(*self.where())
        return torch.from_numpy(self._embedded[key])

    def _filled(self, reference: Reference) -> Reference:
        assert reference.picture is not None
        if self.injector.capabilities.takes == "pictures":
            return replace(reference, picture=self.picture(reference.picture))
        return replace(reference, embedding=self._embed(reference.picture), picture=None)

    def _embed(self, picture: Image.Image) -> np.ndarray:
        plain = self._encoder_for("the references are pictures").prepare(picture, self.fit or PAD)
        key = (plain.tobytes(), *self.where())
        if key not in self._embedded:
            encoder = self._encoder_for("the references are pictures")
            self._embedded[key] = encoder.embed([plain], self.fit or PAD, *self.where())[0]
            while len(self._embedded) > REMEMBERED:
                self._embedded.popitem(last=False)
        self._embedded.move_to_end(key)
        return self._embedded[key]

    def _encoder_for(self, where: str) -> PictureEncoder:
        if self.encoder is not None:
            return self.encoder
        need = self.injector.encoder
        raise MismatchError(
            f"{where}, and the adapter reads {'another' if need is None else need.title}; give its folder"
            " (`image_encoder=DIR`), or build the knowledge base with it: bowerbird kb build NEW SOURCE --encoder DIR"
        )
