"""How a cascade makes the picture of a stage from that of the stage below: settings, known to records without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Enlargement:
    """`level`: timestep of the noise that is added to what is enlarged. `back_projection`: where the stage below
    predicts clean pictures, each square of the larger picture is shifted to the mean that the smaller one has there.
    `smoothing`: how far apart, of 255, neighboring colors of the result are that become one; 0 leaves it as it is."""

    level: int = 50
    back_projection: bool = False
    smoothing: int = 0
