"""One evaluation of one model: how like real pictures, how faithful to what was asked, how much copied. No shell, no
printing.

`evaluate` generates, measures and returns plain values; `write` puts them on disk. The same arguments give the same
bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import square
from bowerbird.core.progress import Progress
from bowerbird.core.types import Neighbors
from bowerbird.core.version import __version__
from bowerbird.data.pictures import Pictures
from bowerbird.evaluation import entity_draw, features
from bowerbird.evaluation.copies import detect
from bowerbird.evaluation.metrics import diversity, frechet, kernel
from bowerbird.evaluation.metrics.faithfulness import faithfulness
from bowerbird.evaluation.metrics.intervals import Estimate, over_groups, over_halves
from bowerbird.evaluation.metrics.manifold import manifold
from bowerbird.systems import generation
from bowerbird.systems.queries import Request

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import FeatureExtractor
    from bowerbird.evaluation.judge import Evaluator
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System

CHECKED = 200
"""Pictures of an evaluation that the replication check looks at, the first ones."""
QUERIES = ("caption", "image", "unconditional")


@dataclass(frozen=True)
class Settings:
    """What an evaluation does; every one of these moves a figure and stands in the report."""

    n: int = 500
    query: str = "caption"
    k: int = 4
    repeats: int = 4
    templates: tuple[str, ...] = ("{name}",)
    entity_key: str | None = None
    style_key: str | None = "style"
    manifold_k: int = 5
    baseline: int = 300
    plants: int = detect.PLANTED
    generate: generation.Settings = field(default_factory=generation.Settings)


@dataclass(frozen=True)
class Evaluation:
    """`report`: plain values for `report.json`; and what plots and sheets need."""

    report: dict[str, Any]
    images: list[Image.Image]
    hits: Neighbors
    goodness: np.ndarray
    copies: detect.Replication
    training: list[Image.Image]
    entities: list[tuple[str, float]]


def evaluate(
    pipe: System,
    kb: KnowledgeBase,
    pictures: Pictures,
    extractor: FeatureExtractor,
    settings: Settings,
    *,
    judges: tuple[Evaluator, Evaluator] | None = None,
    descriptor: FeatureExtractor | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure `pipe` with `kb` against `pictures` on the features of `extractor`.

    `judges`: evaluators of entity and style; without them (or without such columns) faithfulness is left out.
    `descriptor`: for the replication check against the items of `kb` (None: `tiny-copies`).
    """
    if settings.query not in QUERIES:
        raise BowerbirdError(f"query {settings.query!r} is not known; choose one of {', '.join(QUERIES)}")
    if len(kb) < 20 or settings.n < 4:
        raise BowerbirdError(
            f"an evaluation needs 20 items in the knowledge base and 4 pictures; got {len(kb)} and {settings.n}"
        )
    tell: Progress = progress or (lambda done, total=None, stage="": None)
    hits = _ask(pipe, kb, pictures, settings)
    images = generation.generate(
        pipe, hits, settings.generate, progress=lambda done, total=None, stage="": tell(done, len(hits), "generating")
    )
    real = tensors.to_pil(pictures.pixels)
    made, there = features.extract(extractor, images, cached=False), features.extract(extractor, real)
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
    report["data"]["share of it that the knowledge base holds"] = float(np.isin(pictures.ids, kb.ids()).mean())
    report["distribution"] = distribution(made, there, manifold_k=settings.manifold_k, seed=settings.generate.seed)
    report["retrieval"] = _retrieval(kb, settings.k)
    if settings.query == "caption":
        report["text alignment"] = _alignment(kb, images, [pictures.captions[i] for i in _rows(pictures, settings)])
    goodness = -_distance_to_nearest(made, there)
    entities: list[tuple[str, float]] = []
    if judges is not None:
        report["distribution"] |= _inception_style(judges[0], images, pictures, settings.generate.seed)
        report["faithfulness"], entities = _faithfulness(pipe, kb, pictures, judges, settings, tell)
    copies, training = _copies(kb, images, hits, descriptor, settings, tell)
    facts = {
        "pictures checked": min(len(images), CHECKED),
        "descriptor": detect.DESCRIPTOR if descriptor is None else descriptor.name,
    }
    report["replication"] = facts | copies.report()
    return Evaluation(report, images, hits, goodness, copies, training, entities)


def distribution(made: np.ndarray, real: np.ndarray, *, manifold_k: int = 5, seed: int = 0) -> dict[str, Any]:
    """Set measures of features `(n, d)` against `(m, d)`, each with its interval, and the same for real against real
    as the floor."""
    bounded = partial(over_halves, features=made, seed=seed)
    k = max(1, min(manifold_k, len(made) // 2 - 1, len(real) - 1))
    found: dict[str, Any] = {
        "n generated": len(made),
        "n real": len(real),
        "frechet distance": asdict(bounded(lambda x: frechet.frechet_distance(x, real))),
        "kid x 1000": asdict(bounded(lambda x: 1000 * kernel.kernel_distance(x, real, subsets=10, seed=seed)[0])),
        "cmmd (unit features, sigma 10)": asdict(
            bounded(lambda x: kernel.gaussian_mmd(diversity.unit(x), diversity.unit(real)))
        ),
        "vendi score": asdict(bounded(diversity.vendi_score)),
        "vendi score of as many real": diversity.vendi_score(_some(real, len(made), seed)),
        "mean pairwise distance": asdict(bounded(diversity.mean_pairwise_distance)),
        "mean pairwise distance of real": diversity.mean_pairwise_distance(real),
    }
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


def _inception_style(judge: Evaluator, images: list[Image.Image], pictures: Pictures, seed: int) -> dict[str, Any]:
    """The Inception-style score by the evaluator's entities, and of as many real pictures: comparable with each other
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


def _ask(pipe: System, kb: KnowledgeBase, pictures: Pictures, settings: Settings) -> Neighbors:
    """The neighbors of `n` pictures: by their captions, by the pictures themselves, or from p_D."""
    pipe.check_knowledge_base(kb)
    if settings.query == "unconditional":
        covered = any(
            pipe.proposal_counts.get(int(i)) for i in kb.ids()
        )  # p_D of the training, where it says anything of this database
        counts = None if covered else kb.proposal(settings.k)
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
    return pipe.retrieve(Request(prompts=captions, k=settings.k, search_mode=pipe.defaults.search_mode), kb, 1)


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


def _retrieval(kb: KnowledgeBase, k: int) -> dict[str, Any]:
    if len(kb) <= k:
        return {}
    counts = np.array(list(kb.proposal(k).values()))
    return {"hubness of the database": asdict(diversity.hubness(counts)) | {"k": k}}


def _distance_to_nearest(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    from bowerbird.evaluation.metrics.manifold import distances

    return distances(made, real).min(1)


def _faithfulness(
    pipe: System,
    kb: KnowledgeBase,
    pictures: Pictures,
    judges: tuple[Evaluator, Evaluator],
    settings: Settings,
    tell: Progress,
) -> tuple[dict[str, Any], list[tuple[str, float]]]:
    """EntityDraw on the entities of `pictures`; the style of the picture against the style of its nearest neighbor."""
    key = entity_draw.entity_key(pictures, settings.entity_key)
    if key is None:
        return {}, []
    judge, style_judge = judges
    if len(set(pictures.column(key))) < 2:
        return {"note": f"column {key!r} names one entity only: there is nothing to choose among"}, []
    bench = entity_draw.entity_draw(pictures, key=key, templates=settings.templates)
    unknown = [e for e in bench.entities if e not in judge.entities]
    if unknown:
        raise BowerbirdError(
            f"the evaluator has never seen {len(unknown)} of the entities ({unknown[0]!r} first); train it on this data"
        )
    columns = np.array([judge.entities.index(e) for e in bench.entities])
    hits = pipe.retrieve(
        Request(prompts=bench.prompts, k=settings.k, search_mode=pipe.defaults.search_mode), kb, settings.repeats
    )
    images = generation.generate(
        pipe, hits, settings.generate, progress=lambda done, total=None, stage="": tell(done, len(hits), "EntityDraw")
    )
    logits = (
        judge(judge.prepare(images))[1].numpy()[:, columns].reshape(len(bench.prompts), settings.repeats, len(columns))
    )
    scored = faithfulness(logits, bench.truth, bench.truth)
    real_truth = np.array([bench.entities.index(e) for e in pictures.column(key)])
    real = judge(judge.prepare(tensors.to_pil(pictures.pixels)))[1].numpy()[:, columns].argmax(1) == real_truth
    found: dict[str, Any] = {
        "entities": len(bench.entities),
        "prompts": len(bench.prompts),
        "pictures a prompt": settings.repeats,
        "top-1, mean over pictures": asdict(scored.top1),
        "top-5, mean over pictures": asdict(scored.top5),
        f"best of {settings.repeats}": asdict(scored.best),
        "top-1 on these real pictures (the evaluator may have seen them in training)": float(real.mean()),
        "evaluator": {"fingerprint": judge.fingerprint, "style_fingerprint": style_judge.fingerprint},
    }
    shown = [str(row[0].get(key, "")) for row in hits.metadata[:: settings.repeats]]
    if any(shown):
        found["first neighbor shows the entity"] = float(
            np.mean([s == bench.entities[t] for s, t in zip(shown, bench.truth, strict=True)])
        )
    wanted = [str(row[0].get(settings.style_key, "")) for row in hits.metadata] if settings.style_key else []
    if any(w in style_judge.styles for w in wanted):
        named = np.array([style_judge.styles[i] for i in style_judge(style_judge.prepare(images))[2].argmax(1)])
        same = (named == np.array(wanted)).reshape(len(bench.entities), -1)
        found["style of the nearest neighbor kept"] = asdict(over_groups(same))
    per_entity = (logits.argmax(2) == bench.truth[:, None]).reshape(len(bench.entities), -1).mean(1)
    return found, [(name, float(value)) for name, value in zip(bench.names, per_entity, strict=True)]


def _copies(
    kb: KnowledgeBase,
    images: list[Image.Image],
    hits: Neighbors,
    descriptor: FeatureExtractor | None,
    settings: Settings,
    tell: Progress,
) -> tuple[detect.Replication, list[Image.Image]]:
    """The replication check of at most 200 generations against the items of the database and the neighbors used, at
    128 px or what is wanted."""
    shown = min(len(images), CHECKED)
    chosen = descriptor or features.load(detect.DESCRIPTOR)
    size = detect.working_size(chosen)
    items = [square(image, size) for image in kb.pictures(kb.ids()[None])[0] if image is not None]
    near = [[square(image, size) for image in row if image is not None] for row in hits.rows(range(shown)).images()]
    found = detect.check(
        chosen,
        images[:shown],
        items,
        neighbors=near,
        baseline=settings.baseline,
        plants=settings.plants,
        seed=settings.generate.seed,
        progress=lambda what, done, total: tell(done, total, what),
    )
    return found, items


def estimate(value: dict[str, float]) -> Estimate:
    """A stored interval as an `Estimate` again."""
    return Estimate(value["mean"], value["low"], value["high"])
