"""Random changes after which any drawing looks like something the training showed: other colors, grounds, outlines,
sizes and turns, line drawings, two or three things in one picture.

A `Variation` holds the numbers of such a change for n pictures, so that the same change can be made to a picture and to
its neighbors. `draw` makes them, `apply` uses them: batched torch, on any device. Colors are in [0, 1] inside, pictures
come as uint8 on white with their alpha and leave as float in [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

LAYERS = 3
"""Most things in one picture."""


@dataclass(frozen=True)
class Variation:
    """The numbers of a change for n pictures.

    `color` `(n, 3, 4)`: an affine map of the drawing's colors. `place` `(n, L, 2, 3)`: where each of up to L things
    lies, as an inverse affine map of half-widths. `things` `(n,)`: how many there are. `ground` `(n, 3, 3)`: two
    colors and the weights of a pattern; see `_ground`. `outline` `(n, 4)`: a color and a width in parts of the
    picture. `line` `(n, 4)`: the ink of a line drawing, and whether it is one. `blocks` `(n,)`: edge of pixel-art
    blocks in pixels of 64, 0 for none. `moved` `(n,)`: whether `place` counts; where not, nothing is resampled.
    """

    color: Tensor
    place: Tensor
    things: Tensor
    ground: Tensor
    outline: Tensor
    line: Tensor
    blocks: Tensor
    moved: Tensor

    def __len__(self) -> int:
        return len(self.things)

    def select(self, rows: Tensor) -> Variation:
        """The changes at `rows`, in that order; a row may come more than once."""
        return Variation(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device | str) -> Variation:
        """The same on `device`."""
        return Variation(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class VariedPictures:
    """n pictures with the changes they are under, before any of it is computed: uint8 `pixels` `(n, 3, S, S)` on white
    and `alpha` `(n, S, S)`. A training carries this to its device and calls `render` there."""

    pixels: Tensor
    alpha: Tensor
    variation: Variation

    def to(self, device: torch.device | str) -> VariedPictures:
        """The same on `device`."""
        return VariedPictures(self.pixels.to(device), self.alpha.to(device), self.variation.to(device))

    def render(self, size: int) -> Tensor:
        """Float `(n, 3, size, size)` in [-1, 1]."""
        return apply(self.variation, self.pixels, self.alpha, size)


def identity(n: int) -> Variation:
    """No change: the drawing as it is, on white."""
    color = torch.eye(3, 4).expand(n, 3, 4).clone()
    place = torch.eye(2, 3).expand(n, LAYERS, 2, 3).clone()
    ground = torch.zeros(n, 3, 3)
    ground[:, :2] = 1.0
    return Variation(
        color,
        place,
        torch.ones(n, dtype=torch.long),
        ground,
        torch.zeros(n, 4),
        torch.zeros(n, 4),
        torch.zeros(n, dtype=torch.long),
        torch.zeros(n, dtype=torch.bool),
    )


def where(condition: Tensor, first: Variation, second: Variation) -> Variation:
    """The changes of `first` where `condition` `(n,)` is true, else those of `second`."""
    chosen = []
    for field in fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        chosen.append(torch.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b))
    return Variation(*chosen)


def draw(
    n: int,
    generator: torch.Generator,
    *,
    colored: float = 0.5,
    moved: float = 0.5,
    grounded: float = 0.5,
    drawn: float = 0.2,
    several: float = 0.15,
    mirrored: float = 0.5,
) -> Variation:
    """`n` changes. Shares: `colored` in other colors, `moved` turned, scaled and shifted, `grounded` not on white,
    `drawn` with an outline, as a line drawing or in blocks, `several` with two or three things (those are moved too),
    `mirrored` of those that are moved."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator)

    plain = identity(n)
    things = torch.where(uniform() < several, 2 + (uniform() < 0.4).long(), plain.things)
    is_moved = (uniform() < moved) | (things > 1)
    kind = uniform()
    outlined = kind < drawn * 0.5
    lined = (kind >= drawn * 0.5) & (kind < drawn * 0.75)
    blocky = (kind >= drawn * 0.75) & (kind < drawn)
    width = torch.where(outlined, 0.012 + 0.035 * uniform(), torch.zeros(n))
    # outlines and inks: black and white half of the time, any color otherwise
    rim = torch.where((uniform(1) < 0.5), (uniform(1) < 0.5).float().expand(n, 3), uniform(3))
    ink = torch.where((uniform(1) < 0.6), torch.zeros(n, 3), uniform(3) * 0.6)
    return Variation(
        torch.where((uniform() < colored)[:, None, None], _colors(n, generator), plain.color),
        _places(n, generator, things, mirrored),
        things,
        torch.where((uniform() < grounded)[:, None, None], _grounds(n, generator), plain.ground),
        torch.cat([rim, width[:, None]], 1),
        torch.cat([ink, lined[:, None].float()], 1),
        torch.where(blocky, 2 ** torch.randint(1, 3, (n,), generator=generator), plain.blocks),
        is_moved,
    )


def _colors(n: int, generator: torch.Generator) -> Tensor:
    """Affine color maps `(n, 3, 4)`: a turned hue, exchanged channels, an inversion, less saturation, two colors in
    place of dark and light, or one color; light and contrast change a little with all of them."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator)

    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    angle, saturation = (uniform() * 2 - 1) * math.pi, 0.3 + uniform()
    zero = torch.zeros(n)
    turn = torch.stack(
        [
            torch.stack([zero + 1, zero, zero], 1),
            torch.stack([zero, angle.cos() * saturation, -angle.sin() * saturation], 1),
            torch.stack([zero, angle.sin() * saturation, angle.cos() * saturation], 1),
        ],
        1,
    )
    hue = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    channels = torch.eye(3)[uniform(3).argsort(1)]
    light = to_yiq[0].expand(n, 1, 3)
    dark, bright = uniform(3), uniform(3)
    tones = (bright - dark)[..., None] @ light
    kind = torch.multinomial(torch.tensor([0.45, 0.15, 0.1, 0.1, 0.12, 0.08]), n, True, generator=generator)
    matrices = torch.stack([hue, channels, -hue, light.expand(n, 3, 3), tones, zero[:, None, None].expand(n, 3, 3)], 1)
    none = torch.zeros(n, 3)
    offsets = torch.stack([none, none, none + 1, none, dark, dark], 1)
    rows = torch.arange(n)
    matrix, offset = matrices[rows, kind], offsets[rows, kind]
    contrast = 0.75 + 0.4 * uniform(1)
    shifted = (offset - 0.5) * contrast + 0.5 + (uniform(1) - 0.5) * 0.2
    return torch.cat([matrix * contrast[..., None], shifted[..., None]], 2)


def _places(n: int, generator: torch.Generator, things: Tensor, mirrored: float) -> Tensor:
    """Inverse affine maps `(n, LAYERS, 2, 3)`: one thing fills 0.5 to 1.15 of the picture near its middle, several lie
    round it; most are turned by up to 20 degrees, some by any angle."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, LAYERS, *shape, generator=generator)

    alone = (things == 1)[:, None]
    scale = torch.where(alone, 0.5 + 0.65 * uniform(), (0.38 + 0.22 * uniform()))
    wild = uniform() < 0.15
    angle = (uniform() * 2 - 1) * torch.where(wild, torch.tensor(math.pi), torch.tensor(0.35))
    # several things: around the middle at equal angles, so that they hide little of each other
    around = torch.rand(n, 1, generator=generator) * 2 * math.pi + torch.arange(LAYERS) * 2 * math.pi / things[:, None]
    offset = torch.stack([around.cos(), around.sin()], 2) * torch.where(things == 3, 0.55, 0.48)[:, None, None]
    shift = torch.where(alone[..., None], (uniform(2) - 0.5) * 0.3, offset + (uniform(2) - 0.5) * 0.15)
    flip = torch.where(uniform() < mirrored, -1.0, 1.0)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    linear = torch.stack([torch.stack([cos * flip, -sin * flip], 2), torch.stack([sin, cos], 2)], 2)
    return torch.cat([linear, -(linear @ shift[..., None])], 3)


def _grounds(n: int, generator: torch.Generator) -> Tensor:
    """Two colors and a pattern `(n, 3, 3)`; half are of one color. Pattern: its direction, its waves a picture (0: one
    slope), and its sharpness."""
    first = torch.rand(n, 3, generator=generator)
    dark_or_light = torch.rand(n, 1, generator=generator)
    first = torch.where(dark_or_light < 0.15, first * 0.15, torch.where(dark_or_light > 0.75, 1 - first * 0.2, first))
    near = (first + (torch.rand(n, 3, generator=generator) - 0.5) * 0.6).clamp(0, 1)
    second = torch.where(torch.rand(n, 1, generator=generator) < 0.5, first, near)
    angle, waves, sharp = torch.rand(3, n, generator=generator)
    waves = torch.where(waves < 0.6, torch.zeros(n), 1 + (waves * 6).floor())
    return torch.stack([first, second, torch.stack([angle * 2 * math.pi, waves, sharp * 8], 1)], 1)


def _ground(ground: Tensor, size: int) -> Tensor:
    """The grounds `(n, 3, size, size)`: from one color to the other along a direction, once or in waves."""
    at = (torch.arange(size, device=ground.device) + 0.5) / size * 2 - 1
    angle, waves, sharp = ground[:, 2].T[..., None, None]
    along = at[None, None] * angle.cos() + at[None, :, None] * angle.sin()
    wave = torch.where(waves > 0, ((along * waves * math.pi).sin() * (0.5 + sharp)).clamp(-1, 1), along / math.sqrt(2))
    mix = (wave * 0.5 + 0.5)[:, None]
    return ground[:, 0, :, None, None] * (1 - mix) + ground[:, 1, :, None, None] * mix


def apply(variation: Variation, pixels: Tensor, alpha: Tensor, size: int, others: Tensor | None = None) -> Tensor:
    """uint8 pictures on white `(n, 3, S, S)` with `alpha` `(n, S, S)` under the changes -> float `(n, 3, size, size)`
    in [-1, 1]; S is `size` or a multiple of it, which keeps what is moved sharp.

    `others` `(n, LAYERS - 1)`: the rows of the pictures that are put beside each where there are several things; the
    next rows when None.
    """
    n, device = len(pixels), pixels.device
    variation = variation.to(device)
    opacity = alpha[:, None].float() / 255
    straight = ((pixels.float() / 255 - 1 + opacity) / opacity.clamp(min=1 / 255)).clamp(0, 1)
    color = variation.color
    straight = (torch.einsum("nij,njhw->nihw", color[..., :3], straight) + color[..., 3, None, None]).clamp(0, 1)
    sharp = torch.cat([straight * opacity, opacity], 1)
    still = _shrink(sharp, size).clamp(0, 1)
    if others is None:
        others = (torch.arange(n)[:, None] + torch.arange(1, LAYERS)) % n
    rows = torch.cat([torch.arange(n)[:, None], others.cpu()], 1).to(device)
    layer = _sampled(sharp, rows[:, 0], variation.place[:, 0], size, variation.moved, still)
    layer = _drawn(layer, variation)
    canvas = _ground(variation.ground, size)
    canvas = layer[:, :3] + (1 - layer[:, 3:]) * canvas
    for number in range(1, LAYERS):
        chosen = (variation.things > number).nonzero()[:, 0]
        if len(chosen):
            part = variation.select(chosen)
            more = _sampled(sharp, rows[chosen, number], part.place[:, number], size, part.moved, still)
            more = _drawn(more, part)
            canvas = canvas.index_copy(0, chosen, more[:, :3] + (1 - more[:, 3:]) * canvas[chosen])
    return _blocks(canvas, variation.blocks, size).clamp(0, 1) * 2 - 1


def _shrink(x: Tensor, size: int) -> Tensor:
    """As pictures are brought to a network's size: bicubic, antialiased."""
    return x if x.shape[-1] == size else F.interpolate(x, size=size, mode="bicubic", antialias=True)


def _sampled(sharp: Tensor, rows: Tensor, place: Tensor, size: int, moved: Tensor, still: Tensor) -> Tensor:
    """Premultiplied layers `(m, 4, size, size)` of the pictures at `rows`, moved to their places."""
    layer = still[rows]
    chosen = moved.nonzero()[:, 0]
    if len(chosen):
        edge = sharp.shape[-1]
        grid = F.affine_grid(place[chosen], [len(chosen), 4, edge, edge], align_corners=False)
        turned = F.grid_sample(sharp[rows[chosen]], grid, align_corners=False)
        layer = layer.index_copy(0, chosen, F.adaptive_avg_pool2d(turned, size))
    return layer


def _drawn(layer: Tensor, variation: Variation) -> Tensor:
    """Premultiplied layers with their outlines, or as line drawings."""
    size = layer.shape[-1]
    lined = (variation.line[:, 3] > 0).nonzero()[:, 0]
    if len(lined):
        x = layer[lined]
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        steps = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]).square() + (
            padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        ).square()
        edge = ((steps.sum(1, keepdim=True).sqrt() - 0.1) * 2.5).clamp(0, 1)
        ink = variation.line[lined, :3, None, None] * edge
        layer = layer.index_copy(0, lined, torch.cat([ink, edge], 1))
    outlined = (variation.outline[:, 3] > 0).nonzero()[:, 0]
    if len(outlined):
        x, radius = layer[outlined], variation.outline[outlined, 3] * size
        grown, reach = x[:, 3:], radius.ceil().long()
        for step in range(int(reach.max())):
            wider = F.max_pool2d(grown, 3, 1, 1) if step % 2 else _cross(grown)  # by turns: nearly round
            left = (radius - step).clamp(0, 1)[:, None, None, None]
            grown = torch.maximum(grown, grown * (1 - left) + wider * left)
        rim = variation.outline[outlined, :3, None, None] * grown
        covered = 1 - x[:, 3:]
        layer = layer.index_copy(
            0, outlined, torch.cat([x[:, :3] + covered * rim, x[:, 3:] + covered * grown], 1).clamp(0, 1)
        )
    return layer


def _cross(x: Tensor) -> Tensor:
    """Largest of each place and its four neighbors."""
    return torch.maximum(F.max_pool2d(x, (3, 1), 1, (1, 0)), F.max_pool2d(x, (1, 3), 1, (0, 1)))


def _blocks(x: Tensor, blocks: Tensor, size: int) -> Tensor:
    """Pictures in blocks of one color, where `blocks` says so."""
    for edge in sorted(set(blocks.tolist())):
        if edge:
            chosen = (blocks == edge).nonzero()[:, 0]
            coarse = F.interpolate(x[chosen], size=max(4, 64 // edge), mode="area")
            x = x.index_copy(0, chosen, F.interpolate(coarse, size=size, mode="nearest"))
    return x
