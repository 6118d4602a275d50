"""`bowerbird evaluate` and `bowerbird check-copies`: how good, how faithful, how much copied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bowerbird.cli.common import (
    DeviceOption,
    JsonOption,
    SeedOption,
    SystemOption,
    bar_progress,
    open_model,
    print_json,
    progress_bar,
    say,
    say_source,
)
from bowerbird.cli.filling import SHOWN, CaptionOption, OpenEncoderOption
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.tensors import pick_device


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Bundled name, directory, or hub id.")],
    kb: Annotated[str, typer.Option("--kb", help="Knowledge base to retrieve from.")],
    out: Annotated[Path, typer.Option("--out", help="Output folder for report.json, report.md, plots and sheets.")],
    data: Annotated[
        str | None, typer.Option("--data", metavar="SOURCE", help="Real pictures to compare with (required).")
    ] = None,
    encoder: OpenEncoderOption = None,
    caption_column: CaptionOption = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Only rows of the data that satisfy this condition.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--num-images", help="Pictures for the distribution metrics.", min=4)] = 500,
    query: Annotated[
        str,
        typer.Option(
            "--query", help="Query of each picture: caption (image if the data has none), image or unconditional."
        ),
    ] = "caption",
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="NAMES",
            help="Only these metrics, e.g. fid,kid; a judge is trained only if one needs it; default all.",
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", "--num-neighbors", help="Neighbors per picture; default: the model's.", min=1)
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Sampling steps; default: the model's, mostly 20.")
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            "--guidance-scale",
            help="Classifier-free guidance: 1 is off, 0 is without neighbors; default: the model's, mostly 3.",
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="dpmsolver++, ddim or unipc; default: the model's.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Pictures per prompt in EntityDraw.", min=1)] = 4,
    template: Annotated[
        list[str] | None,
        typer.Option("--template", help="EntityDraw's prompt with {name} for the name; repeatable."),
    ] = None,
    entity_key: Annotated[
        str | None, typer.Option("--entity-key", help="Column that names the entity; default entity, hexcode or class.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="KIND:PATH",
            help="Features for the distribution metrics; default: the judge's, or small's if no judge is needed.",
        ),
    ] = None,
    descriptor: Annotated[
        str, typer.Option("--descriptor", help="Copy descriptor: tiny-copies, gradients, copies:DIR or sscd:FILE.")
    ] = "tiny-copies",
    judge: Annotated[
        str,
        typer.Option(
            "--judge", help="Classifier that judges pictures: train (cached by content), none, or a directory."
        ),
    ] = "train",
    style_judge: Annotated[
        Path | None,
        typer.Option("--style-judge", help="Directory of a classifier of styles; default: trained with the judge."),
    ] = None,
    seed: SeedOption = 0,
    system: SystemOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model with a knowledge base against real pictures.

    Measures distribution, faithfulness to the prompt, style and copies. The same command gives the same figures.

    Example: bowerbird evaluate tiny-rdm --kb my-kb --data pictures/ -n 500 --out report
    """
    from bowerbird.knowledge.base import KnowledgeBase

    if data is None:
        raise BowerbirdError(
            "evaluate needs real pictures: give --data SOURCE, yours or those of bowerbird datasets drawings --out"
            " drawings.parquet"
        )
    opened = KnowledgeBase.open(kb, encoder=encoder)
    from bowerbird.core.outputs import check_output
    from bowerbird.core.progress import within
    from bowerbird.data.pictures import load_pictures
    from bowerbird.evaluation import features as extractors
    from bowerbird.evaluation import reports
    from bowerbird.evaluation.evaluate import evaluate as run_evaluation
    from bowerbird.evaluation.judge import load_judges
    from bowerbird.evaluation.settings import default_settings, needs_judge, parse_metrics
    from bowerbird.systems import records

    check_output(out, reports.EVALUATION)
    whole = load_pictures(data, caption_column=caption_column)
    say_source(whole.source)
    for line in whole.left_out[:SHOWN]:
        say(f"left out: {line}")
    pictures = whole if where is None else load_pictures(data, where=where, caption_column=caption_column)
    chosen_metrics = parse_metrics(metrics)
    pipe = open_model(model, device)
    settings = default_settings(
        pipe,
        n=n,
        query=query,
        repeats=repeats,
        templates=tuple(template or ["{name}"]),
        entity_key=entity_key,
        metrics=chosen_metrics,
    )
    chosen: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "sampler": sampler, "seed": seed}
    changes = {name: value for name, value in chosen.items() if value is not None}
    settings = replace(
        settings, k=min(settings.k, len(opened)) if k is None else k, generate=replace(settings.generate, **changes)
    )
    with progress_bar(as_json) as bar:
        progress = bar_progress(bar, "measuring")
        judges = load_judges(
            whole,
            judge if needs_judge(chosen_metrics) else "none",
            style_judge,
            entity_key=entity_key,
            device=pick_device(device),
            progress=within(progress, "training a judge"),
            on_message=say,
        )
        found = run_evaluation(
            pipe,
            opened,
            pictures,
            None if features is None else extractors.load(features),
            settings,
            judges=judges,
            descriptor=extractors.load(descriptor),
            progress=progress,
            on_message=say,
        )
    found.report["model"]["name"] = records.model_name(model)
    files = reports.write_evaluation(found, out)
    if as_json:
        print_json({"out": str(out), "files": [str(f) for f in files], "source": whole.source.facts(), **found.report})
    else:
        look = f"; look at {out / 'best.png'}, median.png and worst.png before you believe them" if found.images else ""
        say(f"{out / 'report.md'} holds the figures{look}")


def check_copies(
    files: Annotated[
        list[Path], typer.Argument(metavar="DIR|FILES", help="Generated pictures: files, or folders of them.")
    ],
    against: Annotated[
        list[str],
        typer.Option(
            "--against",
            metavar="KB|SOURCE",
            help="What the model was trained on or retrieved from; repeatable.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Output folder of the report; default bowerbird-check beside the pictures."),
    ] = None,
    descriptor: Annotated[
        str,
        typer.Option(
            "--descriptor", help="Copy descriptor: tiny-copies, gradients, copies:DIR, sscd:FILE or sscd-288:FILE."
        ),
    ] = "tiny-copies",
    baseline: Annotated[
        int,
        typer.Option("--baseline", help="Training pictures that are compared with the others, as a baseline.", min=2),
    ] = 300,
    copies_per_kind: Annotated[
        int,
        typer.Option("--copies-per-kind", help="Synthetic copies of each kind, to measure how many are found.", min=1),
    ] = 60,
    limit: Annotated[
        int | None, typer.Option("--limit", help="At most this many training pictures, sampled by --seed.", min=1)
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Detect copies of training pictures and of neighbors.

    Example: bowerbird check-copies foxes/ --against my-kb --out copies
    """
    from bowerbird.core.outputs import check_output
    from bowerbird.evaluation import check, reports
    from bowerbird.evaluation.copies.nearest import KINDS

    paths = check.find_pictures(files)
    if not paths:
        raise BowerbirdError(
            f"{', '.join(map(str, files))}: no picture to check; give PNG files, or the folder that bowerbird generate"
            " wrote"
        )
    folder = check_output(out or paths[0].parent / "bowerbird-check", reports.COPY_CHECK)
    with progress_bar(as_json) as bar:
        report = check.check_files(
            paths,
            against,
            folder,
            descriptor=descriptor,
            baseline=baseline,
            copies_per_kind=copies_per_kind,
            limit=limit,
            seed=seed,
            progress=bar_progress(bar, "measuring"),
            on_message=say,
        )
    if as_json:
        print_json({"out": str(folder), **report})
        return
    say(reports.copies_line(report))
    for kind in KINDS:
        over = report[kind]["generated to training"]["over"]
        if over:
            say(f"{kind}: " + ", ".join(f"{share:.1%} over the {label}" for label, share in over.items()))
    for line in reports.recall_lines(report):
        say(line)
    say(f"{folder / 'report.md'}, {folder / 'worst.png'} and {folder / 'alike.png'} show the pairs")
