"""RA-CM3, in-context retrieval (arXiv 2211.12561): its configuration and its training objective.

One decoder reads retrieved documents of caption and picture, then the document that is generated: K of 0, 1 or 2 come
before it, with weight 0.1 in the loss, so that what they cost to read also teaches. By causal masking the same network
generates pictures from text, captions from pictures, and what is missing of a picture.

Differs from the paper, and why:
- The documents are the training set under a leak guard, as our collections are small.
- What documents mean has to be learned from 18,000 drawings instead of 150 million pairs: in a share of the samples the
  first document shows the thing itself, all pictures of a sample are under one view, and then, or at times without,
  things go by invented names. A name that was never met must mean what its documents show.
- Documents have random numbers, rising, so that more than two can precede a picture.
- Words count more than codes in the loss: a caption is five tokens, a picture 256.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from bowerbird import encoders
from bowerbird.core import cache, seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT, Encoder
from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.words import invented_name
from bowerbird.models.clip_text import build_tokenizer, learn_pairs
from bowerbird.models.document_transformer import DocumentTransformer
from bowerbird.models.symbol_losses import symbol_losses
from bowerbird.models.vq import codebook_of, sample_codebook, to_cache_tokens
from bowerbird.systems import common
from bowerbird.systems.components import load_autoencoder, weights_hash
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.racm3 import layout as lay
from bowerbird.systems.racm3.documents import DocumentCache, build_documents
from bowerbird.systems.racm3.layout import Layout, Passage
from bowerbird.systems.settings import Amount, Count, Share, column, network
from bowerbird.systems.tokenizer import BASE, open_tokenizer, tokenizer_fingerprint

INVENTED = 4096
"""Invented names a training knows."""


class DecoderSizes(BaseModel):
    """Sizes of the decoder; the defaults have 11M parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    channels: Count = 320
    layers: Count = 8
    head_channels: Count = 64


class RACM3Config(ObjectiveConfig):
    """Everything that shapes RA-CM3 and its training data; stored in `recipe.json`.

    `tokenizer` None: the bundled autoencoder with a codebook of `symbols` fitted to the pictures. `vocabulary`: most
    tokens of captions. `k`: most documents in training. `retrieved_weight`, `text_weight`: in the loss, of retrieved
    documents and of the words that are generated. `to_text`, `infilled`: the shares of samples that are captioned and
    that have a hole; the others are text to image. `by_text`, `by_style`: the shares of samples whose documents are
    found by their caption and by their picture within their style; the others' by their picture. `itself`: the share
    whose first document is the picture itself, `same_view` of those as it is. `varied_views`: so many further views, in
    each of which all pictures are under one change, of the ground mostly and in half of them of colors. `invented`: the
    share of the samples that are under a view, or show the thing itself, in which things go by invented names.
    `styled`: the share of captions that name the style.
    """

    kind: Literal["racm3"] = "racm3"
    tokenizer: str | None = network("vq-drawings")
    symbols: Count = 512
    encoder: str = network("small")
    decoder: DecoderSizes = DecoderSizes()
    vocabulary: Annotated[int, Field(ge=514, le=65_536)] = 1024
    text_length: Annotated[int, Field(ge=4, le=256)] = 32
    documents: Annotated[int, Field(ge=1, le=64)] = 8
    k: Annotated[int, Field(ge=0, le=64)] = 2
    k_stored: Count = 12
    pool: Count = 6
    max_similarity: float | None = 0.9
    query_dropout: Share = 0.2
    text_queries: Count = 2
    retrieved_weight: Amount = 0.1
    text_weight: Amount = 4.0
    to_text: Share = 0.2
    infilled: Share = 0.2
    by_text: Share = 0.5
    by_style: Share = 0.3
    itself: Share = 0.25
    same_view: Share = 0.5
    views: Count = 6
    varied_views: Annotated[int, Field(ge=0)] = 0
    view_probability: Share = 0.5
    invented: Share = 0.7
    styled: Share = 0.25
    style_key: str | None = column("style")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.k > self.documents:
            raise ValueError(f"k is {self.k} and the decoder knows {self.documents} documents")
        for one, other in (("to_text", "infilled"), ("by_text", "by_style")):
            if getattr(self, one) + getattr(self, other) > 1:
                raise ValueError(f"{one} and {other} are shares of all samples, together at most 1")
        return self


class RACM3Batch(TypedDict):
    """n sequences of length L: `tokens`, `places`, `following` and `documents` for the decoder, the symbols `target`
    that come after and their `weights` in the loss, each `(n, L)`."""

    tokens: Tensor
    places: Tensor
    following: Tensor
    documents: Tensor
    target: Tensor
    weights: Tensor


class RACM3Objective(Objective[RACM3Batch]):
    """The decoder with its loss over a `DocumentCache` of `pictures`."""

    def __init__(
        self,
        config: RACM3Config,
        pictures: Pictures,
        documents: DocumentCache,
        words: Any,
        tokenizer: Any,
        encoder: Encoder,
        seed: int,
    ) -> None:
        """`words`: the tokenizer of captions; `tokenizer`: that of pictures."""
        super().__init__()
        self.config, self.pictures, self.cache, self.seed = config, pictures, documents, seed
        self.frozen = (tokenizer, encoder, words)  # a tuple hides them: they are not trained and not checkpointed
        side = round(documents.codes.shape[2] ** 0.5)
        self.layout = Layout(len(words), int(tokenizer.config.num_vq_embeddings), config.text_length, side)
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.decoder = DocumentTransformer(
                text_tokens=self.layout.text_tokens,
                image_tokens=self.layout.image_tokens,
                text_length=config.text_length,
                side=side,
                documents=config.documents,
                **config.decoder.model_dump(),
            )
        self.codes, self.tables = documents.codes.numpy(), documents.tables.numpy()
        captions = list(pictures.captions)
        styles = pictures.column(config.style_key) if config.style_key else [""] * len(captions)
        named = [f"{text}, {style} style" if style else text for text, style in zip(captions, styles, strict=True)]
        self.plain, self.named = text_tokens(words, captions), text_tokens(words, named)
        self.names = np.unique(captions, return_inverse=True)[1]
        rng = seeds.numpy_generator(seed, "invented")
        self.invented = text_tokens(words, [invented_name(rng) for _ in range(INVENTED)])

    def batch(self, step: int, size: int, rank: int = 0) -> RACM3Batch:
        """Sequences with one number of documents for the batch, 0 to `config.k`, fewer where there are not so many."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        # one number for all processes, as each step waits for the longest sequences
        k = int(seeds.numpy_generator(self.seed, "documents", step).integers(self.config.k + 1))
        rows = rng.integers(len(self.plain), size=size)
        stacked: Any = lay.stack(self.layout, [self._sequence(int(row), k, rng) for row in rows])
        return stacked

    def _sequence(self, row: int, k: int, rng: np.random.Generator) -> Passage:
        config, luck = self.config, rng.random(8)
        view = int(rng.integers(len(self.codes))) if luck[0] < config.view_probability else 0
        itself = k > 0 and luck[1] < config.itself
        shown = self._documents(row, k - itself, luck[2], luck[3], rng)
        views = [view] * len(shown)
        if itself:
            other = view if luck[4] < config.same_view else int(rng.integers(len(self.codes)))
            shown, views = [row, *shown], [other, *views]
        numbers = np.sort(rng.permutation(config.documents)[: len(shown)]) + 1
        texts = self._texts([*shown, row], luck[5] < config.invented and (view > 0 or itself), rng)
        passages = [
            lay.retrieved(self.layout, self.codes[v, r], text, int(number), weight=config.retrieved_weight)
            for r, v, text, number in zip(shown, views, texts, numbers, strict=False)
        ]
        return lay.join([*passages, self._target(self.codes[view, row], texts[-1], luck[6], rng)])

    def _documents(self, row: int, k: int, how: float, order: float, rng: np.random.Generator) -> list[int]:
        """Up to k rows: the best in order in half the samples, else any of the best `pool`."""
        config = self.config
        if how < config.by_text:
            table = 2 + int(rng.integers(config.text_queries))
        else:
            table = int(how < config.by_text + config.by_style)
        best = self.tables[table, row]
        best = best[best != ABSENT][: max(k, config.pool)]
        return [int(r) for r in (best if order < 0.5 else rng.permutation(best))[:k]]

    def _texts(self, rows: list[int], invented: bool, rng: np.random.Generator) -> list[np.ndarray]:
        """The captions of rows, at times with their style, or with an invented name for each thing."""
        if invented:
            names = {self.names[r]: self.invented[rng.integers(INVENTED)] for r in rows}
            return [names[self.names[r]] for r in rows]
        styled = rng.random(len(rows)) < self.config.styled
        return [(self.named if with_style else self.plain)[r] for r, with_style in zip(rows, styled, strict=True)]

    def _target(self, codes: np.ndarray, text: np.ndarray, how: float, rng: np.random.Generator) -> Passage:
        config, side = self.config, self.layout.side
        if how < config.to_text:
            return lay.text_from_picture(self.layout, codes, text, text_weight=config.text_weight)
        if how < config.to_text + config.infilled:
            top, left, height, width = (
                int(x) for x in (*rng.integers(side - 3, size=2), *rng.integers(3, 3 * side // 4 + 1, size=2))
            )
            hole = np.zeros((side, side), bool)
            hole[top : top + height, left : left + width] = True
            return lay.hole_from_rest(self.layout, codes, text, hole.ravel())
        return lay.picture_from_text(self.layout, codes, text, text_weight=config.text_weight)

    def forward(self, batch: RACM3Batch) -> Tensor:
        """Mean negative log-likelihood of a symbol of the target, with the weighted one of what else is learned."""
        learned = batch["weights"] > 0
        features = self.decoder(batch["tokens"], batch["places"], batch["following"], batch["documents"])[learned]
        losses = symbol_losses(self.decoder.logits, features, batch["target"][learned])
        counted = (batch["documents"][learned] == 0).sum()
        return (losses * batch["weights"][learned]).sum() / counted.clamp(min=1)

    def pipeline(self) -> Any:
        """The current weights as a `RACM3Pipeline`."""
        from bowerbird.systems.racm3.pipeline import RACM3Pipeline, vocabulary_hash

        tokenizer, encoder, words = self.frozen
        return RACM3Pipeline(
            decoder=self.decoder,
            vae=tokenizer,
            tokenizer=words,
            k=max(1, self.config.k),
            encoder_name=encoder.name,
            encoder_fingerprint=encoder.fingerprint,
            max_similarity=self.config.max_similarity,
            codebook=sample_codebook(codebook_of(tokenizer)),
            vocabulary=vocabulary_hash(words),
        )

    def export(self, out: Path) -> None:
        """Write the pipeline in diffusers layout, the decoder in half precision."""
        common.save_half(self.pipeline(), self.decoder, out)


def text_tokens(words: Any, texts: list[str]) -> list[np.ndarray]:
    """The tokens of n captions without start and end, int64; each at its own length."""
    cut = words(texts, add_special_tokens=False).input_ids
    return [np.asarray(each, np.int64) for each in cut]


def build(config: RACM3Config, pictures: Pictures, run: RunContext) -> RACM3Objective:
    """The objective over `pictures`, with the frozen networks that `config` names and a vocabulary learned from the
    captions.

    Raises: BowerbirdError where no picture that is trained on has a caption.
    """
    trained = pictures if run.database is None else run.database
    if not any(caption.strip() for caption in trained.captions):
        raise BowerbirdError(
            f"none of the {len(trained)} pictures has a caption, and RA-CM3 learns from pictures with captions; name"
            " the column that holds them with `caption_column`, or put a text beside each picture (a.png, a.txt)"
        )
    encoder = encoders.load(config.encoder, device=run.device)
    edge = int(load_autoencoder(BASE).config.sample_size) if config.tokenizer is None else None
    tokenizer = open_tokenizer(config.tokenizer, config.symbols, pictures, run, edge).to(run.device)
    size = int(tokenizer.config.sample_size)
    shaping = config.model_dump_json(
        include={"k_stored", "max_similarity", "query_dropout", "text_queries", "views", "style_key"}
        | ({"varied_views"} if config.varied_views else set())
    )
    key = cache.key(pictures.fingerprint(), encoder.fingerprint, weights_hash(tokenizer), shaping, run.seed)
    name = "cache" if run.database is None else "validation"
    path = run.out / f"{name}.safetensors" if run.caches is None else run.caches / f"{key[:16]}.safetensors"

    def make() -> dict[str, Tensor]:
        def encode(x: Tensor) -> Tensor:
            return to_cache_tokens(tokenizer, x, device=run.device)

        return build_documents(config, pictures, encode, encoder, size, run.seed, run.device).to_tensors()

    documents = DocumentCache.from_tensors(cache.memoize(path, key, make))
    words = build_tokenizer(learn_pairs(trained.captions, config.vocabulary), config.text_length + 2)
    return RACM3Objective(config, pictures, documents, words, tokenizer, encoder, run.seed)


def frozen(config: RACM3Config) -> dict[str, str]:
    """Fingerprints of the encoder and the tokenizer."""
    return {"encoder": encoders.load(config.encoder).fingerprint, "tokenizer": tokenizer_fingerprint(config.tokenizer)}
