"""What a person reads of generated pictures: warnings beforehand, near copies, where they lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.cli.common import print_json, say

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System


def say_fewer(pipe: System, kb: KnowledgeBase, k: int | None) -> None:
    """A line where nobody gave `k` and the knowledge base holds fewer items than the model's usual neighbors."""
    usual = pipe.defaults.k
    if k is None and len(kb) < usual:
        say(f"{kb.path} holds {len(kb)} items, fewer than the model's usual {usual} neighbors: k is {len(kb)}")


def say_warnings(model: str, rows: Sequence[Sequence[str]]) -> None:
    """What pictures are far from what `model` was trained on in, each line once."""
    for line in dict.fromkeys(line for row in rows for line in row):
        say(f"{model}: {line}")


def warn_of_copies(made: Sequence[dict[str, Any]], paths: Sequence[Path]) -> None:
    """A line for each picture whose record says that it is a near copy of a neighbor."""
    from bowerbird.systems.records import say_near_copy

    for path, record in zip(paths, made, strict=True):
        if near_copy := say_near_copy(record):
            say(f"{path.name} {near_copy}; --on-copy drop or resample avoids that")


def print_result(paths: list[Path], out: Path, as_json: bool, what: str = "picture") -> None:
    """Where the pictures, the sheet and the records are."""
    if as_json:
        files = {"images": [str(p) for p in paths], "sheet": str(out / "sheet.png")}
        records = out / "generation.jsonl"
        near = [json.loads(line)["neighbors"] for line in records.read_text(encoding="utf-8").split("\n") if line]
        print_json({"out": str(out), **files, "records": str(records), "neighbors": near})
        return
    beside = "its neighbors" if what == "picture" else "its source, their difference and the neighbors"
    say(f"{len(paths)} {what}{'s' if len(paths) > 1 else ''} in {out}; {out / 'sheet.png'} shows each beside {beside}")
