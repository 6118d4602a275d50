"""What pipelines share that generate from neighbors' embeddings alone: RDM's five ways of asking, its condition, and
p_D's counts beside the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.files import load_tensors, save_tensors
from bowerbird.core.types import Neighbors, TokenLayout
from bowerbird.diffusion import conditioning
from bowerbird.diffusion.conditions import Conditioning
from bowerbird.systems import common, queries
from bowerbird.systems.base import System
from bowerbird.systems.queries import Request

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

COUNTS_FILE = "proposal.safetensors"


def layout_of(stored: dict[str, Any] | None) -> TokenLayout | None:
    """The layout whose fields a config has; None where an embedding is one token."""
    return None if stored is None else TokenLayout(**stored)


class EmbeddingSystem(System):
    """A pipeline whose config says `normalize_embeddings`, `embedding_length` (see `conditioning.neighbor_tokens`),
    `token_layout` (the fields of a `TokenLayout`, None: one token a neighbor) and `text_mode`.

    `layout` is its token layout, which a subclass makes by `layout_of`. `proposal_counts` maps an item's id to how
    often it was a neighbor in training: p_D, kept in `proposal.safetensors`.
    """

    layout: TokenLayout | None

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[int, int] = {}

    @property
    def condition_dim(self) -> int:
        """Dimensions of a token of the network's condition."""
        raise NotImplementedError

    @property
    def proposal_counts(self) -> dict[int, int]:
        """How often each item was a neighbor in training, by id."""
        return self._counts

    @proposal_counts.setter
    def proposal_counts(self, counts: dict[int, int]) -> None:
        self._counts = counts

    def retrieve(
        self,
        request: Request,
        kb: KnowledgeBase | None,
        count: int = 1,
        *,
        seed: int = 0,
        proposal: dict[int, int] | None = None,
    ) -> Neighbors:
        """The neighbors for `request`; `proposal` replaces the model's own p_D counts. Raises: MismatchError as
        `check_knowledge_base`."""
        if kb is None:
            raise BowerbirdError("the model generates from a knowledge base; pass knowledge_base=, or neighbors=")
        counts = self.proposal_counts if proposal is None else proposal
        request = self.resolve(request, kb)
        return queries.retrieve(self.check_knowledge_base(kb), request, count, seed=seed, counts=counts)

    def resolve(self, request: Request, kb: KnowledgeBase | None = None) -> Request:
        """`request` with what this model takes where it leaves something open; prompts enter as its authors let them
        (`text_mode`)."""
        request = super().resolve(request, kb)
        own = self.config.text_mode
        if request.prompts is None or request.text_mode is not None or own == "neighbors":
            return request
        return replace(request, text_mode=own)

    def condition(self, hits: Neighbors, *args: Any, **kwargs: Any) -> Conditioning:
        """Neighbors -> tokens on the network's device. Raises: MismatchError when the embeddings have another
        width."""
        layout, dtype = self.layout, next(self.networks[0].parameters()).dtype
        width = self.condition_dim if layout is None else layout.dim
        if hits.embeddings.shape[-1] != width:
            raise MismatchError(
                f"the neighbors' embeddings have {hits.embeddings.shape[-1]} dimensions, the model reads {width}; use"
                f" the encoder {self.config.encoder_name!r}"
            )
        weights = common.weights_of(hits, dtype)
        tokens = conditioning.condition_tokens(
            torch.from_numpy(hits.embeddings),
            torch.from_numpy(weights),
            layout,
            normalize=self.config.normalize_embeddings,
            length=self.config.embedding_length,
        )
        place = (self._execution_device, dtype)
        null = tokens.neighbors_null
        return Conditioning(tokens.neighbors.to(*place), None if null is None else null.to(*place))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """diffusers' layout, plus `proposal.safetensors` where there are counts."""
        super().save_pretrained(save_directory, **kwargs)
        if self.proposal_counts:
            ids, counts = (
                torch.tensor(list(side), dtype=torch.int64)
                for side in (self.proposal_counts.keys(), self.proposal_counts.values())
            )
            save_tensors(Path(save_directory) / COUNTS_FILE, {"ids": ids, "counts": counts})

    def counts_place(self, place: Path) -> Path:
        """The folder that holds the counts of the model in the folder `place`."""
        return place

    def after_loading(self, place: Path) -> None:
        """Read p_D's counts. Raises: BowerbirdError when they are damaged."""
        file = self.counts_place(place) / COUNTS_FILE
        if file.is_file():
            stored = load_tensors(file)
            ids, counts = stored["ids"], stored["counts"]
            if ids.ndim != 1 or ids.shape != counts.shape or ids.dtype != counts.dtype or ids.is_floating_point():
                raise BowerbirdError(f"{file}: its ids and counts do not match; fetch it again")
            if len(counts) and int(counts.min()) < 0:
                raise BowerbirdError(f"{file}: a count is below 0; fetch it again")
            self.proposal_counts = dict(zip(ids.tolist(), counts.tolist(), strict=True))
