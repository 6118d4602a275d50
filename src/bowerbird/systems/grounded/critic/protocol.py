"""What a critic is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from bowerbird.systems.phrases.phrase import Phrase

if TYPE_CHECKING:
    from PIL import Image

MISSING_FROM = 0.5
"""The score from which a phrase counts as missing."""


@runtime_checkable
class Critic(Protocol):
    """What says which phrases of a prompt a picture does not show: the contract of every critic.

    `name`: what a record calls it.
    """

    name: str

    def missing(self, prompt: str, phrases: Sequence[Phrase], picture: Image.Image) -> np.ndarray:
        """How much each phrase is missing, float32 `(P,)`: from 0, it is there, to 1, it is not."""
        ...
