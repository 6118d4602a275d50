"""One evaluation of one model: how like real pictures, how faithful to the prompt, how much copied.

`evaluate` generates, measures and returns plain values; `reports.write_evaluation` puts them on disk. The same
arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import square
from bowerbird.core.progress import Progress, for_stage
from bowerbird.core.types import Neighbors
from bowerbird.core.version import __version__
from bowerbird.data.pictures import Pictures
from bowerbird.evaluation import entity_draw, features
from bowerbird.evaluation.copies import detect
from bowerbird.evaluation.metrics import diversity, frechet, kernel
from bowerbird.evaluation.metrics.faithfulness import faithfulness
from bowerbird.evaluation.metrics.intervals import over_groups, over_halves
from bowerbird.evaluation.metrics.manifold import distances, manifold
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
LEAST_PICTURES = 10
QUERIES = ("caption", "image", "unconditional")


@dataclass(frozen=True)
class Settings:
    """What an evaluation does; every one of these moves a figure and stands in the report. `n`: pictures of the set
    measures; `repeats`: pictures a prompt of EntityDraw."""

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
    generate: generation.Settings = field(default_factory=generation.Settings)


@dataclass(frozen=True)
class Evaluation:
    """`report`: plain values for `report.json`; and what plots and sheets need."""

    report: dict[str, Any]
    images: list[Image.Image]
    hits: Neighbors
    goodness: np.ndarray
    copies: detect.CopyReport
    training: list[Image.Image]
    entities: list[tuple[str, float]]


def default_settings(pipe: System, **changes: Any) -> Settings:
    """The settings that `pipe` is evaluated with: its own k and its own settings of generation; `changes` replace
    fields of them."""
    return replace(Settings(k=pipe.defaults.k, generate=generation.default_settings(pipe)), **changes)


def check_pictures(pictures: Pictures, name: str = "data") -> None:
    """Raises: BowerbirdError when `pictures`, called `name`, are too few to measure against."""
    if len(pictures) < LEAST_PICTURES:
        raise BowerbirdError(
            f"{name}: {len(pictures)} pictures are too few to measure against; {LEAST_PICTURES} is the least"
        )


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
) -> Evaluation:
    """Measure `pipe` with `kb` against `pictures` on the features of `extractor` (None: of the judge).

    `judges`: judges of entity and style; without them (or without such columns) faithfulness is left out.
    `descriptor`: for the copy check against the items of `kb` (None: `tiny-copies`). Raises: BowerbirdError when
    there is nothing to measure with, or too little to measure.
    """
    if settings.query not in QUERIES:
        raise BowerbirdError(f"query {settings.query!r} is not known; choose one of {', '.join(QUERIES)}")
    if len(kb) < 20 or settings.n < 4:
        raise BowerbirdError(
            f"an evaluation needs 20 items in the knowledge base and 4 pictures; got {len(kb)} and {settings.n}"
        )
    check_pictures(pictures)
    if extractor is None:
        if judges is None:
            raise BowerbirdError("without judges there are no features to measure with; give features KIND:PATH")
        extractor = judges[0]
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
    report["distribution"] = distribution(ours, theirs, manifold_k=settings.manifold_k, seed=settings.generate.seed)
    report["retrieval"] = _hubness(kb, settings.k)
    if settings.query == "caption":
        report["text alignment"] = _alignment(kb, images, [pictures.captions[i] for i in _rows(pictures, settings)])
    goodness = -distances(ours, theirs).min(1)
    entities: list[tuple[str, float]] = []
    if judges is not None:
        report["distribution"] |= _inception_style(judges[0], images, pictures, settings.generate.seed)
        report["faithfulness"], entities = _faithfulness(pipe, kb, pictures, judges, settings, progress)
    copies, training = _copies(kb, images, hits, descriptor, settings, progress)
    facts = {
        "pictures checked": min(len(images), CHECKED),
        "descriptor": detect.DESCRIPTOR if descriptor is None else descriptor.name,
    }
    report["copies"] = facts | copies.report()
    return Evaluation(report, images, hits, goodness, copies, training, entities)


SetMetric = Callable[[np.ndarray, np.ndarray, int], float]
"""A measure of a set: features `(n, d)` of generated and `(m, d)` of real pictures, and a seed -> a number."""

SET_METRICS: dict[str, SetMetric] = {
    "frechet distance": lambda made, real, seed: frechet.frechet_distance(made, real),
    "kid x 1000": lambda made, real, seed: 1000 * kernel.kernel_distance(made, real, subsets=10, seed=seed)[0],
    "cmmd (unit features, sigma 10)": lambda made, real, seed: kernel.gaussian_mmd(
        diversity.unit(made), diversity.unit(real)
    ),
    "vendi score": lambda made, real, seed: diversity.vendi_score(made),
    "mean pairwise distance": lambda made, real, seed: diversity.mean_pairwise_distance(made),
}
"""What `distribution` reports, each with an interval, by the name it has there. A line here is a metric."""


def _measure(metric: SetMetric, real: np.ndarray, seed: int, made: np.ndarray) -> float:
    return metric(made, real, seed)


def distribution(made: np.ndarray, real: np.ndarray, *, manifold_k: int = 5, seed: int = 0) -> dict[str, Any]:
    """Set measures of features `(n, d)` against `(m, d)`, each with its interval, and the same for real against real
    as the floor."""
    bounded = partial(over_halves, features=made, seed=seed)
    k = max(1, min(manifold_k, len(made) // 2 - 1, len(real) - 1))
    found: dict[str, Any] = {"n generated": len(made), "n real": len(real)}
    for name, metric in SET_METRICS.items():
        found[name] = asdict(bounded(partial(_measure, metric, real, seed)))
    found["vendi score of as many real"] = diversity.vendi_score(_some(real, len(made), seed))
    found["mean pairwise distance of real"] = diversity.mean_pairwise_distance(real)
    for name in ("precision", "recall", "density", "coverage"):
        estimate = bounded(partial(_of_manifold, real=real, k=k, name=name))
        most = np.inf if name == "density" else 1.0  # the others are shares
        found[f"{name} (k = {k})"] = {
            "mean": estimate.mean,
            "low": max(0.0, estimate.low),
            "high": min(most, estimate.high),
        }
    if len(made) >= 20:
        found["frechet distance, extrapolated to infinite n"] = frechet.frechet_infinity(made, real, seed=seed)
    half = seeds.numpy_generator(seed, "floor").permutation(len(real))
    size = min(len(made), len(real) // 2)
    if size >= 2:
        found["floor: frechet distance of two disjoint real sets"] = {
            "n": f"{size} and {len(real) - size}",
            "value": frechet.frechet_distance(real[half[:size]], real[half[size:]]),
            "generated at the same n": frechet.frechet_distance(made[:size], real[half[size:]]),
        }
    return found


def _inception_style(judge: Judge, images: list[Image.Image], pictures: Pictures, seed: int) -> dict[str, Any]:
    """The Inception-style score by the judge's entities, and of as many real pictures: comparable with each other
    only."""
    as_many = _some(np.arange(len(pictures)), len(images), seed)
    return {
        f"inception-style score{name}": diversity.inception_score(judge(pixels)[1].softmax(1).numpy(), splits=1)[0]
        for name, pixels in (
            ("", judge.prepare(images)),
            (f" of {len(as_many)} real", judge.prepare(tensors.to_pil(pictures.pixels[as_many]))),
        )
    }


def _of_manifold(made: np.ndarray, real: np.ndarray, k: int, name: str) -> float:
    return float(getattr(manifold(made, real, k=k), name))


def _some(features: np.ndarray, n: int, seed: int) -> np.ndarray:
    return features[seeds.numpy_generator(seed, "some").permutation(len(features))[:n]]


def _rows(pictures: Pictures, settings: Settings) -> np.ndarray:
    """The rows that are asked for: all in random order, again in another order when `n` is more."""
    rng = seeds.numpy_generator(settings.generate.seed, "rows")
    return np.concatenate([rng.permutation(len(pictures)) for _ in range(-(-settings.n // len(pictures)))])[
        : settings.n
    ]


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
    empty = sum(not c.strip() for c in captions)
    if empty:
        raise BowerbirdError(f"{empty} of the pictures asked for have no caption; evaluate with --query image")
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
) -> tuple[detect.CopyReport, list[Image.Image]]:
    """the copy check of at most 200 generations against the items of the database and the neighbors used, at
    128 px or what is wanted."""
    shown = min(len(images), CHECKED)
    chosen = descriptor or features.load(detect.DESCRIPTOR)
    size = detect.working_size(chosen)
    items = [square(image, size) for image in kb.pictures(kb.ids()[None])[0] if image is not None]
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
