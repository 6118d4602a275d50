"""The rows of the demo's sheet: what was asked, what was found, and what is generated from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import Neighbors
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System

Base = tuple[str, "KnowledgeBase"]
"""What a database is called on the sheet, and the database."""
EDGE = 128
"""Of the cells, in pixels: the largest size that is generated, so that none is shown smaller."""


@dataclass(frozen=True)
class Row:
    """One line of the sheet: what was asked, its cells with a word under each, and how many of them are generated."""

    label: str
    images: tuple[Image.Image | None, ...]
    words: tuple[str, ...]
    generated: int


def thing_rows(pipe: System, things: Sequence[str], bases: Sequence[Base], seed: int) -> list[Row]:
    """Each thing without retrieval, then from its picture in each database, at the last two sizes of the model; one
    seed for all."""
    from bowerbird.core.types import Neighbors
    from bowerbird.systems.queries import Request

    sizes = pipe.capabilities.sizes[-2:]
    cells = [[picture] for picture in _generate(pipe, Neighbors.empty(things), seed)]
    words = [f"without retrieval, {sizes[-1]} px"]
    for name, kb in bases:
        hits = pipe.retrieve(Request(prompts=tuple(things), k=1), kb)
        by_size = [_generate(pipe, hits, seed, size) for size in sizes]
        for row, found, *made in zip(cells, hits.images(), *by_size, strict=True):
            row += [found[0], *made]
        words += [f"found in {name}", *(f"generated, {size} px" for size in sizes)]
    count = 1 + len(sizes) * len(bases)
    return [Row(f'"{thing}"', tuple(row), tuple(words), count) for thing, row in zip(things, cells, strict=True)]


def color_row(pipe: System, kb: KnowledgeBase, prompts: Sequence[str], seed: int) -> Row:
    """Prompts that differ in a color, each beside the picture that agrees with it."""
    from bowerbird.systems.queries import Request

    hits = pipe.retrieve(Request(prompts=tuple(prompts), k=1), kb)
    cells: list[Image.Image | None] = []
    words = []
    for prompt, found, made in zip(prompts, hits.images(), _generate(pipe, hits, seed), strict=True):
        cells += [found[0], made]
        words += ["found", f'"{prompt}"']
    return Row("a color of the prompt is kept", tuple(cells), tuple(words), len(prompts))


def edit_row(pipe: System, kb: KnowledgeBase, where: str | None, edits: Sequence[tuple[str, str]], seed: int) -> Row:
    """Pictures of `kb` by what they show, each edited by an instruction and what is found for it; those that satisfy
    `where`."""
    from bowerbird.systems import generation
    from bowerbird.systems.queries import Request

    cells: list[Image.Image | None] = []
    words: list[str] = []
    settings = replace(generation.default_settings(pipe), seed=seed)
    for shown, instruction in edits:
        source = kb.search(text=shown, k=1, mode="bm25", where=where).images()[0][0]
        assert source is not None
        hits = pipe.retrieve(Request(prompts=(instruction,), k=1, where=where, allow_no_neighbors=True), kb)
        near = [picture for picture in hits.images()[0] if picture is not None] if hits.k else []
        cells += [source, *near, generation.generate(pipe, hits, settings, sources=[source], batch=1)[0]]
        words += ["source", *["found"] * len(near), f'"{instruction}"']
    return Row("edited by an instruction, without a mask", tuple(cells), tuple(words), len(edits))


def write(rows: Sequence[Row], path: Path) -> None:
    """The sheet."""
    from bowerbird.core.contact_sheet import labeled_grid
    from bowerbird.core.files import atomic_path

    lines = [(row.label, row.images, row.words) for row in rows]
    with atomic_path(path) as temporary:
        labeled_grid(lines, size=EDGE).save(temporary, "PNG")


def _generate(pipe: System, hits: Neighbors, seed: int, size: int | None = None) -> list[Image.Image]:
    """A picture a row, all from one seed."""
    from bowerbird.systems import generation

    settings = replace(generation.default_settings(pipe), height=size, width=size)
    return generation.generate(pipe, hits, settings, picture_seeds=[seed] * len(hits))
