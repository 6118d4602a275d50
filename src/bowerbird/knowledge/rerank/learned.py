"""A small network that orders candidates by what a generator made of their like: `bowerbird train reranker`.

It is a few matrices, so it is opened and run without torch. Source of the idea: RealRAG, arXiv 2502.00848: a retriever
is trained on what generation needs, and its negatives are the generator's own failures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.text import in_shell
from bowerbird.core.types import Neighbors
from bowerbird.knowledge.rerank.facts import FACTS, candidate_facts
from bowerbird.knowledge.rerank.protocol import Task, reorder
from bowerbird.knowledge.search.dense import prepare

CONFIG, WEIGHTS, TYPE = "config.json", "model.safetensors", "bowerbird-reranker"
MOST_CANDIDATES, WIDEST = 1000, 65_536


@dataclass(frozen=True)
class Scorer:
    """The network: `facts` scaled, the candidate's unit embedding, and its product with the query's (where texts and
    pictures share dimensions), each of the last two through a narrow matrix; one hidden layer beside the facts
    themselves. `weights`: as `shapes` says."""

    weights: Mapping[str, np.ndarray]

    def __call__(self, facts: np.ndarray, candidates: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """Facts `(…, N, F)`, raw embeddings of candidates `(…, N, d)` and queries `(…, d)` -> scores `(…, N)`."""
        w = self.weights
        parts = [(facts - w["mean"]) / w["scale"]]
        if w["look"].size:
            unit = _unit(candidates)
            shared = len(w["match"])
            product = unit[..., :shared] * _unit(queries)[..., None, :shared]
            parts += [unit @ w["look"], product @ w["match"]]
        hidden = np.concatenate(parts, -1) @ w["first.weight"].T + w["first.bias"]
        hidden = hidden / (1 + np.exp(-hidden.clip(-60, 60)))  # SiLU
        scores: np.ndarray = parts[0] @ w["direct"] + (hidden @ w["last.weight"].T + w["last.bias"])[..., 0]
        return scores.astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return prepare(vectors.reshape(-1, vectors.shape[-1]), True).reshape(vectors.shape)


def shapes(facts: int, dim: int, shared: int, rank: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """What a scorer's tensors are called, and their shapes; one without embeddings has `dim`, `shared` and `rank`
    0."""
    return {
        "mean": (facts,),
        "scale": (facts,),
        "direct": (facts,),
        "look": (dim, rank),
        "match": (shared, rank),
        "first.weight": (hidden, facts + 2 * rank),
        "first.bias": (hidden,),
        "last.weight": (1, hidden),
        "last.bias": (1,),
    }


class LearnedReranker:
    """Orders the first candidates of a search by a trained `Scorer`."""

    reads_pictures = False

    def __init__(self, path: Path) -> None:
        """Open the directory that a training wrote. Raises: BowerbirdError when there is none, or it is damaged."""
        if not (path / CONFIG).is_file():
            raise BowerbirdError(
                f"{path}: no reranker; train one: bowerbird train reranker --kb KB --out {in_shell(path)}"
            )
        config = files.read_json(path / CONFIG, "reranker")
        if config.get("type") != TYPE or config.get("facts") != list(FACTS):
            raise BowerbirdError(
                f"{path / CONFIG}: no reranker that this version reads; train it again: bowerbird train reranker"
            )
        sizes = [_size(config, key, path) for key in ("dim", "shared_dim", "rank", "hidden")]
        self.path, self.candidates = path, min(max(1, _size(config, "candidates", path)), MOST_CANDIDATES)
        self.encoder_name, self.encoder_fingerprint = (str(config.get(f"encoder{key}", "")) for key in ("", "_print"))
        weights = {name: array.astype(np.float32) for name, array in files.load_arrays(path / WEIGHTS).items()}
        wanted = shapes(len(FACTS), *sizes)
        wrong = next(
            (name for name in {**wanted, **weights} if getattr(weights.get(name), "shape", None) != wanted.get(name)),
            None,
        )
        if wrong is not None or not all(np.isfinite(array).all() for array in weights.values()):
            raise BowerbirdError(
                f"{path / WEIGHTS}: {wrong or 'a number in it'} is not what its config.json says; train it again:"
                " bowerbird train reranker"
            )
        self.scorer = Scorer(weights)
        content = (path / CONFIG).read_bytes() + (path / WEIGHTS).read_bytes()
        self.name = f"learned:{hashlib.sha256(content).hexdigest()[:6]}"

    def rerank(self, task: Task) -> Neighbors:
        """As `Reranker.rerank`; the score is the measure `learned`. Raises: MismatchError for a knowledge base with
        another encoder than it was trained with, where it reads embeddings."""
        encoder = task.base.encoder
        if self.encoder_fingerprint and encoder.fingerprint != self.encoder_fingerprint:
            raise MismatchError(
                f"{self.path}: trained on embeddings of {self.encoder_name!r}, and {task.base.path} has those of"
                f" {encoder.name!r}; train one for it: bowerbird train reranker --kb {in_shell(task.base.path)}"
            )
        found = task.find(range(len(task)), min(len(task.base), max(task.k, self.candidates)))
        vectors = encoder.embed_text(list(task.texts))
        scores = score(self.scorer, replace(found, queries=task.texts), vectors)
        return reorder(found, scores, task.k, measure="learned")


def score(scorer: Scorer, found: Neighbors, vectors: np.ndarray) -> np.ndarray:
    """Of each candidate `(Q, N)`, for the raw embeddings `vectors` `(Q, d)` of the queries."""
    return scorer(candidate_facts(found, vectors), found.embeddings, vectors)


def _size(config: Mapping[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or not 0 <= value <= WIDEST:
        raise BowerbirdError(f"{path / CONFIG}: {key} is no size; train it again: bowerbird train reranker")
    return value
