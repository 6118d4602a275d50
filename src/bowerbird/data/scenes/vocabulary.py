"""The drawings that scenes are composed of: a fixed choice by a rule, so that it is known what a model was shown, and
what it was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.words import plain_name

SEEN = 32
"""From this alpha on a pixel belongs to a drawing."""
ONE_COLOR, NEAR = 0.85, 0.12
"""A drawing can be given another color where this share of it is within `NEAR` of its median color."""


@dataclass(frozen=True)
class Vocabulary:
    """Drawings, one a row: what each is called, its style (empty: none), its row in the pictures, where it lies in its
    square (x0, y0, x1, y1 in pixels), and whether it can be given another color."""

    names: tuple[str, ...]
    styles: tuple[str, ...]
    rows: tuple[int, ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    recolorable: tuple[bool, ...]
    by_style: dict[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found: dict[str, list[int]] = {}
        for number, style in enumerate(self.styles):
            found.setdefault(style, []).append(number)
        object.__setattr__(self, "by_style", {style: tuple(numbers) for style, numbers in sorted(found.items())})

    def __len__(self) -> int:
        return len(self.names)

    @property
    def known(self) -> list[str]:
        """The names, each once, in order."""
        return sorted(set(self.names))


def choose_names(names: Sequence[str | None], styles: Sequence[str], count: int) -> list[str]:
    """The `count` names that were drawn in most styles; of equals the shortest, then the first by letters."""
    drawn: dict[str, set[str]] = {}
    for name, style in zip(names, styles, strict=True):
        if name is not None:
            drawn.setdefault(name, set()).add(style)
    return sorted(drawn, key=lambda name: (-len(drawn[name]), len(name), name))[:count]


def build_vocabulary(
    pictures: Pictures,
    count: int,
    *,
    style_key: str | None = None,
    styles: Sequence[str] = (),
    group_key: str | None = None,
    own_colors: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> Vocabulary:
    """The drawings in `pictures` of `count` things (see `choose_names`), or of those called `names`; of the `styles`
    alone, where some are given. What any picture puts in one of the groups `own_colors` (people, faces) keeps its
    color."""
    called = [plain_name(caption) for caption in pictures.captions]
    drawn_in = pictures.column(style_key) if style_key else [""] * len(pictures)
    allowed = [i for i, style in enumerate(drawn_in) if not styles or style in styles]
    chosen = set(
        choose_names([called[i] for i in allowed], [drawn_in[i] for i in allowed], count) if names is None else names
    )
    groups = pictures.column(group_key) if group_key else [""] * len(pictures)
    kept = {name for name, group in zip(called, groups, strict=True) if group in own_colors}
    opacity = pictures.opacity()
    rows = [i for i in allowed if called[i] in chosen and bool((opacity[i] > SEEN).any())]
    return Vocabulary(
        tuple(str(called[i]) for i in rows),
        tuple(drawn_in[i] for i in rows),
        tuple(rows),
        tuple(_box(opacity[i]) for i in rows),
        tuple(called[i] not in kept and _has_one_color(pictures.pixels[i], opacity[i]) for i in rows),
    )


def straight_color(pixels: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 pixels on white `(3, h, w)` and alpha `(h, w)` -> the colors before they were laid on white and the opacity
    `(1, h, w)`, floats in [0, 1]."""
    opacity = alpha[None].float() / 255
    return ((pixels.float() / 255 - 1 + opacity) / opacity.clamp(min=1 / 255)).clamp(0, 1), opacity


def median_color(straight: Tensor, opacity: Tensor) -> Tensor:
    """The median of the opaque pixels `(3,)`, or of all where none is opaque."""
    inside = straight[:, opacity[0] > 0.75]
    return (inside if inside.shape[1] else straight.flatten(1)).median(1).values


def _box(alpha: Tensor) -> tuple[int, int, int, int]:
    columns, lines = (alpha > SEEN).any(0).nonzero()[:, 0], (alpha > SEEN).any(1).nonzero()[:, 0]
    return int(columns[0]), int(lines[0]), int(columns[-1]) + 1, int(lines[-1]) + 1


def _has_one_color(pixels: Tensor, alpha: Tensor) -> bool:
    """Whether a drawing is of one color; one that fills its square is none, as its ground would change with it."""
    if bool((alpha > SEEN).all()):
        return False
    straight, opacity = straight_color(pixels[:, ::2, ::2], alpha[::2, ::2])
    inside = straight[:, opacity[0] > 0.75]
    if inside.shape[1] == 0:
        return False
    far = (inside - median_color(straight, opacity)[:, None]).abs().amax(0)
    return float((far < NEAR).to(torch.float32).mean()) >= ONE_COLOR
