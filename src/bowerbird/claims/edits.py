"""KNN-Diffusion, claim 8: without a mask, edits change what was asked and keep the rest."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch

from bowerbird import encoders, plots, tensors
from bowerbird.claims.bench import Bench, per_entity
from bowerbird.claims.edit_pairs import EditPairs, find
from bowerbird.claims.frame import Claim, Effect, Finding
from bowerbird.claims.lab import Lab
from bowerbird.knowledge import sparse
from bowerbird.references import join, queries_as_neighbors
from bowerbird.types import ABSENT, Neighbors

MODEL = "tiny-knn"
K = 4
PAIRS = 120
STRENGTHS = (0.3, 0.5, 0.7, 0.9)
"""Of plain image-to-image: how much of the noise its start is put under."""


def measure(lab: Lab) -> Finding:
    """Is it what was asked for, and how near to the source elsewhere: edits, against image-to-image with the same network, prompt and neighbours."""
    bench = Bench(lab)
    pairs = find(lab.drawings, PAIRS)
    sources = tensors.to_pil(lab.drawings.pixels[pairs.source])
    hits = _hits(lab, pairs)
    arms: dict[str, dict[str, Any]] = {"edit": {}} | {f"image-to-image, {s:g}": {"strength": s, "show_source": False} for s in STRENGTHS}
    done: dict[str, list[np.ndarray]] = {name: [] for name in arms}
    kept: dict[str, list[np.ndarray]] = {name: [] for name in arms}
    for seed in lab.settings.seeds:
        for name, edit in arms.items():
            images = tensors.stack(bench.paint(hits, seed, model=MODEL, sources=sources, **edit))
            done[name].append(_success(bench, lab, pairs, images))
            kept[name].append(_psnr(lab.drawings.pixels[pairs.source], images, ~pairs.changed))
    success, psnr = ({name: per_entity(values) for name, values in side.items()} for side in (done, kept))
    rivals = [name for name in arms if name != "edit"]
    # the baseline at the strength that keeps as much; and at the one that changes as often
    near_kept = min(rivals, key=lambda name: abs(psnr[name].mean - psnr["edit"].mean))
    near_done = min(rivals, key=lambda name: abs(success[name].mean - success["edit"].mean))
    untouched = lab.drawings.pixels[pairs.source]
    floor, ceiling = (per_entity([_success(bench, lab, pairs, pixels)]) for pixels in (untouched, lab.drawings.pixels[pairs.target]))

    def apart(values: dict[str, list[np.ndarray]], other: str) -> Any:
        return per_entity([a.astype(float) - b for a, b in zip(values["edit"], values[other], strict=True)])

    effects = [
        Effect("share that became what was asked: edit − the source as it is", per_entity([a.astype(float) - floor.mean for a in done["edit"]])),
        Effect(f"share that became what was asked: edit − {near_kept}, which keeps as much", apart(done, near_kept)),
        Effect(f"PSNR outside the change, dB: edit − {near_done}, which changes as often", apart(kept, near_done)),
    ]
    values: dict[str, Any] = {name: {"became what was asked": asdict(success[name]), "psnr outside": asdict(psnr[name])} for name in arms}
    values["judge"] = {"of the sources as they are": asdict(floor), "of the drawings asked for": asdict(ceiling)}
    lines = {"image-to-image": [(psnr[n].mean, success[n].mean, success[n].low, success[n].high) for n in rivals]}
    lines["edit"] = [(psnr["edit"].mean, success["edit"].mean, success["edit"].low, success["edit"].high)]
    plot = partial(plots.curves, lines=lines, title="Edits: what was asked, and what was kept", x="PSNR outside the change, dB", y="became what was asked")
    rare = sum(lab.drawings.metadata[i].get("split") == "rare" for i in pairs.target)
    notes = (
        f"{len(pairs.source)} pairs of drawings of one collection that differ in 3 to 40% of the picture; the first is the source, the second's name the "
        f"prompt. No model was trained on any of the second ({rare} rare things, the others in the style openmoji). k = {K} drawings found by the name, never "
        f"the one asked for. 'Became what was asked': the judge finds the asked thing likelier than the source's; it does for {ceiling.mean:.0%} of the real "
        f"second drawings and {floor.mean:.0%} of the first. PSNR outside: where the two drawings agree, against the source; the autoencoder alone "
        f"reaches {_autoencoder(lab, pairs):.1f} dB. Intervals over pairs."
    )
    return Finding(effects, values, notes, plot)


def _hits(lab: Lab, pairs: EditPairs) -> Neighbors:
    """The embedding of each target's name, and the k drawings found by it, without the target itself."""
    drawings, encoder = lab.drawings, encoders.load("small")
    names = [drawings.captions[i] for i in pairs.target]
    index = sparse.build(drawings.captions, [""] * len(drawings))
    ids = np.full((len(names), K), ABSENT, np.int64)
    for i, (name, target) in enumerate(zip(names, pairs.target, strict=True)):
        allowed = np.arange(len(drawings)) != target
        ids[i] = sparse.search(index, np.arange(len(drawings)), name, K, allowed)[0]
    there = ids != ABSENT
    used = np.unique(ids[there])
    known = dict(zip(used.tolist(), encoder.embed_images(tensors.to_pil(drawings.pixels[used])), strict=True))
    vectors = np.stack([[known[i] if i != ABSENT else np.zeros(encoder.dim, np.float32) for i in row] for row in ids.tolist()])
    captions = tuple(tuple(drawings.captions[i] if i != ABSENT else "" for i in row) for row in ids.tolist())
    near = Neighbors(ids, there.astype(np.float32), vectors, captions, tuple(({},) * K for _ in names), None, tuple(names))
    return join(queries_as_neighbors(encoder.embed_text(names)[:, None], [[f"(text) {name}"] for name in names]), near)


def _success(bench: Bench, lab: Lab, pairs: EditPairs, pixels: torch.Tensor) -> np.ndarray:
    """Whether the judge finds the asked thing likelier than the source's, `(n,)`."""
    code = lab.drawings.column("hexcode")
    was, asked = ([bench.judge.entities.index(code[i]) for i in rows] for rows in (pairs.source, pairs.target))
    logits = bench.judge(pixels)[1]
    row = torch.arange(len(logits))
    found: np.ndarray = (logits[row, asked] > logits[row, was]).numpy()
    return found


def _psnr(before: torch.Tensor, after: torch.Tensor, where: np.ndarray) -> np.ndarray:
    """Decibels at the boolean places `where` `(n, S, S)` of uint8 pictures `(n, 3, S, S)`."""
    squared = ((before.float() - after.float()) / 255).square().mean(1).numpy()
    error = (squared * where).sum((1, 2)) / where.sum((1, 2)).clip(min=1)
    found: np.ndarray = -10 * np.log10(error.clip(min=1e-6))
    return found


def _autoencoder(lab: Lab, pairs: EditPairs) -> float:
    """What the sources keep of themselves when they are only encoded and decoded, in decibels outside the change."""
    from bowerbird import systems

    pipe = systems.open_pipeline(MODEL)
    pixels = lab.drawings.pixels[pairs.source]
    with torch.no_grad():
        parts = [pipe.vae.decode(pipe.vae.encode(tensors.to_float(part)).latent_dist.mean).sample for part in torch.split(pixels, 64)]
    return float(_psnr(pixels, tensors.to_uint8(torch.cat(parts)), ~pairs.changed).mean())


CLAIM = Claim(
    name="edits",
    says="Without a mask, edits change what was asked and keep the rest, better than image-to-image with the same network.",
    source="KNN-Diffusion, arXiv 2204.02849, sections 3.3 and 4.4",
    varies="how the source enters: shown to the network, or as the start of sampling under more or less noise",
    measures="share of pictures that became what was asked, by an independent evaluator; PSNR where nothing was asked to change",
    measure=measure,
)
