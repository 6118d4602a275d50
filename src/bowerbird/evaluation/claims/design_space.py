"""What a model should read of its neighbors: one embedding, patches too, their pixels, or their latents, all else
equal."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bowerbird import encoders
from bowerbird.core import contact_sheet, seeds, tensors
from bowerbird.core.types import ABSENT, Encoder, Neighbors
from bowerbird.evaluation import features, plots
from bowerbird.evaluation.claims import neighbor_forms
from bowerbird.evaluation.claims.benchmark import TRAINED_STYLES, UNSEEN_STYLE, Benchmark
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.neighbor_forms import FORMS, FormNetwork
from bowerbird.evaluation.copies.detect import COPY_THRESHOLD, DESCRIPTOR
from bowerbird.evaluation.metrics.intervals import over_seeds

ENCODER = "small"
"""Of embeddings and patches, unless `Experiment.models` names another directory for it."""
LEARNED, BATCH, GUIDANCE, AT_ONCE = 2000, 32, 2.0, 25
LABELS = {
    "embedding": "one embedding",
    "patches": "embedding and patches",
    "pixels": "pixels through the network",
    "latents": "latents beside the noise",
}
MEASURES = ("rare entity named", "unseen style seen", "near copies", "likeness", "seconds")


def measure(experiment: Experiment) -> Finding:
    """Every form trained with every seed on the same samples; pictures of rare entities from two drawings of them, and
    from one in a style never trained on."""
    benchmark = Benchmark(experiment)
    encoder = encoders.load(dict(experiment.models).get(ENCODER, ENCODER))
    patched = getattr(encoder, "layout", None) is not None
    forms = [form for form in FORMS if form != "patches" or patched]
    trainable = experiment.trainable
    order = seeds.numpy_generator(0, "design space").permutation(len(trainable))[:LEARNED]
    sources = neighbor_forms.sources_of(trainable.select(sorted(order.tolist())), encoder)
    rare = benchmark.search(benchmark.names, neighbor_forms.K, styles=TRAINED_STYLES)
    unseen = benchmark.search(benchmark.names, 1, styles=(UNSEEN_STYLE,))
    found: dict[str, dict[str, list[float]]] = {form: {name: [] for name in MEASURES} for form in forms}
    used: dict[str, int] = {}
    shown: dict[str, list[Any]] = {}
    for seed in experiment.settings.seeds:
        config = experiment.settings.training(seed).model_copy(update={"batch_size": BATCH})
        for form in forms:
            network = neighbor_forms.train_form(form, sources, encoder, config, experiment.progress)
            used[form] = network.used()
            measured, images = _measure_one(benchmark, network, encoder, rare, unseen, seed)
            for name, value in measured.items():
                found[form][name].append(value)
            shown.setdefault(form, images)
    first = forms[0]
    effects = [
        Effect(f"{name}: {LABELS[form]} − {LABELS[first]}", over_seeds(_minus(found[form][name], found[first][name])))
        for name in MEASURES[:2]
        for form in forms[1:]
    ]
    effects += [
        Effect(
            f"{name}: {LABELS[form]} − {LABELS[first]}",
            over_seeds(_minus(found[form][name], found[first][name])),
            needed=False,
        )
        for name in MEASURES[2:]
        for form in forms[1:]
    ]
    estimates = {form: {name: over_seeds(values) for name, values in each.items()} for form, each in found.items()}
    rows = [
        (f"{name}: {LABELS[form]}", e.mean, e.low, e.high)
        for name in MEASURES[:3]
        for form in forms
        for e in [estimates[form][name]]
    ]
    values: dict[str, Any] = {
        LABELS[form]: {
            "parameters used": used[form],
            **{name: {"by seed": found[form][name], **asdict(e)} for name, e in estimates[form].items()},
        }
        for form in forms
    }
    steps = experiment.settings.train_steps
    notes = (
        f"One U-Net on the latents of {neighbor_forms.AUTOENCODER}, {steps} steps of {BATCH} on the same samples of"
        f" {sources.latents.shape[1]} drawings; encoder {encoder.name}"
        f"{'' if patched else ', which has no patches: that form is left out'}. The width of the time embedding evens"
        f" out the parameters used ({min(used.values())} to {max(used.values())}). Guidance {GUIDANCE:g} for all. Rare:"
        f" {len(benchmark.names)} entities from {neighbor_forms.K} drawings found by name; unseen style: from one in"
        f" {UNSEEN_STYLE}, named among the styles. Near copies: of that one drawing, over the guard's {COPY_THRESHOLD};"
        f" likeness: the mean similarity there ({DESCRIPTOR}). Seconds of the processor a picture, without encoding"
        f" neighbors. {benchmark.describe_judges()}"
    )
    plot = partial(plots.intervals, rows=rows, title="What is read of the neighbors", label="share of pictures")
    return Finding(effects, values, notes, plot, partial(_sheet, benchmark, unseen, shown))


def _minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _measure_one(
    benchmark: Benchmark, network: FormNetwork, encoder: Encoder, rare: Neighbors, unseen: Neighbors, seed: int
) -> tuple[dict[str, float], list[Any]]:
    """The measures of one network, and the pictures in the unseen style."""
    truth = np.arange(len(benchmark.names))
    named, seconds = _generate(benchmark, network, encoder, rare, seed)
    styled, _ = _generate(benchmark, network, encoder, unseen, seed)
    descriptor = features.load(DESCRIPTOR)
    sides = [
        torch.nn.functional.normalize(torch.from_numpy(descriptor.embed_images(images)), dim=1)
        for images in (styled, tensors.to_pil(benchmark.drawings.pixels[unseen.ids[:, 0]]))
    ]
    alike = (sides[0] * sides[1]).sum(1)
    values = {
        "rare entity named": float((benchmark.name_entities(named) == truth).mean()),
        "unseen style seen": float((benchmark.name_styles(styled) == UNSEEN_STYLE).mean()),
        "near copies": float((alike > COPY_THRESHOLD).float().mean()),
        "likeness": float(alike.mean()),
        "seconds": seconds,
    }
    return values, styled


def _generate(
    benchmark: Benchmark, network: FormNetwork, encoder: Encoder, hits: Neighbors, seed: int
) -> tuple[list[Any], float]:
    """A picture for each row, and the processor's seconds a picture; from the cache where they were generated
    before."""
    steps = benchmark.experiment.settings.sampling_steps
    digest = hashlib.sha256(f"{benchmark.drawings.fingerprint()} {encoder.fingerprint} {seed} {steps}".encode())
    digest.update(f"{network.form} {GUIDANCE}".encode() + hits.ids.tobytes())
    for value in network.state_dict().values():
        digest.update(value.numpy().tobytes())

    def make() -> dict[str, Tensor]:
        rows = np.where(hits.mask, hits.ids, 0)
        places, at = np.unique(rows, return_inverse=True)
        read = neighbor_forms.read_as(network.form, benchmark.drawings.pixels[places], encoder)
        neighbors = read[torch.from_numpy(at.reshape(rows.shape))]
        weights = torch.from_numpy((hits.ids != ABSENT).astype(np.float32))
        made = []
        start = time.process_time()
        for first in range(0, len(rows), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            number = 1_000_000 * (seed + 1) + first
            made += neighbor_forms.sample(
                network, neighbors[part], weights[part], seed=number, steps=steps, guidance=GUIDANCE
            )
        seconds = (time.process_time() - start) / len(rows)
        return {"pixels": tensors.stack(made), "seconds": torch.tensor([seconds])}

    stored = features.load_or_make("samples", f"form-{digest.hexdigest()[:24]}", make)
    return tensors.to_pil(stored["pixels"]), float(stored["seconds"][0])


def _sheet(benchmark: Benchmark, unseen: Neighbors, shown: dict[str, list[Any]], path: Any) -> None:
    """The neighbor, and what each form makes of it."""
    some = np.linspace(0, len(unseen) - 1, min(12, len(unseen))).astype(int).tolist()
    drawings = tensors.to_pil(benchmark.drawings.pixels[unseen.ids[some, 0]])
    rows: list[Any] = [("the neighbor", drawings, [])]
    rows += [(LABELS[form], [images[i] for i in some], []) for form, images in shown.items()]
    contact_sheet.labeled_grid(rows, title=f"from one drawing in {UNSEEN_STYLE}").save(path)


CLAIM = Claim(
    name="design-space",
    says=(
        "More of a neighbor than one embedding makes pictures more faithful to it: patches, pixels through the network,"
        " or latents beside the noise, at equal size and training."
    ),
    source=(
        "open in RDM, arXiv 2204.11824, which takes one embedding a neighbor; Re-Imagen, arXiv 2209.14491, section 3,"
        " takes pixels"
    ),
    varies="the form in which the network is given its neighbors; parameters, steps, samples and seeds alike",
    measures=(
        "shares of pictures that independent judges name as the rare entity, and see in a style never trained on; near"
        " copies; seconds"
    ),
    measure=measure,
)
