"""What somebody asks of a model, whole: the request and the settings of one picture or several; and its neighbors.

A command line is one job, a line of a prompts file (`prompt_file.py`) another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bowerbird.core import images
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article
from bowerbird.core.types import Neighbors
from bowerbird.diffusion.guidance import by_stage
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.knowledge.rerank.registry import Rerank
from bowerbird.systems import generation
from bowerbird.systems.choice import ChoiceSettings
from bowerbird.systems.grounded.prompting import PhraseSettings, Plan, choice_for, make_plan
from bowerbird.systems.notes import readable
from bowerbird.systems.patches import PatchDecoding, PatchSettings
from bowerbird.systems.phrases.brackets import read_brackets
from bowerbird.systems.queries import Request, make_request, nothing_found, rerank_of
from bowerbird.systems.reference_settings import ReferenceSettings

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System
    from bowerbird.systems.grounded.pipeline import ReferencePipeline

BALANCE = ("guidance", "text_ratio", "text_scale", "neighbor_scale")
"""What balances text and neighbors, in systems that read both."""
REFERENCES = tuple(field.name for field in fields(ReferenceSettings))
"""How a base model attends to its references."""


TOKENS = tuple(field.name for field in fields(TokenSampling))
"""How tokens are drawn one by one."""
PATCHES = {f"patch_{field.name}": field.name for field in fields(PatchSettings)}
"""How the windows of a knowledge base are merged with a model of tokens."""
WHOLE_PROMPT = {
    "text_mode": None,
    "image_mode": None,
    "class_key": None,
    "top_m": 1.0,
    "min_score": None,
    "rerank": "auto",
    "cover": False,
}
"""What is said of a search by the whole prompt alone, with the value of each that says nothing."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """`n` pictures of one request; picture i is drawn from `seed + i`. None, 0 and nothing are the model's own.

    One of `prompt`, `images` (files), `class_name`, `unconditional`. `references`: files of one's own as neighbors,
    each with one of `captions`, in place of a knowledge base. `items`: ids of items of the knowledge base as the
    neighbors, after the `references`, in place of what a search finds; `weights` are one a reference, then one an item.
    `proposal`: counts of p_D by the `model` or the `database`. The rest: `queries.Request`, `generation.Settings`,
    `guidance.by_stage`, `TokenSampling`, `PatchSettings`, `ReferenceSettings`, `PhraseSettings`.
    """

    prompt: str | None = None
    images: tuple[Path, ...] = ()
    class_name: str | None = None
    unconditional: bool = False
    references: tuple[Path, ...] = ()
    captions: tuple[str, ...] = ()
    items: tuple[int, ...] | None = None
    n: int = 1
    seed: int = 0
    k: int | None = None
    weights: tuple[float, ...] = ()
    text_mode: str | None = None
    image_mode: str | None = None
    search_mode: str | None = None
    where: str | None = None
    class_key: str | None = None
    top_m: float = 1.0
    allow_no_neighbors: bool = False
    min_score: float | None = None
    rerank: Rerank = "auto"
    cover: bool = False
    proposal: str = "model"
    steps: tuple[int, ...] = ()
    guidance_scale: float | None = None
    guidance_interval: tuple[float, ...] = ()
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    patch_weight: float | None = None
    patch_neighbors: int | None = None
    patch_temperature: float | None = None
    sampler: str | None = None
    eta: float = 0.0
    height: int | None = None
    width: int | None = None
    guidance: str | None = None
    text_ratio: tuple[float, ...] = ()
    text_scale: tuple[float, ...] = ()
    neighbor_scale: tuple[float, ...] = ()
    scale: float | None = None
    layers: str | None = None
    steps_from: float | None = None
    steps_to: float | None = None
    pool: int | None = None
    negative_prompt: str | None = None
    phrases: str | None = None
    structure: str | None = None
    critic: str | None = None
    max_passes: int | None = None


@dataclass(frozen=True)
class Prepared:
    """A job with its neighbors, a row a picture, its settings, and what its pictures' records say was asked for.
    `plan`: the phrases of its prompt, where they play a part, and `choice` how their references are chosen."""

    hits: Neighbors
    settings: generation.Settings
    request: dict[str, Any]
    plan: Plan | None = None
    choice: ChoiceSettings | None = None


def check(job: Job, *, has_kb: bool) -> None:
    """Raises: BowerbirdError for a job that no model can do, before one is opened."""
    if job.prompt is not None and job.images:
        raise BowerbirdError(
            "generate: `prompt` and `image` each say what to generate; leave one out. To generate what the prompt says"
            " from your picture: bowerbird generate reimagen-drawings with `prompt`, `reference` F and `caption` TEXT;"
            " to change the picture as the prompt says: bowerbird edit tiny-knn with `kb`, `image` F and `prompt`"
        )
    alone = stands_alone(job, has_kb=has_kb)
    if alone and (job.images or job.class_name or job.unconditional or (job.k and job.references)):
        raise BowerbirdError(
            "generate: `reference` and `k=0` stand in place of `kb`, `image`, `class_name`, `unconditional` and `k`;"
            " leave those out"
        )
    if job.captions and not job.references:
        raise BowerbirdError("generate: `caption` says what a `reference` shows; give one with it")
    if job.items is not None and not has_kb:
        raise BowerbirdError("generate: `items` are of a knowledge base; give it as `kb`")
    if not alone and not has_kb:
        alone_too = "" if job.prompt is None else ", or `k=0` for the prompt alone"
        raise BowerbirdError(f"generate: give a knowledge base (`kb`), pictures of your own (`reference`){alone_too}")
    if alone and job.prompt is None:
        raise BowerbirdError("generate: `reference` and `k=0` go with `prompt`, which says what to generate")
    if alone and job.min_score is not None:
        raise BowerbirdError("generate: `min_score` is about what a search finds; give a knowledge base (`kb`) with it")
    if not 0 < job.top_m <= 1:
        raise BowerbirdError(f"top_m is the fraction of the database kept, above 0 and up to 1; got {job.top_m}")
    if phrase_settings(job).parser is not None and job.prompt is not None:
        read_brackets(job.prompt)
    if job.proposal not in ("model", "database"):
        raise BowerbirdError(f"`proposal` {job.proposal!r} is not known; choose model or database")
    if len(job.guidance_interval) not in (0, 2):
        raise BowerbirdError(
            f"`guidance_interval` {_written(job.guidance_interval)}: write two shares of the noise, the lower first,"
            " e.g. 0.1,0.8"
        )


def phrase_settings(job: Job) -> PhraseSettings:
    """What is done with the phrases of a job's prompt. Raises: BowerbirdError for what does not go together."""
    return PhraseSettings(phrases=job.phrases, structure=job.structure, critic=job.critic, max_passes=job.max_passes)


def stands_alone(job: Job, *, has_kb: bool) -> bool:
    """Whether nothing is looked up for it."""
    return (bool(job.references) and job.items is None) or (job.k == 0 and not has_kb)


def prepare(pipe: System, kb: KnowledgeBase | None, job: Job) -> Prepared:
    """The neighbors and settings of a job, checked against what the model can do. `kb` is passed over where the job
    brings its own references. Raises: BowerbirdError for what cannot be done."""
    wanted = phrase_settings(job)
    if wanted.parser is not None:
        made = _prepare_phrases(pipe, kb, job, wanted, wanted.parser)
    else:
        made = _prepare_whole(pipe, kb, job)
    windows = _patches_of(pipe, kb, job)
    return made if windows is None else replace(made, settings=replace(made.settings, patches=windows))


def _patches_of(pipe: System, kb: KnowledgeBase | None, job: Job) -> PatchDecoding | None:
    """The windows that a job's tokens are drawn with; None without. Raises: BowerbirdError for a model or a job that
    has none."""
    said = {name: value for key, name in PATCHES.items() if (value := getattr(job, key)) is not None}
    if not said:
        return None
    if not pipe.capabilities.reads_patches:
        names = ", ".join(f"`{key}`" for key in PATCHES)
        raise BowerbirdError(
            f"{with_article(type(pipe).__name__)} does not support patch decoding: {names} are for models like"
            " tiny-rarm"
        )
    if job.patch_weight is None:
        raise BowerbirdError("generate: give `patch_weight` too, how much the windows count beside the model: 0 to 1")
    settings = PatchSettings(**said)
    if not settings.weight:
        return None
    if kb is None:
        raise BowerbirdError("generate: `patch_weight` is of the windows of a knowledge base; give it as `kb`")
    return pipe.patch_decoding(kb, settings, where=job.where)


def plan_of(pipe: System, kb: KnowledgeBase | None, job: Job) -> tuple[Plan, ChoiceSettings]:
    """The phrases of a job's prompt, the references found for them, and how they are chosen. Raises: BowerbirdError
    for a model or a job that has none."""
    can, wanted = pipe.capabilities, phrase_settings(job)
    if not can.takes_references:
        raise BowerbirdError(
            f"{with_article(type(pipe).__name__)} reads neighbors by itself: `phrases`, `structure` and `critic` are"
            " for base models of diffusers"
        )
    own = job.references or job.images or job.items is not None
    if job.prompt is None or wanted.parser is None or (wanted.by_phrase and own):
        raise BowerbirdError("generate: `phrases` and `critic` are a prompt's, with references from a knowledge base")
    if wanted.by_phrase and kb is None:
        raise BowerbirdError("generate: give a knowledge base (`kb`) that `phrases` and `critic` find references in")
    if wanted.by_phrase:
        _check_by_phrase(job)
    choice = choice_for(job.k, can.max_references, where=job.where, search_mode=job.search_mode)
    return make_plan(
        job.prompt, kb if wanted.by_phrase and job.k != 0 else None, parser=wanted.parser, choice=choice
    ), choice


def _check_by_phrase(job: Job) -> None:
    """Raises: BowerbirdError for what a search by phrases, or a critic, has no use for."""
    for name, usual in WHOLE_PROMPT.items():
        if getattr(job, name) != usual:
            raise BowerbirdError(
                f"generate: `{name}` is of a search by the whole prompt, and `phrases` and `critic` search by its"
                " phrases; leave one out"
            )
    if job.critic is not None and job.k == 0:
        raise BowerbirdError("generate: a `critic` asks for references, and `k=0` is without any; leave one out")
    if job.critic is not None and job.weights:
        raise BowerbirdError(
            "generate: `weights` are of references in their order, and a `critic` takes others; leave one out"
        )


def notes(prepared: Prepared, job: Job) -> list[str]:
    """Lines for a person about how a job's neighbors were found, and the phrases that have none; those a critic asks
    for again."""
    said = readable(note for row in prepared.hits.notes for note in row)
    without = () if prepared.plan is None or job.critic is not None else prepared.plan.choice.without
    return [*said, *(f"no reference for {phrase.text!r}: {why}" for phrase, why in without)]


def _prepare_phrases(pipe: System, kb: KnowledgeBase | None, job: Job, wanted: PhraseSettings, parser: str) -> Prepared:
    """A job whose prompt is read by its phrases."""
    plan, choice = plan_of(pipe, kb, job)
    needed = wanted.by_phrase and job.k != 0 and not plan.choice.references and not job.allow_no_neighbors
    if needed and kb is not None and not len(kb.ids(where=job.where)):
        raise nothing_found(kb, f"for the phrases of {plan.prompt.text!r}", job.where)
    whole = replace(job, prompt=plan.prompt.text)
    if wanted.by_phrase and kb is not None:
        hits = cast("ReferencePipeline", pipe).ground(kb, plan, plan.choice.references).repeat(job.n)
        asked: dict[str, Any] = {"prompt": plan.prompt.text, "k": hits.k}
        if plan.choice.without:
            asked["without"] = [[phrase.text, why] for phrase, why in plan.choice.without]
        weighed = pipe.weigh(hits, job.weights) if job.weights else hits
        made = Prepared(weighed, settings_of(pipe, whole), asked, plan, choice)
    else:
        made = replace(_prepare_whole(pipe, kb, whole), plan=plan)
    asked = {**made.request, "phrases": [phrase.text for phrase in plan.prompt.phrases], "parser": parser}
    if job.structure is None or made.settings.references is None:
        return replace(made, request=asked)
    spans = tuple((phrase.start, phrase.end) for phrase in plan.prompt.phrases)
    references = replace(made.settings.references, spans=spans)
    return replace(made, request=asked, settings=replace(made.settings, references=references))


def _prepare_whole(pipe: System, kb: KnowledgeBase | None, job: Job) -> Prepared:
    """A job whose prompt, if it has one, is read as a whole."""
    alone = stands_alone(job, has_kb=kb is not None)
    can = pipe.capabilities
    if job.k == 0 and not alone and can.needs_images and not can.takes_references:
        raise BowerbirdError("generate: `k=0` generates from the text alone, and looks nothing up; leave `kb` out")
    settings = settings_of(pipe, job)
    asked: dict[str, Any] = {"prompt": job.prompt, "images": [str(p) for p in job.images], "class": job.class_name}
    asked |= {"unconditional": job.unconditional, "references": [str(p) for p in job.references]}
    asked = {key: value for key, value in asked.items() if value}
    if alone or kb is None:
        assert job.prompt is not None
        own = [images.read(path) for path in job.references]
        hits = pipe.own_references(job.prompt, own, job.captions).repeat(job.n)
        asked["k"] = hits.k
    elif job.items is not None:
        hits = _choose(pipe, kb, job)
        asked["k"] = hits.k
    else:
        hits, how = _look_up(pipe, kb, job)
        asked |= {"k": int((hits.ids[0] >= 0).sum()), **how}
    return Prepared(pipe.weigh(hits, job.weights) if job.weights else hits, settings, asked)


def _look_up(pipe: System, kb: KnowledgeBase, job: Job) -> tuple[Neighbors, Mapping[str, Any]]:
    """A job's neighbors in a knowledge base, and how they were looked for."""
    request = pipe.resolve(request_of(job), kb)
    counts = kb.proposal(request.k or 1) if job.proposal == "database" and job.unconditional else None
    hits = pipe.retrieve(request, kb, job.n, seed=job.seed, proposal=counts)
    how = ("text_mode", "image_mode", "search_mode", "where", "class_key", "top_m", "min_score")
    said = {key: value for key in how if (value := getattr(request, key)) is not None}
    reranked = rerank_of(request)
    said |= {"cover": True} if request.cover else {}
    return hits, said if reranked is None else said | {"rerank": reranked}


def _choose(pipe: System, kb: KnowledgeBase, job: Job) -> Neighbors:
    """A job's own choice of neighbors: its references, then its items, one row a picture; what a system reads beside
    them of the request stays. Raises: BowerbirdError for items that are not there, or none at all."""
    ids, query = job.items or (), (job.prompt or "",)
    if not ids and not job.references:
        raise BowerbirdError("generate: `items` names no neighbor; leave it out to search, or give ids")
    kb = pipe.check_knowledge_base(kb)
    chosen = replace(pipe.read_neighbors(kb.get(ids), kb), queries=query) if ids else None
    if job.references:
        if pipe.capabilities.reads_query:
            raise BowerbirdError(
                f"{with_article(type(pipe).__name__)} takes items of the knowledge base as neighbors; add the picture"
                " to it"
            )
        mine = _own(pipe, kb, job)
        if chosen is not None:
            mine = mine.padded(mine.k, chosen.embeddings.shape[-1])
        chosen = replace(mine, queries=query) if chosen is None else Neighbors.concat(mine, chosen)
    assert chosen is not None
    if pipe.capabilities.reads_query and (job.prompt is not None or job.images):
        asked = pipe.retrieve(pipe.resolve(replace(request_of(job), k=0), kb), kb)
        chosen = Neighbors.concat(asked, chosen)
    return chosen.repeat(job.n)


def _own(pipe: System, kb: KnowledgeBase, job: Job) -> Neighbors:
    """A job's own pictures as the system reads neighbors, beside items of `kb`."""
    own = [images.read(path) for path in job.references]
    captions = job.captions or ("",) * len(own)
    if pipe.capabilities.takes_references:
        return pipe.own_references(job.prompt or "", own, captions)
    if len(captions) != len(own):
        raise BowerbirdError(f"{len(own)} references with {len(captions)} captions; give one each")
    return Neighbors.from_embeddings(kb.encoder.embed_images(own)[None], [captions], own)


def request_of(job: Job) -> Request:
    """What a job asks a knowledge base for."""
    return make_request(
        job.prompt,
        [images.read(path) for path in job.images] or None,
        class_name=job.class_name,
        unconditional=job.unconditional,
        k=job.k,
        text_mode=job.text_mode,
        image_mode=job.image_mode,
        search_mode=job.search_mode,
        where=job.where,
        class_key=job.class_key,
        top_m=job.top_m,
        allow_no_neighbors=job.allow_no_neighbors,
        min_score=job.min_score,
        rerank=job.rerank,
        cover=job.cover,
    )


def settings_of(pipe: System, job: Job) -> generation.Settings:
    """The settings of a job, the model's own where it leaves them open. Raises: BowerbirdError for options that the
    model does not have."""
    usual, can = generation.default_settings(pipe), pipe.capabilities
    if not can.reads_text and any(getattr(job, name) for name in BALANCE):
        raise BowerbirdError(
            f"{with_article(type(pipe).__name__)} generates from neighbors alone:"
            f" {', '.join(f'`{name}`' for name in BALANCE)} are for models like reimagen-drawings"
        )
    scale = usual.guidance_scale if job.guidance_scale is None else job.guidance_scale
    balance = None
    if can.reads_text:
        balance = by_stage(
            scale,
            job.guidance or "interleaved",
            text_ratio=job.text_ratio or (() if pipe.defaults.text_ratio is None else (pipe.defaults.text_ratio,)),
            text_scale=job.text_scale,
            neighbor_scale=job.neighbor_scale,
        )
    interval = job.guidance_interval
    said = {name: value for name in REFERENCES if (value := getattr(job, name, None)) is not None}
    usual_scale = {} if pipe.defaults.scale is None else {"scale": pipe.defaults.scale}
    drawn = {name: value for name in TOKENS if (value := getattr(job, name)) is not None}
    if drawn and not can.samples_tokens:
        raise BowerbirdError(
            f"{with_article(type(pipe).__name__)} does not sample tokens one by one:"
            f" {', '.join(f'`{name}`' for name in TOKENS)} are for models like tiny-rarm"
        )
    return generation.Settings(
        steps=usual.steps if not job.steps else job.steps[0] if len(job.steps) == 1 else job.steps,
        guidance_scale=scale,
        sampler=job.sampler,
        eta=job.eta,
        height=job.height,
        width=job.width,
        seed=job.seed,
        guidance=balance,
        guidance_interval=(interval[0], interval[1]) if interval else usual.guidance_interval,
        enlargement=usual.enlargement,
        change_threshold=usual.change_threshold,
        references=ReferenceSettings(**usual_scale | said) if said or can.takes_references else None,
        tokens=replace(pipe.token_sampling, **drawn) if drawn else None,
    )


def _written(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
