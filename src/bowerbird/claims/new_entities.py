"""KNN-Diffusion, claim 7: it paints new things once they are in the database, without training."""

from __future__ import annotations

import io
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird import plots, systems, tensors
from bowerbird.claims.bench import Bench, per_entity
from bowerbird.claims.frame import Claim, Effect, Finding
from bowerbird.claims.lab import Lab
from bowerbird.data import Pictures
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.metrics.intervals import Estimate
from bowerbird.references import Request
from bowerbird.types import Neighbors

MODELS = ("tiny-knn", "tiny-rdm")
K = 4
STAGES = ("before", "after", "removed again")


def measure(lab: Lab) -> Finding:
    """One knowledge base without the rare entities, then with them, then without again; the same prompts and weights throughout."""
    bench = Bench(lab)
    truth = np.arange(len(bench.entities))
    rare = [i for i, m in enumerate(lab.drawings.metadata) if m.get("split") == "rare"]
    others = sorted(set(range(len(lab.drawings))) - set(rare))
    found: dict[str, dict[str, Neighbors]] = {}
    with tempfile.TemporaryDirectory() as folder:
        first, second = (_parquet(lab.drawings.select(rows), Path(folder) / f"{name}.parquet") for name, rows in (("known", others), ("new", rare)))
        kb = KnowledgeBase.build(Path(folder) / "kb", str(first))
        found["before"] = _asked(kb, bench)
        start = time.perf_counter()
        kb.add(str(second))
        found["after"] = _asked(kb, bench)
        seconds = time.perf_counter() - start
        kb.remove(where="split = 'rare'")
        found["removed again"] = _asked(kb, bench)
    right: dict[tuple[str, str], list[np.ndarray]] = {}
    same = True
    for seed in lab.settings.seeds:
        for model in MODELS:
            painted = {stage: bench.paint(found[stage][model], seed, model=model) for stage in STAGES}
            for stage in STAGES:
                right.setdefault((model, stage), []).append(bench.named(painted[stage]) == truth)
            pairs = zip(painted["before"], painted["removed again"], strict=True)
            same = same and all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)

    def gain(model: str) -> Estimate:
        return per_entity([b.astype(float) - a for a, b in zip(right[model, "before"], right[model, "after"], strict=True)])

    own = np.array([[m.get("hexcode") == code for m in row] for code, row in zip(bench.entities, found["after"][MODELS[1]].metadata, strict=True)])
    effects = [
        Effect("top-1, after adding the drawings − before", gain(MODELS[0])),
        Effect("the same for RDM", gain(MODELS[1]), needed=False),
    ]
    values: dict[str, Any] = {f"{model}, {stage}": asdict(per_entity(right[model, stage])) for model in MODELS for stage in STAGES}
    rows = [(name, value["mean"], value["low"], value["high"]) for name, value in values.items()]
    plot = partial(plots.intervals, rows=rows, title="Rare entities that the judge names", label="share of pictures")
    notes = (
        f"{len(truth)} entities that no model was trained on, asked for by name, hybrid search, k = {K}, in a knowledge base of {len(others)} other drawings; "
        f"adding their {len(rare)} drawings and asking again took {seconds:.0f} s, no weight changed. Of the neighbours found then, {own.mean():.0%} are of "
        f"the thing itself. Removed again, every picture is {'the same to the last pixel as' if same else 'NOT the same as'} before. {bench.judges()}"
    )
    return Finding(effects, values, notes, plot)


def _asked(kb: KnowledgeBase, bench: Bench) -> dict[str, Neighbors]:
    """What each model retrieves for the names."""
    request = Request(prompts=tuple(bench.names), k=K)
    return {model: systems.open_pipeline(model).retrieve(request, kb) for model in MODELS}


def _parquet(pictures: Pictures, path: Path) -> Path:
    """The pictures as a SOURCE file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for image, caption, metadata in zip(tensors.to_pil(pictures.pixels), pictures.captions, pictures.metadata, strict=True):
        data = io.BytesIO()
        image.save(data, "PNG")
        keys = {key: str(metadata.get(key, "")) for key in ("hexcode", "style", "split")}
        rows.append({"name": caption, **keys, "image": {"bytes": data.getvalue(), "path": None}})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


CLAIM = Claim(
    name="new-entities",
    says="New things work as soon as they are in the database, without training.",
    source="KNN-Diffusion, arXiv 2204.02849, sections 1 and 4.3",
    varies="the database: without the rare entities, with them, without them again",
    measures="share of pictures that an independent evaluator names as the thing asked for, among the rare ones",
    measure=measure,
)
