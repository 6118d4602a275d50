"""`bowerbird kb duplicates`: copies among the pictures of a knowledge base."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.changes import say_undo, undo_of
from bowerbird.cli.common import JsonOption, print_json, print_line, say, show_progress
from bowerbird.cli.filling import SHOWN, KbArgument
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.duplicates.find import DuplicateReport, Item

ACROSS, MOST_ROWS = 8, 60
"""Pictures in a row of a sheet, and rows of one."""


def duplicates(
    kb: KbArgument,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="F.png", help="Contact sheet to write: one row per group, the kept one first."),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            "--keep",
            help="Which of a group to keep: best (most pixels, then quality) or first (in the order of kb list).",
        ),
    ] = "best",
    kinds: Annotated[
        str | None,
        typer.Option(
            "--kinds", help="Kinds to look for: exact, re-saved, resized, cropped, rotated, mirrored; default all."
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Remove all but the kept one of each group.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find duplicate pictures.

    Exact, re-saved, resized, cropped, rotated or mirrored copies. Without --apply nothing is changed. A rotated or
    mirrored picture with its own caption is always kept: an arrow to the left is a mirrored arrow to the right.

    Example: bowerbird kb duplicates my-kb --sheet copies.png
    """
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.duplicates.find import find_duplicates, remove_copies
    from bowerbird.knowledge.duplicates.judge import KINDS

    if sheet is not None:
        _check_sheet(sheet)
    wanted = KINDS if kinds is None else tuple(kinds.replace(",", " ").split())
    opened = KnowledgeBase.open(kb)
    with show_progress("reading", as_json) as progress:
        report = find_duplicates(opened, keep=keep, kinds=wanted, progress=progress)
    if sheet is not None and report.groups:
        _write_sheet(opened, report, sheet)
    removed = remove_copies(opened, report) if apply else 0
    undo = undo_of(opened) if removed else None
    if as_json:
        facts = {"kb": str(kb), "version": opened.version, "items": len(opened)} | _facts(report)
        print_json(facts | {"removed": removed, "undo": undo})
        return
    _print(report)
    for line in report.unreadable[:SHOWN]:
        say(f"left out: {line}")
    if sheet is not None:
        shown = min(len(report.groups), MOST_ROWS)
        say(f"{sheet}: shows {shown} of {len(report.groups)}" if shown else f"{sheet}: not written, nothing to show")
    _summarize(str(kb), report)
    if apply:
        say(f"{kb}: removed {removed}, {len(opened)} items left (version {opened.version})")
        if removed:
            say_undo(kb, undo)
    elif report.removable:
        say("nothing was changed; --apply removes the copies and leaves the kept ones")


def _summarize(kb: str, report: DuplicateReport) -> None:
    copies = sum(report.counts.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.counts.items() if count)
    also = f"; {report.without_picture} items have no picture" if report.without_picture else ""
    more = f" ({kinds})" if kinds else ""
    counted = [
        f"{n} {word if n == 1 else many}"
        for n, word, many in (
            (copies, "copy", "copies"),
            (len(report.groups), "group", "groups"),
            (report.pictures, "picture", "pictures"),
        )
    ]
    say(f"{kb}: {counted[0]} in {counted[1]} among {counted[2]}{more}{also}")
    pairs = [(group.kept, copy) for group in report.groups for copy in group.copies]
    others = [copy for kept, copy in pairs if copy.caption not in ("", kept.caption)]
    if others:
        staying = sum(bool(copy.stays) for copy in others)
        kept = f"; {staying} of these, rotated or mirrored, stay even with --apply" if staying else ""
        say(f"copies with another caption than the kept one: {len(others)}{kept}")


def _print(report: DuplicateReport) -> None:
    for group in report.groups[:SHOWN]:
        print_line(f"kept       {_line(group.kept)}")
        for copy in group.copies:
            print_line(f"{copy.kind:<10} {_line(copy)}{f'; {copy.detail}' if copy.detail else ''}")
    if len(report.groups) > SHOWN:
        print_line(f"and {len(report.groups) - SHOWN} more groups; --json lists them all")


def _line(item: Item) -> str:
    words = ": ".join(part for part in (item.name, item.caption) if part)
    return f"{item.id:>19}  {words} ({item.width} x {item.height} {item.format}, {item.bytes:,} bytes)"


def _facts(report: DuplicateReport) -> dict[str, Any]:
    groups = [{"kept": _item(group.kept), "copies": [_item(copy) for copy in group.copies]} for group in report.groups]
    return {
        "pictures": report.pictures,
        "without picture": report.without_picture,
        "unreadable": report.unreadable,
        "counts": report.counts,
        "groups": groups,
    }


def _item(item: Item) -> dict[str, Any]:
    """An item; of the one that is kept, without what a copy is."""
    return {name: value for name, value in asdict(item).items() if value or name not in ("kind", "detail", "stays")}


def _check_sheet(sheet: Path) -> None:
    """Raises: BowerbirdError before the work when no picture can be written there."""
    from bowerbird.core import images

    if sheet.suffix.lower() not in images.SUFFIXES or sheet.is_dir():
        raise BowerbirdError(f"--sheet {sheet}: is not the name of a picture; give a name such as copies.png")


def _write_sheet(kb: KnowledgeBase, report: DuplicateReport, sheet: Path) -> None:
    """A row a group: the picture that is kept, a line, its copies."""
    from bowerbird.core import images
    from bowerbird.core.contact_sheet import labeled_grid

    rows, notes = [], []
    for number, group in enumerate(report.groups[:MOST_ROWS], 1):
        shown = [group.kept, *group.copies[: ACROSS - 1]]
        more = f", {len(group.copies) + 1 - len(shown)} not shown" if len(shown) <= len(group.copies) else ""
        words = [f"{item.kind or 'KEPT'} {item.width}x{item.height} {item.format}" for item in shown]
        label = f"{number}. {group.kept.caption or group.kept.name}{more}"
        rows.append((label, kb.get([item.id for item in shown]).images()[0], words))
        notes.append([Path(item.name).name for item in shown])
    count = f"{len(report.groups)} group" + ("" if len(report.groups) == 1 else "s")
    title = f"{Path(str(kb.path)).name}: {count} of copies, the kept one first"
    images.write(labeled_grid(rows, title=title, divide=1, notes=notes), sheet)
