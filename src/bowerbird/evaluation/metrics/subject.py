"""What the training of a subject did to its class. Source: DreamBooth, arXiv 2208.12242, section 4.1."""

from __future__ import annotations

import numpy as np

from bowerbird.evaluation.metrics.diversity import unit


def preservation(class_features: np.ndarray, subject_features: np.ndarray) -> float:
    """PRES: the mean cosine of pictures of the class `(n, d)` to those of the subject `(m, d)`; lower is better, as a
    class that has become the subject is lost. The paper's features are DINO's."""
    return float((unit(class_features) @ unit(subject_features).T).mean())
