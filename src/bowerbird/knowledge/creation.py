"""What `KnowledgeBase.build` does: a new store, the facts it is made with, its first items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import images
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import OnMessage, Progress
from bowerbird.core.types import Encoder, TextEncoder
from bowerbird.knowledge import captions, changes
from bowerbird.knowledge.encoder import token_dim
from bowerbird.knowledge.ingest.add import fill
from bowerbird.knowledge.ingest.credit import check_sources
from bowerbird.knowledge.ingest.prepare import AddReport, Choice, Filter, name_of
from bowerbird.knowledge.rerank.tokens import check_tokens
from bowerbird.knowledge.search.analyzer import Analyzer
from bowerbird.knowledge.storage.open import NewStore, create_store
from bowerbird.knowledge.storage.protocol import HoldsCaptionVectors, HoldsTokens

if TYPE_CHECKING:
    from bowerbird.knowledge.storage.protocol import Store


@dataclass(frozen=True, kw_only=True)
class Design:
    """What holds for every item of a knowledge base, from its first on. See `KnowledgeBase.build`."""

    encoder: Encoder
    caption_encoder: TextEncoder | None
    normalize: bool
    bm25_weights: Sequence[int]
    analyzer: Analyzer
    tokens: int
    credit: Sequence[str]

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest records of the encoder."""
        return {
            "name": self.encoder.name,
            "fingerprint": self.encoder.fingerprint,
            "dim": self.encoder.dim,
            "normalize": self.normalize,
        }


def check_weights(weights: Sequence[int]) -> None:
    """Raises: BowerbirdError for weights of BM25 that are no two counts."""
    counts = len(weights) == 2 and all(isinstance(w, int) and 0 <= w <= 100 for w in weights)
    if not counts or not any(weights):
        raise BowerbirdError(
            f"`bm25_weights` {weights}: two whole numbers from 0 to 100, for captions and for tags, as in 3,1"
        )


def build(
    path: str | Path,
    sources: Sequence[str | Path],
    design: Design,
    choice: Choice,
    *,
    dedup: float | None,
    filter_fn: Filter | None,
    workers: int,
    progress: Progress | None,
    memory: int,
    on_message: OnMessage,
) -> AddReport:
    """Make it at `path` from `sources`, whole or not at all; the same call goes on with what an interrupted one left.
    Raises: as `KnowledgeBase.build`."""
    dim = token_dim(design.encoder) if design.tokens and check_tokens(design.tokens) else 0
    tag = {
        "sources": [str(Path(s).absolute()) for s in sources],
        "encoder": design.facts,
        "caption": choice.caption_column,
        "where": choice.where,
        "patches": choice.patches,
        "dedup": dedup,
        "filter": name_of(filter_fn),
        "words": list(design.bm25_weights),
        **({"tokens": design.tokens} if design.tokens else {}),
        **({"pictures": [str(Path(p).absolute()) for p in choice.pictures]} if choice.pictures else {}),
        **design.analyzer.recorded(),
        **captions.recorded(design.caption_encoder),
    }
    new = NewStore(design.facts, design.bm25_weights, tag, design.analyzer)
    with create_store(path, new, memory, on_message) as store:
        _keep_encoders(store, design, dim)
        if design.credit:
            check_sources(
                sources,
                Choice(choice.caption_column, choice.where, 0, choice.fetch_urls, choice.private_urls),
                design.credit,
            )
        changes.check_dedup(store, dedup)
        images.check_max_pixels(choice.max_pixels)
        report = fill(
            store,
            design.encoder,
            sources,
            choice,
            dedup=dedup,
            filter_fn=filter_fn,
            processes=workers,
            progress=progress,
        )
        _check_filled(store, sources, report)
        if choice.caption_column is not None:
            store.keep({"caption_column": choice.caption_column})
        if design.credit:
            changes.set_credit(store, design.credit)
    return report


def _keep_encoders(store: Store, design: Design, dim: int) -> None:
    """Record what captions and tokens are embedded by. Raises: BowerbirdError for a store that keeps none."""
    captions.keep(store, design.caption_encoder)
    if isinstance(store, HoldsCaptionVectors) and design.caption_encoder is not None:
        store.embed_captions = design.caption_encoder.embed_captions
    if design.tokens:
        if not isinstance(store, HoldsTokens):
            raise BowerbirdError(
                f"{store.path}: keeps no tokens, which a directory does; leave out `tokens`, or build in one"
            )
        store.keep({"tokens": {"count": design.tokens, "dim": dim}})


def _check_filled(store: Store, sources: Sequence[str | Path], report: AddReport) -> None:
    """Raises: BowerbirdError, with the first reason, when nothing went in."""
    if len(store):
        return
    refused = report.unreadable + report.filtered
    reason = f"the first reason: {refused[0]}" if refused else "no row was left"
    places = ", ".join(map(str, sources))
    raise BowerbirdError(f"{places}: no picture could be read, so nothing was made ({reason})")
