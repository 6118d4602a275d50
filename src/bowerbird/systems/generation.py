"""From a request to files: pictures with their provenance, a line each in `generation.jsonl`, and a sheet with the
neighbors.

One function for every shell; the record it writes into a PNG is enough to generate the picture again (`regenerate`).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import provenance
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.files import atomic_path
from bowerbird.core.progress import Progress
from bowerbird.core.text import to_json
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.core.version import __version__
from bowerbird.diffusion.guidance import Guidance, sample_text_steps
from bowerbird.systems.knn.edit_source import CHANGE_THRESHOLD, PRESERVATION

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import Capabilities, System

EDIT_SETTINGS = {
    "strength": "strength",
    "fidelity": "preservation",
    "show_source": "show_source",
    "least_change": "change_threshold",
}
"""The settings of an edit: as records call them, as `Settings` does."""
MOST_NEIGHBORS = 1000
"""More than any picture is generated from; a record that says more is not believed."""
BATCH = {"cpu": 4, "cuda": 32}
"""Pictures in one pass of the network. Always just so many, the last batch filled up: the kernels that multiply
matrices are chosen by shape, and another shape may round a picture's last bit another way. So `--from` gives the same
pixels, whatever it was one of."""


@dataclass(frozen=True)
class Settings:
    """What of a generation is neither request nor neighbors; a model's own are `default_settings(pipe)`.

    Systems of several stages take `steps` and `guidance` for all, or one a stage. `guidance` balances text and
    neighbors in systems that read both; None is `Guidance.from_scale(guidance_scale)`. `sampler`, `height` and `width`
    None are the model's own. `guidance_interval`: see `RDMPipeline`. `strength`, `preservation`, `show_source` and
    `change_threshold` are of edits, see `KNNDiffusionPipeline`.
    """

    steps: int | tuple[int, ...] = 20
    guidance_scale: float = 3.0
    sampler: str | None = None
    eta: float = 0.0
    height: int | None = None
    width: int | None = None
    seed: int = 0
    guidance: Guidance | tuple[Guidance, ...] | None = None
    strength: float = 1.0
    preservation: float = PRESERVATION
    show_source: bool = True
    change_threshold: float = CHANGE_THRESHOLD
    guidance_interval: tuple[float, float] | None = None


def default_settings(pipe: System) -> Settings:
    """The settings a model generates with unless asked otherwise."""
    own = pipe.defaults
    return Settings(steps=own.num_inference_steps, guidance_scale=own.guidance_scale)


def generate(
    pipe: System,
    hits: Neighbors,
    settings: Settings,
    *,
    sources: Sequence[Image.Image] | None = None,
    picture_seeds: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """One picture for each row of `hits`; picture i is drawn from `picture_seeds[i]` (`settings.seed + i` when None),
    the same to the last bit whichever others are generated with it.

    Another `batch` is faster for many, and moves last bits. `sources`: a picture to edit for each row. The pipeline is
    left as it was. Raises: BowerbirdError for settings that the system does not have.
    """
    import torch

    options = _options(pipe, settings, edits=sources is not None)
    numbers = list(picture_seeds) if picture_seeds is not None else [settings.seed + i for i in range(len(hits))]
    made: list[Image.Image] = []
    batch = batch or BATCH.get(pipe.device.type, BATCH["cuda"])
    with pipe.sampling_with(settings.sampler or pipe.defaults.sampler):
        for start in range(0, len(hits), batch):
            rows = [min(i, len(hits) - 1) for i in range(start, start + batch)]
            if sources is not None:
                options["source"] = [sources[i] for i in rows]
            generators = [torch.Generator().manual_seed(numbers[i]) for i in rows]
            out = pipe(neighbors=hits.rows(rows), generator=generators, **options)
            made += out.images[: len(hits) - start]
            if progress is not None:
                progress(len(made), len(hits))
    return made


def _options(pipe: System, settings: Settings, *, edits: bool) -> dict[str, Any]:
    """The arguments of the pipeline's call that `settings` make. Raises: BowerbirdError for what it cannot do."""
    can, name = pipe.capabilities, type(pipe).__name__
    options: dict[str, Any] = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "eta": settings.eta,
        "height": settings.height,
        "width": settings.width,
    }
    if settings.guidance is not None:
        if not can.reads_text:
            raise BowerbirdError(f"{name} reads no text to balance with its neighbors: it takes guidance_scale")
        options["guidance"] = settings.guidance
    if isinstance(settings.steps, tuple) and can.stages == 1:
        raise BowerbirdError(f"{name} generates in one stage: it takes one number of steps")
    if settings.guidance_interval is not None:
        if not can.guidance_interval:
            raise BowerbirdError(f"{name} is guided in every step; leave guidance_interval out")
        options["guidance_interval"] = settings.guidance_interval
    if edits:
        if not can.starts_from_image:
            raise BowerbirdError(f"{name} does not edit pictures; use a model like tiny-knn")
        options |= {key: getattr(settings, key) for key in EDIT_SETTINGS.values()}
    return options


def generation_records(
    pipe: System,
    model: str,
    kb: KnowledgeBase | None,
    hits: Neighbors,
    images: Sequence[Image.Image],
    settings: Settings,
    request: dict[str, Any],
    *,
    sources: Sequence[Image.Image] | None = None,
    picture_seeds: Sequence[int] | None = None,
    copies: Sequence[dict[str, Any] | None] | None = None,
) -> list[dict[str, Any]]:
    """What is written into each picture: the request, every setting, the model, the database, the neighbors, and
    whether it copies one."""
    import torch

    fingerprint, can = pipe.fingerprint(), pipe.capabilities
    numbers = list(picture_seeds) if picture_seeds is not None else [settings.seed + i for i in range(len(images))]
    made = []
    for i, image in enumerate(images):
        present = [c for c in range(hits.k) if hits.mask[i, c]]
        weights = hits.weights[i] if hits.weights is not None else np.ones(hits.k, np.float32)
        made.append(
            {
                "bowerbird": __version__,
                "request": request,
                "seed": numbers[i],
                "steps": list(settings.steps) if isinstance(settings.steps, tuple) else settings.steps,
                "sampler": settings.sampler or pipe.defaults.sampler,
                "guidance_scale": settings.guidance_scale,
                "eta": settings.eta,
                **(
                    {}
                    if settings.guidance_interval is None
                    else {"guidance_interval": list(settings.guidance_interval)}
                ),
                **({} if pipe.dtype == torch.float32 else {"dtype": str(pipe.dtype).removeprefix("torch.")}),
                "size": list(image.size),
                "model": {"name": model, "fingerprint": fingerprint},
                "kb": None if kb is None else {"path": str(kb.path), "version": kb.version},
                "neighbors": [
                    {
                        "id": int(hits.ids[i, c]),
                        "score": round(float(hits.scores[i, c]), 6),
                        "caption": hits.captions[i][c],
                        "weight": float(weights[c]),
                    }
                    for c in present
                ],
                **({"copy": copies[i]} if copies is not None and copies[i] is not None else {}),
                # what the picture was generated from, itself: it can be generated again when the database has moved on
                **(_pictures(can, hits, i) if can.needs_images else _embeddings(hits, i, present)),
                **({} if sources is None else {"edit": _edit(pipe, sources[i], settings)}),
                **(_balance(pipe, settings, numbers[i], bool((weights[present] > 0).any())) if can.reads_text else {}),
            }
        )
    return made


def _edit(pipe: System, source: Image.Image, settings: Settings) -> dict[str, Any]:
    """The picture that was edited, as PNG at the size it was edited at, and how."""
    from bowerbird.core.images import encode_png, on_background, square
    from bowerbird.systems import common

    edge = common.one_edge(settings.height, settings.width) or pipe.capabilities.sizes[-1]
    coded = base64.b64encode(encode_png(square(on_background(source), edge))).decode()
    return {"source": coded, **{key: getattr(settings, name) for key, name in EDIT_SETTINGS.items()}}


def _embeddings(hits: Neighbors, i: int, present: list[int]) -> dict[str, Any]:
    """The neighbors' embeddings, float32."""
    return {"embeddings": base64.b64encode(np.ascontiguousarray(hits.embeddings[i, present], "<f4").tobytes()).decode()}


def _pictures(can: Capabilities, hits: Neighbors, i: int) -> dict[str, Any]:
    """The neighbors' pictures as PNG at the size of the model's largest stage, what was asked for, and how many
    neighbors were."""
    from bowerbird.core.images import encode_png, square

    near = [picture for picture in hits.rows([i]).images()[0] if picture is not None]
    coded = [base64.b64encode(encode_png(square(picture, max(can.sizes)))).decode() for picture in near]
    return {"query": hits.queries[i] if hits.queries else "", "k": hits.k, "pictures": coded}


def _balance(pipe: System, settings: Settings, seed: int, present: bool) -> dict[str, Any]:
    """How text and neighbors were balanced, by stage; with interleaved guidance the draw of each step, t for text, n
    for neighbors."""
    edge, drawn = settings.height or settings.width, []
    stages = range(len([size for size in pipe.capabilities.sizes if edge is None or size <= edge]))
    balance = pipe.balance(settings.guidance, settings.guidance_scale)
    for stage in stages:
        steps = settings.steps[stage] if isinstance(settings.steps, tuple) else settings.steps
        own = balance[stage]
        texts = sample_text_steps([seed], [present], steps, own.text_ratio, stage + 1)[0].tolist()
        drawn.append("".join("t" if text else "n" for text in texts) if own.kind == "interleaved" else None)
    # a record says eta, as the paper does
    kept = [{"eta" if key == "text_ratio" else key: value for key, value in asdict(each).items()} for each in balance]
    return {"guidance": kept, "text_steps": drawn}


def write(
    images: Sequence[Image.Image],
    made: Sequence[dict[str, Any]],
    hits: Neighbors,
    out: Path,
    *,
    sources: Sequence[Image.Image] | None = None,
) -> list[Path]:
    """`000.png` …, `generation.jsonl` (a line an image) and `sheet.png` into `out`: each image beside its neighbors;
    an edit between its source and where the two differ."""
    from bowerbird.core.contact_sheet import difference, labeled_grid

    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{i:03d}.png" for i in range(len(images))]
    for image, record, path in zip(images, made, paths, strict=True):
        provenance.save_png(image, path, record)
    with atomic_path(out / "generation.jsonl") as temporary:
        lines = [to_json({"file": p.name, **_without_bytes(r)}) for p, r in zip(paths, made, strict=True)]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    shown = min(len(images), 24)
    near = hits.rows(list(range(shown))).images() if hits.load_images is not None else [[None] * hits.k] * shown
    rows = []
    for i in range(shown):
        title = f"{i:03d}  {provenance.parameters(made[i]).splitlines()[0]}"
        cells, words = [images[i], *near[i]], ["", *hits.captions[i]]
        if sources is not None:
            cells, words = (
                [sources[i], images[i], difference(sources[i], images[i]), *near[i]],
                ["source", "edited", "difference", *hits.captions[i]],
            )
        rows.append((title, cells, words))
    with atomic_path(out / "sheet.png") as temporary:
        labeled_grid(rows, divide=1 if sources is None else 3).save(temporary, "PNG")
    return paths


def _without_bytes(record: dict[str, Any]) -> dict[str, Any]:
    """A record as a person reads it: what only regenerating needs is left out."""
    plain = {k: v for k, v in record.items() if k not in ("embeddings", "pictures")}
    return plain | ({"edit": {k: v for k, v in plain["edit"].items() if k != "source"}} if "edit" in plain else {})


def neighbors_of(record: dict[str, Any]) -> Neighbors:
    """The neighbors a record names, with the embeddings or pictures it carries. Raises: BowerbirdError when it is
    damaged."""
    with _of_a_stranger():
        rows = record["neighbors"]
        scores, weights = (np.array([[float(r[key]) for r in rows]], np.float32) for key in ("score", "weight"))
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError("weights are numbers of 0 or more")
        ids = np.array([[int(r["id"]) for r in rows]], np.int64)
        captions = tuple(str(r["caption"]) for r in rows)
        if "pictures" in record:
            return _with_pictures(record, ids, scores, weights, captions)
        flat = np.frombuffer(base64.b64decode(record["embeddings"]), "<f4").astype(np.float32)
        return Neighbors(
            ids=ids,
            scores=scores,
            embeddings=flat.reshape(1, len(rows), -1),
            captions=(captions,),
            metadata=(({},) * len(rows),),
            weights=weights,
        )


@contextmanager
def _of_a_stranger() -> Iterator[None]:
    """A block that reads a record somebody else may have written: what is missing or wrong in it is said in one
    line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise BowerbirdError(f"the picture's bowerbird record is damaged ({type(error).__name__}: {error})") from error


def _with_pictures(
    record: dict[str, Any], ids: np.ndarray, scores: np.ndarray, weights: np.ndarray, captions: tuple[str, ...]
) -> Neighbors:
    """Neighbors with their pictures, padded to the K they were generated with: the same shapes give the same
    last bits."""
    from bowerbird.core.images import decode

    pictures = [decode(base64.b64decode(data), "the picture's bowerbird record") for data in record["pictures"]]
    count, k = ids.shape[1], int(record["k"])
    if len(pictures) != count or not count <= k <= MOST_NEIGHBORS:
        raise ValueError(f"{len(pictures)} pictures for {count} of {k} neighbors")
    at = {int(number): column for column, number in enumerate(ids[0])}
    gap = ((0, 0), (0, k - count))
    ids, scores, weights = (
        np.pad(array, gap, constant_values=value) for array, value in ((ids, ABSENT), (scores, -np.inf), (weights, 0.0))
    )
    return Neighbors(
        ids=ids,
        scores=scores,
        embeddings=np.zeros((1, k, 0), np.float32),
        captions=(captions + ("",) * (k - count),),
        metadata=(({},) * k,),
        weights=weights,
        queries=(str(record["query"]),),
        load_images=lambda asked: [
            [None if number not in at else pictures[at[number]] for number in row] for row in asked.tolist()
        ],
    )


def settings_of(record: dict[str, Any]) -> Settings:
    """The settings a record names. Raises: BowerbirdError when it is damaged."""
    with _of_a_stranger():
        steps = record["steps"]
        kept = record.get("guidance")
        balance = (
            None
            if kept is None
            else tuple(
                Guidance(str(g["kind"]), *(float(g[key]) for key in ("text_scale", "neighbor_scale", "eta")))
                for g in kept
            )
        )
        scale = float(record["guidance_scale"])
        if not math.isfinite(scale):
            raise ValueError("guidance_scale is no number")
        interval = record.get("guidance_interval")
        edit = record.get("edit", {key: getattr(Settings(), name) for key, name in EDIT_SETTINGS.items()})
        strength, preservation, change_threshold = (
            float(edit[key]) for key in ("strength", "fidelity", "least_change")
        )
        if not all(map(math.isfinite, (strength, preservation, change_threshold))):
            raise ValueError("strength and image_guidance_scale are numbers")
        return Settings(
            steps=tuple(int(each) for each in steps) if isinstance(steps, list) else int(steps),
            guidance_scale=scale,
            sampler=str(record["sampler"]),
            eta=float(record["eta"]),
            height=int(record["size"][1]),
            width=int(record["size"][0]),
            seed=int(record["seed"]),
            guidance=balance,
            strength=strength,
            preservation=preservation,
            show_source=bool(edit["show_source"]),
            change_threshold=change_threshold,
            guidance_interval=None if interval is None else (float(interval[0]), float(interval[1])),
        )


def source_of(record: dict[str, Any]) -> Image.Image | None:
    """The picture that a record's edit started from, None where it was none. Raises: BowerbirdError when it is
    damaged."""
    from bowerbird.core.images import decode

    with _of_a_stranger():
        return (
            decode(base64.b64decode(record["edit"]["source"]), "the picture's bowerbird record")
            if "edit" in record
            else None
        )


def regenerate(pipe: System, record: dict[str, Any], *, sampler: str | None = None) -> tuple[Image.Image, Neighbors]:
    """Generate the picture of `record` again; `sampler` in place of the one it names.

    Raises: MismatchError when the model is not the one that generated it; BowerbirdError when the record is damaged.
    """
    with _of_a_stranger():
        name, wanted = record["model"]["name"], record["model"]["fingerprint"]
        record["request"].get("prompt")  # the form that is written back
    dtype, own = str(record.get("dtype", "float32")), str(pipe.dtype).removeprefix("torch.")
    if dtype != own:
        raise MismatchError(
            f"the picture was generated in {dtype}, this model computes in {own}; pipe.to(torch.{dtype}) generates it"
            " again"
        )
    there = pipe.fingerprint()
    if wanted != there:
        raise MismatchError(
            f"the picture was generated by model {name!r} ({wanted}), this one is {there}; give that model"
        )
    hits, settings, source = neighbors_of(record), settings_of(record), source_of(record)
    if sampler is not None:
        settings = replace(settings, sampler=sampler)
    elif settings.sampler not in pipe.capabilities.samplers:  # a name in a stranger's file loads no code
        raise BowerbirdError(
            f"the record names the sampler {settings.sampler!r}, which is not one of {type(pipe).__name__}'s; pass"
            " sampler= to use it all the same"
        )
    return generate(pipe, hits, settings, sources=None if source is None else [source])[0], hits
