"""How a reranker is trained: what a generator made of each candidate, as a judge sees it, is what a score should say.

Source: RealRAG, arXiv 2502.00848, whose negatives are what the generator fails with. Differs from the paper: candidates
of a search are put into order, by a network of some thousand weights over what is known of any knowledge base; the
encoder stays as it is, so nothing is embedded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import files, seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures
from bowerbird.knowledge.rerank.facts import FACTS
from bowerbird.knowledge.rerank.learned import CONFIG, TYPE, WEIGHTS
from bowerbird.models.reranker import RerankerModel
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Count, Share, column, network

LABELS, COLLECTED = "labels", "collected.json"
"""The folder of a run's labels, a file a few queries; in it, what they were collected with."""
HELD = 8
"""One query of so many is never trained on: what the reranker does for those is written beside it."""


class RerankerConfig(ObjectiveConfig):
    """What labels are collected with, and the sizes of the network; stored in `recipe.json`.

    `base`: the model that generates; `judge`: a judge's directory, None trains one for `judge_steps` on what is trained
    on; `entity_key`: the column that says what an item shows, None: its caption. For each of `queries` the first
    `candidates` of the search are generated from, each alone, `pictures` times, in `steps` (None: the model's own).
    `embeddings`: whether the network reads those too, and so is for one encoder; else it is for any.
    """

    kind: Literal["reranker"] = "reranker"
    base: str = network("tiny-rdm-fast")
    judge: str | None = network(None)
    judge_steps: Count = 500
    entity_key: str | None = column("hexcode")
    queries: Count = 300
    candidates: Annotated[int, Field(ge=2, le=1000)] = 12
    pictures: Count = 2
    steps: Count | None = None
    embeddings: bool = True
    rank: Count = 16
    hidden: Count = 32
    dropout: Share = 0.5


@dataclass(frozen=True)
class Labels:
    """Of n queries with N candidates each: `facts` `(n, N, F)`, raw embeddings of `candidates` `(n, N, d)` and of
    `queries` `(n, d)`, and `named` `(n, N)`, the share of pictures that the judge named rightly, -1 where there is no
    candidate; and what they were `collected` with."""

    facts: np.ndarray
    candidates: np.ndarray
    queries: np.ndarray
    named: np.ndarray
    collected: dict[str, Any]


def read_labels(run: Path) -> Labels:
    """The labels in the folder of a `run`. Raises: BowerbirdError when they are not there, or not all of them."""
    folder = run / LABELS
    if not (folder / COLLECTED).is_file():
        raise BowerbirdError(
            f"{run}: a reranker learns from what a model generates, and nothing was collected here; give the knowledge"
            " base: bowerbird train reranker --kb KB"
        )
    collected = files.read_json(folder / COLLECTED, "note on labels")
    parts = [files.load_arrays(path) for path in sorted(folder.glob("*.safetensors"))]
    if sum(len(part["named"]) for part in parts) != collected.get("queries"):
        raise BowerbirdError(f"{folder}: labels are missing; run the same command again: bowerbird train reranker")
    joined = {key: np.concatenate([part[key] for part in parts]) for key in ("facts", "candidates", "queries", "named")}
    return Labels(**joined, collected=collected)


class RerankerBatch(TypedDict):
    """n queries, as in `Labels`."""

    facts: Tensor
    candidates: Tensor
    queries: Tensor
    named: Tensor


class RerankerObjective(Objective[RerankerBatch]):
    """The network with its loss over the labels of a run."""

    def __init__(self, config: RerankerConfig, labels: Labels, seed: int) -> None:
        super().__init__()
        self.config, self.seed, self.collected = config, seed, labels.collected
        count, dim, shared = len(labels.named), labels.queries.shape[-1], int(labels.collected["shared_dim"])
        order = seeds.numpy_generator(seed, "held out").permutation(count)
        self.held, self.trained = np.sort(order[: count // HELD]), np.sort(order[count // HELD :])
        self.labels: dict[str, Tensor] = {
            key: torch.from_numpy(getattr(labels, key).astype(np.float32))
            for key in ("facts", "candidates", "queries", "named")
        }
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            dim, shared, rank = (dim, shared, config.rank) if config.embeddings else (0, 0, 0)
            start = torch.zeros(len(FACTS))
            start[FACTS.index("rank")] = 1
            self.model = RerankerModel(start, dim, shared, rank, config.hidden)
        there = self.labels["named"][self.trained] >= 0
        facts = self.labels["facts"][self.trained][there]
        self.model.mean.copy_(facts.mean(0))
        self.model.scale.copy_(facts.std(0, unbiased=False).clamp(min=1e-3))

    def batch(self, step: int, size: int, rank: int = 0) -> RerankerBatch:
        """`size` queries that are not held out."""
        rows = seeds.numpy_generator(self.seed, "batch", step, rank).choice(self.trained, size=size)
        return self._rows(rows)

    def _rows(self, rows: np.ndarray) -> RerankerBatch:
        index = torch.from_numpy(rows)
        return RerankerBatch(**{key: value[index] for key, value in self.labels.items()})  # type: ignore[typeddict-item]

    def forward(self, batch: RerankerBatch) -> Tensor:
        """Cross-entropy of each candidate's label, and of the order: for a query with good and bad candidates, that of
        choosing among them in the proportion of the labels."""
        scores = self.model(batch["facts"], batch["candidates"], batch["queries"], self.config.dropout).float()
        named = batch["named"]
        there = named >= 0
        each = F.binary_cross_entropy_with_logits(scores[there], named[there])
        good = named.clamp(min=0)
        mixed = (good.sum(1) > 0) & (torch.where(there, named, 1.0).amin(1) < 1)
        if not mixed.any():
            return each
        chosen = F.log_softmax(scores.masked_fill(~there, -1e4), 1)[mixed]
        share = good[mixed] / good[mixed].sum(1, keepdim=True)
        return each - (share * chosen).sum(1).mean()

    def export(self, out: Path) -> None:
        """Write what `LearnedReranker` opens, with what it does for the queries that were held out."""
        model, config = self.model, self.config
        files.save_tensors(out / WEIGHTS, model.state_dict())
        reads = config.embeddings
        files.write_json(
            out / CONFIG,
            {
                "type": TYPE,
                "facts": list(FACTS),
                "dim": model.look.shape[0],
                "shared_dim": model.match.shape[0],
                "rank": model.look.shape[1],
                "hidden": config.hidden,
                "candidates": config.candidates,
                "encoder": self.collected["encoder"] if reads else "",
                "encoder_print": self.collected["encoder_print"] if reads else "",
                "collected": self.collected,
                "held_out": self.measure(),
            },
        )

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Mean label of the first candidate of the held-out queries: as the search has it, as the network has it, and
        of the best there is."""
        if not len(self.held):
            return {}
        batch, training = self._rows(self.held), self.training
        self.eval()
        scores = self.model(batch["facts"], batch["candidates"], batch["queries"])
        self.train(training)
        named = batch["named"]
        first = scores.masked_fill(named < 0, -1e4).argmax(1, keepdim=True)
        found = {"search": named[:, 0], "reranked": named.gather(1, first)[:, 0], "best": named.amax(1)}
        return {"queries": len(named), **{key: float(value.clamp(min=0).mean()) for key, value in found.items()}}


def build(config: RerankerConfig, pictures: Pictures, run: RunContext) -> RerankerObjective:
    """The objective over the labels in the run's folder; `pictures` are what they were collected on."""
    return RerankerObjective(config, read_labels(run.out), run.seed)
