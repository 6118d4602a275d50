"""Edits as files: a folder of pictures with a CSV or JSON lines that pair them, such a table by itself, and the folders
of InstructPix2Pix's own data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json
from bowerbird.data.item import SourceItem
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import layout
from bowerbird.data.sources.base import SourceOptions
from bowerbird.data.sources.edit_rows import PairColumns, pair_columns, split_pair
from bowerbird.data.sources.rows import MOST_JSON, MOST_VALUES, read_rows
from bowerbird.data.sources.table import picture_bytes

HEAD = 64 * 1024
"""Bytes of a table by which its columns are known."""
SEEDS, PROMPT = "seeds.json", "prompt.json"
"""Of InstructPix2Pix's data: which pairs there are, as `[folder, [seed, …]]`, and in each folder its texts beside the
pictures `SEED_0.jpg` and `SEED_1.jpg`."""
OWN = PairColumns("before", "after", "edit", "input", "output")
TEXTS = (("input", "caption"), ("edit", "edit"), ("output", "output"))
"""What a text is called, and what by others who write such folders."""


class EditFolder:
    """Two pictures and an instruction a row of a text table, whose paths lie below it; or `seeds.json` and its
    folders."""

    def matches(self, place: str) -> bool:
        path = Path(place)
        return (path / SEEDS).is_file() or bool(_tables(path))

    def count(self, place: str) -> int | None:
        return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        path = Path(place)
        if (path / SEEDS).is_file():
            yield from _own_items(path, options)
            return
        tables = _tables(path)
        root = path if path.is_dir() else path.parent
        names = [table.relative_to(root).as_posix() for table in tables]
        places = layout.Layout(names)
        for name, table in zip(names, tables, strict=True):
            rows = read_rows(table, name, options.report)
            columns = pair_columns(key for row in rows[:1] for key in row)
            if columns is None:
                continue
            split = places.split_of(name) or layout.split_of_file(name)
            known = {} if split is None else {"split": split}
            for number, row in enumerate(rows):
                yield from _items(known | row, columns, f"{name}[{number}]", table.parent)


def _tables(path: Path) -> list[Path]:
    """The tables of edits in a folder and in those of its splits; or `path` itself, if it is one."""
    if path.is_dir():
        below = [each for each in sorted(path.iterdir()) if each.name.lower() in layout.SPLITS and each.is_dir()]
        found = [each for folder in (path, *below) for each in sorted(folder.iterdir()) if _is_text_table(each)]
    else:
        found = [path] if _is_text_table(path) else []
    return [each for each in found if _columns(each) is not None]


def _is_text_table(path: Path) -> bool:
    return path.name.lower().endswith(layout.TABLES) and path.is_file()


def _columns(path: Path) -> PairColumns | None:
    """The columns of a table, by its first rows."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return None
    whole = head if len(head) < HEAD else head.rpartition(b"\n")[0]
    rows = read_rows(whole, path.name, SourceReport())
    return pair_columns(key for row in rows[:1] for key in row)


def _items(row: dict[str, Any], columns: PairColumns, place: str, folder: Path) -> Iterator[SourceItem]:
    whole = dict.fromkeys((columns.original, columns.edited)) | row
    for cell, caption, metadata in split_pair(whole, columns, place):
        data, name, problem = picture_bytes(cell, folder)
        yield SourceItem(data, name or place, caption, metadata, problem=problem)


def _own_items(root: Path, options: SourceOptions) -> Iterator[SourceItem]:
    try:
        written = (root / SEEDS).read_bytes()
    except OSError as error:
        raise BowerbirdError(f"{root / SEEDS}: cannot be read ({error.strerror})") from error
    listed = parse_json(written, str(root / SEEDS), "list of pairs", characters=MOST_JSON, values=MOST_VALUES)
    try:
        pairs = [(str(name), str(seed)) for name, seeds in listed for seed in seeds]
    except (TypeError, ValueError) as error:
        raise BowerbirdError(
            f'{root / SEEDS}: is no list of folders with their seeds, as [["0000001", [12]]]'
        ) from error
    top = root.resolve()
    for name, seed in pairs:
        folder = (root / name).resolve()
        if not folder.is_relative_to(top) or not (folder / PROMPT).is_file():
            options.report.note("rows_left_out", f"{name} (no {PROMPT} there)")
            continue
        said = files.read_json(folder / PROMPT, "texts of a pair")
        texts = said if isinstance(said, dict) else {}
        row = {key: str(texts.get(key) or texts.get(other) or "") for key, other in TEXTS}
        row |= {"before": f"{seed}_0.jpg", "after": f"{seed}_1.jpg", "seed": seed}
        yield from _items(row, OWN, f"{name}/{seed}", folder)
