"""The RA-CM3s that claims train from nothing, and the documents that held-out pictures retrieve; every claim about them
shares these trainings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import cache, tensors
from bowerbird.core.types import Encoder, Neighbors
from bowerbird.data.pictures import Pictures
from bowerbird.evaluation.claims.benchmark import neighbors_at
from bowerbird.evaluation.claims.experiment import Domain
from bowerbird.evaluation.metrics.intervals import over_seeds
from bowerbird.models.vq import to_tokens
from bowerbird.systems.latent_cache import fit_size
from bowerbird.systems.racm3 import layout as lay
from bowerbird.systems.racm3.documents import text_half
from bowerbird.systems.racm3.layout import Passage
from bowerbird.systems.racm3.likelihood import bits_per_code, bits_per_word
from bowerbird.systems.racm3.objective import DecoderSizes, RACM3Config
from bowerbird.systems.racm3.retrieval import DEEPER, unlike
from bowerbird.training.cached import train_once
from bowerbird.training.recipe import Recipe

SIZES = DecoderSizes(channels=128, layers=4)
SYMBOLS = 512
SEQUENCES = 16
"""In a step of training; a sequence is up to three pictures of 256 codes."""
AT_ONCE = 16
LIMIT = 0.9
"""Of similarity, for what is retrieved."""


def recipe(domain: Domain, seed: int, name: str, **changes: Any) -> Recipe:
    """RA-CM3 at the size of claims, trained as in the paper, with `changes` of its settings, called `name`: documents
    are what a caption or a picture retrieves, as those that are measured, and never the picture itself."""
    chosen = {
        "tokenizer": None,
        "symbols": SYMBOLS,
        "encoder": "small",
        "decoder": SIZES,
        "text_length": 48,
        "views": 1,
        "itself": 0.0,
        "by_style": 0.0,
        "invented": 0.0,
        "style_key": "style" if "style" in domain.pictures.columns else None,
        **changes,
    }
    train = domain.settings.training(seed).model_copy(update={"batch_size": SEQUENCES})
    return Recipe(name=f"claim-{domain.name}-racm3-{name}", system=RACM3Config(**chosen), train=train, size=domain.size)


def open_trained(domain: Domain, seed: int, name: str = "usual", **changes: Any) -> Any:
    """The trained pipeline."""
    from bowerbird.systems import loading

    chosen = recipe(domain, seed, name, **changes)
    model = train_once(chosen, domain.pictures, device=domain.device, progress=domain.progress)
    return loading.open_pipeline(str(model)).to(domain.device)


@dataclass
class _Codes:
    """The codes of the pictures that are measured, and of documents as they are met, by a tokenizer."""

    vae: Any
    edge: int
    pictures: Pictures
    documents: Pictures
    _met: dict[int, np.ndarray] = field(default_factory=dict)

    @cached_property
    def shown(self) -> np.ndarray:
        """`(n, N)`."""
        return np.concatenate([self._encode(part) for part in torch.split(self.pictures.pixels, AT_ONCE)])

    def of_document(self, row: int) -> np.ndarray:
        """`(N,)`; each is encoded once."""
        if row not in self._met:
            self._met[row] = self._encode(self.documents.pixels[[row]])[0]
        return self._met[row]

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> np.ndarray:
        found: np.ndarray = to_tokens(self.vae, fit_size(pixels, self.edge)).cpu().numpy()
        return found


@dataclass(frozen=True)
class Measured:
    """Held-out pictures of a domain, and what they retrieve of those that are trained on: by their caption or by
    themselves, without a document that is too like the picture or one before it."""

    domain: Domain
    _known: dict[str, _Codes] = field(default_factory=dict)

    @cached_property
    def shown(self) -> Pictures:
        """The pictures that are measured."""
        whole = self.domain.held_out
        return whole.select(list(range(min(len(whole), self.domain.settings.pictures))))

    @cached_property
    def _halves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the documents the mixed vectors and the raw embeddings, of the pictures the raw embeddings."""
        own, pool = (_embedded(self.domain.encoder, each) for each in (self.shown, self.domain.pictures))
        text = text_half(self.domain.encoder, self.domain.pictures.captions)
        return F.normalize(F.normalize(pool[:, : text.shape[1]], dim=1) + text, dim=1), pool, own

    def documents(self, k: int, *, by_picture: bool = False) -> Neighbors:
        """The k documents of each picture."""
        mixed, pool, own = self._halves
        queries = F.normalize(own[:, : mixed.shape[1]], dim=1)
        if not by_picture:
            queries = text_half(self.domain.encoder, self.shown.captions)
        like = F.normalize(own, dim=1) @ F.normalize(pool, dim=1).T > LIMIT  # skipped first: else few may be left
        best = (queries @ mixed.T).masked_fill(like, -torch.inf).topk(min(DEEPER * k, len(pool))).indices.numpy()
        found = replace(neighbors_at(self.domain.pictures, self.shown.captions, best), embeddings=pool.numpy()[best])
        return Neighbors.stack([unlike(found.rows([i]), k, LIMIT, own[[i]].numpy()) for i in range(len(found))])

    def code_bits(self, pipe: Any, hits: Neighbors | None, *, itself: bool = False) -> float:
        """Bits a code of the pictures given their captions and documents, their mean; None: without documents, or with
        the picture `itself` as the one document."""
        made = self._sequences(pipe, hits, partial(lay.picture_from_text, pipe.layout), itself=itself)
        return float(bits_per_code(pipe.decoder, pipe.layout, made).mean())

    def word_bits(self, pipe: Any, hits: Neighbors | None) -> float:
        """Bits a word of the captions given the pictures and documents, their mean; None: without documents."""
        made = self._sequences(pipe, hits, partial(lay.text_from_picture, pipe.layout))
        return float(bits_per_word(pipe.decoder, pipe.layout, made).mean())

    def _sequences(
        self,
        pipe: Any,
        hits: Neighbors | None,
        target: Callable[[np.ndarray, np.ndarray], Passage],
        *,
        itself: bool = False,
    ) -> list[Passage]:
        """The documents of each picture, and the picture with its caption in the order of `target`."""
        layout, known = pipe.layout, self._codes(pipe)
        documents = self.domain.pictures
        made = []
        for row, caption in enumerate(self.shown.captions):
            ids = [] if hits is None else hits.ids[row][hits.mask[row]].tolist()
            words = pipe.reader.words(caption)
            shown = [(known.of_document(i), pipe.reader.words(documents.captions[i])) for i in ids]
            shown += [(known.shown[row], words)] if itself else []
            numbers = lay.document_numbers(len(shown), pipe.reader.most)
            before = [lay.retrieved(layout, *each, number) for each, number in zip(shown, numbers, strict=True)]
            made.append(lay.join([*before, target(known.shown[row], words)]))
        return made

    def _codes(self, pipe: Any) -> _Codes:
        """Of the pipeline's tokenizer, which networks of one seed share."""
        key = cache.key(pipe.vae.quantize.embedding.weight.detach().float().cpu().numpy())
        if key not in self._known:
            self._known.clear()
            self._known[key] = _Codes(pipe.vae, max(pipe.capabilities.sizes), self.shown, self.domain.pictures)
        return self._known[key]


def _embedded(encoder: Encoder, pictures: Pictures) -> Tensor:
    return torch.from_numpy(encoder.embed_images(tensors.to_pil(pictures.pixels))).float()


def by_seed(values: Sequence[float]) -> dict[str, Any]:
    """One value a seed with their mean and interval, for `claims.json`."""
    return {"by seed": list(values), **asdict(over_seeds(list(values)))}
