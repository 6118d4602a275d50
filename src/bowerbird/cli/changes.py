"""`bowerbird kb remove`, `update`, `credit`, `restore` and `compact`: change what a knowledge base holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import JsonOption, print_json, print_line, say
from bowerbird.cli.filling import KbArgument, MemoryOption, parse_columns
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import in_shell, shorten

if TYPE_CHECKING:
    import numpy as np

    from bowerbird.knowledge.base import KnowledgeBase

EXAMPLES = 5
"""So many items that a dry run names."""
IdsOption = Annotated[str | None, typer.Option("--ids", help="Ids, separated by commas or spaces.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Count the items, show a few, and change nothing.")]


def remove(
    kb: KbArgument,
    ids: IdsOption = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", help="Remove items that satisfy this condition; true removes all."),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove items by id or by condition.

    The last line of the output says how to undo it.

    Example: bowerbird kb remove my-kb --where "style = 'noto'"
    """
    from bowerbird.knowledge.base import KnowledgeBase

    numbers = _ids(ids, kb)
    opened = KnowledgeBase.open(kb)
    absent = _say_absent(opened, numbers)
    if dry_run:
        _preview(opened, opened.select_ids(ids=numbers, where=where), "remove", as_json)
        return
    count = opened.remove(ids=numbers, where=where)
    undo = undo_of(opened) if count else None
    if as_json:
        facts = {"path": str(kb), "version": opened.version, "items": len(opened)}
        print_json({**facts, "removed": count, "not_here": absent, "undo": undo})
        return
    say(f"{kb}: removed {count}, {len(opened)} items left (version {opened.version})")
    if count:
        say_undo(kb, undo)


def update(
    kb: KbArgument,
    ids: IdsOption = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", help="Change items that satisfy this condition; true changes all."),
    ] = None,
    caption: Annotated[str | None, typer.Option("--caption", help="New caption; the item gets a new id.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="COLUMN=VALUE", help="Metadata to set; VALUE is JSON or text, null clears it. Repeatable."
        ),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change captions or metadata of items.

    Nothing is embedded again.

    Example: bowerbird kb update my-kb --where "style = 'noto'" --set license=Apache-2.0
    """
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.changes import check_change

    numbers, metadata = _ids(ids, kb), dict(_pair(text) for text in changes or [])
    opened = KnowledgeBase.open(kb)
    absent = _say_absent(opened, numbers)
    if dry_run:
        check_change(caption, metadata)
        _preview(opened, opened.select_ids(ids=numbers, where=where), "update", as_json)
        return
    count = opened.update(ids=numbers, where=where, caption=caption, metadata=metadata)
    undo = undo_of(opened) if count else None
    if as_json:
        facts = {"path": str(kb), "version": opened.version, "items": len(opened)}
        print_json({**facts, "updated": count, "not_here": absent, "undo": undo})
        return
    say(f"{kb}: updated {count} of {len(opened)} items (version {opened.version})")
    if count:
        say_undo(kb, undo)


def credit(
    kb: KbArgument,
    columns: Annotated[
        str | None,
        typer.Argument(
            metavar="[COLUMNS]", help="Metadata columns, separated by commas; without them, print the current ones."
        ),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Credit by file name alone.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Choose the metadata columns that credit a picture.

    For example author and license. Records include them from then on.

    Example: bowerbird kb credit my-kb sku,license,author
    """
    from bowerbird.knowledge.base import KnowledgeBase

    if none and columns is not None:
        raise BowerbirdError("credit: give columns or --none, one of them")
    opened = KnowledgeBase.open(kb)
    if none or columns is not None:
        opened.set_credit(parse_columns(columns))
    if as_json:
        print_json({"path": str(kb), "version": opened.version, "credit": list(opened.credit)})
    elif opened.credit:
        say(f"{kb}: credits {', '.join(opened.credit)}, beside the file name")
    else:
        say(f"{kb}: credits the file name alone; it has {', '.join(opened.info()['metadata']) or 'no metadata'}")


def restore(
    kb: KbArgument,
    version: Annotated[int, typer.Option("--version", help="Version to restore.")],
    as_json: JsonOption = False,
) -> None:
    """Restore an earlier version.

    Its items become a new version, so that this too can be undone.

    Example: bowerbird kb restore my-kb --version 3
    """
    from bowerbird.knowledge.base import KnowledgeBase

    opened = KnowledgeBase.open(kb)
    before = opened.version
    now = opened.restore(version)
    if as_json:
        print_json({"path": str(kb), "version": now, "items": len(opened), "restored": version})
    elif now == before:
        say(f"{kb}: is at version {version} already, with {len(opened)} items")
    else:
        say(f"{kb}: version {now} holds the {len(opened)} items of version {version}; what lay between is kept")


def compact(
    kb: KbArgument,
    drop_history: Annotated[
        bool, typer.Option("--drop-history", help="Also delete all versions but the newest, which frees their space.")
    ] = False,
    memory: MemoryOption = "2G",
    as_json: JsonOption = False,
) -> None:
    """Merge files and rebuild the index, after many changes.

    Example: bowerbird kb compact my-kb --drop-history
    """
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.search.planner import parse_memory

    opened = KnowledgeBase.open(kb, memory=parse_memory(memory), on_message=say)
    before = opened.info()["bytes"]
    opened.compact(drop_history=drop_history)
    after = opened.info()["bytes"]
    if as_json:
        print_json(
            {"path": str(kb), "version": opened.version, "items": len(opened), "bytes": after, "bytes before": before}
        )
    else:
        say(
            f"{kb}: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now; {len(opened)} items (version"
            f" {opened.version})"
        )


def _say_absent(kb: KnowledgeBase, ids: list[int] | None) -> list[int]:
    """Name those of the ids that are not here, and return them."""
    if not ids:
        return []
    absent = sorted(set(ids).difference(kb.select_ids(ids=ids).tolist()))
    if absent:
        more = ", …" if len(absent) > EXAMPLES else ""
        say(f"{kb.path}: ids that are not here: {len(absent)} ({', '.join(map(str, absent[:EXAMPLES]))}{more})")
    return absent


def _preview(kb: KnowledgeBase, chosen: np.ndarray, verb: str, as_json: bool) -> None:
    """What a dry run says: how many items, and the first few."""
    few = chosen[:EXAMPLES].tolist()
    hits = kb.get(few)
    if as_json:
        shown = [{"id": i, "caption": c, "name": kb.name(i)} for i, c in zip(few, hits.captions[0], strict=True)]
        print_json(
            {"path": str(kb.path), "version": kb.version, "items": len(kb), f"would {verb}": len(chosen)}
            | {"first": shown}
        )
        return
    for number, caption in zip(few, hits.captions[0], strict=True):
        print_line(f"{number:>19}  {shorten(caption or kb.name(number))}")
    more = f", {len(chosen) - len(few)} more not shown" if len(chosen) > len(few) else ""
    say(f"{kb.path}: would {verb} {len(chosen)} of {len(kb)} items{more}; nothing was changed (--dry-run)")


def undo_of(kb: KnowledgeBase) -> str | None:
    """The command that goes back to before the last change; None where no earlier version is kept."""
    before = kb.version - 1
    return f"bowerbird kb restore {in_shell(kb.path)} --version {before}" if before in kb.versions else None


def say_undo(kb: str, undo: str | None) -> None:
    """How the last change is undone, for a person."""
    say(f"undo: {undo}" if undo else f"{kb}: keeps no earlier version, so this cannot be undone")


def _ids(text: str | None, kb: str) -> list[int] | None:
    """The numbers of `--ids`. Raises: BowerbirdError when there is none in it."""
    if text is None:
        return None
    try:
        found = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not found:
        raise BowerbirdError(f"--ids {text!r}: ids are whole numbers; list them with bowerbird kb list {in_shell(kb)}")
    return found


def _pair(text: str) -> tuple[str, Any]:
    """One `--set column=value`."""
    column, equals, value = text.partition("=")
    if not equals or not column:
        raise BowerbirdError(f"--set {text!r}: give column=value")
    try:
        return column, json.loads(value)
    except ValueError:
        return column, value
