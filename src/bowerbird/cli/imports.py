"""`bowerbird import …`: what others made, in our form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, SeedOption, pick_device, progress_bar, say
from bowerbird.cli.filling import CaptionOption, MemoryOption, print_report
from bowerbird.errors import BowerbirdError

app = typer.Typer(help="Take over what others made.", no_args_is_help=True, rich_markup_mode=None)

NewKb = Annotated[str, typer.Argument(metavar="KB", help="Knowledge base to make.")]
TheirEncoder = Annotated[str, typer.Option("--encoder", help="The encoder their embeddings are of: their files do not say. A directory or a hub id.")]


@app.command("clip-retrieval")
def clip_retrieval(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What clip-retrieval inference wrote: img_emb/ and metadata/.")],
    kb: NewKb,
    encoder: TheirEncoder = "openai/clip-vit-base-patch32",
    caption_column: CaptionOption = None,
    memory: MemoryOption = "2G",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Make a knowledge base of a clip-retrieval folder; its embeddings are kept, not made again.

    Example: bowerbird import clip-retrieval embeddings/ my-kb --encoder openai/clip-vit-base-patch32
    """
    from bowerbird.knowledge.embedded import is_clip_retrieval

    if not is_clip_retrieval(folder):
        raise BowerbirdError(f"{folder}: no folder of clip-retrieval; it holds img_emb/img_emb_0.npy and metadata/metadata_0.parquet")
    _build([folder], kb, encoder, caption_column, memory, device, as_json)


@app.command("compvis-database")
def compvis_database(
    parts: Annotated[list[Path], typer.Argument(metavar="FILES…", help="Parts of an RDM database, <rows>x<dim>-part_<n>.npz, or their folder.")],
    kb: NewKb,
    encoder: TheirEncoder = "openai/clip-vit-base-patch32",
    memory: MemoryOption = "2G",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Make a knowledge base of RDM's published database parts: raw embeddings, image ids and patch corners; they hold no pictures.

    Example: bowerbird import compvis-database openimages/*.npz my-kb
    """
    from bowerbird.knowledge.embedded import part_number

    files = sorted((file for part in parts for file in (part.glob("*.npz") if part.is_dir() else [part])), key=part_number)
    if not files:
        raise BowerbirdError(f"{parts[0]}: no .npz parts here")
    wrong = [file for file in files if file.suffix.lower() != ".npz"]
    if wrong:
        raise BowerbirdError(f"{wrong[0]}: no part of an RDM database; they are called <rows>x<dim>-part_<n>.npz")
    _build(files, kb, encoder, None, memory, device, as_json)
    say(f"{kb}: holds no pictures; what an item shows, and whose it is, can only be looked up by its img_id in the data set it came from")


def _build(sources: list[Path], kb: str, encoder: str, caption_column: str | None, memory: str, device: str, as_json: bool) -> None:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.plan import parse_memory

    with progress_bar(as_json) as bar:
        task = bar.add_task("reading", total=None)
        made, report = KnowledgeBase.build(
            kb, sources, encoder=encoder, caption_column=caption_column, device=pick_device(device), memory=parse_memory(memory), told=say,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    print_report(report, made.version, len(made), kb, None, as_json)
