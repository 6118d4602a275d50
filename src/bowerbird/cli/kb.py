"""`bowerbird kb …`: make, change and describe knowledge bases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, pick_device, print_json, say, show_progress
from bowerbird.cli.filling import (
    CaptionOption,
    DedupOption,
    EncoderOption,
    FetchOption,
    FilterOption,
    KbArgument,
    MemoryOption,
    OpenEncoderOption,
    PatchesOption,
    ReportOption,
    SourceArgument,
    WhereOption,
    WorkersOption,
    check_report_path,
    load_filter,
    parse_weights,
    print_report,
)
from bowerbird.core.errors import BowerbirdError

app = typer.Typer(help="Make, change and describe knowledge bases.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def build(
    kb: KbArgument,
    source: SourceArgument,
    encoder: EncoderOption = "small",
    caption_column: CaptionOption = None,
    where: WhereOption = None,
    normalize: Annotated[bool, typer.Option(help="Compare by cosine; --no-normalize for inner products.")] = True,
    patches: PatchesOption = 0,
    dedup: DedupOption = None,
    report: ReportOption = None,
    keep: FilterOption = None,
    fetch: FetchOption = False,
    bm25_weights: Annotated[
        str,
        typer.Option("--bm25-weights", metavar="C,T", help="How often words of captions and of tags count in BM25."),
    ] = "1,1",
    workers: WorkersOption = 0,
    memory: MemoryOption = "2G",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Make a knowledge base from pictures; it appears whole or not at all.

    Example: bowerbird kb build my-kb photos/ more.parquet
    """
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.search.planner import parse_memory

    report = check_report_path(report)
    with show_progress("embedding", as_json) as progress:
        made, done = KnowledgeBase.build(
            kb,
            list(source),
            encoder=encoder,
            normalize=normalize,
            caption_column=caption_column,
            where=where,
            patches=patches,
            dedup=dedup,
            filter_fn=load_filter(keep),
            fetch_urls=fetch,
            bm25_weights=parse_weights(bm25_weights),
            workers=workers,
            device=pick_device(device),
            memory=parse_memory(memory),
            on_message=say,
            progress=progress,
        )
    print_report(done, made.version, len(made), kb, report, as_json)


@app.command()
def add(
    kb: KbArgument,
    source: SourceArgument,
    encoder: OpenEncoderOption = None,
    caption_column: CaptionOption = None,
    where: WhereOption = None,
    patches: PatchesOption = 0,
    dedup: DedupOption = None,
    report: ReportOption = None,
    keep: FilterOption = None,
    fetch: FetchOption = False,
    workers: WorkersOption = 0,
    memory: MemoryOption = "2G",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Add pictures; those that are there already are not added twice.

    Example: bowerbird kb add my-kb new-pictures/
    """
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.search.planner import parse_memory

    report = check_report_path(report)
    opened = KnowledgeBase.open(
        kb, encoder=encoder, device=pick_device(device), memory=parse_memory(memory), on_message=say
    )
    with show_progress("embedding", as_json) as progress:
        done = opened.add(
            list(source),
            caption_column=caption_column,
            where=where,
            patches=patches,
            dedup=dedup,
            filter_fn=load_filter(keep),
            fetch_urls=fetch,
            workers=workers,
            progress=progress,
        )
    if not done.added and done.unreadable and not done.already_present:
        raise BowerbirdError(f"{' '.join(source)}: no picture could be read, nothing was added ({done.unreadable[0]})")
    print_report(done, opened.version, len(opened), kb, report, as_json)


@app.command()
def remove(
    kb: KbArgument,
    ids: Annotated[str | None, typer.Option("--ids", help="Ids, separated by commas or spaces.")] = None,
    where: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove items by id or by condition.

    Example: bowerbird kb remove my-kb --where "style = 'noto'"
    """
    from bowerbird.knowledge.base import KnowledgeBase

    numbers = _ids(ids, kb)
    opened = KnowledgeBase.open(kb)
    count = opened.remove(ids=numbers, where=where)
    if as_json:
        print_json({"path": str(kb), "version": opened.version, "items": len(opened), "removed": count})
    else:
        say(f"{kb}: removed {count}, {len(opened)} items left (version {opened.version})")


@app.command()
def update(
    kb: KbArgument,
    ids: Annotated[str | None, typer.Option("--ids", help="Ids, separated by commas or spaces.")] = None,
    where: WhereOption = None,
    caption: Annotated[
        str | None, typer.Option("--caption", help="The new caption; with it an item has a new id.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="COLUMN=VALUE", help="Metadata; VALUE as JSON or text, null to empty it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give items another caption or other metadata; nothing is embedded again.

    Example: bowerbird kb update my-kb --where "style = 'noto'" --set license=Apache-2.0
    """
    from bowerbird.knowledge.base import KnowledgeBase

    opened = KnowledgeBase.open(kb)
    count = opened.update(
        ids=_ids(ids, kb), where=where, caption=caption, metadata=dict(_pair(text) for text in changes or [])
    )
    if as_json:
        print_json({"path": str(kb), "version": opened.version, "items": len(opened), "updated": count})
    else:
        say(f"{kb}: updated {count} of {len(opened)} items (version {opened.version})")


@app.command()
def compact(
    kb: KbArgument,
    drop_history: Annotated[
        bool, typer.Option("--drop-history", help="Also drop every version but the newest, and the space they take.")
    ] = False,
    memory: MemoryOption = "2G",
    as_json: JsonOption = False,
) -> None:
    """Write the rows as few files and the index again, after many changes.

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


@app.command()
def export(
    kb: KbArgument,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    form: Annotated[
        str, typer.Option("--format", help="imagefolder (pictures and metadata.jsonl) or parquet (with embeddings).")
    ] = "imagefolder",
    where: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the pictures, captions and metadata as files that others read.

    Example: bowerbird kb export my-kb pictures/ --where "style = 'noto'"
    """
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.export import export as write_export

    with show_progress("writing", as_json) as progress:
        count = write_export(
            KnowledgeBase.open(kb),
            out,
            form=form,
            where=where,
            progress=progress,
        )
    if as_json:
        print_json({"path": str(kb), "out": str(out), "format": form, "items": count})
    else:
        say(f"{out}: {count} items")


@app.command()
def verify(
    kb: KbArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Make again what is derived from the rows.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare every file, row and picture with what was written; exit code 2 when something is wrong.

    Example: bowerbird kb verify my-kb --repair
    """
    from bowerbird.knowledge.storage.milvus.client import is_address
    from bowerbird.knowledge.storage.verify import verify as verify_directory

    if is_address(kb):
        raise BowerbirdError(
            f"{kb}: verify reads the files of a directory; what a Milvus server keeps is its own to verify"
        )

    with show_progress("rows", as_json) as progress:
        verdict = verify_directory(kb, repair=repair, progress=progress)
    if as_json:
        print_json({"path": str(kb), **verdict.facts()})
    else:
        for line in verdict.repaired:
            say(f"repaired: {line}")
    if verdict.good:
        if not as_json:
            say(f"{kb}: {verdict.items} items and {verdict.pictures} pictures are as they were added")
        return
    wrong = verdict.corrupt or [line for line in verdict.outdated if line not in verdict.repaired]
    remedy = "restore it from a copy" if verdict.corrupt else f"run bowerbird kb verify {kb} --repair"
    raise BowerbirdError(
        "; ".join([*wrong[:20], *([f"and {len(wrong) - 20} more"] if len(wrong) > 20 else []), remedy])
    )


def _ids(text: str | None, kb: str) -> list[int] | None:
    """The numbers of `--ids`."""
    try:
        return None if text is None else [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise BowerbirdError(
            f"--ids {text!r}: ids are whole numbers; list them with bowerbird search {kb} --text … --json"
        ) from error


def _pair(text: str) -> tuple[str, Any]:
    """One `--set column=value`."""
    column, equals, value = text.partition("=")
    if not equals or not column:
        raise BowerbirdError(f"--set {text!r}: give column=value")
    try:
        return column, json.loads(value)
    except ValueError:
        return column, value


@app.command()
def info(kb: KbArgument, as_json: JsonOption = False) -> None:
    """Say what a knowledge base holds.

    Example: bowerbird kb info my-kb --json
    """
    from bowerbird.knowledge.base import KnowledgeBase

    facts = KnowledgeBase.open(kb).info()
    if as_json:
        print_json(facts)
        return
    encoder: dict[str, Any] = facts["encoder"]
    print(f"{facts['path']}: {facts['items']:,} items, version {facts['version']}, {facts['bytes'] / 1e6:.1f} MB")
    print(
        f"encoder   {encoder['name']} ({encoder['fingerprint']}), embedding dimension {encoder['dim']},"
        f" {'cosine' if encoder['normalize'] else 'inner product'}"
    )
    index, beside = facts["indexes"]["dense"], facts["indexes"]["beside them"]
    recall = f", recall@20 {index['recall@20']:.3f}" if "recall@20" in index else ""
    print(
        f"indexes   dense: {index['kind']}{recall}; words: {facts['indexes']['bm25']['kind']}; since then"
        f" {beside['added']} added, {beside['removed']} removed"
    )
    print(f"metadata  {', '.join(f'{name} ({kind})' for name, kind in facts['metadata'].items()) or 'none'}")
