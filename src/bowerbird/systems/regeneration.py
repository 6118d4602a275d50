"""A picture from its record: the record is checked whole, in one place, before anything is made of it.

Anybody may have written a record. Its sizes, counts and numbers are bounded (`record_schema.py`), what it names loads
no code and fetches nothing, and what is wrong with it is said in one line.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from bowerbird.core import cache
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.diffusion.guidance import Guidance
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.systems.enlargement import Enlargement
from bowerbird.systems.generation import EDIT_SETTINGS, INSTRUCTED, OnStep, Settings, generate
from bowerbird.systems.jobs import REFERENCES
from bowerbird.systems.patches import PatchDecoding, PatchSettings, Trace
from bowerbird.systems.record_schema import BATCH_BEFORE, MOST_STEPS, Patches, Record, References
from bowerbird.systems.reference_settings import ReferenceSettings
from bowerbird.systems.settings import first_fault

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.systems.base import System

MOST_TIMES = 4
"""Largest edge of a picture in times of the model's own; a larger one takes as many fewer steps."""
MOST_PIXELS = 2**25
"""Of all pictures in a record together: 32 of 1024 x 1024."""


def parse_record(record: Mapping[str, Any]) -> Record:
    """`record` as it is in a PNG, checked. Raises: BowerbirdError naming the first entry that is missing or out of
    bounds."""
    try:
        found = Record.model_validate(dict(record))
    except ValidationError as error:
        raise _damaged(first_fault(error)) from error
    if "edit" in record and found.edit is None:
        raise _damaged("edit: is nothing")
    if (found.embeddings is None) == (found.pictures is None):
        raise _damaged("it holds the neighbors' embeddings or their pictures, one of them")
    if found.pictures is not None and not len(found.pictures) == len(found.neighbors) <= found.k:
        raise _damaged(f"{len(found.pictures)} pictures for {len(found.neighbors)} of {found.k} neighbors")
    return found


def _damaged(what: str) -> BowerbirdError:
    return BowerbirdError(f"the picture's bowerbird record is damaged ({what})")


def _decoded(coded: Sequence[str], background: str | None = "white") -> list[Image.Image]:
    """The pictures of a record, on a `background` or with what is transparent. Raises: BowerbirdError when one is none,
    or all together are too large."""
    from bowerbird.core.images import decode, open_image

    plain = [_bytes(text) for text in coded]
    pixels = 0
    for data in plain:
        try:
            with open_image(io.BytesIO(data), formats=("PNG",)) as picture:
                pixels += picture.width * picture.height
        except Exception as error:  # Pillow raises nearly anything on hostile bytes
            raise _damaged(f"no picture: {type(error).__name__}") from error
    if pixels > MOST_PIXELS:
        raise _damaged(f"its pictures have {pixels:,} pixels in all, at most {MOST_PIXELS:,} are read")
    return [decode(data, "the picture's bowerbird record", background) for data in plain]


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _damaged("invalid base64") from error


def neighbors_of(record: Record) -> Neighbors:
    """The neighbors that a record names, with the embeddings or pictures it carries. Raises: BowerbirdError when those
    do not fit."""
    rows = record.neighbors
    ids = np.array([[row.id for row in rows]], np.int64)
    scores, weights = (np.array([[getattr(row, key) for row in rows]], np.float32) for key in ("score", "weight"))
    captions = tuple(row.caption for row in rows)
    if record.pictures is not None:
        return _placed(record, _with_pictures(record, ids, scores, weights, captions))
    flat = _bytes(record.embeddings or "")
    if len(flat) % (4 * max(1, len(rows))) or (flat and not rows):
        raise _damaged(f"{len(flat)} bytes of embeddings for {len(rows)} neighbors")
    embeddings = np.frombuffer(flat, "<f4").astype(np.float32)
    if not np.isfinite(embeddings).all():
        raise _damaged("an embedding is not finite")
    hits = Neighbors(
        ids=ids,
        scores=scores,
        embeddings=embeddings.reshape(1, len(rows), -1) if rows else np.zeros((1, 0, 0), np.float32),
        captions=(captions,),
        metadata=(({},) * len(rows),),
        weights=weights,
        queries=(record.query,) if record.references is not None or record.query else (),
    )
    return _placed(record, hits)


def _placed(record: Record, hits: Neighbors) -> Neighbors:
    """`hits` with the phrases and regions that the record gives some of them."""
    rows, gap = record.neighbors, hits.k - len(record.neighbors)
    if any(row.phrase for row in rows):
        hits = replace(hits, phrases=((*(row.phrase for row in rows), *("",) * gap),))
    if any(row.region is not None for row in rows):
        regions = [row.region or [0.0, 0.0, 1.0, 1.0] for row in rows] + [[0.0, 0.0, 1.0, 1.0]] * gap
        hits = replace(hits, regions=np.asarray([regions], np.float32))
    return hits


def _with_pictures(
    record: Record, ids: np.ndarray, scores: np.ndarray, weights: np.ndarray, captions: tuple[str, ...]
) -> Neighbors:
    """Neighbors with their pictures, padded to the K they were generated with: the same shapes give the same last
    bits."""
    pictures = _decoded(record.pictures or [])
    count, k = ids.shape[1], record.k
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
        queries=(record.query,),
        load_images=lambda asked: [
            [None if number not in at else pictures[at[number]] for number in row] for row in asked.tolist()
        ],
    )


def settings_of(record: Record) -> Settings:
    """The settings that a record names."""
    kept, interval = record.guidance, record.guidance_interval
    width, height = record.size
    edit: dict[str, Any] = {}
    if record.edit is not None:
        width = height = max(record.size)  # of the square that the picture was in
        said = {name: getattr(record.edit, key) for key, name in {**EDIT_SETTINGS, **INSTRUCTED}.items()}
        edit = {name: value for name, value in said.items() if value is not None}
    return Settings(
        steps=tuple(record.steps) if isinstance(record.steps, list) else record.steps,
        guidance_scale=record.guidance_scale,
        sampler=record.sampler,
        eta=record.eta,
        height=height,
        width=width,
        seed=record.seed,
        guidance=None
        if kept is None
        else tuple(Guidance(each.kind, each.text_scale, each.neighbor_scale, each.eta) for each in kept),
        guidance_interval=None if interval is None else (interval[0], interval[1]),
        enlargement=None if record.enlargement is None else Enlargement(**record.enlargement.model_dump()),
        references=None if record.references is None else _reference_settings(record.references),
        tokens=None if record.tokens is None else TokenSampling(**record.tokens.model_dump()),
        patches=None if record.patches is None else _patch_decoding(record.patches),
        batch=record.batch if record.batch <= BATCH_BEFORE else None,
        **edit,
    )


def _as_before(settings: Settings, pipe: System) -> Settings:
    """`settings` of a record that says nothing of what `pipe` now has of its own: as it was before the model had it."""
    if settings.guidance_interval is None and pipe.defaults.guidance_interval is not None:
        settings = replace(settings, guidance_interval=(0.0, 1.0))
    if settings.enlargement is None and pipe.defaults.enlargement is not None:
        settings = replace(settings, enlargement=Enlargement())
    return settings


def _reference_settings(said: References) -> ReferenceSettings:
    """How a base attended to its references. Raises: BowerbirdError for values that do not go together."""
    values = {name: getattr(said, name) for name in REFERENCES}
    return ReferenceSettings(**{**values, "spans": tuple((first, last) for first, last in said.spans)})


def _patch_decoding(said: Patches) -> PatchDecoding:
    """The windows that a picture was drawn with. Raises: BowerbirdError where they are damaged."""
    parts = zip((said.codes, said.chances), ("<i4", "<f4"), strict=True)
    flat = [np.frombuffer(_whole(_bytes(text), 4 * said.width), kind) for text, kind in parts]
    codes, chances = flat[0].reshape(-1, said.width), flat[1].reshape(-1, said.width)
    if codes.shape != chances.shape or (codes < ABSENT).any() or not ((chances >= 0) & (chances <= 1)).all():
        raise _damaged("patches: no codes with a probability each")
    settings = PatchSettings(weight=said.weight, neighbors=said.neighbors, temperature=said.temperature)
    trace = Trace(codes.astype(np.int32), chances.astype(np.float32))
    return PatchDecoding(settings, cache.key(trace.codes, trace.chances), trace, said.where)


def _whole(data: bytes, size: int) -> bytes:
    if not data or len(data) % size:
        raise _damaged(f"patches: {len(data)} bytes in rows of {size}")
    return data


def source_of(record: Record) -> Image.Image | None:
    """The picture that a record's edit started from, None where it was none. Raises: BowerbirdError when it is
    damaged."""
    if record.edit is None:
        return None
    return _decoded([record.edit.source], background=None if record.edit.fills else "white")[0]


def _check_adapter(record: Record, pipe: System) -> None:
    """Raises: MismatchError where a base takes references by another adapter than the record names, or is changed by
    other LoRAs."""
    said = None if record.references is None else record.references.adapter
    every = pipe.record_facts(None, None)
    facts = every.get("references", {})
    own = facts.get("adapter")
    if said is not None and (own is None or own["hash"] != said.hash):
        raise MismatchError(
            f"the picture was generated with the adapter {said.name!r} ({said.hash}), and"
            f" {'none is given' if own is None else own['name'] + ' is another'}; give that file (`adapter`)"
        )
    asked = record.loras if record.references is None else record.references.loras
    given = facts.get("loras", every.get("loras", []))
    if [(each.hash, each.scale) for each in asked] != [(each["hash"], each["scale"]) for each in given]:
        wanted = ", ".join(f"{each.name}:{each.scale:g} ({each.hash})" for each in asked) or "no LoRA"
        there = ", ".join(f"{each['name']}:{each['scale']:g} ({each['hash']})" for each in given) or "none"
        raise MismatchError(f"the picture was generated with {wanted}, and given is {there}; give the same (`lora`)")


def regenerate(
    pipe: System, record: Mapping[str, Any], *, sampler: str | None = None, on_step: OnStep | None = None
) -> tuple[Image.Image, Neighbors]:
    """Generate the picture of `record` again; `sampler` in place of the one it names.

    Raises: MismatchError when the model is not the one that generated it; BowerbirdError when the record is damaged or
    out of bounds.
    """
    found = parse_record(record)
    own = pipe.number_format
    if found.dtype != own:
        raise MismatchError(
            f"the picture was generated in {found.dtype}, this model computes in {own}; open it with"
            f" `dtype` {found.dtype} to generate it again"
        )
    _check_adapter(found, pipe)
    there = pipe.fingerprint()
    if found.model.fingerprint != there:
        raise MismatchError(
            f"the picture was generated by model {found.model.name!r} ({found.model.fingerprint}), this one is"
            f" {there}; give that model"
        )
    trained = max(pipe.capabilities.sizes)
    steps = found.steps if isinstance(found.steps, int) else sum(found.steps) // len(found.steps)
    larger = max(1.0, found.size[0] * found.size[1] / trained**2)
    if max(found.size) > MOST_TIMES * trained or steps * larger > MOST_STEPS:
        raise _damaged(
            f"size: {found.size[0]} x {found.size[1]} pixels in {steps} steps, of a model trained at {trained}"
        )
    hits, settings, source = neighbors_of(found), settings_of(found), source_of(found)
    settings = _as_before(settings, pipe)
    if sampler is not None:
        settings = replace(settings, sampler=sampler)
    elif settings.sampler not in pipe.capabilities.samplers:  # a name in a stranger's file loads no code
        raise BowerbirdError(
            f"the record names the sampler {settings.sampler!r}, which is not one of {type(pipe).__name__}'s; pass"
            " sampler= to use it all the same"
        )
    return generate(pipe, hits, settings, sources=None if source is None else [source], on_step=on_step)[0], hits
