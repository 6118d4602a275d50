"""`bowerbird evaluate` and `bowerbird check`: how good, how faithful, how much copied."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, SeedOption, pick_device, print_json, progress_bar, say
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from PIL import Image
    from rich.progress import Progress

    from bowerbird.data.pictures import Pictures
    from bowerbird.evaluation.judge import Evaluator


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Bundled name, directory, or hub id.")],
    kb: Annotated[str, typer.Option("--kb", help="Knowledge base to retrieve from.")],
    data: Annotated[str, typer.Option("--data", help="SOURCE of real pictures to measure against.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.json, report.md, plots and sheets.")],
    where: Annotated[str | None, typer.Option("--where", metavar="SQL", help="Only these rows of the data.")] = None,
    n: Annotated[int, typer.Option("--n", help="Pictures for the distribution measures.", min=4)] = 500,
    query: Annotated[str, typer.Option("--query", help="caption, image or unconditional.")] = "caption",
    k: Annotated[int | None, typer.Option("-k", help="Neighbors a picture; default the model's.", min=1)] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Sampling steps; default the model's, mostly 20.")
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option("--guidance-scale", help="1 = off, 0 = without neighbors; default the model's, mostly 3."),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="dpmsolver++, ddim or unipc; default the model's.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Pictures a prompt in EntityDraw.", min=1)] = 4,
    template: Annotated[
        list[str] | None,
        typer.Option("--template", help="EntityDraw's prompt, {name} for the name; several times for several."),
    ] = None,
    entity_key: Annotated[
        str | None, typer.Option("--entity-key", help="Column that names the entity; default entity, hexcode or class.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option("--features", metavar="KIND:PATH", help="Features of the set measures; default the evaluator's."),
    ] = None,
    descriptor: Annotated[
        str, typer.Option("--descriptor", help="For copies: tiny-copies, gradients, copies:DIR or sscd:FILE.")
    ] = "tiny-copies",
    evaluator: Annotated[
        str, typer.Option("--evaluator", help="train (cached by content), none, or a directory.")
    ] = "train",
    style_evaluator: Annotated[
        Path | None, typer.Option("--style-evaluator", help="Directory; default trained with the evaluator.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure a model with a knowledge base against real pictures.

    Distribution, faithfulness to what is named, style, copies. The same command gives the same figures.

    Example: bowerbird evaluate tiny-rdm --kb my-kb --data pictures/ --n 500 --out report
    """
    from bowerbird.knowledge.base import KnowledgeBase

    opened = KnowledgeBase.open(kb)
    if evaluator == "none" and features is None:
        raise BowerbirdError(
            "--evaluator none leaves no features to measure with; give --features, for example encoder:small"
        )
    from bowerbird.cli.common import open_model
    from bowerbird.data.pictures import load_pictures
    from bowerbird.evaluation import evaluate as evaluation
    from bowerbird.evaluation import features as extractors
    from bowerbird.evaluation import reports
    from bowerbird.systems import generation

    whole = load_pictures(data)
    pictures = whole if where is None else load_pictures(data, where=where)
    if len(pictures) < 10:
        raise BowerbirdError(f"{data}: {len(pictures)} pictures are too few to measure against; 10 is the least")
    pipe = open_model(model, device)
    usual = generation.default_settings(pipe)
    settings = evaluation.Settings(
        n=n,
        query=query,
        k=int(pipe.config.k) if k is None else k,
        repeats=repeats,
        templates=tuple(template or ["{name}"]),
        entity_key=entity_key,
        generate=generation.Settings(
            steps=usual.steps if steps is None else steps,
            guidance_scale=usual.guidance_scale if guidance_scale is None else guidance_scale,
            sampler=sampler or pipe.defaults.sampler,
            seed=seed,
        ),
    )
    with progress_bar(as_json) as bar:
        tell = teller(bar)
        judges = _judges(evaluator, style_evaluator, whole, entity_key, pick_device(device), tell)
        extractor = judges[0] if features is None and judges is not None else extractors.load(features or "")
        chosen = extractors.load(descriptor)
        found = evaluation.evaluate(
            pipe, opened, pictures, extractor, settings, judges=judges, descriptor=chosen, progress=tell
        )
    found.report["model"]["name"] = model
    files = reports.write_evaluation(found, out)
    if as_json:
        print_json({"out": str(out), "files": [str(f) for f in files], **found.report})
    else:
        say(
            f"{out / 'report.md'} holds the figures; look at {out / 'best.png'}, median.png and worst.png before you"
            " believe them"
        )


def _judges(
    evaluator: str, style_evaluator: Path | None, pictures: Pictures, entity_key: str | None, device: str, tell: Any
) -> tuple[Evaluator, Evaluator] | None:
    """The evaluators of entity and style: from directories, or trained on all of the data and cached; None for
    `none`."""
    from bowerbird.evaluation import entity_draw
    from bowerbird.evaluation.judge import Evaluator
    from bowerbird.training.cached import train_once
    from bowerbird.training.recipes.judge import judge as entity_recipe
    from bowerbird.training.recipes.judge import style_judge as style_recipe

    if evaluator == "none":
        return None
    if evaluator != "train":
        return Evaluator(Path(evaluator)), Evaluator(style_evaluator or Path(evaluator))
    key = entity_draw.entity_key(pictures, entity_key)
    if key is None:
        raise BowerbirdError(
            "the data has no column that names the entity; give --entity-key, or --evaluator none with --features"
            " KIND:PATH"
        )
    recipe = entity_recipe()
    style_key = "style" if all(pictures.column("style")) else key
    recipe = recipe.model_copy(
        update={"system": recipe.system.model_copy(update={"entity_key": key, "style_key": style_key})}
    )
    judge = Evaluator(train_once(recipe, pictures, device=device, progress=tell))
    if style_evaluator is not None:
        return judge, Evaluator(style_evaluator)
    return judge, (
        Evaluator(train_once(style_recipe(), pictures, device=device, progress=tell)) if style_key == "style" else judge
    )


def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="DIR|FILES", help="Generated pictures: files, or folders of them.")
    ],
    against: Annotated[
        list[str],
        typer.Option(
            "--against",
            metavar="KB|SOURCE",
            help="What the model learned or retrieved from; several times for several.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report; default bowerbird-check beside the pictures.")
    ] = None,
    descriptor: Annotated[
        str, typer.Option("--descriptor", help="tiny-copies, gradients, copies:DIR, sscd:FILE or sscd-288:FILE.")
    ] = "tiny-copies",
    baseline: Annotated[
        int, typer.Option("--baseline", help="Training pictures compared with the others.", min=20)
    ] = 300,
    plants: Annotated[
        int, typer.Option("--plants", help="Copies of each kind that are planted to see whether they are found.", min=1)
    ] = 60,
    limit: Annotated[
        int | None, typer.Option("--limit", help="At most so many training pictures (drawn by seed).", min=20)
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Look for copies: of training pictures, and of the neighbors each picture was given.

    Example: bowerbird check foxes/ --against my-kb --out copies
    """
    from bowerbird.core import images, seeds
    from bowerbird.evaluation import features, reports
    from bowerbird.evaluation.copies import detect

    paths = [p for f in files for p in (_pictures_in(f) if f.is_dir() else [f])]
    if not paths:
        raise BowerbirdError(
            f"{', '.join(map(str, files))}: no picture to check; give PNG files, or the folder that bowerbird generate"
            " wrote"
        )
    extractor = features.load(descriptor)
    size = detect.working_size(extractor)
    generated = [images.square(images.read(p), size) for p in paths]
    training, by_id = _training(against, size)
    if limit is not None and limit < len(training):
        training = [
            training[i]
            for i in sorted(seeds.numpy_generator(seed, "limit").choice(len(training), limit, replace=False))
        ]
    near = _used_neighbors(paths, by_id)
    with progress_bar(as_json) as bar:
        found = detect.check(
            extractor,
            generated,
            training,
            neighbors=near,
            baseline=baseline,
            plants=plants,
            seed=seed,
            progress=teller(bar),
        )
    folder = out or paths[0].parent / "bowerbird-check"
    facts = {
        "against": against,
        "training pictures": len(training),
        "generated": len(generated),
        "seed": seed,
        "descriptor": {
            "name": extractor.name,
            "fingerprint": extractor.fingerprint,
            "preprocessing": extractor.preprocessing,
        },
        "neighbors known": near is not None,
    }
    report = reports.write_check(found, [str(p) for p in paths], generated, training, folder, facts)
    if as_json:
        print_json({"out": str(folder), **report})
        return
    for kind in detect.KINDS:
        over = report[kind]["generated to training"]["over"]
        say(f"{kind}: " + ", ".join(f"{share:.1%} over the {label}" for label, share in over.items()))
    planted = ", ".join(
        f"{name} {share['any']:.0%} ({share['source first']:.0%})" for name, share in found.recall.items()
    )
    say(f"planted copies found at {found.false_alarms:.1%} false alarms (their source ranked first): {planted}")
    say(f"{folder / 'report.md'} and {folder / 'worst.png'} show the pairs")


def _pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, but for the contact sheet that generate leaves there."""
    from bowerbird.core.images import SUFFIXES

    return [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES and p.name != "sheet.png"]


def _training(against: list[str], size: int) -> tuple[list[Image.Image], dict[int, Image.Image]]:
    """The pictures of knowledge bases, and of sources at `size`; and those of knowledge bases by id."""
    from bowerbird.core.images import square
    from bowerbird.core.tensors import to_pil
    from bowerbird.data.pictures import load_pictures
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.storage.directory import MANIFEST

    everything: list[Image.Image] = []
    by_id: dict[int, Image.Image] = {}
    for place in against:
        if (Path(place) / MANIFEST).is_file():
            opened = KnowledgeBase.open(place)
            ids = opened.ids()
            found = [
                (int(i), square(image, size))
                for i, image in zip(ids, opened.pictures(ids[None])[0], strict=True)
                if image is not None
            ]
            by_id |= dict(found)
            everything += [image for _, image in found]
        else:
            everything += to_pil(load_pictures(place, size=size).pixels)
    return everything, by_id


def _used_neighbors(paths: list[Path], by_id: dict[int, Image.Image]) -> list[list[Image.Image]] | None:
    """The neighbors each picture names, as far as the databases given hold them; None when no picture names any that
    is held."""
    from bowerbird.core import provenance

    near = []
    for path in paths:
        try:
            named = provenance.read_png(path).get("neighbors") or []
        except BowerbirdError:  # not one of ours: it can still be compared with training pictures
            named = []
        ids = (
            [n.get("id") for n in named if isinstance(n, dict) and n.get("weight", 1)]
            if isinstance(named, list)
            else []
        )
        near.append([by_id[i] for i in ids if isinstance(i, int) and i in by_id])
    return near if any(near) else None


def teller(bar: Progress) -> Any:
    """A `Progress` that keeps one line of the bar for each stage."""
    tasks: dict[str, Any] = {}

    def tell(done: int, total: int | None = None, stage: str = "") -> None:
        task = tasks.setdefault(stage, None)
        if task is None:
            task = tasks[stage] = bar.add_task(stage, total=total)
        bar.update(task, completed=done)

    return tell
