"""One evaluation of one model: how like real pictures, how faithful to the prompt, how much copied.

`evaluate` generates, measures and returns plain values; `reports.write_evaluation` puts them on disk. The same
arguments give the same bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import square
from bowerbird.core.progress import OnMessage, Progress, for_stage, log_message
from bowerbird.core.text import with_article
from bowerbird.core.types import Neighbors
from bowerbird.core.version import __version__
from bowerbird.data.pictures import Pictures
from bowerbird.evaluation import features, set_measures
from bowerbird.evaluation.copies import detect
from bowerbird.evaluation.entity_faithfulness import entity_faithfulness
from bowerbird.evaluation.likelihood import likelihood
from bowerbird.evaluation.metrics import diversity
from bowerbird.evaluation.metrics.intervals import over_groups
from bowerbird.evaluation.metrics.manifold import distances
from bowerbird.evaluation.settings import JUDGED, PARTS, QUERIES, WITHOUT_SAMPLES, Settings
from bowerbird.systems import generation
from bowerbird.systems.queries import Request

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class Evaluation:
    """`report`: plain values for `report.json`; and what plots and sheets need. `images`, `hits` and `goodness` are
    empty where no measure asks for generated pictures."""

    report: dict[str, Any]
    images: list[Image.Image]
    hits: Neighbors
    goodness: np.ndarray
    copies: detect.CopyReport | None
    training: list[Image.Image]
    entities: list[tuple[str, float]]


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
            left_out.append(f"likelihood: {with_article(type(pipe).__name__)} has no likelihood")
    images, hits, goodness = list[Image.Image](), Neighbors.empty([]), np.zeros(0)
    if wanted - WITHOUT_SAMPLES:
        on_message(f"generating {settings.n} pictures by {settings.query}")
        hits = _retrieve(pipe, kb, pictures, settings)
        images = generation.generate(
            pipe, hits, settings.generate, progress=for_stage(progress, "generating", len(hits))
        )
        real = tensors.to_pil(pictures.pixels)
        ours, theirs = features.extract(extractor, images, cached=False), features.extract(extractor, real)
        goodness = -distances(ours, theirs).min(1)
    report = _facts(pipe, kb, pictures, extractor, settings)
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
    entities: list[tuple[str, float]] = []
    if judges is not None and "inception-score" in wanted:
        report.setdefault("distribution", {}).update(_inception_style(judges[0], images, pictures, seed))
    if judges is not None and "faithfulness" in wanted:
        on_message("generating what EntityDraw asks for")
        report["faithfulness"], entities = entity_faithfulness(pipe, kb, pictures, judges, settings, progress=progress)
    copies: detect.CopyReport | None = None
    training: list[Image.Image] = []
    if "copies" in wanted:
        on_message("looking for copies of the items of the knowledge base")
        copies, training = _copies(kb, images, hits, descriptor, settings, progress)
        if copies is None:
            left_out.append("copies: the knowledge base holds no pictures")
        else:
            name = detect.DESCRIPTOR if descriptor is None else descriptor.name
            report["copies"] = {"pictures checked": min(len(images), CHECKED), "descriptor": name} | copies.report()
    for line in left_out:
        on_message(f"left out: {line}")
    report["left out"] = left_out
    return Evaluation(report, images, hits, goodness, copies, training, entities)


def _facts(
    pipe: System, kb: KnowledgeBase, pictures: Pictures, extractor: FeatureExtractor, settings: Settings
) -> dict[str, Any]:
    """What was evaluated, on what, and how: all that a figure of the report depends on."""
    return {
        "bowerbird": __version__,
        "model": {"fingerprint": pipe.fingerprint()},
        "knowledge_base": {
            "version": kb.version,
            "items": len(kb),
            "encoder": kb.encoder_name,
            "encoder_fingerprint": kb.encoder_fingerprint,
        },
        "data": {
            "pictures": len(pictures),
            "fingerprint": pictures.fingerprint(),
            "size": pictures.size,
            "share of it that the knowledge base holds": float(np.isin(pictures.ids, kb.store.contents()).mean()),
        },
        "features": {
            "name": extractor.name,
            "fingerprint": extractor.fingerprint,
            "dim": extractor.dim,
            "preprocessing": extractor.preprocessing,
        },
        "settings": asdict(settings),
    }


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
    missing = wanted & JUDGED
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
    kb = pipe.check_knowledge_base(kb)
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
        "note": "no independent judge of a model that is conditioned on this encoder, or searched by it",
    }


def _hubness(kb: KnowledgeBase, k: int) -> dict[str, Any]:
    if len(kb) <= k:
        return {}
    counts = np.array(list(kb.proposal(k).values()))
    return {"hubness of the database": asdict(diversity.hubness(counts)) | {"k": k}}


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
