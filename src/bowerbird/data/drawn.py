"""A collection that code draws: thirty things in several colors and two styles, for machines that have no pictures at
hand.

Every shape is drawn by a `Pen` of a style: `flat` fills without outlines and adds a soft light; `ink` fills and
outlines in black. Coordinates are in a 100 x 100 square; drawing is at four times the final size and scaled down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bowerbird.data.item import SourceItem

SIZE, ZOOM = 128, 4
STYLES = ("flat", "ink")
Point = tuple[float, float]

COLORS = {
    "red": "#e5383b",
    "orange": "#f48c06",
    "yellow": "#ffd233",
    "green": "#43aa4b",
    "blue": "#3a86ff",
    "purple": "#8b5cf6",
    "pink": "#ff7eb6",
    "brown": "#8d5a3a",
    "white": "#f4f4f4",
    "grey": "#9aa5b1",
}


class Pen:
    """Draws shapes in one style on a white square."""

    def __init__(self, style: str) -> None:
        from PIL import Image, ImageDraw

        self.ink = style == "ink"
        self.scale = SIZE * ZOOM / 100
        self.image = Image.new("RGB", (SIZE * ZOOM, SIZE * ZOOM), "white")
        self.draw = ImageDraw.Draw(self.image)

    def blob(self, points: list[Point], fill: str, *, light: bool = False) -> None:
        """A closed shape; with `light`, the flat style lays a paler copy on its upper left."""
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        self.draw.polygon(scaled, fill=fill)
        if self.ink:
            self.draw.line([*scaled, *scaled[:2]], fill="black", width=round(3.2 * self.scale), joint="curve")
        elif light:
            cx, cy = sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
            inner = [
                ((cx + (x - cx) * 0.62 - 5) * self.scale, (cy + (y - cy) * 0.62 - 6) * self.scale) for x, y in points
            ]
            self.draw.polygon(inner, fill=paler(fill))

    def oval(
        self, x: float, y: float, rx: float, ry: float, fill: str, *, turn: float = 0, light: bool = False
    ) -> None:
        """An ellipse about (x, y), turned by `turn` degrees."""
        a = math.radians(turn)
        steps = [2 * math.pi * i / 60 for i in range(60)]
        points = [
            (
                x + rx * math.cos(t) * math.cos(a) - ry * math.sin(t) * math.sin(a),
                y + rx * math.cos(t) * math.sin(a) + ry * math.sin(t) * math.cos(a),
            )
            for t in steps
        ]
        self.blob(points, fill, light=light)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: str, *, light: bool = False) -> None:
        """A rectangle."""
        self.blob([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, light=light)

    def line(self, points: list[Point], color: str, width: float = 4) -> None:
        """An open line, round at its ends; in the ink style a thin one is black, a thick one has a black edge."""
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        strokes = (
            [(color, width)]
            if not self.ink
            else [("black", width)]
            if width < 7
            else [("black", width + 2.5), (color, width - 3.5)]
        )
        for fill, wide in strokes:
            self.draw.line(scaled, fill=fill, width=round(wide * self.scale), joint="curve")
            for x, y in (scaled[0], scaled[-1]):
                r = wide * self.scale / 2
                self.draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def dot(self, x: float, y: float, r: float, color: str = "#222222") -> None:
        """A small filled circle without outline."""
        s = self.scale
        self.draw.ellipse(((x - r) * s, (y - r) * s, (x + r) * s, (y + r) * s), fill=color)

    def curve(
        self, x: float, y: float, r: float, start: float, end: float, color: str = "#222222", width: float = 3.5
    ) -> None:
        """A piece of a circle, angles in degrees clockwise from the right."""
        steps = [math.radians(start + (end - start) * i / 24) for i in range(25)]
        self.line([(x + r * math.cos(t), y + r * math.sin(t)) for t in steps], color, width)


def paler(color: str, share: float = 0.35) -> str:
    """`color` mixed with white."""
    parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(p + (255 - p) * share):02x}" for p in parts)


def star(x: float, y: float, outer: float, inner: float, tips: int) -> list[Point]:
    """Corners of a star."""
    radii = [outer if i % 2 == 0 else inner for i in range(2 * tips)]
    return [(x + r * math.sin(math.pi * i / tips), y - r * math.cos(math.pi * i / tips)) for i, r in enumerate(radii)]


def heart(x: float, y: float, size: float) -> list[Point]:
    """Outline of a heart."""
    steps = [2 * math.pi * i / 80 for i in range(80)]
    return [
        (
            x + size * math.sin(t) ** 3,
            y - size * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in steps
    ]


def _apple(p: Pen, c: str) -> None:
    p.oval(40, 58, 24, 28, c, light=True)
    p.oval(60, 58, 24, 28, c)
    if not p.ink:
        p.oval(50, 58, 20, 26, c)
        p.oval(36, 48, 7, 11, paler(c))
    p.line([(50, 34), (54, 16)], "#6b4226", 4)
    p.oval(66, 20, 12, 6, "#43aa4b", turn=-25)


def _sun(p: Pen, c: str) -> None:
    p.blob(star(50, 50, 46, 31, 12), paler(c, 0.2))
    p.oval(50, 50, 26, 26, c, light=True)


def _moon(p: Pen, c: str) -> None:
    outer = [(50 + 40 * math.cos(math.radians(a)), 50 + 40 * math.sin(math.radians(a))) for a in range(50, 311, 6)]
    inner = [(66 + 33 * math.cos(math.radians(a)), 50 + 33 * math.sin(math.radians(a))) for a in range(295, 64, -6)]
    p.blob(outer + inner, c)


def _house(p: Pen, c: str) -> None:
    p.box(22, 44, 78, 90, "#fff3d6")
    p.blob([(12, 48), (50, 14), (88, 48)], c)
    p.box(42, 62, 58, 90, "#8d5a3a")
    p.box(62, 56, 73, 67, "#8ecae6")


def _tree(p: Pen, c: str) -> None:
    p.box(44, 62, 56, 92, "#8d5a3a")
    p.oval(34, 50, 20, 18, c)
    p.oval(66, 50, 20, 18, c)
    p.oval(50, 32, 26, 24, c, light=True)


def _pine(p: Pen, c: str) -> None:
    p.box(45, 76, 55, 94, "#8d5a3a")
    for y in (50, 30, 10):
        p.blob([(50, y), (50 + 12 + y * 0.4, y + 30), (50 - 12 - y * 0.4, y + 30)], c)


def _fish(p: Pen, c: str) -> None:
    p.blob([(70, 50), (94, 30), (94, 70)], c)
    p.oval(46, 50, 34, 22, c, light=True)
    p.dot(28, 45, 4)
    p.curve(44, 50, 14, -50, 50, paler(c, 0.7), 3)


def _flower(p: Pen, c: str) -> None:
    p.line([(50, 50), (50, 94)], "#43aa4b", 5)
    p.oval(62, 80, 12, 6, "#43aa4b", turn=-30)
    for i in range(6):
        p.oval(50 + 20 * math.cos(i * math.pi / 3), 38 + 20 * math.sin(i * math.pi / 3), 13, 11, c, turn=i * 60)
    p.oval(50, 38, 10, 10, "#ffd233")


def _star(p: Pen, c: str) -> None:
    p.blob(star(50, 53, 44, 19, 5), c, light=True)


def _heart(p: Pen, c: str) -> None:
    p.blob(heart(50, 46, 40), c, light=True)


def _mushroom(p: Pen, c: str) -> None:
    p.oval(50, 74, 14, 20, "#fdf0d5")
    p.blob([(50 + 42 * math.cos(math.radians(a)), 56 + 40 * math.sin(math.radians(a))) for a in range(180, 361, 6)], c)
    for x, y, r in ((34, 42, 6), (54, 30, 7), (70, 46, 5)):
        p.dot(x, y, r, "#ffffff")


def _car(p: Pen, c: str) -> None:
    p.blob([(24, 50), (34, 30), (66, 30), (78, 50)], paler(c, 0.2))
    p.blob([(38, 35), (49, 35), (49, 49), (31, 49)], "#bde0fe")
    p.blob([(53, 35), (64, 35), (71, 49), (53, 49)], "#bde0fe")
    p.box(8, 50, 92, 70, c)
    p.oval(28, 71, 11, 11, "#333333")
    p.oval(72, 71, 11, 11, "#333333")
    p.dot(28, 71, 4, "#cccccc")
    p.dot(72, 71, 4, "#cccccc")


def _balloon(p: Pen, c: str) -> None:
    p.curve(58, 84, 12, 160, 260, "#777777", 2.5)
    p.blob([(50, 68), (57, 77), (43, 77)], c)
    p.oval(50, 40, 26, 31, c, light=True)


def _cup(p: Pen, c: str) -> None:
    p.curve(72, 56, 13, -90, 90, c, 6)
    p.blob([(22, 36), (72, 36), (66, 84), (28, 84)], c, light=True)
    p.oval(47, 36, 25, 6, "#6b4226")


def _umbrella(p: Pen, c: str) -> None:
    p.line([(50, 18), (50, 80)], "#6b4226", 4)
    p.curve(57, 80, 7, 0, 180, "#6b4226", 4)
    p.blob([(50 + 42 * math.cos(math.radians(a)), 56 + 42 * math.sin(math.radians(a))) for a in range(180, 361, 6)], c)
    p.blob(
        [(50 + 15 * math.cos(math.radians(a)), 56 + 42 * math.sin(math.radians(a))) for a in range(180, 361, 6)],
        paler(c),
    )


def _boat(p: Pen, c: str) -> None:
    p.line([(50, 12), (50, 68)], "#6b4226", 4)
    p.blob([(54, 14), (54, 60), (86, 60)], c)
    p.blob([(46, 24), (46, 60), (22, 60)], paler(c, 0.5))
    p.blob([(10, 66), (90, 66), (76, 88), (24, 88)], "#8d5a3a")


def _cat(p: Pen, c: str) -> None:
    p.blob([(18, 46), (22, 10), (46, 28)], c)
    p.blob([(82, 46), (78, 10), (54, 28)], c)
    p.oval(50, 54, 36, 32, c)
    p.dot(36, 50, 5)
    p.dot(64, 50, 5)
    p.blob([(46, 60), (54, 60), (50, 65)], "#ff7eb6")
    for side in (-1, 1):
        p.line([(50 + side * 18, 64), (50 + side * 40, 60)], "#555555", 2)
        p.line([(50 + side * 18, 69), (50 + side * 40, 72)], "#555555", 2)


def _bear(p: Pen, c: str) -> None:
    p.oval(24, 26, 13, 13, c)
    p.oval(76, 26, 13, 13, c)
    p.oval(50, 54, 36, 34, c)
    p.oval(50, 66, 16, 13, paler(c, 0.5))
    p.dot(37, 46, 4.5)
    p.dot(63, 46, 4.5)
    p.dot(50, 61, 5)


def _smile(p: Pen, c: str) -> None:
    p.oval(50, 50, 42, 42, c, light=True)
    p.dot(36, 42, 5)
    p.dot(64, 42, 5)
    p.curve(50, 52, 20, 20, 160, "#5b3a1a", 4.5)


def _snowman(p: Pen, c: str) -> None:
    p.oval(50, 72, 25, 22, "#e8f1fa")
    p.oval(50, 38, 18, 17, "#e8f1fa")
    p.box(34, 18, 66, 24, c)
    p.box(40, 2, 60, 20, c)
    p.dot(44, 36, 3)
    p.dot(56, 36, 3)
    p.blob([(50, 40), (62, 44), (50, 45)], "#f48c06")
    p.dot(50, 64, 3)
    p.dot(50, 76, 3)


def _icecream(p: Pen, c: str) -> None:
    p.blob([(30, 48), (70, 48), (50, 96)], "#d9a066")
    p.oval(36, 42, 16, 15, paler(c, 0.5))
    p.oval(64, 42, 16, 15, c)
    p.oval(50, 24, 18, 17, c, light=True)


def _cactus(p: Pen, c: str) -> None:
    p.line([(50, 20), (50, 76)], "#43aa4b", 18)
    p.line([(24, 36), (24, 52), (46, 54)], "#43aa4b", 10)
    p.line([(76, 28), (76, 44), (54, 48)], "#43aa4b", 10)
    p.blob([(30, 72), (70, 72), (64, 94), (36, 94)], c)


def _rocket(p: Pen, c: str) -> None:
    p.blob([(34, 62), (18, 84), (38, 78)], c)
    p.blob([(66, 62), (82, 84), (62, 78)], c)
    p.blob([(42, 80), (58, 80), (50, 98)], "#f48c06")
    p.blob([(50, 4), (66, 28), (66, 80), (34, 80), (34, 28)], "#eef1f5")
    p.blob([(50, 4), (65, 27), (35, 27)], c)
    p.oval(50, 44, 9, 9, "#8ecae6")


def _butterfly(p: Pen, c: str) -> None:
    for side in (-1, 1):
        p.oval(50 + side * 24, 36, 22, 17, c, turn=side * -30)
        p.oval(50 + side * 19, 66, 15, 13, paler(c, 0.35), turn=side * 30)
        p.dot(50 + side * 26, 35, 6, "#ffffff")
    p.oval(50, 52, 5, 28, "#3b2a20")


def _ladybird(p: Pen, c: str) -> None:
    p.oval(50, 28, 18, 15, "#222222")
    p.oval(50, 58, 36, 34, c)
    p.line([(50, 26), (50, 92)], "#222222", 3)
    for x, y in ((34, 46), (66, 46), (30, 68), (70, 68)):
        p.dot(x, y, 6)


def _key(p: Pen, c: str) -> None:
    p.line([(42, 42), (86, 86)], c, 9)
    p.line([(74, 74), (84, 64)], c, 7)
    p.line([(64, 64), (72, 56)], c, 7)
    p.oval(32, 32, 22, 22, c)
    p.dot(32, 32, 9, "#ffffff")


def _gift(p: Pen, c: str) -> None:
    p.box(16, 44, 84, 90, c)
    p.box(10, 30, 90, 46, paler(c, 0.2))
    p.box(44, 30, 56, 90, "#ffd233")
    p.oval(36, 22, 14, 8, "#ffd233", turn=20)
    p.oval(64, 22, 14, 8, "#ffd233", turn=-20)


def _lamp(p: Pen, c: str) -> None:
    p.line([(50, 46), (50, 86)], "#777777", 5)
    p.oval(50, 88, 20, 6, "#777777")
    p.blob([(34, 12), (66, 12), (82, 52), (18, 52)], c, light=True)


def _book(p: Pen, c: str) -> None:
    p.blob([(18, 14), (74, 14), (74, 86), (18, 86)], c)
    p.blob([(74, 18), (82, 22), (82, 90), (74, 86)], "#fdf6e3")
    p.box(30, 28, 62, 44, paler(c, 0.7))


def _drop(p: Pen, c: str) -> None:
    curve = [(50 + 30 * math.cos(math.radians(a)), 62 + 30 * math.sin(math.radians(a))) for a in range(-20, 201, 6)]
    p.blob([(50, 6), *curve], c, light=True)


def _duck(p: Pen, c: str) -> None:
    p.oval(52, 66, 36, 22, c)
    p.blob([(80, 60), (96, 46), (90, 70)], c)
    p.oval(34, 36, 20, 19, c)
    p.blob([(18, 36), (2, 42), (18, 46)], "#f48c06")
    p.dot(30, 32, 4)
    p.curve(58, 60, 14, 20, 160, paler(c, 0.7), 4)


THINGS: dict[str, tuple[Callable[[Pen, str], None], tuple[str, ...]]] = {
    "apple": (_apple, ("red", "green", "yellow")),
    "sun": (_sun, ("yellow", "orange", "red")),
    "moon": (_moon, ("yellow", "grey", "blue")),
    "house": (_house, ("red", "blue", "green", "purple")),
    "tree": (_tree, ("green", "orange", "pink")),
    "pine tree": (_pine, ("green", "blue", "purple")),
    "fish": (_fish, ("orange", "blue", "pink", "green")),
    "flower": (_flower, ("pink", "red", "blue", "white")),
    "star": (_star, ("yellow", "pink", "blue", "green")),
    "heart": (_heart, ("red", "pink", "purple", "green", "blue")),
    "mushroom": (_mushroom, ("red", "brown", "purple")),
    "car": (_car, ("red", "blue", "yellow", "green")),
    "balloon": (_balloon, ("red", "blue", "yellow", "purple")),
    "cup of coffee": (_cup, ("white", "red", "blue", "green")),
    "umbrella": (_umbrella, ("purple", "red", "blue", "yellow")),
    "sailing boat": (_boat, ("red", "white", "blue")),
    "cat": (_cat, ("orange", "grey", "white", "brown")),
    "bear": (_bear, ("brown", "white", "grey", "pink")),
    "smiling face": (_smile, ("yellow", "green", "pink")),
    "snowman": (_snowman, ("grey", "red", "blue")),
    "ice cream": (_icecream, ("pink", "brown", "green")),
    "cactus": (_cactus, ("orange", "red", "blue")),
    "rocket": (_rocket, ("red", "blue", "orange")),
    "butterfly": (_butterfly, ("orange", "blue", "pink", "purple")),
    "ladybird": (_ladybird, ("red", "orange", "yellow")),
    "key": (_key, ("yellow", "grey", "brown")),
    "present": (_gift, ("red", "blue", "green", "purple")),
    "lamp": (_lamp, ("yellow", "red", "green")),
    "book": (_book, ("red", "blue", "green", "brown")),
    "drop of water": (_drop, ("blue", "green", "red")),
    "duck": (_duck, ("yellow", "white", "brown")),
}


def read_drawn(styles: tuple[str, ...] = STYLES) -> Iterator[SourceItem]:
    """Every thing in every one of its colors and in each of `styles`; captions such as "a red apple"."""
    from PIL import Image

    from bowerbird.core.images import encode_png
    from bowerbird.data.item import SourceItem

    for style in styles:
        for thing, (draw, colors) in THINGS.items():
            for color in colors:
                pen = Pen(style)
                draw(pen, COLORS[color])
                image = pen.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
                article = "an" if color[0] in "aeiou" else "a"
                metadata = {"style": style, "thing": thing, "color": color}
                yield SourceItem(
                    encode_png(image), f"drawn/{style}/{color} {thing}", f"{article} {color} {thing}", metadata
                )
