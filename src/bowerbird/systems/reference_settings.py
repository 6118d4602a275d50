"""How references go into a base model, and what the base is asked beside them: what a person sets and a record keeps;
and the adapter that it is opened with.

numpy and torch stay out, so that the command line reads it in no time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from bowerbird.core.errors import BowerbirdError

MEAN, CONJUNCTION = "mean", "conjunction"
FORMS = (MEAN, CONJUNCTION)
"""Of StructureDiffusion. `mean`: keys of the prompt, values the mean of its sequences. `conjunction`, for "A and B":
values of one sequence with every phrase in it, read by the mean of the attention maps of each sequence's keys."""

ADAPTER_FILE = "ip-adapter.safetensors"
"""The adapter in a folder that a training of ours wrote."""
LAYERS = ("all", "style", "content")
FITS = ("pad", "squash", "crop")
"""How a picture that is no square becomes one."""
SCALE, TRAINED_SCALE = 0.6, 1.0
"""The usual scale of a published adapter, which copies its reference at 1, and of one that was trained here: its
reference was a neighbor of the target, so at 1 it leaves the prompt its say."""
MOST_SCALE = 10.0


@dataclass(frozen=True)
class LoraFile:
    """A LoRA's file, and how strongly it changes the base: 0 not at all, 1 as it was trained. Raises: BowerbirdError
    for a scale out of range."""

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and abs(self.scale) <= MOST_SCALE):
            raise BowerbirdError(
                f"LoRA {str(self.path)!r}: its scale is from {-MOST_SCALE:g} to {MOST_SCALE:g}, mostly 1; got"
                f" {self.scale:g}"
            )


def parse_lora(text: str) -> LoraFile:
    """`FILE` or `FILE:scale`. Raises: BowerbirdError for a scale that is no number, or out of range."""
    path, colon, scale = text.rpartition(":")
    if not colon or Path(text).exists() or not scale or "/" in scale or "\\" in scale:
        return LoraFile(Path(text))
    try:
        return LoraFile(Path(path), float(scale))
    except ValueError as error:
        raise BowerbirdError(f"LoRA {text!r}: {scale!r} is not a scale; write FILE, or FILE:0.8") from error


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """How a base model takes references, see `ReferencePipeline`: the `adapter`'s file, the folder of its
    `image_encoder`, how pictures `fit`; whether weights `offload` to main memory (`model`, `sequential`); and the
    `loras` that change it."""

    adapter: Path | None = None
    image_encoder: Path | None = None
    fit: str | None = None
    offload: str | None = None
    loras: tuple[LoraFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReferenceSettings:
    """How strongly, where and when a base model attends to its references.

    `scale`: 0 is the base alone, 1 as the adapter was trained. `layers`: all that the adapter enters, or those that
    carry style or content. `steps_from`, `steps_to`: shares of the sampling steps. `pool`: edge of the squares of
    picture tokens that are averaged (FLUX Redux). `negative_prompt`: what the base is to avoid. `structure`:
    a form of `FORMS`, by which the phrases at `spans` of each prompt are read for themselves.
    Raises: BowerbirdError for a value out of range.
    """

    scale: float = SCALE
    layers: str = "all"
    steps_from: float = 0.0
    steps_to: float = 1.0
    pool: int = 1
    negative_prompt: str = ""
    structure: str | None = None
    spans: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= MOST_SCALE:
            raise BowerbirdError(f"`scale` is from 0 (the base alone) to {MOST_SCALE:g}; got {self.scale:g}")
        if self.layers not in LAYERS:
            raise BowerbirdError(f"`layers` {self.layers!r} is not known; choose one of {', '.join(LAYERS)}")
        if not 0 <= self.steps_from < self.steps_to <= 1:
            raise BowerbirdError(
                "`steps_from` and `steps_to` are two shares of the steps from 0 to 1, the earlier first; got"
                f" {self.steps_from:g} and {self.steps_to:g}"
            )
        if self.structure is not None and self.structure not in FORMS:
            raise BowerbirdError(f"`structure` {self.structure!r} is not known; choose one of {', '.join(FORMS)}")
        if any(not 0 <= start < end for start, end in self.spans):
            raise BowerbirdError("`spans` say where phrases stand in the prompt: a first character, and the one after")
        if self.pool < 1:
            raise BowerbirdError(f"`pool` is the edge of a square of tokens, 1 or more; got {self.pool}")

    def is_active(self, step: int, steps: int) -> bool:
        """Whether the base attends to its references in step `step`, from 0, of `steps`."""
        return self.steps_from <= step / steps < self.steps_to

    @property
    def whole_run(self) -> bool:
        """Whether it does in every step."""
        return self.steps_from == 0 and self.steps_to == 1
