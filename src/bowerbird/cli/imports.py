"""`bowerbird import …`: what others made, in our form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bowerbird.cli.common import JsonOption, print_json, print_line, say, show_progress
from bowerbird.cli.filling import CaptionOption, MemoryOption, print_report
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import in_shell

app = typer.Typer(help="Import weights and databases of other projects.", no_args_is_help=True, rich_markup_mode=None)

NewKb = Annotated[str, typer.Argument(metavar="KB", help="Knowledge base to build.")]
TheirEncoder = Annotated[
    str,
    typer.Option("--encoder", help="Encoder of the embeddings, which the files do not name: a directory or hub id."),
]

DtypeOption = Annotated[
    str, typer.Option("--dtype", help="Data type of the weights that are written: float32, float16 or bfloat16.")
]


@app.command("clip-retrieval")
def clip_retrieval(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Output of clip-retrieval inference: img_emb/ and metadata/.")
    ],
    kb: NewKb,
    encoder: TheirEncoder = "openai/clip-vit-base-patch32",
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            "--pictures",
            metavar="PLACE",
            help="Where the pictures are: their folder, or their .tar shards; repeatable.",
        ),
    ] = None,
    caption_column: CaptionOption = None,
    memory: MemoryOption = "2G",
    as_json: JsonOption = False,
) -> None:
    """Import a clip-retrieval folder as a knowledge base.

    Its embeddings are kept as they are.

    Example: bowerbird import clip-retrieval embeddings/ my-kb --encoder openai/clip-vit-base-patch32 --pictures shards/
    """
    from bowerbird.data.sources.embeddings import is_clip_retrieval

    if not is_clip_retrieval(folder):
        raise BowerbirdError(
            f"{folder}: not a clip-retrieval folder; one holds img_emb/img_emb_0.npy and metadata/metadata_0.parquet"
        )
    _build([folder], kb, encoder, caption_column, memory, as_json, pictures or [])


@app.command("compvis-database")
def compvis_database(
    parts: Annotated[
        list[Path],
        typer.Argument(metavar="FILES…", help="Parts of an RDM database, <rows>x<dim>-part_<n>.npz, or their folder."),
    ],
    kb: NewKb,
    encoder: TheirEncoder = "openai/clip-vit-base-patch32",
    memory: MemoryOption = "2G",
    as_json: JsonOption = False,
) -> None:
    """Import RDM's published database parts as a knowledge base.

    They hold embeddings, image ids and patch corners, and no pictures.

    Example: bowerbird import compvis-database openimages/*.npz my-kb
    """
    from bowerbird.data.sources.embeddings import part_number

    files = sorted(
        (file for part in parts for file in (part.glob("*.npz") if part.is_dir() else [part])), key=part_number
    )
    if not files:
        raise BowerbirdError(f"{parts[0]}: no .npz parts here")
    wrong = [file for file in files if file.suffix.lower() != ".npz"]
    if wrong:
        raise BowerbirdError(f"{wrong[0]}: not a part of an RDM database; those are called <rows>x<dim>-part_<n>.npz")
    _build(files, kb, encoder, None, memory, as_json)
    say(
        f"{kb}: holds no pictures; what an item shows, and whose it is, can only be looked up by its img_id in the data"
        " set it came from"
    )


@app.command("compvis")
def compvis(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CKPT",
            help="A released RDM, RARM or InstructPix2Pix checkpoint: model.ckpt, or the same tensors as safetensors.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Output directory of the model.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report which tensors are matched, missing and ignored, and exit.")
    ] = False,
    ema: Annotated[
        bool, typer.Option("--ema/--no-ema", help="Use the averaged (EMA) weights if there are any.")
    ] = True,
    dtype: DtypeOption = "float32",
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            help="Edge of its pictures in pixels; default 256, 768 with a 16x first stage, 512 for InstructPix2Pix.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "-k", "--num-neighbors", help="Neighbors per picture; default 4, or 20 for the 768 px model.", min=1
        ),
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(
            "--embeddings",
            help="Length of the embeddings it reads: raw or unit; default raw with a VQ first stage, "
            "unit with a KL one.",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", help="Encoder of the neighbors; default by their dimension, CLIP ViT-B/32 or ViT-L/14."
        ),
    ] = None,
    head_channels: Annotated[
        int | None,
        typer.Option("--head-channels", help="Channels per attention head; default 32, or 64 for a RARM.", min=1),
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option("--heads", help="Attention heads at every level, instead of --head-channels.", min=1),
    ] = None,
    scale_factor: Annotated[
        float | None,
        typer.Option("--scale-factor", help="Scaling factor of the latents; default: the stored or published one."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", help="Directory or hub id of CLIP's tokenizer, which InstructPix2Pix checkpoints lack."
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="NAME", help="Ignore tensors whose names begin with this; repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import released RDM, RARM or InstructPix2Pix weights.

    Writes all networks and the schedule in diffusers layout. The file is read tensor by tensor, and no code in it runs.
    Other checkpoints are refused with the reason.

    Example: bowerbird import compvis models/rdm/imagenet/model.ckpt --out rdm-imagenet
    """
    if out is None and not dry_run:
        raise BowerbirdError("import compvis: give --out DIR, or --dry-run to see what is in the file")
    if out is not None and not dry_run and out.exists():
        raise BowerbirdError(f"{out}: is there already; give another --out, or remove it")
    from bowerbird.systems import released
    from bowerbird.systems.rdm.interop.compvis import Choices

    choices = Choices(
        head_channels, heads, size, scale_factor, embeddings, encoder, k, ema, dtype, tuple(ignore or ()), tokenizer
    )
    plan = released.plan(checkpoint, choices)
    report = plan.report()
    if not dry_run and out is not None:
        with show_progress("tensors", as_json) as progress:
            released.write(plan, out, progress=progress)
        report["out"] = str(out)
    _print_plan(report, as_json)


def _print_plan(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    for part in ("unet", "transformer", "vae", "text_encoder"):
        if part not in report:
            continue
        found = report[part]
        widths = ", ".join(map(str, found.get("block_out_channels") or [found.get("channels") or found["hidden_size"]]))
        print_line(
            f"{part:10} {found['class']}, {found['parameters']:,} parameters, widths {widths}"
            + (f", {found['weights']} weights" if "weights" in found else "")
        )
    schedule, conventions = report.get("scheduler"), report["pipeline"]
    if schedule is not None:
        print_line(
            f"schedule   {schedule['num_train_timesteps']} steps, {schedule.get('beta_schedule', 'betas of its own')}"
        )
    edits = "k" not in conventions
    if not edits:
        form = "at length 1" if conventions["normalize_embeddings"] else "raw"
        encoder = conventions["encoder_name"] or "an encoder the file does not name (--encoder)"
        print_line(f"neighbors k = {conventions['k']}, embeddings {form}, of {encoder}; the null is zero, untrained")
    print_line("not in the file: " + "; ".join(f"{what}: {said}" for what, said in report["not in the file"].items()))
    print_line(f"matched    {report['matched']} tensors")
    print_line(f"missing    {len(report['missing'])}")
    for name in report["missing"][:20]:
        print_line(f"           {name}")
    print_line("ignored    " + ("; ".join(f"{count} {what}" for what, count in report["ignored"].items()) or "0"))
    if "out" in report:
        model = in_shell(report["out"])
        call = (
            f"edit {model} --image F --instruction T --out DIR"
            if edits
            else f"generate {model} --kb KB --image F --out DIR"
        )
        say(f"{report['out']}: {'edit' if edits else 'generate'} with it: bowerbird {call}")


@app.command("diffusers")
def diffusers(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The RDM pipeline of diffusers' research examples, as fusing/rdm on the hub."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Output directory of the model; its encoder goes to OUT/encoder.")],
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Import the RDM pipeline of diffusers' research examples.

    The CLIP inside it becomes its encoder.

    Example: bowerbird import diffusers fusing-rdm/ --out rdm768
    """
    from bowerbird.core.quiet import quiet_libraries
    from bowerbird.systems.rdm.interop.compvis import DTYPES
    from bowerbird.systems.rdm.interop.diffusers_rdm import convert

    if dtype not in DTYPES:
        raise BowerbirdError(f"--dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    if out.exists():
        raise BowerbirdError(f"{out}: is there already; give another --out, or remove it")
    quiet_libraries()
    report = convert(folder, out, dtype=dtype)
    if as_json:
        print_json({"out": str(out), **report})
    else:
        say(
            f"{out}: {report['unet']['parameters']:,} parameters; build its knowledge base: bowerbird kb build KB"
            f" SOURCE --encoder {out / 'encoder'}"
        )


def _build(
    sources: list[Path],
    kb: str,
    encoder: str,
    caption_column: str | None,
    memory: str,
    as_json: bool,
    pictures: Sequence[Path] = (),
) -> None:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.search.planner import parse_memory

    with show_progress("reading", as_json) as progress:
        made, report = KnowledgeBase.build(
            kb,
            sources,
            encoder=encoder,
            caption_column=caption_column,
            memory=parse_memory(memory),
            pictures=pictures,
            on_message=say,
            progress=progress,
        )
    print_report(report, made.version, len(made), kb, None, as_json)
