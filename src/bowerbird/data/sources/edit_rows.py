"""Tables of edits: rows with two pictures and an instruction, as `timbrooks/instructpix2pix-clip-filtered`, MagicBrush
and our own `bowerbird datasets edits` have them. Each row becomes two items, which say of each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bowerbird.data.columns import column_key

ORIGINALS = (
    "original_image", "input_image", "source_img", "source_image", "before_image", "image_before", "before",
    "file_name", "image",
)  # fmt: skip
EDITED = (
    "edited_image", "target_img", "target_image", "output_image", "after_image", "image_after", "after",
)  # fmt: skip
INSTRUCTIONS = ("edit_prompt", "instruction", "edit", "edit_instruction", "edit_text", "instructions")
ORIGINAL_PROMPTS = ("original_prompt", "input", "input_prompt", "source_prompt")
EDITED_PROMPTS = ("edited_prompt", "output", "output_prompt", "target_prompt")
"""Columns by what they hold, written in any way (`Edited Image`); the first that is there wins."""
FILES = ("", "file_name", "file", "path")
"""What a column of pictures may be called besides, where it names files (`edited_image_file_name`)."""
PAIR, ROLE, INSTRUCTION = "edit_pair", "edit_role", "edit_prompt"
ORIGINAL_ROLE, EDITED_ROLE = "original", "edited"
"""The metadata of an item: which pair it is of, which of the two it is, and the edit in words."""


@dataclass(frozen=True)
class PairColumns:
    """The columns of a table of edits; those of prompts may be missing."""

    original: str
    edited: str
    instruction: str
    original_prompt: str | None
    edited_prompt: str | None


def pair_columns(names: Iterable[str]) -> PairColumns | None:
    """The columns of a table of edits, None for a table that is none."""
    keys: dict[str, str] = {}
    for name in names:
        keys.setdefault(column_key(name), name)

    def first(wanted: tuple[str, ...]) -> str | None:
        return next((keys[key] for key in map(column_key, wanted) if key in keys), None)

    def picture(wanted: tuple[str, ...]) -> str | None:
        return first(tuple(f"{name}{ending}" for name in wanted for ending in FILES))

    original, edited, instruction = picture(ORIGINALS), picture(EDITED), first(INSTRUCTIONS)
    if original is None or edited is None or instruction is None:
        return None
    return PairColumns(original, edited, instruction, first(ORIGINAL_PROMPTS), first(EDITED_PROMPTS))


def split_pair(row: dict[str, Any], columns: PairColumns, place: str) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """The two cells of pictures of a row, each with its caption and metadata."""
    known = (columns.original, columns.edited, columns.instruction, columns.original_prompt, columns.edited_prompt)
    rest = {name: value for name, value in row.items() if name not in known}
    for role, cell, prompt in (
        (ORIGINAL_ROLE, row[columns.original], columns.original_prompt),
        (EDITED_ROLE, row[columns.edited], columns.edited_prompt),
    ):
        caption = str(row[prompt] or "") if prompt is not None else ""
        yield cell, caption, {**rest, PAIR: place, ROLE: role, INSTRUCTION: str(row[columns.instruction] or "")}
