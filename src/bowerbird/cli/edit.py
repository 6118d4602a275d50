"""`bowerbird edit`: change what a text or a picture says in a picture, keep the rest; no mask is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, SeedOption, print_json, progress_bar, say
from bowerbird.core.errors import BowerbirdError


def edit(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Bundled name, directory, or hub id of a model that edits.")
    ],
    image: Annotated[list[Path], typer.Option("--image", help="The picture to edit; several times for several.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for pictures, sheet.png and generation.jsonl.")],
    kb: Annotated[str, typer.Option("--kb", help="Knowledge base to retrieve from.")],
    prompt: Annotated[str | None, typer.Option("--prompt", help="What the picture is to show.")] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="A picture of what it is to show, in place of --prompt.")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", help="Neighbors of the prompt or reference; 0 for none, default the model's.", min=0),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="How many edits of each picture.", min=1)] = 4,
    strength: Annotated[
        float, typer.Option("--strength", help="Share of the steps taken, above 0 to 1; less keeps more.")
    ] = 1.0,
    guidance_scale: Annotated[
        float, typer.Option("--guidance-scale", help="How much the prompt counts; 1 = off.")
    ] = 3.0,
    preservation: Annotated[
        float | None,
        typer.Option(
            "--preservation", help="How far what is not asked for is drawn to the source, 0 to 1; default 0.25."
        ),
    ] = None,
    change_threshold: Annotated[
        float | None,
        typer.Option("--change-threshold", help="Smaller changes are undone; 0 keeps all, default 0.6.", min=0.0),
    ] = None,
    img2img: Annotated[
        bool, typer.Option("--img2img", help="Only start from the picture; give a --strength below 1.")
    ] = False,
    steps: Annotated[int, typer.Option("--steps", help="Sampling steps.", min=1)] = 20,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="dpmsolver++, ddim or unipc; default the model's.")
    ] = None,
    search_mode: Annotated[str, typer.Option("--search-mode", help="hybrid, dense or bm25.")] = "hybrid",
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Retrieve only items that satisfy this.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Edit pictures by a text or a reference picture; what they do not speak of stays.

    The sheet shows each picture, its edit, and where they differ.

    Example: bowerbird edit tiny-knn --kb my-kb --image face.png --prompt "face with sunglasses" --out edits
    """
    if (prompt is None) == (reference is None):
        raise BowerbirdError("edit: say what the picture is to show with --prompt T or --reference F, one of them")
    if img2img and strength >= 1:
        raise BowerbirdError("edit: --img2img keeps nothing of the picture at --strength 1; give less, for example 0.6")
    from bowerbird.cli.generate import load_pipeline
    from bowerbird.core import images
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems import generation
    from bowerbird.systems.knn.pipeline import KNNDiffusionPipeline
    from bowerbird.systems.knn.retrieval import asked as request_of

    opened = KnowledgeBase.open(kb)
    pictures = [images.read(path) for path in image]
    wanted = None if reference is None else images.read(reference)
    pipe = load_pipeline(model, device)
    if not isinstance(pipe, KNNDiffusionPipeline):
        raise BowerbirdError(
            f"model {model!r} is a {type(pipe).__name__}, which does not edit; use tiny-knn, or train one: bowerbird"
            " train tiny-knn"
        )
    if not pipe.edits and not img2img:
        raise BowerbirdError(
            f"model {model!r} was not trained to edit; use tiny-knn, or --img2img with a --strength below 1"
        )
    request = request_of(prompt, wanted, int(pipe.config.k) if k is None else k, search_mode=search_mode, where=where)
    hits = pipe.retrieve(request, opened, len(pictures) * n)
    how: dict[str, Any] = {"strength": strength, "show_source": not img2img}
    how |= {
        key: value
        for key, value in (("preservation", preservation), ("change_threshold", change_threshold))
        if value is not None
    }
    settings = generation.Settings(steps, guidance_scale, sampler, seed=seed, **how)
    sources = [picture for picture in pictures for _ in range(n)]
    with progress_bar(as_json) as bar:
        task = bar.add_task("editing", total=len(sources))
        made = generation.generate(
            pipe, hits, settings, sources=sources, progress=lambda done: bar.update(task, completed=done)
        )
    said: dict[str, Any] = {
        "prompt": prompt,
        "reference": None if reference is None else str(reference),
        "edited": [str(path) for path in image],
    }
    said = {key: value for key, value in said.items() if value} | {
        "k": request.k if k != 0 else 0,
        "search_mode": search_mode,
        "where": where,
    }
    written = generation.records(pipe, model, opened, hits, made, settings, said, sources=sources)
    paths = generation.write(made, written, hits, out, sources=sources)
    if as_json:
        print_json(
            {
                "out": str(out),
                "images": [str(p) for p in paths],
                "sheet": str(out / "sheet.png"),
                "records": str(out / "generation.jsonl"),
            }
        )
    else:
        say(
            f"{len(paths)} edit{'s' if len(paths) > 1 else ''} in {out}; {out / 'sheet.png'} shows each beside its"
            " source, their difference and the neighbors"
        )
