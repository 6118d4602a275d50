"""`bowerbird kb …`: make, change and describe knowledge bases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, print_json, print_line, say, show_progress
from bowerbird.cli.filling import (
    CaptionEncoderOption,
    CaptionOption,
    CreditOption,
    DedupOption,
    EncoderOption,
    EngineOption,
    FetchOption,
    FilterOption,
    KbArgument,
    MaxPixelsOption,
    MemoryOption,
    OpenCaptionEncoderOption,
    OpenEncoderOption,
    PatchesOption,
    PrivateOption,
    ReportOption,
    SourceArgument,
    TokensOption,
    WhereOption,
    WorkersOption,
    check_report_path,
    load_filter,
    parse_columns,
    parse_weights,
    print_report,
    say_credit_hint,
)
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import MAX_PIXELS
from bowerbird.core.tensors import pick_device
from bowerbird.core.text import in_shell

app = typer.Typer(help="Build, change and inspect knowledge bases.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def build(
    kb: KbArgument,
    source: SourceArgument,
    encoder: EncoderOption = "small",
    engine: EngineOption = "torch",
    caption_encoder: CaptionEncoderOption = None,
    caption_column: CaptionOption = None,
    where: WhereOption = None,
    normalize: Annotated[
        bool, typer.Option(help="Compare by cosine similarity; --no-normalize for inner products.")
    ] = True,
    patches: PatchesOption = 0,
    dedup: DedupOption = None,
    report: ReportOption = None,
    keep: FilterOption = None,
    fetch: FetchOption = False,
    private: PrivateOption = False,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    bm25_weights: Annotated[
        str,
        typer.Option("--bm25-weights", metavar="C,T", help="Weights of captions and of tags in BM25."),
    ] = "1,1",
    language: Annotated[
        str | None,
        typer.Option("--language", metavar="CODE", help="Stem words of this language, e.g. de, fr or fi."),
    ] = None,
    compounds: Annotated[
        bool, typer.Option("--compounds", help="Also find words inside compounds, as in German or Finnish.")
    ] = False,
    keep_accents: Annotated[
        bool, typer.Option("--keep-accents", help="Distinguish words with accents from those without.")
    ] = False,
    credit: CreditOption = None,
    tokens: TokensOption = 0,
    workers: WorkersOption = 0,
    memory: MemoryOption = "2G",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Build a knowledge base from pictures.

    An interrupted build leaves nothing behind.

    Example: bowerbird kb build my-kb photos/ more.parquet
    """
    from bowerbird.encoders import engines
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.search.planner import parse_memory

    report, credited = check_report_path(report), parse_columns(credit)
    with show_progress("embedding", as_json) as progress:
        made, done = KnowledgeBase.build(
            kb,
            list(source),
            encoder=engines.named(encoder, engine),
            caption_encoder=caption_encoder,
            normalize=normalize,
            caption_column=caption_column,
            where=where,
            patches=patches,
            dedup=dedup,
            filter_fn=load_filter(keep),
            fetch_urls=fetch,
            private_urls=private,
            max_pixels=max_pixels,
            bm25_weights=parse_weights(bm25_weights),
            language=language,
            compounds=compounds,
            keep_accents=keep_accents,
            credit=credited,
            tokens=tokens,
            workers=workers,
            device=pick_device(device),
            memory=parse_memory(memory),
            on_message=say,
            progress=progress,
        )
    print_report(done, made.version, len(made), kb, report, as_json)
    say_credit_hint(made, kb)


@app.command()
def add(
    kb: KbArgument,
    source: SourceArgument,
    encoder: OpenEncoderOption = None,
    caption_encoder: OpenCaptionEncoderOption = None,
    caption_column: CaptionOption = None,
    where: WhereOption = None,
    patches: PatchesOption = 0,
    dedup: DedupOption = None,
    report: ReportOption = None,
    keep: FilterOption = None,
    fetch: FetchOption = False,
    private: PrivateOption = False,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    workers: WorkersOption = 0,
    memory: MemoryOption = "2G",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Add pictures; those already in the knowledge base are skipped.

    Example: bowerbird kb add my-kb new-pictures/
    """
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.search.planner import parse_memory

    report = check_report_path(report)
    opened = KnowledgeBase.open(
        kb,
        encoder=encoder,
        caption_encoder=caption_encoder,
        device=pick_device(device),
        memory=parse_memory(memory),
        on_message=say,
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
            private_urls=private,
            max_pixels=max_pixels,
            workers=workers,
            progress=progress,
        )
    if not done.added and done.unreadable and not done.already_present:
        raise BowerbirdError(f"{' '.join(source)}: no picture could be read, nothing was added ({done.unreadable[0]})")
    print_report(done, opened.version, len(opened), kb, report, as_json)


@app.command()
def export(
    kb: KbArgument,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    form: Annotated[
        str, typer.Option("--format", help="imagefolder (pictures and metadata.jsonl) or parquet (with embeddings).")
    ] = "imagefolder",
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Only items that satisfy this condition.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export pictures, captions and metadata in common formats.

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
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild what is derived from the rows.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every file, row and picture for damage.

    Exits with code 2 if something is wrong.

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
    remedy = "restore it from a copy" if verdict.corrupt else f"run bowerbird kb verify {in_shell(kb)} --repair"
    raise BowerbirdError(
        "; ".join([*wrong[:20], *([f"and {len(wrong) - 20} more"] if len(wrong) > 20 else []), remedy])
    )


@app.command()
def info(kb: KbArgument, as_json: JsonOption = False) -> None:
    """Show what a knowledge base contains.

    Example: bowerbird kb info my-kb --json
    """
    from bowerbird.knowledge.base import KnowledgeBase

    facts = KnowledgeBase.open(kb).info()
    if as_json:
        print_json(facts)
        return
    encoder: dict[str, Any] = facts["encoder"]
    print_line(f"{facts['path']}: {facts['items']:,} items, version {facts['version']}, {facts['bytes'] / 1e6:.1f} MB")
    print_line(
        f"encoder   {encoder['name']} ({encoder['fingerprint']}), embedding dimension {encoder['dim']},"
        f" {'cosine' if encoder['normalize'] else 'inner product'}"
    )
    if said := facts.get("captions"):
        print_line(f"captions  by {said['name']} ({said['fingerprint']}), dimension {said['dim']}, every one compared")
    if kept := facts.get("tokens"):
        print_line(f"tokens    {kept['count']} an item at most, dimension {kept['dim']}: search --rerank late")
    index, beside = facts["indexes"]["dense"], facts["indexes"]["beside them"]
    recall = f", recall@20 {index['recall@20']:.3f}" if "recall@20" in index else ""
    print_line(
        f"indexes   dense: {index['kind']}{recall}; words: {facts['indexes']['bm25']['kind']}; since then"
        f" {beside['added']} added, {beside['removed']} removed"
    )
    words = facts["indexes"]["bm25"]["analyzer"]
    own = [f"stems of {words['language']}"] if words["language"] else []
    own += [name.replace("_", " ") for name in ("compounds", "keep_accents") if words[name]]
    if own:
        print_line(f"words     {', '.join(own)}")
    if facts["caption_column"]:
        print_line(f"captions  column {facts['caption_column']}")
    print_line(f"credited  {', '.join(facts['credit']) or 'the file name alone'}")
    print_line(f"metadata  {', '.join(f'{name} ({kind})' for name, kind in facts['metadata'].items()) or 'none'}")
