"""Re-Imagen, claim 9: it paints rare things faithfully with retrieval, and not without."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np

from bowerbird import encoders, plots, tensors
from bowerbird.claims.bench import Bench
from bowerbird.claims.frame import Claim, Effect, Finding
from bowerbird.claims.lab import Database, Lab
from bowerbird.entitydraw import TEMPLATES
from bowerbird.types import Neighbors

EACH = 4
"""Pictures of a prompt and seed, for the best of them."""
RDM = "tiny-rdm"


def measure(lab: Lab) -> Finding:
    """Top-1 of the judge among the rare entities: with retrieval, without, with another entity's pictures, and RDM's on the same prompts."""
    bench = Bench(lab)
    truth = np.arange(len(bench.entities))
    prompts = {template: [template.replace("{name}", name) for name in bench.names] for template in TEMPLATES}
    right: dict[str, list[np.ndarray]] = {name: [] for name in ("with", "without", "swapped", "rdm", "best", "swapped in")}
    turned = np.roll(truth, 1)
    for seed in lab.settings.seeds:
        shares = []
        for template in TEMPLATES:
            hits = bench.found(prompts[template], 2)
            each = EACH if template == TEMPLATES[0] else 1
            said = bench.named(bench.paint(hits.repeat(each), seed)).reshape(len(truth), each) == truth[:, None]
            shares.append(said.mean(1))
            if each == EACH:
                right["best"].append(said.any(1))
        right["with"].append(np.mean(shares, axis=0))
        plain = prompts[TEMPLATES[0]]
        right["without"].append(bench.named(bench.paint(bench.found(plain, 0), seed)) == truth)
        swapped = bench.named(bench.paint(_of_others(bench, plain, turned), seed))
        right["swapped"].append(swapped == truth)
        right["swapped in"].append(swapped == turned)
        right["rdm"].append(bench.named(bench.paint(_for_rdm(bench, plain), seed, model=RDM)) == truth)
    found = {name: bench.per_entity(values) for name, values in right.items()}
    against = {name: np.stack(right["with"], 1) - np.stack(right[name], 1).astype(float) for name in ("without", "rdm")}
    effects = [
        Effect("top-1, with retrieval − the same network without", bench.per_entity(list(against["without"].T))),
        Effect("top-1, Re-Imagen − RDM, same prompts and database", bench.per_entity(list(against["rdm"].T))),
        Effect("another entity's pictures are swapped in: share named as that one − as the one prompted", bench.per_entity(
            [a.astype(float) - b for a, b in zip(right["swapped in"], right["swapped"], strict=True)]), needed=False),
    ]  # fmt: skip
    labels = {
        "with": "Re-Imagen, k = 2", "best": f"best of {EACH}", "without": "the same, k = 0", "rdm": "RDM, k = 2", "swapped in": "swapped in: as those",
        "swapped": "swapped in: as prompted",
    }  # fmt: skip
    rows = [(labels[name], found[name].mean, found[name].low, found[name].high) for name in labels]
    plot = partial(plots.intervals, rows=rows, title="Rare entities that the judge names", label="share of pictures")
    notes = (
        f"{len(truth)} entities that no model was trained on, {len(TEMPLATES)} templates, intervals over entities. The judge names {bench.real():.0%} of "
        "their real drawings, all of which it saw in training. The database holds their drawings in every style; BM25 finds them by name. RDM gets the "
        "same drawings as embeddings."
    )
    return Finding(effects, {labels[name]: asdict(value) for name, value in found.items()}, notes, plot)


def _of_others(bench: Bench, prompts: list[str], other: np.ndarray) -> Neighbors:
    """The pictures of entity `other[i]`, said to be what prompt i asks for."""
    from dataclasses import replace

    hits = bench.found([bench.names[i] for i in other], 2)
    return replace(hits, queries=tuple(prompts), captions=tuple((bench.names[i],) * 2 for i in range(len(prompts))))


def _for_rdm(bench: Bench, prompts: list[str]) -> Neighbors:
    """The same two drawings of each entity, as RDM reads them: embeddings."""
    hits = bench.found(prompts, 2)
    vectors = encoders.load("small").embed_images(tensors.to_pil(bench.drawings.pixels))
    database = Database(vectors, lambda k: np.ones(len(vectors)))
    return database.at(hits.ids)


CLAIM = Claim(
    name="faithful",
    says="With retrieval the model paints rare entities faithfully; the same network without it does not.",
    source="Re-Imagen, arXiv 2209.14491, section 5.3 (EntityDrawBench)",
    varies="neighbours: two found by name, none, another entity's; and RDM with the same two",
    measures="share of pictures that an independent evaluator names as the entity of the prompt, among the rare ones",
    measure=measure,
)
