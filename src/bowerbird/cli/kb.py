"""`bowerbird kb …`: make, change and describe knowledge bases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, SeedOption, pick_device, print_json, progress_bar, say
from bowerbird.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.knowledge.base import AddReport

app = typer.Typer(help="Make, change and describe knowledge bases.", no_args_is_help=True, rich_markup_mode=None)

KbArgument = Annotated[Path, typer.Argument(metavar="KB", help="Directory of the knowledge base.")]
SourceArgument = Annotated[list[str], typer.Argument(metavar="SOURCE…", help="Folder, picture, .parquet file, or emoji-font.")]
CaptionOption = Annotated[str | None, typer.Option("--caption-column", help="Column that holds the captions.")]
WhereOption = Annotated[str | None, typer.Option("--where", metavar="SQL", help="Keep the rows that satisfy this, e.g. \"style = 'noto'\".")]


@app.command()
def build(
    kb: KbArgument,
    source: SourceArgument,
    encoder: Annotated[str, typer.Option(help="small (bundled), a directory, or a hub id of CLIP or SigLIP.")] = "small",
    caption_column: CaptionOption = None,
    where: WhereOption = None,
    normalize: Annotated[bool, typer.Option(help="Compare by cosine; --no-normalize for inner products.")] = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Make a knowledge base from pictures; it appears whole or not at all.

    Example: bowerbird kb build my-kb photos/ more.parquet
    """
    from bowerbird.knowledge.base import KnowledgeBase

    with progress_bar(as_json) as bar:
        task = bar.add_task("embedding", total=None)
        made, report = KnowledgeBase.build(
            kb, list(source), encoder=encoder, normalize=normalize, caption_column=caption_column, where=where, device=pick_device(device),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    _print_report(report, made.version, len(made), kb, as_json)


@app.command()
def add(
    kb: KbArgument,
    source: SourceArgument,
    caption_column: CaptionOption = None,
    where: WhereOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Add pictures; those that are there already are not added twice.

    Example: bowerbird kb add my-kb new-pictures/
    """
    from bowerbird.knowledge.base import KnowledgeBase

    opened = KnowledgeBase.open(kb, device=pick_device(device))
    with progress_bar(as_json) as bar:
        task = bar.add_task("embedding", total=None)
        report = opened.add(
            list(source), caption_column=caption_column, where=where, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    if not report.added and report.unreadable and not report.present:
        raise BowerbirdError(f"{' '.join(source)}: no picture could be read, nothing was added ({report.unreadable[0]})")
    _print_report(report, opened.version, len(opened), kb, as_json)


@app.command()
def remove(
    kb: KbArgument,
    ids: Annotated[str | None, typer.Option("--ids", help="Ids, separated by commas or spaces.")] = None,
    where: WhereOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Remove items by id or by condition.

    Example: bowerbird kb remove my-kb --where "style = 'noto'"
    """
    from bowerbird.knowledge.base import KnowledgeBase

    try:
        numbers = None if ids is None else [int(part) for part in ids.replace(",", " ").split()]
    except ValueError as error:
        raise BowerbirdError(f"--ids {ids!r}: ids are whole numbers; list them with bowerbird search {kb} --text … --json") from error
    opened = KnowledgeBase.open(kb)
    count = opened.remove(ids=numbers, where=where)
    if as_json:
        print_json({"path": str(kb), "version": opened.version, "items": len(opened), "removed": count})
    else:
        say(f"{kb}: removed {count}, {len(opened)} items left (version {opened.version})")


@app.command()
def info(kb: KbArgument, seed: SeedOption = 0, device: DeviceOption = "auto", as_json: JsonOption = False) -> None:
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
    print(f"encoder   {encoder['name']} ({encoder['fingerprint']}), {encoder['dim']} numbers, {'cosine' if encoder['normalize'] else 'inner product'}")
    print(f"indexes   {', '.join(facts['indexes'])}")
    print(f"metadata  {', '.join(f'{name} ({kind})' for name, kind in facts['metadata'].items()) or 'none'}")


def _print_report(report: AddReport, version: int, items: int, kb: Path, as_json: bool) -> None:
    if as_json:
        document = {"path": str(kb), "version": version, "items": items, "added": report.added, "present": report.present, "unreadable": report.unreadable}
        print_json(document)
        return
    for line in report.unreadable:
        say(f"left out: {line}")
    present = f", {report.present} were there already" if report.present else ""
    left = f", {len(report.unreadable)} could not be read" if report.unreadable else ""
    say(f"{kb}: added {report.added}{present}{left}; {items} items (version {version})")
    say(f'next: bowerbird search {kb} --text "…" --sheet found.png')


@app.command()
def neighbors(
    kb: KbArgument,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The items whose neighbours are wanted.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="File to write: id, neighbors, scores.")],
    k: Annotated[int, typer.Option("-k", help="Neighbours an item.", min=1)] = 20,
    mode: Annotated[str, typer.Option("--mode", help="dense by pictures; bm25 or hybrid by captions.")] = "dense",
    max_similarity: Annotated[float | None, typer.Option("--max-similarity", help="Leave out anything closer: near-duplicates.")] = None,
    exclude_key: Annotated[str | None, typer.Option("--exclude-key", help="Leave out items with the same value of this column.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write the nearest items of every picture of a source, never itself.

    Example: bowerbird kb neighbors my-kb photos/ neighbors.parquet -k 20
    """
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.bulk import write_neighbors

    opened = KnowledgeBase.open(kb, device=pick_device(device))
    count = write_neighbors(opened, source, out, k, mode=mode, max_similarity=max_similarity, exclude_key=exclude_key)
    if as_json:
        print_json({"path": str(kb), "out": str(out), "items": count, "k": k})
    else:
        say(f"{out}: the {k} neighbours of {count} items")
