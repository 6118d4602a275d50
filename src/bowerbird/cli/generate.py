"""`bowerbird generate`: generate pictures grounded in a knowledge base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, SeedOption, pick_device, print_json, progress_bar, say
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import Neighbors
    from bowerbird.diffusion.guidance import Guidance
    from bowerbird.systems.loading import Pipeline


def generate(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Bundled name, directory, or hub id.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for pictures, sheet.png and generation.jsonl.")
    ] = None,
    kb: Annotated[str | None, typer.Option("--kb", help="Knowledge base to retrieve from.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="What to generate.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="Generate from this picture; several are used together.")
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="A class; with --class-key, drawn from the items of that class.")
    ] = None,
    unconditional: Annotated[
        bool, typer.Option("--unconditional", help="Generate from what the model met often in training (p_D).")
    ] = False,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="F.png", help="Generate the picture in this PNG again.")
    ] = None,
    k: Annotated[int | None, typer.Option("-k", help="Neighbors a picture; default the model's.")] = None,
    n: Annotated[int, typer.Option("-n", help="How many pictures.", min=1)] = 4,
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps", help="Sampling steps; one number, or one a stage: 30,10; default the model's, mostly 20."
        ),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option("--guidance-scale", help="1 = off, 0 = without neighbors; default the model's, mostly 3."),
    ] = None,
    guidance_interval: Annotated[
        str | None,
        typer.Option(
            "--guidance-interval", help="Guide only from and to these shares of the noise, e.g. 0.1,0.8: fewer passes."
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="dpmsolver++, ddim or unipc; default the model's.")
    ] = None,
    eta: Annotated[float, typer.Option("--eta", help="Fresh noise in ddim, 0 to 1.")] = 0.0,
    size: Annotated[int | None, typer.Option("--size", help="Edge in pixels; default the model's.")] = None,
    weights: Annotated[str | None, typer.Option("--weights", help="One number a neighbor, e.g. 2,1,1,0.")] = None,
    text_mode: Annotated[
        str | None, typer.Option("--text-mode", help="neighbors, text, or text+neighbors; default the model's.")
    ] = None,
    image_mode: Annotated[
        str | None, typer.Option("--image-mode", help="image+neighbors, image, or neighbors.")
    ] = None,
    search_mode: Annotated[
        str | None, typer.Option("--search-mode", help="hybrid, dense or bm25; default the model's.")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Retrieve only items that satisfy this.")
    ] = None,
    class_key: Annotated[str | None, typer.Option("--class-key", help="Metadata column that names the class.")] = None,
    top_m: Annotated[float, typer.Option("--top-m", help="Fraction of the database p_D keeps.")] = 1.0,
    reference: Annotated[
        list[Path] | None,
        typer.Option("--reference", help="A picture of your own as neighbor, in place of a knowledge base."),
    ] = None,
    caption: Annotated[
        list[str] | None, typer.Option("--caption", help="What a --reference shows, one each, in order.")
    ] = None,
    guidance: Annotated[
        str | None, typer.Option("--guidance", help="Balance of text and neighbors: interleaved, weighted or joint.")
    ] = None,
    text_ratio: Annotated[
        str | None, typer.Option("--text-ratio", help="Share of text: 0 is all neighbors, 1 all text; default 0.25.")
    ] = None,
    text_scale: Annotated[
        str | None,
        typer.Option("--text-scale", help="Guidance of the text, one or one a stage; default 1 + (W - 1) / 4."),
    ] = None,
    neighbor_scale: Annotated[
        str | None, typer.Option("--neighbor-scale", help="Guidance of the neighbors, one or one a stage; default W.")
    ] = None,
    on_copy: Annotated[
        str, typer.Option("--on-copy", help="Near copy of a neighbor: warn, drop the neighbor, resample, or off.")
    ] = "warn",
    proposal: Annotated[
        str, typer.Option("--proposal", help="Counts for --unconditional: model, or database.")
    ] = "model",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Compute in float32, bfloat16 (twice as fast on most machines) or float16.")
    ] = "float32",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Generate pictures grounded in a knowledge base.

    From a prompt, pictures, a class, or nothing; each is written with its neighbors and how it was made.

    Example: bowerbird generate tiny-rdm --kb my-kb --prompt "a red fox" -n 4 --out foxes
    """
    if out is None:
        raise BowerbirdError("generate: give --out DIR, the folder for the pictures")
    if source is not None:
        _again(source, model, out, device, as_json)
        return
    alone = bool(reference) or (k == 0 and kb is None)
    if alone and (kb is not None or image or class_name or unconditional or (k and reference)):
        raise BowerbirdError(
            "generate: --reference and -k 0 stand in place of --kb, --image, --class, --unconditional and -k; leave"
            " those out"
        )
    if caption and not reference:
        raise BowerbirdError("generate: --caption says what a --reference shows; give --reference F.png too")
    if model is None or (kb is None and not alone):
        raise BowerbirdError(
            "generate: give a MODEL (see bowerbird models) and --kb KB or --reference F.png, or --from F.png"
        )
    if proposal not in ("model", "database"):
        raise BowerbirdError(f"--proposal {proposal!r} is not known; choose model or database")
    from bowerbird.core import images
    from bowerbird.knowledge.base import KnowledgeBase

    opened = KnowledgeBase.open(kb) if kb is not None and not alone else None
    own = [images.read(p) for p in reference or []]
    pictures = tuple(images.read(p) for p in image) if image else None
    from bowerbird.evaluation.copies import guard
    from bowerbird.systems import generation
    from bowerbird.systems.knn.retrieval import weighted
    from bowerbird.systems.queries import Request

    if on_copy not in guard.POLICIES:
        raise BowerbirdError(f"--on-copy {on_copy!r} is not known; choose one of {', '.join(guard.POLICIES)}")

    between = None if guidance_interval is None else _numbers(guidance_interval, "--guidance-interval")
    if between is not None and len(between) != 2:
        raise BowerbirdError(
            f"--guidance-interval {guidance_interval!r}: write two shares of the noise, the lower first, e.g. 0.1,0.8"
        )
    pipe = load_pipeline(model, device, dtype)
    usual = generation.usual(pipe)
    scale = usual.guidance_scale if guidance_scale is None else guidance_scale
    if k == 0 and opened is not None:
        if generation.balances_text(pipe):
            raise BowerbirdError("generate: -k 0 generates from the text alone, and looks nothing up; leave --kb out")
        if "shared_dim" in pipe.config:
            k, text_mode, image_mode = 1, text_mode or "text", image_mode or "image"
    balance = _balance(pipe, model, guidance, text_ratio, text_scale, neighbor_scale, scale)
    mode = search_mode or str(getattr(pipe.config, "search_mode", "hybrid"))
    look = image_mode or ("neighbors" if generation.balances_text(pipe) else None)
    if opened is None:
        hits = _by_hand(pipe, model, prompt, own, caption or [], n)
    else:
        request = Request(
            prompts=None if prompt is None else (prompt,),
            images=pictures,
            class_name=class_name,
            unconditional=unconditional,
            k=int(pipe.config.k) if k is None else k,
            text_mode=text_mode,
            image_mode=look,
            search_mode=mode,
            where=where,
            class_key=class_key,
            top_m=top_m,
        )
        counts = opened.proposal(request.k) if proposal == "database" and unconditional else None
        hits = pipe.retrieve(request, opened, n, seed=seed, proposal=counts)
    if weights is not None:
        hits = weighted(hits, _numbers(weights, "--weights"))
    counted = usual.steps if steps is None else tuple(int(step) for step in _numbers(steps, "--steps"))
    settings = generation.Settings(
        counted[0] if isinstance(counted, tuple) and len(counted) == 1 else counted,
        scale,
        sampler,
        eta,
        size,
        seed,
        balance,
        guidance_interval=None if between is None else (between[0], between[1]),
    )
    with progress_bar(as_json) as bar:
        task = bar.add_task("generating", total=n)
        made = guard.generate(
            pipe, hits, settings, policy=on_copy, progress=lambda done: bar.update(task, completed=done)
        )
    asked: dict[str, Any] = {
        "prompt": prompt,
        "images": [str(p) for p in image or []],
        "class": class_name,
        "unconditional": unconditional,
    }
    how = {
        "text_mode": text_mode,
        "image_mode": look,
        "search_mode": mode,
        "where": where,
        "class_key": class_key,
        "top_m": top_m,
    }
    how = how if opened is not None else {}
    asked |= {"references": [str(p) for p in reference or []]}
    found = int((hits.ids[0] >= 0).sum()) if opened is not None else hits.k
    asked = (
        {key: value for key, value in asked.items() if value}
        | {"k": found}
        | {key: value for key, value in how.items() if value is not None}
    )
    written = generation.records(
        pipe, model, opened, made.hits, made.images, settings, asked, picture_seeds=made.seeds, copies=made.copies
    )
    paths = generation.write(made.images, written, made.hits, out)
    for i in made.near_copies():
        say(
            f"{paths[i].name} is a near copy of neighbor {(made.copies[i] or {})['neighbor']}; --on-copy drop or"
            " resample avoids that"
        )
    _finish(paths, out, as_json)


def _balance(
    pipe: Pipeline,
    model: str,
    kind: str | None,
    eta: str | None,
    text_scale: str | None,
    neighbor_scale: str | None,
    guidance_scale: float,
) -> Guidance | tuple[Guidance, ...] | None:
    """How to balance text and neighbors, for all stages or for each. Raises: BowerbirdError when it is asked of a
    model that reads no text."""
    from bowerbird.diffusion.guidance import Guidance, by_scale
    from bowerbird.systems.generation import balances_text

    given = {"--text-ratio": eta, "--text-scale": text_scale, "--neighbor-scale": neighbor_scale}
    if not balances_text(pipe):
        if kind is not None or any(value is not None for value in given.values()):
            raise BowerbirdError(
                f"model {model!r} generates from neighbors alone: --guidance, {', '.join(given)} are for models like"
                " tiny-reimagen"
            )
        return None
    usual = by_scale(guidance_scale)
    defaults = {"--text-ratio": usual.eta, "--text-scale": usual.text_scale, "--neighbor-scale": usual.neighbor_scale}
    values = {name: [defaults[name]] if text is None else _numbers(text, name) for name, text in given.items()}
    stages = max(len(each) for each in values.values())
    wrong = [name for name, each in values.items() if len(each) not in (1, stages)]
    if wrong:
        raise BowerbirdError(
            f"{wrong[0]}: {len(values[wrong[0]])} numbers where another option has {stages}; give one, or one a stage"
        )
    etas, texts, nears = (each * stages if len(each) == 1 else each for each in values.values())
    found = tuple(Guidance(kind or "interleaved", t, n, e) for t, n, e in zip(texts, nears, etas, strict=True))
    return found if stages > 1 else found[0]


def _by_hand(
    pipe: Pipeline, model: str, prompt: str | None, pictures: list[Image.Image], captions: list[str], n: int
) -> Neighbors:
    """A person's own pictures, or none, as neighbors. Raises: BowerbirdError for a model that generates from
    embeddings."""
    from bowerbird.systems.generation import balances_text

    if not balances_text(pipe):
        raise BowerbirdError(
            f"model {model!r} generates from embeddings: give --image F or --text-mode text with --kb KB; --reference"
            " and -k 0 are for tiny-reimagen"
        )
    if prompt is None:
        raise BowerbirdError("generate: --reference and -k 0 go with --prompt, which says what to generate")
    return Neighbors.from_images([prompt], pictures, captions).repeat(n)


def load_pipeline(model: str, device: str, dtype: str = "float32") -> Pipeline:
    """The pipeline for MODEL on a device, computing in `dtype`. Raises: BowerbirdError when it is no model, or that no
    number format."""
    if dtype not in ("float32", "bfloat16", "float16"):
        raise BowerbirdError(f"--dtype {dtype!r} is not known; choose float32, bfloat16 or float16")
    from bowerbird.cli.quiet import quiet_libraries
    from bowerbird.models.weights import DESCRIPTIONS, bundled

    if (
        bundled(model) is None
        and not Path(model).is_dir()
        and not (model.count("/") == 1 and not model.startswith((".", "/")))
    ):
        models = ", ".join(n for n in DESCRIPTIONS if n.endswith(("rdm", "fast", "knn", "reimagen")))
        raise BowerbirdError(f"model {model!r}: not bundled ({models}), no such directory, and no hub id")
    if Path(model).is_dir() and bundled(model) is None and not (Path(model) / "model_index.json").is_file():
        raise BowerbirdError(
            f"model {model!r}: the directory has no model_index.json; give one that bowerbird train wrote (…/model)"
        )
    quiet_libraries()
    from bowerbird.systems.loading import open_pipeline

    try:
        pipe = open_pipeline(model).to(pick_device(device))
        if dtype == "float32":
            return pipe
        import torch

        return pipe.to(getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise BowerbirdError(f"model {model!r} cannot be opened: {str(error).strip().splitlines()[0]}") from error


def _numbers(text: str, option: str) -> list[float]:
    try:
        found = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not found:
        raise BowerbirdError(f"{option} {text!r}: write numbers with commas between, e.g. 2,1")
    return found


def _again(source: Path, model: str | None, out: Path, device: str, as_json: bool) -> None:
    from bowerbird.core import provenance
    from bowerbird.systems import generation

    record = provenance.read_png(source)
    name = model or str(record.get("model", {}).get("name"))
    image, hits = generation.regenerate(load_pipeline(name, device, str(record.get("dtype", "float32"))), record)
    edited = generation.source_of(record)
    _finish(generation.write([image], [record], hits, out, sources=None if edited is None else [edited]), out, as_json)


def _finish(paths: list[Path], out: Path, as_json: bool) -> None:
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
            f"{len(paths)} picture{'s' if len(paths) > 1 else ''} in {out}; {out / 'sheet.png'} shows each beside its"
            " neighbors"
        )
