"""From pictures and texts to the symbols of documents, each always in the same way, whatever else is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import images, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.models.vq import to_tokens
from bowerbird.systems.common import no_picture
from bowerbird.systems.racm3 import layout as lay
from bowerbird.systems.racm3.decoding import Prompt
from bowerbird.systems.racm3.layout import Layout, Passage

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Reader:
    """The tokenizers of pictures (`vae`) and of texts, the edge of a picture, and the most documents before one."""

    layout: Layout
    vae: Any
    tokenizer: Any
    edge: int
    most: int

    def prompts(self, hits: Neighbors, *, cut: bool = False) -> list[Prompt]:
        """What each row of `hits` is generated after: its documents and its text, `cut` to length or refused. Raises:
        BowerbirdError for a text, or a caption of a person's own, that is longer than a document, or a document
        without a picture."""
        texts = list(hits.queries) or [""] * len(hits)
        rows = zip(self.documents(hits), texts, strict=True)
        what = None if cut else "the prompt"
        return [Prompt(tuple(documents), self.words(text, what)) for documents, text in rows]

    def documents(self, hits: Neighbors) -> list[list[Passage]]:
        """The documents of each row, in the order of `hits`, without those of weight 0; each picture is encoded once.
        Raises: BowerbirdError for more documents than the decoder knows, or one without a picture."""
        if not hits.k:
            return [[] for _ in range(len(hits))]
        if hits.k > self.most:
            raise BowerbirdError(
                f"{hits.k} documents are more than this model's decoder tells apart, {self.most}; leave some out"
            )
        weights = hits.effective_weights
        known: dict[bytes, np.ndarray] = {}
        rows = []
        for row, pictures in enumerate(hits.images()):
            read: list[tuple[np.ndarray, np.ndarray]] = []
            for column, picture in enumerate(pictures):
                if not weights[row, column]:
                    continue
                if picture is None:
                    raise no_picture(int(hits.ids[row, column]))
                small = images.square(picture, self.edge)
                key = small.tobytes()
                if key not in known:
                    known[key] = self.codes(small)
                own = int(hits.ids[row, column]) < 0  # a person's; the captions of a knowledge base are cut to length
                words = self.words(hits.captions[row][column], f"caption {column + 1}" if own else None)
                read.append((known[key], words))
            numbers = lay.document_numbers(len(read), self.most)
            rows.append([lay.retrieved(self.layout, *each, number) for each, number in zip(read, numbers, strict=True)])
        return rows

    def codes(self, picture: Image.Image) -> np.ndarray:
        """The codes `(cells,)` of a picture of the model's own size, encoded alone, so that they never depend on
        company."""
        found: np.ndarray = to_tokens(self.vae, tensors.to_float(tensors.stack([picture])))[0].cpu().numpy()
        return found

    def words(self, text: str, what: str | None = None) -> np.ndarray:
        """The tokens of a text, at most as many as a document has. Raises: BowerbirdError when there are more, for a
        text that is called `what`."""
        found = np.asarray(self.tokenizer(text, add_special_tokens=False).input_ids, np.int64)
        if what is not None and len(found) > self.layout.text_length:
            raise BowerbirdError(
                f"{what} has {len(found)} tokens ({text[:40]!r}…), and a document of this model has"
                f" {self.layout.text_length}; shorten it"
            )
        return found
