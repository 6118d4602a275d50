"""How much of a picture an edit changed, and what to try where it hardly did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.contact_sheet import difference

if TYPE_CHECKING:
    from PIL import Image

CHANGED = 64
"""A pixel is changed where one of its colors differs by more, of 255."""
HARDLY = 0.03
"""Share of changed pixels below which an edit did next to nothing: sunglasses on a face change more."""


def changed_share(before: Image.Image, after: Image.Image) -> float:
    """The share of the pixels of `after` that differ from `before`, which is scaled to its size."""
    return float((255 - np.asarray(difference(before, after)).max(-1) > CHANGED).mean())


def edit_hint(sources: Sequence[Image.Image], edited: Sequence[Image.Image]) -> str | None:
    """A line for a person where most edits, one a source, hardly changed anything; None where they did."""
    shares = [changed_share(before, after) for before, after in zip(sources, edited, strict=True)]
    if not shares or float(np.median(shares)) >= HARDLY:
        return None
    return (
        f"most edits changed less than {HARDLY:.0%} of the picture; `preservation=0` changes more, and with"
        " `guidance_scale=6` more still, and both keep less of it"
    )
