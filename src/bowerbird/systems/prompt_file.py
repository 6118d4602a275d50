"""A file of prompts: a text a line, or a JSON object a line whose entries say more of that picture.

The names are those of the command line; diffusers' and those of other tools for the same are taken too. Anybody may
have written the file: entries are checked and bounded, and a name in it loads no code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bowerbird.core import plugins
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.seeds import LARGEST
from bowerbird.core.text import parse_json
from bowerbird.data.report import SourceReport
from bowerbird.data.text import read_text_file
from bowerbird.diffusion.token_sampling import MOST_SYMBOLS, MOST_TEMPERATURE
from bowerbird.knowledge.rerank.registry import NAMES, check_rerank
from bowerbird.systems.jobs import Job, check
from bowerbird.systems.patches import MOST_NEIGHBORS
from bowerbird.systems.patches import MOST_TEMPERATURE as MOST_FALL

MOST_LINES, MOST_PICTURES = 10_000, 100_000
"""Of a file, and of all its lines together."""
LONGEST = 100_000
"""Characters of a line."""
OBJECTS = (".jsonl", ".ndjson")
OTHER_TABLES = (".json", ".csv", ".tsv", ".parquet")
"""Whose lines would be taken for prompts."""
ALIASES = {
    "text": "prompt",
    "class": "class_name",
    "image": "images",
    "reference": "references",
    "caption": "captions",
    "num_images": "n",
    "num_images_per_prompt": "n",
    "num_neighbors": "k",
    "num_inference_steps": "steps",
    "cfg_scale": "guidance_scale",
    "cfg": "guidance_scale",
}
"""Other names of entries, by which people know them."""


def make_jobs(prompts: Sequence[str], usual: Job, *, has_kb: bool) -> list[Job]:
    """A job for each of `prompts`, in order, and `usual` in all else.

    Raises: BowerbirdError naming the first that cannot be done.
    """
    jobs = []
    for number, prompt in enumerate(prompts, 1):
        try:
            job = _job({"prompt": prompt}, usual, Path())
            check(job, has_kb=has_kb)
        except BowerbirdError as error:
            raise BowerbirdError(f"prompt {number} of {len(prompts)}: {error}") from error
        jobs.append(job)
    return jobs


def read_jobs(path: Path, usual: Job, *, has_kb: bool, report: SourceReport | None = None) -> list[Job]:
    """A job for each line of `path` (`.txt`: the line is the prompt; `.jsonl`: an object, or a prompt in quotes),
    `usual` where it says nothing; blank lines are none. Files in it are looked for beside it.
    An encoding that had to be guessed is noted in `report`.

    Raises: BowerbirdError naming the first line that cannot be done.
    """
    suffix = path.suffix.lower()
    if suffix in OTHER_TABLES:
        raise BowerbirdError(
            f"{path}: {suffix} is not read; write a prompt a line (.txt), or an object a line (.jsonl)"
        )
    text = read_text_file(path, "a prompt a line", SourceReport() if report is None else report)
    jobs = []
    for place, line in _lines(path, text):
        try:
            entry = parse_json(line, place, "line", characters=LONGEST) if suffix in OBJECTS else line
            job = _job({"prompt": entry} if isinstance(entry, str) else entry, usual, path.parent)
            check(job, has_kb=has_kb)
        except BowerbirdError as error:
            raise error if str(error).startswith(place) else BowerbirdError(f"{place}: {error}") from error
        jobs.append(job)
    if not jobs:
        raise BowerbirdError(f"{path}: no prompt in it; write one a line")
    if sum(job.n for job in jobs) > MOST_PICTURES:
        raise BowerbirdError(
            f"{path}: {sum(job.n for job in jobs):,} pictures, at most {MOST_PICTURES:,}; use two files"
        )
    return jobs


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """The lines that say something, each with where it is."""
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > MOST_LINES:
        raise BowerbirdError(f"{path}: {len(lines):,} lines, at most {MOST_LINES:,}; use two files")
    for number, line in lines:
        if len(line) > LONGEST:
            raise BowerbirdError(f"{path}:{number}: {len(line):,} characters, at most {LONGEST:,}")
        yield f"{path}:{number}", line


def _job(entry: Any, usual: Job, folder: Path) -> Job:
    """The job of one line's entries."""
    if not isinstance(entry, dict):
        raise BowerbirdError(f'a line is {_kind(entry)}; write an object, as in {{"prompt": "a red fox", "seed": 7}}')
    fields: dict[str, Any] = {}
    for name, value in entry.items():
        field = "size" if name == "size" else ALIASES.get(name, name)
        if field not in READ:
            raise BowerbirdError(f'"{name}" is not known; a line may have {", ".join(sorted(READ))}')
        if field in fields:
            raise BowerbirdError(f'"{name}" is there twice, by another name')
        if value is not None:  # as if it were not there
            fields[field] = READ[field](name, value)
    if "size" in fields:
        edge = fields.pop("size")
        fields = {"height": edge, "width": edge, **fields}
    for name in ("images", "references"):
        if name in fields:
            fields[name] = tuple(folder / part for part in fields[name])
    return replace(usual, **fields)


Read = Callable[[str, Any], Any]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BowerbirdError(f'"{name}" is {_kind(value)}; write a text')
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """One text or several; an empty one where it is a caption."""
    several = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in several) or len(several) > 1000:
        raise BowerbirdError(f'"{name}" is {_kind(value)}; write a text, or a list of up to 1,000')
    return tuple(several)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BowerbirdError(f'"{name}" is {_kind(value)}; write true or false')
    return value


def _whole(least: int, most: int) -> Read:
    def read(name: str, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise BowerbirdError(f'"{name}" is {_kind(value)}; write a whole number from {least} to {most}')
        return value

    return read


def _number(least: float, most: float) -> Read:
    def read(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise BowerbirdError(f'"{name}" is {_kind(value)}; write a number from {least:g} to {most:g}')
        return float(value)

    return read


def _several(each: Read) -> Read:
    def read(name: str, value: Any) -> tuple[Any, ...]:
        values = value if isinstance(value, list) else [value]
        if not 0 < len(values) <= 1000:
            raise BowerbirdError(f'"{name}" is a list of {len(values)}; write a number, or a list of up to 1,000')
        return tuple(each(name, one) for one in values)

    return read


def _sampler(name: str, value: Any) -> str:
    if plugins.is_path(_text(name, value)):
        raise BowerbirdError(f'"{name}" {value!r} is code; a file names none of its own: give it as --sampler')
    return str(value)


def _reranker(name: str, value: Any) -> str:
    if not isinstance(value, bool | str):
        raise BowerbirdError(f'"{name}" is {_kind(value)}; write one of {", ".join(NAMES)}')
    return check_rerank(value)


READ: dict[str, Read] = {
    **dict.fromkeys(("prompt", "class_name", "text_mode", "image_mode", "search_mode", "where", "class_key"), _text),
    **dict.fromkeys(("layers", "phrases", "structure"), _text),
    "scale": _number(0, 10),
    **dict.fromkeys(("steps_from", "steps_to"), _number(0, 1)),
    "pool": _whole(1, 64),
    **dict.fromkeys(("images", "references", "captions"), _texts),
    **dict.fromkeys(("unconditional", "cover"), _switch),
    "rerank": _reranker,
    "n": _whole(1, 1000),
    "k": _whole(0, 1000),
    "seed": _whole(0, LARGEST),
    "weights": _several(_number(0, 1e6)),
    "top_m": _number(0, 1),
    "steps": _several(_whole(1, 1000)),
    "guidance_scale": _number(-1000, 1000),
    "temperature": _number(0, MOST_TEMPERATURE),
    "top_k": _whole(0, MOST_SYMBOLS),
    **dict.fromkeys(("top_p", "min_p", "patch_weight"), _number(0, 1)),
    "patch_neighbors": _whole(1, MOST_NEIGHBORS),
    "patch_temperature": _number(0, MOST_FALL),
    "sampler": _sampler,
    "eta": _number(0, 1),
    **dict.fromkeys(("size", "height", "width"), _whole(1, 4096)),
}
"""What a line may say, and how it is read."""


def _kind(value: Any) -> str:
    """A value as an error names it."""
    if value is None or isinstance(value, bool | int | float):
        return "not a number" if isinstance(value, float) and math.isnan(value) else f"{value}"[:40]
    if isinstance(value, str):
        return repr(value[:40]) if value.strip() else "empty"
    return "a list" if isinstance(value, list) else "an object"
