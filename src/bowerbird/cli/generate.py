"""`bowerbird generate`: generate pictures grounded in a knowledge base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import (
    DeviceOption,
    JsonOption,
    SeedOption,
    SystemOption,
    numbers,
    open_model,
    print_json,
    progress_bar,
    say,
    tracker,
)
from bowerbird.cli.filling import OpenEncoderOption
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System


def generate(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Bundled name, directory, or hub id.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for pictures, sheet.png and generation.jsonl, new or of an earlier run."),
    ] = None,
    kb: Annotated[str | None, typer.Option("--kb", help="Knowledge base to retrieve from.")] = None,
    encoder: OpenEncoderOption = None,
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
    k: Annotated[
        int | None, typer.Option("-k", "--num-neighbors", help="Neighbors a picture; default the model's.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--num-images", help="How many pictures.", min=1)] = 4,
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
        str | None, typer.Option("--sampler", help="dpmsolver++, ddim, unipc or module:Class; default the model's.")
    ] = None,
    eta: Annotated[float, typer.Option("--eta", help="Fresh noise in ddim, 0 to 1.")] = 0.0,
    size: Annotated[int | None, typer.Option("--size", help="Height and width in pixels; default the model's.")] = None,
    height: Annotated[int | None, typer.Option("--height", help="Height in pixels.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Width in pixels.")] = None,
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
    allow_no_neighbors: Annotated[
        bool, typer.Option("--allow-no-neighbors", help="Generate even where the search finds nothing.")
    ] = False,
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
    system: SystemOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Generate pictures grounded in a knowledge base.

    From a prompt, pictures, a class, or nothing; each is written with its neighbors and how it was made.

    Example: bowerbird generate tiny-rdm --kb my-kb --prompt "a red fox" -n 4 --out foxes
    """
    if out is None:
        raise BowerbirdError("generate: give --out DIR, the folder for the pictures")
    from bowerbird.systems import output

    output.check(out)
    if source is not None:
        _check_beside(context)
        _regenerate(source, model, sampler, out, device, as_json)
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
    if alone and prompt is None:
        raise BowerbirdError("generate: --reference and -k 0 go with --prompt, which says what to generate")
    interval = numbers(guidance_interval, "--guidance-interval")
    if len(interval) not in (0, 2):
        raise BowerbirdError(
            f"--guidance-interval {guidance_interval!r}: write two shares of the noise, the lower first, e.g. 0.1,0.8"
        )
    counted = tuple(int(step) for step in numbers(steps, "--steps"))
    if any(step != whole for step, whole in zip(numbers(steps, "--steps"), counted, strict=True)):
        raise BowerbirdError(f"--steps {steps!r}: write whole numbers, one or one a stage, e.g. 30,10")
    from bowerbird.core import images
    from bowerbird.core.types import Neighbors
    from bowerbird.diffusion.guidance import by_stage
    from bowerbird.evaluation.copies import guard
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems import generation, records
    from bowerbird.systems.queries import make_request

    guard.check_policy(on_copy)
    opened = KnowledgeBase.open(kb, encoder=encoder) if kb is not None else None
    own = [images.read(path) for path in reference or []]
    pictures = [images.read(path) for path in image] if image else None
    pipe = open_model(model, device, dtype)
    can, usual = pipe.capabilities, generation.default_settings(pipe)
    if alone and not (can.needs_images and can.without_neighbors):
        raise BowerbirdError(
            f"model {model!r} generates from embeddings: give --image F or --text-mode text with --kb KB; --reference"
            " and -k 0 are for models like tiny-reimagen"
        )
    if k == 0 and opened is not None and can.needs_images:
        raise BowerbirdError("generate: -k 0 generates from the text alone, and looks nothing up; leave --kb out")
    balance_options = {"--guidance": guidance, "--text-ratio": text_ratio, "--text-scale": text_scale}
    balance_options["--neighbor-scale"] = neighbor_scale
    if not can.reads_text and any(value is not None for value in balance_options.values()):
        raise BowerbirdError(
            f"model {model!r} generates from neighbors alone: {', '.join(balance_options)} are for models like"
            " tiny-reimagen"
        )
    scale = usual.guidance_scale if guidance_scale is None else guidance_scale
    balance = None
    if can.reads_text:
        balance = by_stage(
            scale,
            guidance or "interleaved",
            text_ratio=numbers(text_ratio, "--text-ratio"),
            text_scale=numbers(text_scale, "--text-scale"),
            neighbor_scale=numbers(neighbor_scale, "--neighbor-scale"),
        )
    record: dict[str, Any] = {"prompt": prompt, "images": [str(p) for p in image or []], "class": class_name}
    record |= {"unconditional": unconditional, "references": [str(p) for p in reference or []]}
    record = {key: value for key, value in record.items() if value}
    if opened is None:
        assert prompt is not None
        hits = Neighbors.from_images([prompt], own, caption or []).repeat(n)
        record["k"] = hits.k
    else:
        request = pipe.resolve(
            make_request(
                prompt,
                pictures,
                class_name=class_name,
                unconditional=unconditional,
                k=k,
                text_mode=text_mode,
                image_mode=image_mode,
                search_mode=search_mode,
                where=where,
                class_key=class_key,
                top_m=top_m,
                allow_no_neighbors=allow_no_neighbors,
            ),
            opened,
        )
        counts = opened.proposal(request.k or 1) if proposal == "database" and unconditional else None
        hits = pipe.retrieve(request, opened, n, seed=seed, proposal=counts)
        say_fewer(pipe, opened, k)
        record["k"] = int((hits.ids[0] >= 0).sum())
        how = ("text_mode", "image_mode", "search_mode", "where", "class_key", "top_m")
        record |= {key: value for key in how if (value := getattr(request, key)) is not None}
    if weights is not None:
        hits = pipe.weigh(hits, numbers(weights, "--weights"))
    settings = generation.Settings(
        steps=usual.steps if not counted else counted[0] if len(counted) == 1 else counted,
        guidance_scale=scale,
        sampler=sampler,
        eta=eta,
        height=height or size,
        width=width or size,
        seed=seed,
        guidance=balance,
        guidance_interval=(interval[0], interval[1]) if interval else None,
    )
    if (line := can.far_size(settings.height, settings.width)) is not None:
        say(f"{model}: {line}")
    with progress_bar(as_json) as bar:
        made = generation.generate(pipe, hits, settings, progress=tracker(bar, "generating", n))
    kept = guard.guard(pipe, made, hits, settings, policy=on_copy)
    made_records = records.generation_records(
        pipe, model, opened, kept.hits, kept.images, settings, record, picture_seeds=kept.seeds, copies=kept.copies
    )
    paths = output.write(kept.images, made_records, kept.hits, out)
    warn_of_copies(kept, paths)
    print_result(paths, out, as_json)


BESIDE_FROM = ("source", "model", "out", "sampler", "device", "as_json")
"""What can be given beside --from; everything else is in the record."""


def _check_beside(context: typer.Context) -> None:
    """Raises: BowerbirdError for an option that --from would pass over."""
    given = [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name not in BESIDE_FROM
        and getattr(context.get_parameter_source(parameter.name or ""), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise BowerbirdError(
            f"generate: --from makes the picture again as its record says; leave out {', '.join(given)}, or leave out"
            " --from to generate another"
        )


def _regenerate(source: Path, model: str | None, sampler: str | None, out: Path, device: str, as_json: bool) -> None:
    from bowerbird.core import provenance
    from bowerbird.models.weights import bundled
    from bowerbird.systems import output, regeneration

    record = provenance.read_png(source)
    found = regeneration.parse_record(record)
    name = found.model.name
    if model is None and bundled(name) is None:
        raise BowerbirdError(
            f"{source}: was generated by {name!r}, which is not bundled; a record opens and fetches no other model by"
            f" itself, so give it: bowerbird generate MODEL --from {source} --out {out}"
        )
    pipe = open_model(model or name, device, found.dtype)
    image, hits = regeneration.regenerate(pipe, record, sampler=sampler)
    edited = regeneration.source_of(found)
    print_result(output.write([image], [record], hits, out, sources=None if edited is None else [edited]), out, as_json)


def say_fewer(pipe: System, kb: KnowledgeBase, k: int | None) -> None:
    """A line where nobody gave `k` and the knowledge base holds fewer items than the model's usual neighbors."""
    usual = pipe.defaults.k
    if k is None and len(kb) < usual:
        say(f"{kb.path} holds {len(kb)} items, fewer than the model's usual {usual} neighbors: k is {len(kb)}")


def warn_of_copies(kept: Any, paths: list[Path]) -> None:
    """A line for each picture that is a near copy of a neighbor."""
    for i in kept.near_copies():
        say(
            f"{paths[i].name} is a near copy of neighbor {(kept.copies[i] or {})['neighbor']}; --on-copy drop or"
            " resample avoids that"
        )


def print_result(paths: list[Path], out: Path, as_json: bool, what: str = "picture") -> None:
    """Where the pictures, the sheet and the records are."""
    if as_json:
        files = {"images": [str(p) for p in paths], "sheet": str(out / "sheet.png")}
        print_json({"out": str(out), **files, "records": str(out / "generation.jsonl")})
        return
    beside = "its neighbors" if what == "picture" else "its source, their difference and the neighbors"
    say(f"{len(paths)} {what}{'s' if len(paths) > 1 else ''} in {out}; {out / 'sheet.png'} shows each beside {beside}")
