"""How different the members of one set are, and how evenly a database is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def unit(x: np.ndarray) -> np.ndarray:
    """The rows of `x` `(n, d)` scaled to length 1, in float64; a zero row stays zero."""
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-12)


def inception_score(probabilities: np.ndarray, *, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) || p(y)) over `splits` parts in order: mean and deviation. `probabilities` `(n,
    classes)`.

    With a network other than Inception it is "Inception-style": comparable only with itself. Source: arXiv 1606.03498.
    """
    scores = []
    for part in np.array_split(np.asarray(probabilities, np.float64), splits):
        log = np.log(part.clip(min=1e-16)) - np.log(part.mean(0, keepdims=True).clip(min=1e-16))
        scores.append(np.exp((part * log).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def vendi_score(features: np.ndarray) -> float:
    """The effective number of different pictures: exp of the entropy of the eigenvalues of the cosine kernel / n; 1 to
    n.

    Source: Friedman and Dieng, arXiv 2210.02410.
    """
    x = unit(features)
    gram = x.T @ x if x.shape[1] < len(x) else x @ x.T  # the same eigenvalues, whichever is smaller
    values = np.linalg.eigvalsh(gram / len(x)).clip(min=0)
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def mean_pairwise_distance(features: np.ndarray) -> float:
    """Mean cosine distance of two different members of a set `(n, d)`, n >= 2."""
    x = unit(features)
    n = len(x)
    return float(1 - ((x.sum(0) ** 2).sum() - (x**2).sum()) / (n * (n - 1)))


@dataclass(frozen=True)
class Hubness:
    """`skewness` of how often an item is among others' k nearest, the `largest` count, and the share of items that
    `never` are."""

    skewness: float
    largest: int
    never: float


def hubness(counts: np.ndarray) -> Hubness:
    """From neighbor counts `(n,)` (`knowledge.graph.neighbor_counts`). High skewness: few hubs are retrieved for
    everything.

    Source: Radovanović et al., JMLR 11 (2010), the skewness of N_k.
    """
    counts = np.asarray(counts, np.float64)
    centered = counts - counts.mean()
    spread = counts.std()
    return Hubness(
        float((centered**3).mean() / spread**3) if spread else 0.0, int(counts.max()), float((counts == 0).mean())
    )


def clip_score(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """100 max(cos, 0) of each picture's and its text's embedding: `(n,)`. Source: Hessel et al., arXiv 2104.08718,
    weight as in torchmetrics."""
    return 100 * (unit(images) * unit(texts)).sum(1).clip(min=0)
