"""`bowerbird kb sync`: a knowledge base brought to what a catalog says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli.changes import say_undo, undo_of
from bowerbird.cli.common import DeviceOption, JsonOption, print_json, say, say_source, show_progress
from bowerbird.cli.filling import (
    SHOWN,
    CaptionOption,
    FetchOption,
    KbArgument,
    MaxPixelsOption,
    MemoryOption,
    OpenEncoderOption,
    PrivateOption,
    SourceArgument,
    WorkersOption,
)
from bowerbird.core.images import MAX_PIXELS
from bowerbird.core.tensors import pick_device

if TYPE_CHECKING:
    from bowerbird.knowledge.ingest.sync import SyncReport


def sync(
    kb: KbArgument,
    source: SourceArgument,
    key: Annotated[
        str,
        typer.Option(
            "--key", metavar="COLUMN", help="Column that identifies an item, such as sku; or name, for the file name."
        ),
    ],
    delete_missing: Annotated[
        bool, typer.Option("--delete-missing", help="Remove items whose key is not in the source.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would change, and change nothing.")] = False,
    encoder: OpenEncoderOption = None,
    caption_column: CaptionOption = None,
    fetch: FetchOption = False,
    private: PrivateOption = False,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    workers: WorkersOption = 0,
    memory: MemoryOption = "2G",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Synchronize a knowledge base with a catalog, matched by key.

    New items are added, changed pictures are embedded again, changed captions and metadata are only rewritten.
    Items keep their ids. An interrupted run changes nothing.

    Example: bowerbird kb sync my-kb catalog.parquet --key sku --delete-missing
    """
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.search.planner import parse_memory

    opened = KnowledgeBase.open(
        kb, encoder=encoder, device=pick_device(device), memory=parse_memory(memory), on_message=say
    )
    before = opened.version
    with show_progress("comparing", as_json) as progress:
        done = opened.sync(
            list(source),
            key=key,
            delete_missing=delete_missing,
            dry_run=dry_run,
            caption_column=caption_column,
            fetch_urls=fetch,
            private_urls=private,
            max_pixels=max_pixels,
            workers=workers,
            progress=progress,
        )
    undo = undo_of(opened) if opened.version != before else None
    if as_json:
        facts = {"path": str(kb), "version": opened.version, "items": len(opened), "dry_run": dry_run}
        print_json(facts | _facts(done) | {"undo": undo})
        return
    for line in done.unreadable[:SHOWN]:
        say(f"left as it was: {line}")
    if len(done.unreadable) > SHOWN:
        say(f"left as they were: {len(done.unreadable) - SHOWN} more")
    say_source(done.source)
    add, change, remove, embed = (
        ("would add", "change", "remove", "to embed") if dry_run else ("added", "changed", "removed", "embedded")
    )
    counts = f"{add} {len(done.added)}, {change} {len(done.changed)}, {remove} {len(done.removed)}"
    line = f"{counts}, unchanged {done.unchanged}; {_counted(done.embedded, 'picture')} {embed}"
    if dry_run:
        say(f"{kb}: {line}; nothing was changed (--dry-run)")
    else:
        say(f"{kb}: {line}; {len(opened)} items (version {opened.version})")
    if done.missing:
        say(f"not in the source: {_counted(done.missing, 'item')}; --delete-missing removes them")
    if undo is not None:
        say_undo(kb, undo)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _facts(done: SyncReport) -> dict[str, object]:
    return {
        "added": len(done.added),
        "changed": len(done.changed),
        "removed": len(done.removed),
        "unchanged": done.unchanged,
        "embedded": done.embedded,
        "missing": done.missing,
        "unreadable": done.unreadable,
        "keys": {"added": done.added, "changed": done.changed, "removed": done.removed},
        "source": done.source.facts(),
    }
