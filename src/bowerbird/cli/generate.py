"""`bowerbird generate`: generate pictures grounded in a knowledge base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from bowerbird.cli import generate_options as options
from bowerbird.cli.common import (
    DeviceOption,
    JsonOption,
    SeedOption,
    SignCertOption,
    SignKeyOption,
    SystemOption,
    load_signer,
    numbers,
    others_given,
    say_source,
    show_progress,
)
from bowerbird.cli.filling import CoverOption, NoRerankOption, OpenEncoderOption, RerankOption, read_rerank
from bowerbird.cli.generating import Run, finish_one, generate_series, prepare_one, regenerate
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.systems.grounded.pipeline import ReferencePipeline
    from bowerbird.systems.jobs import Job


def generate(
    context: typer.Context,
    model: options.ModelArgument = None,
    out: options.OutOption = None,
    kb: options.KbOption = None,
    encoder: OpenEncoderOption = None,
    prompt: options.PromptOption = None,
    prompts: options.PromptsOption = None,
    ray: options.RayOption = None,
    image: options.ImageOption = None,
    class_name: options.ClassOption = None,
    unconditional: options.UnconditionalOption = False,
    source: options.FromOption = None,
    k: options.NumNeighborsOption = None,
    n: options.CountOption = None,
    steps: options.StepsOption = None,
    guidance_scale: options.GuidanceScaleOption = None,
    guidance_interval: options.GuidanceIntervalOption = None,
    temperature: options.TemperatureOption = None,
    top_k: options.TopKOption = None,
    top_p: options.TopPOption = None,
    min_p: options.MinPOption = None,
    patch_weight: options.PatchWeightOption = None,
    patch_neighbors: options.PatchNeighborsOption = None,
    patch_temperature: options.PatchTemperatureOption = None,
    sampler: options.SamplerOption = None,
    eta: options.EtaOption = 0.0,
    size: options.SizeOption = None,
    height: options.HeightOption = None,
    width: options.WidthOption = None,
    weights: options.WeightsOption = None,
    text_mode: options.TextModeOption = None,
    image_mode: options.ImageModeOption = None,
    search_mode: options.SearchModeOption = None,
    where: options.WhereOption = None,
    allow_no_neighbors: options.AllowNoNeighborsOption = False,
    min_score: options.MinScoreOption = None,
    rerank: RerankOption = "auto",
    no_rerank: NoRerankOption = False,
    cover: CoverOption = False,
    class_key: options.ClassKeyOption = None,
    top_m: options.TopMOption = 1.0,
    reference: options.ReferenceOption = None,
    caption: options.CaptionOption = None,
    guidance: options.GuidanceOption = None,
    text_ratio: options.TextRatioOption = None,
    text_scale: options.TextScaleOption = None,
    neighbor_scale: options.NeighborScaleOption = None,
    adapter: options.AdapterOption = None,
    lora: options.LoraOption = None,
    image_encoder: options.ImageEncoderOption = None,
    fit: options.FitOption = None,
    scale: options.ScaleOption = None,
    layers: options.LayersOption = None,
    steps_from: options.StepsFromOption = None,
    steps_to: options.StepsToOption = None,
    pool: options.PoolOption = None,
    negative_prompt: options.NegativePromptOption = None,
    phrases: options.PhrasesOption = None,
    structure: options.StructureOption = None,
    critic: options.CriticOption = None,
    max_passes: options.MaxPassesOption = None,
    offload: options.OffloadOption = None,
    best_of: options.BestOfOption = 1,
    on_copy: options.OnCopyOption = "warn",
    proposal: options.ProposalOption = "model",
    dtype: options.DtypeOption = "float32",
    sign_cert: SignCertOption = None,
    sign_key: SignKeyOption = None,
    seed: SeedOption = 0,
    system: SystemOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Generate pictures grounded in a knowledge base.

    From a prompt, images, a class, or unconditionally; every picture is written with its neighbors and settings.

    MODEL is one of bowerbird's, or a diffusers base model with an --adapter (docs/your-model.md).

    Example: bowerbird generate reimagen-drawings --kb my-kb --prompt "a red fox" -k 1 --out foxes
    """
    if out is None:
        raise BowerbirdError("generate: give --out DIR, the folder for the pictures")
    from bowerbird.systems import output

    listed = prompts is not None or len(prompt or ()) > 1
    if not listed:
        output.check(out)
    signer = load_signer(sign_cert, sign_key)
    from bowerbird.systems.reference_settings import Adapter, parse_lora

    changes = tuple(map(parse_lora, lora or ()))
    taking = Adapter(adapter=adapter, image_encoder=image_encoder, fit=fit, offload=offload, loras=changes)
    run = Run(
        kb=kb,
        encoder=encoder,
        device=device,
        dtype=dtype,
        adapter=None if taking == Adapter() else taking,
        out=out,
        on_copy=on_copy,
        signer=signer,
        as_json=as_json,
    )
    if source is not None:
        _check_beside(context)
        regenerate(source, model, run, sampler=sampler)
        return
    if model is None:
        raise BowerbirdError(
            "generate: give a MODEL, as reimagen-drawings (bowerbird models lists them), and --kb KB or --reference"
            " F.png; or --from F.png"
        )
    if not (prompt or image or class_name is not None or unconditional or reference or prompts):
        raise BowerbirdError(
            "generate: say what: --prompt TEXT, --prompts FILE, --image F, --class C, --unconditional, or --reference F"
        )
    from bowerbird.evaluation.copies import guard
    from bowerbird.systems import jobs

    job = jobs.Job(
        prompt=prompt[0] if prompt else None,
        images=tuple(image or ()),
        class_name=class_name,
        unconditional=unconditional,
        references=tuple(reference or ()),
        captions=tuple(caption or ()),
        n=n or (1 if listed else 4),
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
        steps=_whole_numbers(steps),
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
    if best_of > 1 and (not prompt or listed or critic is not None):
        raise BowerbirdError("generate: --best-of goes with one --prompt, without --prompts and --critic")
    if ray is not None and not listed:
        raise BowerbirdError("generate: --ray spreads a list; give it with --prompts FILE, or leave it out")
    if ray is not None and signer is not None:
        raise BowerbirdError("generate: with --ray nothing is signed, as the key stays here; leave one of them out")
    if listed:
        generate_series(model, _list_jobs(prompts, prompt or [], job, has_kb=kb is not None), run, ray=ray)
    else:
        from bowerbird import encoders
        from bowerbird.systems import generation, refinement, reranking

        one, chosen = prepare_one(model, job, run), None
        hits, settings = one.prepared.hits, one.prepared.settings
        with show_progress("generating", as_json, job.n * best_of) as progress:
            if best_of > 1:
                judge = encoders.load() if one.kb is None else one.kb.encoder
                best = reranking.generate_best(one.pipe, hits, settings, judge, best_of, progress=progress)
                made, chosen = refinement.RefinedPictures(best.images, hits), best.seeds
            elif job.critic is None or one.kb is None:
                made = refinement.RefinedPictures(
                    generation.generate(one.pipe, hits, settings, progress=progress), hits
                )
            else:
                base = cast("ReferencePipeline", one.pipe)
                made = refinement.refine_job(base, one.kb, job, one.prepared, progress=progress)
        finish_one(one, made, run, best_of=best_of, seeds=chosen)


def _whole_numbers(steps: str | None) -> tuple[int, ...]:
    """Raises: BowerbirdError for steps that are no whole numbers."""
    given = numbers(steps, "--steps")
    counted = tuple(map(int, given))
    if any(step != whole for step, whole in zip(given, counted, strict=True)):
        raise BowerbirdError(f"--steps {steps!r}: write whole numbers, one or one a stage, e.g. 30,10")
    return counted


def _list_jobs(prompts: Path | None, given: Sequence[str], usual: Job, *, has_kb: bool) -> list[Job]:
    """A job for every line of a file of prompts, or for every one of several `given`. Raises: BowerbirdError for what
    else says what to generate."""
    from bowerbird.data.report import SourceReport
    from bowerbird.systems import prompt_file

    if prompts is None:
        if usual.images or usual.class_name or usual.unconditional:
            raise BowerbirdError(
                "generate: several --prompt are what to generate; leave out --image, --class and --unconditional, or"
                " give one --prompt"
            )
        return prompt_file.make_jobs(given, usual, has_kb=has_kb)
    if usual.prompt or usual.images or usual.class_name or usual.unconditional:
        raise BowerbirdError(
            "generate: --prompts says in each line what to generate; leave out --prompt, --image, --class and"
            " --unconditional"
        )
    passed_over = SourceReport()
    work = prompt_file.read_jobs(prompts, usual, has_kb=has_kb, report=passed_over)
    say_source(passed_over)
    return work


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


def _check_beside(context: typer.Context) -> None:
    """Raises: BowerbirdError for an option that --from would pass over."""
    if given := others_given(context, BESIDE_FROM):
        raise BowerbirdError(
            f"generate: --from makes the picture again as its record says; leave out {', '.join(given)}, or leave out"
            " --from to generate another"
        )
