"""Lay one picture onto another by turning, scaling and shearing it, where their contents allow it.

Source: enhanced correlation coefficient maximization (Evangelidis and Psarakis, 2008), as OpenCV computes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

STEPS, PRECISION = 30, 1e-4
WHITE = (255.0, 255.0, 255.0)
MOST_STRETCH = 1.6
"""A warp that stretches or shrinks more has lost its way: two pictures that do not match."""


def align(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray | None:
    """`moving` warped onto `fixed`, both uint8 `(S, S, 3)` on white; None where the two do not match."""
    import cv2

    gray = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (fixed, moving)]
    if min(int(np.ptp(side)) for side in gray) == 0:
        return None  # a blank picture correlates with nothing
    warp: Any = np.eye(2, 3, dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, STEPS, PRECISION)
    try:
        _, warp = cv2.findTransformECC(
            gray[0], gray[1], warp, cv2.MOTION_AFFINE, criteria, np.full_like(gray[0], 255), 5
        )
    except cv2.error:  # it did not converge
        return None
    stretch = np.linalg.svd(warp[:, :2], compute_uv=False)
    if not np.isfinite(stretch).all() or stretch.max() > MOST_STRETCH or stretch.min() < 1 / MOST_STRETCH:
        return None
    size = fixed.shape[1], fixed.shape[0]
    found: np.ndarray = cv2.warpAffine(
        moving, warp, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=WHITE
    )
    return found
