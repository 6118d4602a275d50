"""`bowerbird kb neighbors` and `bowerbird kb embed`: what is done for a whole training set at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, print_json, say, say_source, show_progress
from bowerbird.cli.filling import (
    CaptionOption,
    EncoderOption,
    EngineOption,
    FetchOption,
    FilterOption,
    KbArgument,
    MaxPixelsOption,
    MemoryOption,
    OpenEncoderOption,
    PatchesOption,
    PrivateOption,
    SourceArgument,
    WhereOption,
    WorkersOption,
    load_filter,
)
from bowerbird.core.images import MAX_PIXELS, check_max_pixels
from bowerbird.core.tensors import pick_device
from bowerbird.core.text import in_shell


def neighbors(
    kb: KbArgument,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Pictures whose neighbors are wanted.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="File to write: id, neighbors, scores.")],
    encoder: OpenEncoderOption = None,
    k: Annotated[int, typer.Option("-k", "--num-neighbors", help="Neighbors per picture.", min=1)] = 20,
    mode: Annotated[str, typer.Option("--mode", help="dense by pictures; bm25 or hybrid by captions.")] = "dense",
    max_similarity: Annotated[
        float | None,
        typer.Option("--max-similarity", help="Leave out neighbors above this similarity, as near-duplicates."),
    ] = None,
    exclude_key: Annotated[
        str | None, typer.Option("--exclude-key", help="Leave out neighbors with the same value in this column.")
    ] = None,
    counts: Annotated[
        Path | None,
        typer.Option(
            "--counts", metavar="FILE.parquet", help="Also write how often each item is a neighbor (RDM's p_D)."
        ),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write the nearest neighbors of every picture of a source.

    A picture is never its own neighbor.

    Example: bowerbird kb neighbors my-kb photos/ neighbors.parquet -k 20
    """
    from bowerbird.data.report import SourceReport
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.neighbors.export import write_neighbors

    opened = KnowledgeBase.open(kb, encoder=encoder, device=pick_device(device))
    passed_over = SourceReport()
    with show_progress("searching", as_json) as progress:
        count = write_neighbors(
            opened,
            source,
            out,
            k,
            mode=mode,
            max_similarity=max_similarity,
            exclude_key=exclude_key,
            counts=counts,
            progress=progress,
            report=passed_over,
        )
    if as_json:
        print_json({"path": str(kb), "out": str(out), "items": count, "k": k, "source": passed_over.facts()})
    else:
        say_source(passed_over)
        say(f"{out}: the {k} neighbors of {count} items")


def embed(
    source: SourceArgument,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the parquet parts; the same command resumes.")
    ],
    encoder: EncoderOption = "small",
    engine: EngineOption = "torch",
    caption_column: CaptionOption = None,
    where: WhereOption = None,
    patches: PatchesOption = 0,
    keep: FilterOption = None,
    fetch: FetchOption = False,
    private: PrivateOption = False,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    workers: WorkersOption = 0,
    part: Annotated[
        int, typer.Option("--part", min=1, metavar="N", help="Pictures per part; fewer if --memory requires it.")
    ] = 2048,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="ADDRESS", help="Embed on a Ray cluster instead: its address, or local to start one here."
        ),
    ] = None,
    memory: MemoryOption = "2G",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Embed pictures into parquet parts for kb build and kb add.

    Those read the parts without embedding again.

    Example: bowerbird kb embed shards/*.tar --out embedded --workers 8
    """
    from bowerbird import encoders
    from bowerbird.encoders import engines
    from bowerbird.knowledge.ingest.embed import embed as write_parts
    from bowerbird.knowledge.ingest.prepare import Choice
    from bowerbird.knowledge.search.planner import parse_memory

    name = engines.named(encoder, engine)
    with show_progress("embedding", as_json) as progress:
        report = write_parts(
            source,
            out,
            encoders.load(name, device=pick_device(device)),
            Choice(caption_column, where, patches, fetch, private, check_max_pixels(max_pixels)),
            filter_fn=load_filter(keep),
            processes=workers,
            size=part,
            memory=parse_memory(memory),
            ray_address=ray,
            progress=progress,
        )
    if as_json:
        print_json(
            {
                "out": str(out),
                "parts": report.parts,
                "items": report.items,
                "parts before": report.before,
                "left out": report.left_out,
                "source": report.source.facts(),
            }
        )
        return
    say_source(report.source)
    for line in report.left_out[:20]:
        say(f"left out: {line}")
    say(
        f"{out}: {report.items} items in {report.parts} parts ({report.before} were there), {len(report.left_out)}"
        " left out"
    )
    say(f"next: bowerbird kb build KB {in_shell(out)} --encoder {in_shell(name)}")
