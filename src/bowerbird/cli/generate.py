"""`bowerbird generate`: generate pictures grounded in a knowledge base."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bowerbird.cli.common import (
    DeviceOption,
    JsonOption,
    SeedOption,
    SignCertOption,
    SignKeyOption,
    SystemOption,
    load_signer,
    numbers,
    open_model,
    print_json,
    progress_bar,
    say,
    say_source,
    tracker,
)
from bowerbird.cli.filling import CoverOption, NoRerankOption, OpenEncoderOption, RerankOption, read_rerank
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import in_shell

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System
    from bowerbird.systems.content_credentials import Signer
    from bowerbird.systems.grounded.pipeline import ReferencePipeline
    from bowerbird.systems.jobs import Job
    from bowerbird.systems.reference_settings import Adapter


def generate(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Bundled name, directory, or hub id.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for pictures, sheet.png and generation.jsonl, new or of an earlier run."),
    ] = None,
    kb: Annotated[str | None, typer.Option("--kb", help="Knowledge base to retrieve from.")] = None,
    encoder: OpenEncoderOption = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="What to generate; several as if they were lines of --prompts.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="A prompt a line (.txt), or an object a line (.jsonl) with seed, n, k, where, … of its own; resumes.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="With --prompts: a Ray cluster; local for one on this machine."),
    ] = None,
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
    n: Annotated[
        int | None,
        typer.Option("-n", "--num-images", help="How many pictures; default 4, of each of several prompts 1.", min=1),
    ] = None,
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
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of models of tokens: 0 takes the likeliest, 1 as learned.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Draw tokens from so many likeliest; 0 from all.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Draw tokens from the likeliest that together have this share.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option("--min-p", help="Draw tokens at least so many times as likely as the likeliest.")
    ] = None,
    patch_weight: Annotated[
        float | None,
        typer.Option(
            "--patch-weight", help="Of models of tokens: merge what follows the nearest windows of --kb, 0 to 1 (DAiD)."
        ),
    ] = None,
    patch_neighbors: Annotated[
        int | None, typer.Option("--patch-neighbors", help="Windows looked at for each token; default 64.")
    ] = None,
    patch_temperature: Annotated[
        float | None,
        typer.Option("--patch-temperature", help="How slowly windows count less with distance; default 0.1."),
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
        str | None, typer.Option("--search-mode", help="hybrid, dense, bm25, captions or mixed; default the model's.")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Retrieve only items that satisfy this.")
    ] = None,
    allow_no_neighbors: Annotated[
        bool, typer.Option("--allow-no-neighbors", help="Generate even where the search finds nothing.")
    ] = False,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score", help="Leave out neighbors less similar: a cosine; with --search-mode bm25 a BM25 score."
        ),
    ] = None,
    rerank: RerankOption = "auto",
    no_rerank: NoRerankOption = False,
    cover: CoverOption = False,
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
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter",
            metavar="FILE",
            help="For a base model of diffusers: an IP-Adapter or FLUX Redux, .safetensors or .bin.",
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[:SCALE]",
            help="For a base model: a LoRA's .safetensors in PEFT's, diffusers' or kohya's form; several are added.",
        ),
    ] = None,
    image_encoder: Annotated[
        Path | None,
        typer.Option("--image-encoder", metavar="DIR", help="The adapter's image encoder; default beside its file."),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option("--fit", help="References that are no squares: pad, squash or crop; default pad, or as stored."),
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", help="How strongly a base attends to its references; default 0.6.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="Which layers of a base read references: all, style or content.")
    ] = None,
    steps_from: Annotated[
        float | None, typer.Option("--steps-from", help="References from this share of the steps on; default 0.")
    ] = None,
    steps_to: Annotated[
        float | None, typer.Option("--steps-to", help="References up to this share of the steps; default 1.")
    ] = None,
    pool: Annotated[
        int | None, typer.Option("--pool", help="FLUX Redux: average squares of so many tokens: 1, 3 or 9.")
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option("--negative-prompt", help="What a base model is to avoid.")
    ] = None,
    phrases: Annotated[
        str | None,
        typer.Option(
            "--phrases",
            metavar="PARSER",
            help="For a base: references for each phrase of the prompt, found by rules, brackets, spacy, textblob or"
            " stanza; a [red fox] marks one.",
        ),
    ] = None,
    structure: Annotated[
        str | None,
        typer.Option(
            "--structure", help="For a base of the SD family: each phrase encoded for itself: mean or conjunction."
        ),
    ] = None,
    critic: Annotated[
        str | None,
        typer.Option(
            "--critic",
            metavar="NAME",
            help="For a base: look for each phrase in the picture, and generate again with references for what is"
            " missing: encoder, or an image-text model.",
        ),
    ] = None,
    max_passes: Annotated[
        int | None, typer.Option("--max-passes", help="Most pictures a --critic looks at for each; default 3.")
    ] = None,
    offload: Annotated[
        str | None,
        typer.Option(
            "--offload", help="Keep a base's weights in main memory: model (a network at a time), sequential."
        ),
    ] = None,
    best_of: Annotated[
        int,
        typer.Option("--best-of", help="Draw so many for each picture and keep the one nearest to --prompt.", min=1),
    ] = 1,
    on_copy: Annotated[
        str, typer.Option("--on-copy", help="Near copy of a neighbor: warn, drop the neighbor, resample, or off.")
    ] = "warn",
    proposal: Annotated[
        str, typer.Option("--proposal", help="Counts for --unconditional: model, or database.")
    ] = "model",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Compute in float32, bfloat16 (twice as fast on most machines) or float16.")
    ] = "float32",
    sign_cert: SignCertOption = None,
    sign_key: SignKeyOption = None,
    seed: SeedOption = 0,
    system: SystemOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Generate pictures grounded in a knowledge base.

    From a prompt, pictures, a class, or nothing; each is written with its neighbors and how it was made.

    MODEL is one of bowerbird's, or a base model of diffusers with an --adapter (docs/your-model.md).

    Example: bowerbird generate tiny-rdm --kb my-kb --prompt "a red fox" -n 4 --out foxes
    """
    if out is None:
        raise BowerbirdError("generate: give --out DIR, the folder for the pictures")
    from bowerbird.systems import output

    several = tuple(prompt or ()) if prompt is not None and len(prompt) > 1 else ()
    if prompts is None and not several:
        output.check(out)
    signer = load_signer(sign_cert, sign_key)
    from bowerbird.systems.reference_settings import Adapter, parse_lora

    changes = tuple(map(parse_lora, lora or ()))
    taking = Adapter(adapter=adapter, image_encoder=image_encoder, fit=fit, offload=offload, loras=changes)
    how = None if taking == Adapter() else taking
    if source is not None:
        _check_beside(context)
        _regenerate(source, model, sampler, out, device, how, as_json, signer)
        return
    if model is None:
        raise BowerbirdError(
            "generate: give a MODEL (see bowerbird models) and --kb KB or --reference F.png, or --from F.png"
        )
    if not (prompt or image or class_name is not None or unconditional or reference or prompts):
        raise BowerbirdError(
            "generate: say what: --prompt TEXT, --prompts FILE, --image F, --class C, --unconditional, or --reference F"
        )
    counted = tuple(int(step) for step in numbers(steps, "--steps"))
    if any(step != whole for step, whole in zip(numbers(steps, "--steps"), counted, strict=True)):
        raise BowerbirdError(f"--steps {steps!r}: write whole numbers, one or one a stage, e.g. 30,10")
    from bowerbird import encoders
    from bowerbird.evaluation.copies import guard
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems import generation, jobs, records, refinement, reranking, unfamiliar

    job = jobs.Job(
        prompt=prompt[0] if prompt else None,
        images=tuple(image or ()),
        class_name=class_name,
        unconditional=unconditional,
        references=tuple(reference or ()),
        captions=tuple(caption or ()),
        n=n or (4 if prompts is None and not several else 1),
        seed=seed,
        k=k,
        weights=tuple(numbers(weights, "--weights")),
        text_mode=text_mode,
        image_mode=image_mode,
        search_mode=search_mode,
        where=where,
        class_key=class_key,
        top_m=top_m,
        allow_no_neighbors=allow_no_neighbors,
        min_score=min_score,
        rerank=read_rerank(rerank, no_rerank=no_rerank),
        cover=cover,
        proposal=proposal,
        steps=counted,
        guidance_scale=guidance_scale,
        guidance_interval=tuple(numbers(guidance_interval, "--guidance-interval")),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        patch_weight=patch_weight,
        patch_neighbors=patch_neighbors,
        patch_temperature=patch_temperature,
        sampler=sampler,
        eta=eta,
        height=height or size,
        width=width or size,
        guidance=guidance,
        text_ratio=tuple(numbers(text_ratio, "--text-ratio")),
        text_scale=tuple(numbers(text_scale, "--text-scale")),
        neighbor_scale=tuple(numbers(neighbor_scale, "--neighbor-scale")),
        scale=scale,
        layers=layers,
        steps_from=steps_from,
        steps_to=steps_to,
        pool=pool,
        negative_prompt=negative_prompt,
        phrases=phrases,
        structure=structure,
        critic=critic,
        max_passes=max_passes,
    )
    guard.check_policy(on_copy)
    if best_of > 1 and (not prompt or several or prompts is not None or critic is not None):
        raise BowerbirdError("generate: --best-of goes with one --prompt, without --prompts and --critic")
    if ray is not None and prompts is None and not several:
        raise BowerbirdError("generate: --ray spreads a list; give it with --prompts FILE, or leave it out")
    if ray is not None and signer is not None:
        raise BowerbirdError("generate: with --ray nothing is signed, as the key stays here; leave one of them out")
    if prompts is not None or several:
        _series(prompts, several, job, model, kb, encoder, on_copy, out, device, dtype, how, as_json, signer, ray)
        return
    jobs.check(job, has_kb=kb is not None)
    opened = KnowledgeBase.open(kb, encoder=encoder) if kb is not None else None
    pipe = open_model(model, device, dtype, how)
    prepared = jobs.prepare(pipe, opened, job)
    hits, settings = prepared.hits, prepared.settings
    if opened is not None:
        say_fewer(pipe, opened, k)
    say_warnings(model, unfamiliar.find_warnings(pipe, hits, settings))
    for note in jobs.notes(prepared, job):
        say(note)
    with progress_bar(as_json) as bar:
        progress = tracker(bar, "generating", job.n * best_of)
        ranked = None
        if best_of > 1:
            judge = encoders.load() if opened is None else opened.encoder
            ranked = reranking.generate_best(pipe, hits, settings, judge, best_of, progress=progress)
            made = refinement.RefinedPictures(ranked.images, hits)
        elif critic is None or opened is None:
            made = refinement.RefinedPictures(generation.generate(pipe, hits, settings, progress=progress), hits)
        else:
            made = refinement.refine_job(cast("ReferencePipeline", pipe), opened, job, prepared, progress=progress)
    chosen = None if ranked is None else ranked.seeds
    kept = guard.guard(pipe, made.images, made.hits, settings, picture_seeds=chosen, policy=on_copy)
    made_records = records.generation_records(
        pipe,
        model,
        opened,
        kept.hits,
        kept.images,
        settings,
        prepared.request | ({"best_of": best_of} if best_of > 1 else {}),
        picture_seeds=kept.seeds,
        copies=kept.copies,
        refinements=made.records,
    )
    paths = output.write(kept.images, made_records, kept.hits, out, signer=signer)
    warn_of_copies(kept, paths)
    for path, record in zip(paths, made.records or (), strict=False):
        if lacks := refinement.say_missing(record):
            say(f"{path.name}: {lacks}")
    print_result(paths, out, as_json)


def _series(
    prompts: Path | None,
    several: tuple[str, ...],
    usual: Job,
    model: str,
    kb: str | None,
    encoder: str | None,
    on_copy: str,
    out: Path,
    device: str,
    dtype: str,
    adapter: Adapter | None,
    as_json: bool,
    signer: Signer | None,
    ray: str | None,
) -> None:
    """Every line of a file of prompts, or every one of `several`, with one model."""
    from bowerbird.data.report import SourceReport
    from bowerbird.evaluation.copies import guard, series_on_ray
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems import prompt_file, series

    if prompts is None and (usual.images or usual.class_name or usual.unconditional):
        raise BowerbirdError(
            "generate: several --prompt are what to generate; leave out --image, --class and --unconditional, or give"
            " one --prompt"
        )
    if prompts is not None and (several or usual.prompt or usual.images or usual.class_name or usual.unconditional):
        raise BowerbirdError(
            "generate: --prompts says in each line what to generate; leave out --prompt, --image, --class and"
            " --unconditional"
        )
    passed_over = SourceReport()
    if prompts is None:
        work = prompt_file.make_jobs(several, usual, has_kb=kb is not None)
    else:
        work = prompt_file.read_jobs(prompts, usual, has_kb=kb is not None, report=passed_over)
    say_source(passed_over)
    opened = KnowledgeBase.open(kb, encoder=encoder) if kb is not None else None
    pipe = open_model(model, device, dtype, adapter)

    def finish(images: Any, hits: Any, settings: Any, seeds: list[int]) -> guard.Guarded:
        return guard.guard(pipe, images, hits, settings, picture_seeds=seeds, policy=on_copy)

    def spread(groups: list[list[str]]) -> series.Series:
        place = str(Path(model).absolute()) if Path(model).is_dir() else model
        base = None if kb is None else kb if "://" in kb else str(Path(kb).absolute())
        task = series_on_ray.Task(place, device, dtype, adapter, base, encoder, work, out.absolute(), on_copy)
        return series_on_ray.generate(groups, task, str(ray))

    with progress_bar(as_json) as bar:
        total = sum(job.n for job in work)
        report = tracker(bar, "generating", total)
        where = None if ray is None else spread
        made = series.run(
            pipe, model, opened, work, out, finish=finish, how=on_copy, signer=signer, elsewhere=where, progress=report
        )
    if made.kept:
        say(f"{made.kept} of {len(made.paths)} pictures were there already and are kept")
    for line in made.notes:
        say(line)
    for line in made.near_copies:
        say(f"{line}; --on-copy drop or resample avoids that")
    print_result(made.paths, out, as_json)


BESIDE_FROM = (
    "source",
    "model",
    "out",
    "sampler",
    "adapter",
    "lora",
    "image_encoder",
    "offload",
    "sign_cert",
    "sign_key",
    "device",
    "as_json",
)
"""What can be given beside --from; everything else is in the record."""


def others_given(context: typer.Context, beside: Collection[str]) -> list[str]:
    """The flags that were given and are of no parameter of `beside`."""
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name not in beside
        and getattr(context.get_parameter_source(parameter.name or ""), "name", "") == "COMMANDLINE"
    ]


def _check_beside(context: typer.Context) -> None:
    """Raises: BowerbirdError for an option that --from would pass over."""
    if given := others_given(context, BESIDE_FROM):
        raise BowerbirdError(
            f"generate: --from makes the picture again as its record says; leave out {', '.join(given)}, or leave out"
            " --from to generate another"
        )


def _regenerate(
    source: Path,
    model: str | None,
    sampler: str | None,
    out: Path,
    device: str,
    adapter: Adapter | None,
    as_json: bool,
    signer: Signer | None,
) -> None:
    from bowerbird.core import provenance
    from bowerbird.models.weights import bundled
    from bowerbird.systems import output, regeneration

    record = provenance.read_png(source)
    found = regeneration.parse_record(record)
    name = found.model.name
    if model is None and bundled(name) is None:
        raise BowerbirdError(
            f"{source}: was generated by {name!r}, which is not bundled; a record opens and fetches no other model by"
            f" itself, so give it: bowerbird generate MODEL --from {in_shell(source)} --out {in_shell(out)}"
        )
    pipe = open_model(model or name, device, found.dtype, adapter)
    image, hits = regeneration.regenerate(pipe, record, sampler=sampler)
    edited = regeneration.source_of(found)
    sources = None if edited is None else [edited]
    print_result(output.write([image], [record], hits, out, sources=sources, signer=signer), out, as_json)


def say_fewer(pipe: System, kb: KnowledgeBase, k: int | None) -> None:
    """A line where nobody gave `k` and the knowledge base holds fewer items than the model's usual neighbors."""
    usual = pipe.defaults.k
    if k is None and len(kb) < usual:
        say(f"{kb.path} holds {len(kb)} items, fewer than the model's usual {usual} neighbors: k is {len(kb)}")


def say_warnings(model: str, rows: Sequence[Sequence[str]]) -> None:
    """What pictures are far from what `model` was trained on in, each line once."""
    for line in dict.fromkeys(line for row in rows for line in row):
        say(f"{model}: {line}")


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
        records = out / "generation.jsonl"
        near = [json.loads(line)["neighbors"] for line in records.read_text(encoding="utf-8").split("\n") if line]
        print_json({"out": str(out), **files, "records": str(records), "neighbors": near})
        return
    beside = "its neighbors" if what == "picture" else "its source, their difference and the neighbors"
    say(f"{len(paths)} {what}{'s' if len(paths) > 1 else ''} in {out}; {out / 'sheet.png'} shows each beside {beside}")
