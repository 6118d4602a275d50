"""From a request to files: pictures with their provenance, a line each in `generation.jsonl`, and a sheet with the neighbours.

One function for every shell; the record it writes into a PNG is enough to paint the picture again (`repaint`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird import __version__, provenance
from bowerbird.checkpoint import atomic_path
from bowerbird.errors import BowerbirdError, MismatchError
from bowerbird.types import Neighbors

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.rdm_pipeline import RDMPipeline

BATCH = {"cpu": 4, "cuda": 32}
"""Pictures in one pass of the network. Always just so many, the last batch filled up: the kernels that multiply matrices are chosen
by shape, and another shape may round a picture's last bit another way. So `--from` gives the same pixels, whatever it was one of."""


@dataclass(frozen=True)
class Settings:
    """What of a generation is neither request nor neighbours."""

    steps: int = 20
    guidance_scale: float = 3.0
    sampler: str = "dpmsolver++"
    eta: float = 0.0
    size: int | None = None
    seed: int = 0


def paint(
    pipe: RDMPipeline,
    hits: Neighbors,
    settings: Settings,
    *,
    picture_seeds: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Image.Image]:
    """One picture for each row of `hits`; picture i is drawn from `picture_seeds[i]` (`settings.seed + i` when None), the same to the last bit
    whichever others are painted with it. Another `batch` is faster for many, and moves last bits.
    """
    import torch

    pipe.set_sampler(settings.sampler)
    pipe.set_progress_bar_config(disable=True)
    numbers = list(picture_seeds) if picture_seeds is not None else [settings.seed + i for i in range(len(hits))]
    made: list[Image.Image] = []
    batch = batch or BATCH.get(pipe.device.type, BATCH["cuda"])
    for start in range(0, len(hits), batch):
        rows = [min(i, len(hits) - 1) for i in range(start, start + batch)]
        out = pipe(
            neighbors=hits.rows(rows),
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            eta=settings.eta,
            size=settings.size,
            generator=[torch.Generator().manual_seed(numbers[i]) for i in rows],
        )
        made += out.images[: len(hits) - start]
        if progress is not None:
            progress(len(made))
    return made


def records(
    pipe: RDMPipeline,
    model: str,
    kb: KnowledgeBase | None,
    hits: Neighbors,
    images: Sequence[Image.Image],
    settings: Settings,
    request: dict[str, Any],
    *,
    picture_seeds: Sequence[int] | None = None,
    copies: Sequence[dict[str, Any] | None] | None = None,
) -> list[dict[str, Any]]:
    """What is written into each picture: the request, every setting, the model, the database, the neighbours, and whether it copies one."""
    fingerprint = pipe.fingerprint()
    made = []
    for i, image in enumerate(images):
        present = [c for c in range(hits.k) if hits.mask[i, c]]
        weights = hits.weights[i] if hits.weights is not None else np.ones(hits.k, np.float32)
        made.append(
            {
                "bowerbird": __version__,
                "request": request,
                "seed": settings.seed + i if picture_seeds is None else picture_seeds[i],
                "steps": settings.steps,
                "sampler": settings.sampler,
                "guidance_scale": settings.guidance_scale,
                "eta": settings.eta,
                "size": list(image.size),
                "model": {"name": model, "fingerprint": fingerprint},
                "kb": None if kb is None else {"path": str(kb.path), "version": kb.version},
                "neighbors": [
                    {"id": int(hits.ids[i, c]), "score": round(float(hits.scores[i, c]), 6), "caption": hits.captions[i][c], "weight": float(weights[c])}
                    for c in present
                ],
                **({"copy": copies[i]} if copies is not None and copies[i] is not None else {}),
                # the embeddings themselves, float32: the picture can be painted again when the database has moved on
                "embeddings": base64.b64encode(np.ascontiguousarray(hits.embeddings[i, present], "<f4").tobytes()).decode(),
            }
        )
    return made


def write(images: Sequence[Image.Image], made: Sequence[dict[str, Any]], hits: Neighbors, out: Path) -> list[Path]:
    """`000.png` …, `generation.jsonl` (a line an image) and `sheet.png` (each image beside its neighbours) into `out`."""
    from bowerbird.sheets import labelled

    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{i:03d}.png" for i in range(len(images))]
    for image, record, path in zip(images, made, paths, strict=True):
        provenance.save_png(image, path, record)
    with atomic_path(out / "generation.jsonl") as temporary:
        lines = [
            json.dumps({"file": p.name, **{k: v for k, v in r.items() if k != "embeddings"}}, ensure_ascii=False) for p, r in zip(paths, made, strict=True)
        ]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    shown = min(len(images), 24)
    near = hits.rows(list(range(shown))).images() if hits.load_images is not None else [[None] * hits.k] * shown
    rows = [(f"{i:03d}  {provenance.parameters(made[i]).splitlines()[0]}", [images[i], *near[i]], ["", *hits.captions[i]]) for i in range(shown)]
    with atomic_path(out / "sheet.png") as temporary:
        labelled(rows, divide=1).save(temporary, "PNG")
    return paths


def neighbors_of(record: dict[str, Any]) -> Neighbors:
    """The neighbours a record names, with the embeddings it carries. Raises: BowerbirdError when it is damaged."""
    try:
        rows = record["neighbors"]
        flat = np.frombuffer(base64.b64decode(record["embeddings"]), "<f4").astype(np.float32)
        embeddings = flat.reshape(1, len(rows), -1)
        ids = np.array([[r["id"] for r in rows]], np.int64)
        scores, weights = (np.array([[r[key] for r in rows]], np.float32) for key in ("score", "weight"))
        return Neighbors(ids, scores, embeddings, (tuple(str(r["caption"]) for r in rows),), (({},) * len(rows),), weights)
    except (KeyError, TypeError, ValueError) as error:
        raise BowerbirdError(f"the picture's bowerbird record is damaged ({type(error).__name__}: {error})") from error


def repaint(pipe: RDMPipeline, record: dict[str, Any]) -> tuple[Image.Image, Neighbors]:
    """Paint the picture of `record` again. Raises: MismatchError when the model is not the one that painted it."""
    wanted, there = record.get("model", {}).get("fingerprint"), pipe.fingerprint()
    if wanted != there:
        raise MismatchError(f"the picture was painted by model {record.get('model', {}).get('name')!r} ({wanted}), this one is {there}; give that model")
    hits = neighbors_of(record)
    factor_size = int(record["size"][0])
    settings = Settings(int(record["steps"]), float(record["guidance_scale"]), str(record["sampler"]), float(record["eta"]), factor_size, int(record["seed"]))
    return paint(pipe, hits, settings)[0], hits
