"""The texts that pairs are made of: what the first picture shows, what the second shows, and the edit in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.columns import column_key
from bowerbird.data.report import SourceReport
from bowerbird.data.sources.edit_rows import EDITED_PROMPTS, INSTRUCTIONS, ORIGINAL_PROMPTS
from bowerbird.data.sources.rows import is_table, read_rows

LONGEST = 1000
"""Characters of a text: more than any base reads."""


@dataclass(frozen=True)
class PromptPair:
    """An edit before there is a picture of it."""

    original: str
    edited: str
    instruction: str


def read_prompts(path: Path) -> list[PromptPair]:
    """The edits of a table: JSON lines, CSV or parquet with the columns `input`, `edit` and `output`, as the paper's
    own files have them, or `original_prompt`, `edit_prompt` and `edited_prompt`.

    Raises: BowerbirdError when there is no such file, or a row lacks one of the three.
    """
    if not path.is_file() or not is_table(path.name):
        raise BowerbirdError(
            f"{path}: not a table of prompts; give a .jsonl or .csv file with the columns input, edit and output"
        )
    report = SourceReport()
    found = [_pair(row, f"{path}, row {number}") for number, row in enumerate(read_rows(path, path.name, report), 1)]
    left_out = [*report.lines()]
    if left_out or not found:
        raise BowerbirdError(
            f"{path}: {left_out[0] if left_out else 'it holds no rows'}; each row is an edit, such as"
            ' {"input": "a red heart", "edit": "make it blue", "output": "a blue heart"}'
        )
    return found


def _pair(row: dict[str, Any], place: str) -> PromptPair:
    keys = {column_key(name): value for name, value in reversed(row.items())}
    texts = []
    for names in (ORIGINAL_PROMPTS, EDITED_PROMPTS, INSTRUCTIONS):
        text = next((keys[key] for key in map(column_key, names) if key in keys), None)
        if not isinstance(text, str) or not text.strip():
            raise BowerbirdError(
                f"{place}: says no {names[0]}; each row has input, edit and output, none of them empty"
            )
        texts.append(" ".join(text.split())[:LONGEST])
    return PromptPair(*texts)
