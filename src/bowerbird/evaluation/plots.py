"""Plots as PNG files: few kinds, one look. Matplotlib without a display; knows numbers and words only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.files import atomic_path
from bowerbird.core.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#33658a", "#d1495b", "#6a994e", "#edae49", "#7b5ea7", "#5c6b73", "#2a9d8f", "#8c510a")


def histogram(
    path: Path, groups: Mapping[str, np.ndarray], *, title: str, label: str, marks: Mapping[str, float] | None = None
) -> None:
    """One outline a group over common bins, with dashed `marks`."""
    values = np.concatenate(list(groups.values()))
    bins = np.linspace(values.min(), max(values.max(), values.min() + 1e-3), 31)

    def draw(axes: Axes) -> None:
        for (name, data), color in zip(groups.items(), COLORS, strict=False):
            axes.hist(
                data,
                bins=bins.tolist(),
                weights=np.full(len(data), 1 / len(data)),
                histtype="stepfilled",
                alpha=0.35,
                color=color,
                label=name,
            )
        for (name, value), style in zip((marks or {}).items(), ("--", ":", "-."), strict=False):
            axes.axvline(value, color="#222222", linestyle=style, linewidth=1, label=name)
        axes.set_xlabel(label)
        axes.set_ylabel("share of pictures")

    _save(path, title, draw)


def intervals(
    path: Path, rows: Sequence[tuple[str, float, float, float]], *, title: str, label: str, mark: float | None = None
) -> None:
    """A dot and a bar for each (name, value, low, high), from top to bottom; `mark`: a dashed line."""

    def draw(axes: Axes) -> None:
        for i, (_, value, low, high) in enumerate(rows):
            axes.plot([low, high], [-i, -i], color=COLORS[0], linewidth=3, alpha=0.5, solid_capstyle="butt")
            axes.plot([value], [-i], "o", color=COLORS[0])
        if mark is not None:
            axes.axvline(mark, color="#222222", linestyle="--", linewidth=1)
        axes.set_yticks([-i for i in range(len(rows))], [printable(name) for name, *_ in rows])
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.set_xlabel(label)

    _save(path, title, draw, height=1.4 + 0.42 * len(rows))


def curves(
    path: Path,
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]],
    *,
    title: str,
    x: str,
    y: str,
    log: bool = False,
) -> None:
    """A line with a band for each name: points (x, value, low, high)."""

    def draw(axes: Axes) -> None:
        for (name, points), color in zip(lines.items(), cycle(COLORS)):  # colors have no end
            at, value, low, high = np.array(sorted(points)).T
            axes.plot(at, value, "o-", color=color, label=name, markersize=4)
            axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
        if log:
            axes.set_xscale("log")
            marks = sorted({point[0] for points in lines.values() for point in points})
            axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
            axes.minorticks_off()
        elif all(float(at).is_integer() for points in lines.values() for at, *_ in points):
            axes.locator_params(axis="x", integer=True)  # how many: there is no half
        axes.set_xlabel(x)
        axes.set_ylabel(y)

    _save(path, title, draw, width=7.6, beside=True)


def _save(path: Path, title: str, draw: Any, *, width: float = 6.4, height: float = 4.0, beside: bool = False) -> None:
    """`beside`: the legend stands at the right of what is drawn, which it could cover."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    if axes.get_legend_handles_labels()[1]:
        where = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if beside else {}
        axes.legend(frameon=False, fontsize=8, **where)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names come from data: a dollar sign is one
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
