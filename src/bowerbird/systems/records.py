"""What is written about a generated picture: enough to generate it again (`regeneration.py`), and nothing that says
where on a machine it was made."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.credit import neighbor_name, source_name
from bowerbird.core.files import last_part
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.core.version import __version__
from bowerbird.diffusion.guidance import sample_text_steps
from bowerbird.systems.generation import EDIT_SETTINGS, INSTRUCTED, Settings, batch_size
from bowerbird.systems.patches import TRACE, PatchDecoding, Trace
from bowerbird.systems.unfamiliar import find_warnings

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System

PATHS = ("images", "references", "edited", "reference")
"""Entries of a request that are files of a person's own: their names are kept, not where they lie."""


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
    refinements: Sequence[dict[str, Any]] | None = None,
    fingerprint: str | None = None,
) -> list[dict[str, Any]]:
    """What is written into each picture: the request, every setting, the model, the database, the neighbors, and
    whether it copies one. `refinements`: what a critic said of each on its way. `fingerprint`: the model's, where it is
    known, since making it reads all weights."""

    fingerprint, can = fingerprint or pipe.fingerprint(), pipe.capabilities
    numbers = list(picture_seeds) if picture_seeds is not None else [settings.seed + i for i in range(len(images))]
    named = _credits(kb, hits, request)
    facts = pipe.record_facts(settings.references, kb)
    said = find_warnings(pipe, hits, settings, sources)
    made = []
    for i, image in enumerate(images):
        present = [c for c in range(hits.k) if hits.mask[i, c]]
        weights = hits.weights[i] if hits.weights is not None else np.ones(hits.k, np.float32)
        made.append(
            {
                "bowerbird": __version__,
                "request": _request(request),
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
                **({} if settings.enlargement is None else {"enlargement": asdict(settings.enlargement)}),
                **({"tokens": asdict(settings.tokens or pipe.token_sampling)} if can.samples_tokens else {}),
                **({} if settings.patches is None else {"patches": _patches(settings.patches, image)}),
                **({} if pipe.number_format == "float32" else {"dtype": pipe.number_format}),
                "size": list(image.size),
                "batch": batch_size(pipe, settings),
                "model": {"name": model_name(model), "fingerprint": fingerprint},
                "kb": None if kb is None else {"path": last_part(str(kb.path)), "version": kb.version},
                "neighbors": [
                    {
                        "id": int(hits.ids[i, c]),
                        "score": round(float(hits.scores[i, c]), 6),
                        "caption": hits.captions[i][c],
                        "weight": float(weights[c]),
                        **({"phrase": hits.phrases[i][c]} if hits.phrases else {}),
                        **({} if hits.regions is None else {"region": [float(edge) for edge in hits.regions[i, c]]}),
                        **named.get(int(hits.ids[i, c]), {}),
                    }
                    for c in present
                ],
                **({"retrieval": list(hits.notes[i])} if hits.notes and hits.notes[i] else {}),
                **({"warnings": said[i]} if said[i] else {}),
                **({} if refinements is None else {"refinement": refinements[i]}),
                **({"copy": copies[i]} if copies is not None and copies[i] is not None else {}),
                # what the picture was generated from, itself: it can be generated again when the database has moved on
                **(_pictures(pipe, hits, i) if can.needs_images else _embeddings(hits, i, present)),
                **({"query": hits.queries[i] if hits.queries else ""} if can.takes_references or can.instructs else {}),
                **facts,
                **(
                    {}
                    if sources is None
                    else {"edit": _edit(pipe, sources[i], settings, _edited(request, i, len(images)))}
                ),
                **(
                    _balance(pipe, settings, numbers[i], bool((weights[present] > 0).any()), sources is not None)
                    if can.reads_text
                    else {}
                ),
            }
        )
    return made


def say_near_copy(record: dict[str, Any]) -> str:
    """That the picture of a record is a near copy of a neighbor, and of which; empty where it is none."""
    copy = record.get("copy")
    if copy is None or copy["score"] <= copy["threshold"]:
        return ""
    near = next((each for each in record["neighbors"] if each["id"] == copy["neighbor"]), {"id": copy["neighbor"]})
    return f"is a near copy of neighbor {neighbor_name(near)}"


def model_name(model: str) -> str:
    """What a record calls a model: a bundled name or hub id as it is, of a directory the last part of its path, of
    `runs/mine/model`, which a training writes, `mine`."""
    place = Path(model)
    if not place.is_dir():
        return model
    whole = place.resolve()
    return (whole.parent if (whole.parent / "recipe.json").is_file() else whole).name


def _request(request: dict[str, Any]) -> dict[str, Any]:
    """`request` with files by their last part."""

    def short(value: Any) -> Any:
        return [last_part(each) for each in value] if isinstance(value, list) else value and last_part(value)

    return {key: short(value) if key in PATHS else value for key, value in request.items()}


def _credits(kb: KnowledgeBase | None, hits: Neighbors, request: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """What names the source of each neighbor by its id: of an item what its knowledge base says, of a person's own
    picture the file's name."""
    ids = sorted({int(number) for number in hits.ids[hits.mask]})
    items = [number for number in ids if number >= 0]
    own = request.get("references") or request.get("images") or []
    named = {number: {"name": source_name(own[-2 - number])} for number in ids if ABSENT > number >= -1 - len(own)}
    return named | ({} if kb is None else dict(zip(items, kb.credits(items), strict=True)))


def _edited(request: dict[str, Any], i: int, count: int) -> str:
    """The name of the file that edit i of `count` started from; each has as many edits."""
    files = request.get("edited") or []
    return source_name(files[i * len(files) // count]) if files else ""


def _edit(pipe: System, source: Image.Image, settings: Settings, name: str) -> dict[str, Any]:
    """The picture that was edited, as PNG at the size it was edited at, its file's name, and how."""
    from bowerbird.core.images import encode_png, fitted, on_background
    from bowerbird.systems import common

    if pipe.capabilities.fills:
        whole = fitted(source, pipe.capabilities.sizes[-1])
        return {
            **({"name": name} if name else {}),
            "source": base64.b64encode(encode_png(whole)).decode(),
            "fills": True,
        }
    edge = common.one_edge(settings.height, settings.width) or pipe.capabilities.sizes[-1]
    coded = base64.b64encode(encode_png(fitted(on_background(source), edge))).decode()
    named = {"name": name} if name else {}
    taken = INSTRUCTED if pipe.capabilities.instructs else EDIT_SETTINGS
    return {**named, "source": coded, **{key: getattr(settings, name) for key, name in taken.items()}}


def _embeddings(hits: Neighbors, i: int, present: list[int]) -> dict[str, Any]:
    """The neighbors' embeddings, float32."""
    return {"embeddings": base64.b64encode(np.ascontiguousarray(hits.embeddings[i, present], "<f4").tobytes()).decode()}


def _patches(windows: PatchDecoding, image: Image.Image) -> dict[str, Any]:
    """How windows were merged with the model, and what was found for each place: it can be found again nowhere else
    when the database has moved on."""
    trace: Trace = image.info[TRACE]
    return {
        **asdict(windows.settings),
        "where": windows.where,
        "width": trace.codes.shape[1],
        "codes": base64.b64encode(np.ascontiguousarray(trace.codes, "<i4").tobytes()).decode(),
        "chances": base64.b64encode(np.ascontiguousarray(trace.chances, "<f4").tobytes()).decode(),
    }


def _pictures(pipe: System, hits: Neighbors, i: int) -> dict[str, Any]:
    """The neighbors' pictures as PNG as the model reads them, what was asked for, and how many neighbors were."""
    from bowerbird.core.images import encode_png

    near = [picture for picture in hits.rows([i]).images()[0] if picture is not None] if hits.k else []
    coded = [base64.b64encode(encode_png(pipe.reference_picture(picture))).decode() for picture in near]
    return {"query": hits.queries[i] if hits.queries else "", "k": hits.k, "pictures": coded}


def _balance(pipe: System, settings: Settings, seed: int, present: bool, filled: bool) -> dict[str, Any]:
    """How text and neighbors were balanced, by stage; with interleaved guidance the draw of each step, t for text, n
    for neighbors, but of a hole, whose cells are as many steps."""
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
    return {"guidance": kept} if filled else {"guidance": kept, "text_steps": drawn}
