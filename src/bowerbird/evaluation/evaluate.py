"""One evaluation of one model: how like real pictures, how faithful to the prompt, how much copied.

`evaluate` generates, measures and returns plain values; `reports.write_evaluation` puts them on disk. The same
arguments give the same bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import square
from bowerbird.core.progress import OnMessage, Progress, for_stage, log_message
from bowerbird.core.text import with_article
from bowerbird.core.types import Neighbors
from bowerbird.core.version import __version__
from bowerbird.data.pictures import Pictures
from bowerbird.evaluation import entity_draw, features, set_measures
from bowerbird.evaluation.copies import detect
from bowerbird.evaluation.likelihood import likelihood
from bowerbird.evaluation.metrics import diversity
from bowerbird.evaluation.metrics.faithfulness import faithfulness
from bowerbird.evaluation.metrics.intervals import over_groups
from bowerbird.evaluation.metrics.manifold import distances
from bowerbird.systems import generation
from bowerbird.systems.queries import Request

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import FeatureExtractor
    from bowerbird.evaluation.judge import Judge
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System

CHECKED = 200
"""Pictures of an evaluation that the copy check looks at, the first ones."""
FEATURES = "encoder:small"
"""Of the set measures where there is no judge."""
FEW = 50
"""Real pictures below which measures of the set are said to be rough."""
QUERIES = ("caption", "image", "unconditional")


@dataclass(frozen=True)
class Settings:
    """What an evaluation does; every one of these moves a figure and stands in the report. `n`: pictures of the set
    measures; `repeats`: pictures a prompt of EntityDraw; `metrics`: of `parse_metrics`, None for all."""

    n: int = 500
    query: str = "caption"
    k: int = 4
    repeats: int = 4
    templates: tuple[str, ...] = ("{name}",)
    entity_key: str | None = None
    style_key: str | None = "style"
    manifold_k: int = 5
    baseline: int = 300
    copies_per_kind: int = detect.COPIES_PER_KIND
    metrics: tuple[str, ...] | None = None
    generate: generation.Settings = field(default_factory=generation.Settings)


@dataclass(frozen=True)
class Evaluation:
    """`report`: plain values for `report.json`; and what plots and sheets need."""

    report: dict[str, Any]
    images: list[Image.Image]
    hits: Neighbors
    goodness: np.ndarray
    copies: detect.CopyReport | None
    training: list[Image.Image]
    entities: list[tuple[str, float]]


def default_settings(pipe: System, **changes: Any) -> Settings:
    """The settings that `pipe` is evaluated with: its own k and its own settings of generation; `changes` replace
    fields of them."""
    return replace(Settings(k=pipe.defaults.k, generate=generation.default_settings(pipe)), **changes)


PARTS = ("inception-score", "faithfulness", "clip-score", "hubness", "copies", "likelihood")
"""Measures that are not of sets alone."""


def parse_metrics(text: str | None) -> tuple[str, ...] | None:
    """The names in a text such as "fid,kid", or None for all. Raises: BowerbirdError for a name that is none."""
    if text is None:
        return None
    known = [*set_measures.names(), *PARTS]
    found = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    wrong = [name for name in found if name not in known]
    if wrong or not found:
        raise BowerbirdError(
            f"`metrics` {wrong[0] if wrong else text!r}: there is no such measure; choose from {','.join(known)}"
        )
    return found


JUDGED = {"faithfulness", "inception-score"}
"""Measures of what a judge says."""


def needs_judge(metrics: tuple[str, ...] | None) -> bool:
    """Whether these measures need a judge's verdicts; distances between sets are measured without one."""
    return metrics is None or bool(JUDGED & set(metrics))


def evaluate(
    pipe: System,
    kb: KnowledgeBase,
    pictures: Pictures,
    extractor: FeatureExtractor | None,
    settings: Settings,
    *,
    judges: tuple[Judge, Judge] | None = None,
    descriptor: FeatureExtractor | None = None,
    progress: Progress | None = None,
    on_message: OnMessage = log_message,
) -> Evaluation:
    """Measure `pipe` with `kb` against `pictures` on the features of `extractor` (None: of the judge, and without one
    of the bundled encoder).

    `judges`: judges of entity and style; without them (or without such columns) faithfulness is left out.
    `descriptor`: for the copy check against the items of `kb` (None: `tiny-copies`). What the data does not allow is
    left out, and named with the reason in the report and to `on_message`, which also hears what takes long. Raises:
    BowerbirdError for settings that are not known.
    """
    if settings.query not in QUERIES:
        raise BowerbirdError(f"query {settings.query!r} is not known; choose one of {', '.join(QUERIES)}")
    extractor = extractor or (judges[0] if judges is not None else features.load(FEATURES))
    wanted = set(settings.metrics or (*set_measures.names(), *PARTS))
    settings, left_out = _fit(pictures, settings, wanted, judges is not None)
    if "likelihood" in wanted and not pipe.capabilities.likelihood:
        wanted.discard("likelihood")
        if settings.metrics is not None:
            left_out.append(f"likelihood: {with_article(type(pipe).__name__)} says none of a picture")
    on_message(f"generating {settings.n} pictures by {settings.query}")
    hits = _retrieve(pipe, kb, pictures, settings)
    report_generated = for_stage(progress, "generating", len(hits))
    images = generation.generate(pipe, hits, settings.generate, progress=report_generated)
    real = tensors.to_pil(pictures.pixels)
    ours, theirs = features.extract(extractor, images, cached=False), features.extract(extractor, real)
    report: dict[str, Any] = {
        "bowerbird": __version__,
        "model": {"fingerprint": pipe.fingerprint()},
        "knowledge_base": {
            "version": kb.version,
            "items": len(kb),
            "encoder": kb.encoder_name,
            "encoder_fingerprint": kb.encoder_fingerprint,
        },
        "data": {"pictures": len(pictures), "fingerprint": pictures.fingerprint(), "size": pictures.size},
        "features": {
            "name": extractor.name,
            "fingerprint": extractor.fingerprint,
            "dim": extractor.dim,
            "preprocessing": extractor.preprocessing,
        },
        "settings": asdict(settings),
    }
    report["data"]["share of it that the knowledge base holds"] = float(
        np.isin(pictures.ids, kb.store.contents()).mean()
    )
    seed = settings.generate.seed
    of_sets = [name for name in set_measures.names() if name in wanted]
    if of_sets:
        report["distribution"] = set_measures.distribution(
            ours, theirs, chosen=of_sets, manifold_k=settings.manifold_k, seed=seed
        )
    if "hubness" in wanted:
        report["retrieval"] = _hubness(kb, settings.k)
    if "clip-score" in wanted:
        report["text alignment"] = _alignment(kb, images, [pictures.captions[i] for i in _rows(pictures, settings)])
    if "likelihood" in wanted:
        shown = np.unique(_rows(pictures, settings))
        report["likelihood"] = likelihood(
            pipe, kb, pictures, shown, settings.k, progress=for_stage(progress, "likelihood", 3 * len(shown))
        )
    goodness = -distances(ours, theirs).min(1)
    entities: list[tuple[str, float]] = []
    if judges is not None and "inception-score" in wanted:
        report.setdefault("distribution", {}).update(_inception_style(judges[0], images, pictures, seed))
    if judges is not None and "faithfulness" in wanted:
        on_message("generating what EntityDraw asks for")
        report["faithfulness"], entities = _faithfulness(pipe, kb, pictures, judges, settings, progress)
    copies: detect.CopyReport | None = None
    training: list[Image.Image] = []
    if "copies" in wanted:
        on_message("looking for copies of the items of the knowledge base")
        copies, training = _copies(kb, images, hits, descriptor, settings, progress)
        if copies is None:
            left_out.append("copies: the knowledge base holds no pictures")
        else:
            facts = {
                "pictures checked": min(len(images), CHECKED),
                "descriptor": detect.DESCRIPTOR if descriptor is None else descriptor.name,
            }
            report["copies"] = facts | copies.report()
    for line in left_out:
        on_message(f"left out: {line}")
    report["left out"] = left_out
    return Evaluation(report, images, hits, goodness, copies, training, entities)


def _fit(pictures: Pictures, settings: Settings, wanted: set[str], judged: bool) -> tuple[Settings, list[str]]:
    """The settings that these pictures allow, and why each thing that they do not allow is left out (of `wanted`
    too)."""
    lines = []
    without = sum(not caption.strip() for caption in pictures.captions)
    if settings.query == "caption" and without == len(pictures):
        lines.append("captions: no picture has one, so each is asked for by the picture itself")
        settings = replace(settings, query="image")
    elif settings.query == "caption" and without:
        lines.append(f"captions: {without} of {len(pictures)} pictures have none and are not asked for")
    if settings.query != "caption" and "clip-score" in wanted:
        wanted.discard("clip-score")
        lines.append(f"clip-score: pictures are asked for by {settings.query}, not by caption")
    of_sets = wanted & set(set_measures.names())
    if of_sets and (settings.n < set_measures.LEAST or len(pictures) < set_measures.LEAST // 2):
        wanted -= of_sets
        lines.append(
            f"{', '.join(sorted(of_sets))}: {settings.n} generated and {len(pictures)} real pictures are too few, the"
            f" least is {set_measures.LEAST} and {set_measures.LEAST // 2}"
        )
    elif of_sets and len(pictures) < FEW:
        lines.append(
            f"certainty: {len(pictures)} real pictures say little of a distribution; read its intervals and floor"
        )
    missing = wanted & {"inception-score", "faithfulness"}
    if not judged and missing:
        wanted -= missing
        lines.append(
            f"{', '.join(sorted(missing))}: no judge, or no column that names an entity (entity, hexcode, class)"
        )
    return settings, lines


def _inception_style(judge: Judge, images: list[Image.Image], pictures: Pictures, seed: int) -> dict[str, Any]:
    """The Inception-style score by the judge's entities, and of as many real pictures: comparable with each other
    only."""
    as_many = set_measures.some_of(np.arange(len(pictures)), len(images), seed)
    return {
        f"inception-style score{name}": diversity.inception_score(judge(pixels)[1].softmax(1).numpy(), splits=1)[0]
        for name, pixels in (
            ("", judge.prepare(images)),
            (f" of {len(as_many)} real", judge.prepare(tensors.to_pil(pictures.pixels[as_many]))),
        )
    }


def _rows(pictures: Pictures, settings: Settings) -> np.ndarray:
    """The rows that are asked for: all in random order, again in another order when `n` is more."""
    rng = seeds.numpy_generator(settings.generate.seed, "rows")
    # one without a caption cannot be asked for by it
    there = np.flatnonzero([settings.query != "caption" or bool(c.strip()) for c in pictures.captions])
    walks = [there[rng.permutation(len(there))] for _ in range(-(-settings.n // len(there)))]
    return np.concatenate(walks)[: settings.n]


def proposal_counts(pipe: System, kb: KnowledgeBase, k: int) -> dict[int, int] | None:
    """p_D for unconditional pictures: None for the counts of the model's own training, where they say anything of this
    database, else how often each of its items is among the k nearest of the others."""
    covered = any(pipe.proposal_counts.get(int(i)) for i in kb.ids())
    return None if covered else kb.proposal(k)


def _retrieve(pipe: System, kb: KnowledgeBase, pictures: Pictures, settings: Settings) -> Neighbors:
    """The neighbors of `n` pictures: by their captions, by the pictures themselves, or from p_D."""
    pipe.check_knowledge_base(kb)
    if settings.query == "unconditional":
        counts = proposal_counts(pipe, kb, settings.k)
        return pipe.retrieve(
            Request(unconditional=True, k=settings.k), kb, settings.n, seed=settings.generate.seed, proposal=counts
        )
    rows = _rows(pictures, settings)
    if settings.query == "image":
        return kb.search(images=tensors.to_pil(pictures.pixels[rows]), k=settings.k)
    captions = tuple(pictures.captions[i] for i in rows)
    return pipe.retrieve(
        Request(prompts=captions, k=settings.k, search_mode=pipe.defaults.search_mode, allow_no_neighbors=True), kb, 1
    )


def _alignment(kb: KnowledgeBase, images: list[Image.Image], captions: list[str]) -> dict[str, Any]:
    """Cosine of picture and caption by the database's own encoder: an encoder that conditions is no independent judge
    of it."""
    score = diversity.clip_score(kb.encoder.embed_images(images), kb.encoder.embed_text(captions))
    score = np.array(
        [np.mean(score[np.array(captions) == caption]) for caption in sorted(set(captions))]
    )  # pictures of one caption stay together
    return {
        "clip score": asdict(over_groups(score)),
        "encoder": kb.encoder_name,
        "note": "no independent judge of a model that is conditioned on this encoder",
    }


def _hubness(kb: KnowledgeBase, k: int) -> dict[str, Any]:
    if len(kb) <= k:
        return {}
    counts = np.array(list(kb.proposal(k).values()))
    return {"hubness of the database": asdict(diversity.hubness(counts)) | {"k": k}}


def _faithfulness(
    pipe: System,
    kb: KnowledgeBase,
    pictures: Pictures,
    judges: tuple[Judge, Judge],
    settings: Settings,
    progress: Progress | None,
) -> tuple[dict[str, Any], list[tuple[str, float]]]:
    """EntityDraw on the entities of `pictures`; the style of the picture against the style of its nearest neighbor."""
    key = entity_draw.entity_key(pictures, settings.entity_key)
    if key is None:
        return {}, []
    judge, style_judge = judges
    if len(set(pictures.column(key))) < 2:
        return {"note": f"column {key!r} names one entity only: there is nothing to choose among"}, []
    benchmark = entity_draw.entity_draw(pictures, key=key, templates=settings.templates)
    unknown = [e for e in benchmark.entities if e not in judge.entities]
    if unknown:
        raise BowerbirdError(
            f"the judge has never seen {len(unknown)} of the entities ({unknown[0]!r} first); train it on this data"
        )
    columns = np.array([judge.entities.index(e) for e in benchmark.entities])
    hits = pipe.retrieve(
        Request(
            prompts=benchmark.prompts, k=settings.k, search_mode=pipe.defaults.search_mode, allow_no_neighbors=True
        ),
        kb,
        settings.repeats,
    )
    report_generated = for_stage(progress, "EntityDraw", len(hits))
    images = generation.generate(pipe, hits, settings.generate, progress=report_generated)
    logits = (
        judge(judge.prepare(images))[1]
        .numpy()[:, columns]
        .reshape(len(benchmark.prompts), settings.repeats, len(columns))
    )
    scored = faithfulness(logits, benchmark.truth, benchmark.truth)
    real_truth = np.array([benchmark.entities.index(e) for e in pictures.column(key)])
    real = judge(judge.prepare(tensors.to_pil(pictures.pixels)))[1].numpy()[:, columns].argmax(1) == real_truth
    found: dict[str, Any] = {
        "entities": len(benchmark.entities),
        "prompts": len(benchmark.prompts),
        "pictures a prompt": settings.repeats,
        "top-1, mean over pictures": asdict(scored.top1),
        "top-5, mean over pictures": asdict(scored.top5),
        f"best of {settings.repeats}": asdict(scored.best),
        "top-1 on these real pictures (the judge may have seen them in training)": float(real.mean()),
        "judge": {"fingerprint": judge.fingerprint, "style_fingerprint": style_judge.fingerprint},
    }
    shown = [str(row[0].get(key, "")) for row in hits.metadata[:: settings.repeats]]
    if any(shown):
        found["first neighbor shows the entity"] = float(
            np.mean([s == benchmark.entities[t] for s, t in zip(shown, benchmark.truth, strict=True)])
        )
    wanted = [str(row[0].get(settings.style_key, "")) for row in hits.metadata] if settings.style_key else []
    if any(w in style_judge.styles for w in wanted):
        named = np.array([style_judge.styles[i] for i in style_judge(style_judge.prepare(images))[2].argmax(1)])
        same = (named == np.array(wanted)).reshape(len(benchmark.entities), -1)
        found["style of the nearest neighbor kept"] = asdict(over_groups(same))
    per_entity = (logits.argmax(2) == benchmark.truth[:, None]).reshape(len(benchmark.entities), -1).mean(1)
    return found, [(name, float(value)) for name, value in zip(benchmark.names, per_entity, strict=True)]


def _copies(
    kb: KnowledgeBase,
    images: list[Image.Image],
    hits: Neighbors,
    descriptor: FeatureExtractor | None,
    settings: Settings,
    progress: Progress | None,
) -> tuple[detect.CopyReport | None, list[Image.Image]]:
    """The copy check of at most 200 generations against the items of the database and the neighbors used, at
    128 px or what is wanted."""
    shown = min(len(images), CHECKED)
    chosen = descriptor or features.load(detect.DESCRIPTOR)
    size = detect.working_size(chosen)
    items = [square(image, size) for image in kb.pictures(kb.ids()[None])[0] if image is not None]
    if not items:
        return None, []
    near = [[square(image, size) for image in row if image is not None] for row in hits.rows(range(shown)).images()]
    found = detect.check_copies(
        chosen,
        images[:shown],
        items,
        neighbors=near,
        baseline=settings.baseline,
        copies_per_kind=settings.copies_per_kind,
        seed=settings.generate.seed,
        progress=progress,
    )
    return found, items
