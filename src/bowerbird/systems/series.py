"""Pictures of many jobs into one folder: the model is loaded once, batches go across jobs, and what is there is kept.

A picture is the same to the last bit as if its job were the only one. Each is written whole when its batch is done,
with a key of all that it depends on in its record; started again, after a kill or with lines changed, the pictures
whose key is the same are not generated again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bowerbird.core import provenance
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import Progress
from bowerbird.core.text import to_json
from bowerbird.core.types import Neighbors
from bowerbird.systems import generation, jobs, output, records, refinement
from bowerbird.systems.jobs import Job, Prepared
from bowerbird.systems.refinement import RefinedPictures

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System
    from bowerbird.systems.content_credentials import Signer
    from bowerbird.systems.grounded.critic.protocol import Critic
    from bowerbird.systems.grounded.pipeline import ReferencePipeline

KEY = "job"
"""The entry of a record that holds its picture's key."""


@dataclass(frozen=True)
class Finished:
    """Pictures after a look at them; see `evaluation.copies.guard.Guarded`."""

    images: Sequence[Image.Image]
    hits: Neighbors
    seeds: Sequence[int]
    copies: Sequence[dict[str, Any] | None]


Finish = Callable[[list[Any], Neighbors, generation.Settings, list[int]], Any]
"""From images, their neighbors, settings and seeds to `Finished`, or what has its attributes."""


@dataclass(frozen=True)
class _Picture:
    """One picture of a series: picture `at` of the job with number `job`."""

    job: int
    at: int
    path: Path
    key: str


@dataclass(frozen=True)
class Series:
    """What came of a series: all pictures in their order, how many of them were there before, and of the new ones a
    line for each that is a near copy of a neighbor, and `notes` on how neighbors were found, what a critic lacks, and
    what is far from the model's training."""

    paths: list[Path]
    kept: int
    near_copies: list[str]
    notes: list[str]


Elsewhere = Callable[[list[list[str]]], Series]
"""Generates the pictures of these names, group by group, into the same folder by `run` with `only`, on whatever
machines; what came of all of them."""


def run(
    pipe: System,
    model: str,
    kb: KnowledgeBase | None,
    work: Sequence[Job],
    out: Path,
    *,
    finish: Finish,
    how: str = "",
    signer: Signer | None = None,
    only: Collection[str] | None = None,
    elsewhere: Elsewhere | None = None,
    progress: Progress | None = None,
) -> Series:
    """Generate the pictures of all jobs into `out`: `000.png` …, `generation.jsonl`, `sheet.png`.

    `finish` looks at each batch, and `how` names what it does. `signer` gives each Content Credentials. `only`: names
    of the pictures to generate; then no list and no sheet is written. `elsewhere`: who generates, in place of this
    process. Every job is prepared before anything is generated. Raises: BowerbirdError when a job cannot be done, or
    `out` holds something else.
    """
    how = how if signer is None else f"{how}, signed by {signer.fingerprint}"
    pictures = _plan(pipe, model, kb, work, out, how)
    lines = _there(out, pictures)
    missing = [p for p in pictures if p.path.name not in lines and (only is None or p.path.name in only)]
    prepared = _prepare(pipe, kb, work, sorted({picture.job for picture in missing}))
    out.mkdir(parents=True, exist_ok=True)
    if missing:  # they are of another list, or of this one before it was whole
        for name in ("generation.jsonl", "sheet.png"):
            (out / name).unlink(missing_ok=True)
    near_copies: list[str] = []
    warned: Counter[str] = Counter()
    kept, fingerprint = len(lines), pipe.fingerprint() if missing else ""
    if progress is not None:
        progress(kept, len(pictures))
    if elsewhere is not None and missing:
        size = generation.batch_size(pipe, next(iter(prepared.values())).settings)
        names = [picture.path.name for picture in missing]
        found = elsewhere([names[at : at + size] for at in range(0, len(names), size)])
        lines, near_copies = _there(out, pictures), found.near_copies
        if lost := [name for name in names if name not in lines]:
            raise BowerbirdError(f"{out}: {lost[0]} was not written; is the folder the same one on every machine?")
        missing = []
    notes = [f"prompt {n + 1}: {note}" for n in prepared for note in jobs.notes(prepared[n], work[n])]
    for batch, settings, drawn in _draw(pipe, kb, work, prepared, missing):
        seeds = [work[picture.job].seed + picture.at for picture in batch]
        made = finish(drawn.images, drawn.hits, settings, seeds)
        for i, picture in enumerate(batch):
            refined = None if drawn.records is None else drawn.records[i]
            if refined is not None and (lacks := refinement.say_missing(refined)):
                notes.append(f"{picture.path.name}: {lacks}")
            record = records.generation_records(
                pipe,
                model,
                None if jobs.stands_alone(work[picture.job], has_kb=kb is not None) else kb,
                made.hits.rows([i]),
                [made.images[i]],
                settings,
                prepared[picture.job].request,
                picture_seeds=[made.seeds[i]],
                copies=[made.copies[i]],
                refinements=None if refined is None else [refined],
                fingerprint=fingerprint,
            )[0] | {KEY: picture.key}
            output.save(made.images[i], picture.path, record, made.hits.rows([i]), signer=signer)
            lines[picture.path.name] = output.line(picture.path, record)
            warned.update(record.get("warnings", ()))
            if near_copy := records.say_near_copy(record):
                near_copies.append(f"{picture.path.name} {near_copy}")
        if progress is not None:
            progress(len(lines), len(pictures))
    if only is None:
        output.write_lines(out, [lines[picture.path.name] for picture in pictures])
        own = [work[picture.job].images or work[picture.job].references for picture in pictures]
        output.write_sheet(out, [picture.path for picture in pictures], own, kb)
    notes += [f"{count} of {len(pictures)} pictures: {line}" for line, count in warned.items()]
    return Series([picture.path for picture in pictures], kept, sorted(near_copies), notes)


def _plan(
    pipe: System, model: str, kb: KnowledgeBase | None, work: Sequence[Job], out: Path, how: str
) -> list[_Picture]:
    """Every picture of the series, in order. Its key is a hash of the job, the model, the knowledge base and `how`."""
    base = None if kb is None else [kb.version, kb.encoder_fingerprint, kb.manifest.get("token"), *kb.credit]
    facts = [records.model_name(model), pipe.fingerprint(), str(pipe.dtype), base, how]
    plan: list[_Picture] = []
    for number, job in enumerate(work):
        asked = asdict(replace(job, n=1))  # another picture of a job does not change this one
        for name in ("images", "references"):
            asked[name] = [_hash_file(path) for path in getattr(job, name)]
        for at in range(job.n):
            key = hashlib.sha256(to_json([facts, asked, at]).encode()).hexdigest()[:16]
            plan.append(_Picture(number, at, out / f"{len(plan):03d}.png", key))
    return plan


def _hash_file(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BowerbirdError(f"{path}: cannot be read ({error.strerror}); give the path of a picture file") from error


def _there(out: Path, pictures: Sequence[_Picture]) -> dict[str, str]:
    """The lines of the pictures that are complete in `out`, by file name.

    Raises: BowerbirdError when `out` holds what no series left there, or pictures beyond this one's.
    """
    if out.exists() and not out.is_dir():
        raise BowerbirdError(f"{out}: is a file; give a folder as --out")
    wanted, found, foreign = {picture.path.name: picture for picture in pictures}, {}, []
    for path in sorted(out.iterdir()) if out.is_dir() else ():
        if path.name in ("generation.jsonl", "sheet.png") or path.name.startswith("."):
            continue
        record = _record(path) if path.suffix == ".png" else None
        if record is None or KEY not in record:
            foreign.append(path.name)
        elif path.name not in wanted:
            raise BowerbirdError(
                f"{out}: {path.name} is of a longer list of prompts, this one has {len(pictures)} pictures; remove it,"
                " or give another --out"
            )
        elif record[KEY] == wanted[path.name].key:
            found[path.name] = output.line(path, record)
    if foreign:
        raise BowerbirdError(
            f"{out}: holds {foreign[0]}, which no list of prompts left there; give a new folder, or the one of a list"
            " that was interrupted, as --out"
        )
    return found


def _record(path: Path) -> Mapping[str, Any] | None:
    try:
        return provenance.read_png(path)
    except BowerbirdError:
        return None


def _prepare(
    pipe: System, kb: KnowledgeBase | None, work: Sequence[Job], numbers: Sequence[int]
) -> dict[int, Prepared]:
    """The jobs with these `numbers`, prepared; an error says which prompt it is about."""
    prepared = {}
    for number in numbers:
        try:
            prepared[number] = jobs.prepare(pipe, kb, work[number])
        except BowerbirdError as error:
            raise type(error)(f"prompt {number + 1} of {len(work)}: {error}") from error
    return prepared


def _draw(
    pipe: System,
    kb: KnowledgeBase | None,
    work: Sequence[Job],
    prepared: Mapping[int, Prepared],
    missing: Sequence[_Picture],
) -> Iterator[tuple[list[_Picture], generation.Settings, RefinedPictures]]:
    """The pictures that are missing: in batches, then one by one those that a critic looks at."""
    plain = [picture for picture in missing if work[picture.job].critic is None]
    for batch, hits, settings in _batches(pipe, prepared, plain):
        seeds = [work[picture.job].seed + picture.at for picture in batch]
        images = generation.generate(pipe, hits, settings, picture_seeds=seeds)
        yield batch, settings, RefinedPictures(images, hits)
    critics: dict[Any, Critic] = {}
    for picture in missing:
        job, one = work[picture.job], prepared[picture.job]
        if job.critic is None or kb is None:
            continue
        by = (job.critic, one.choice)
        if by not in critics:
            critics[by] = refinement.load_critic(job.critic, kb, one.choice, device=str(pipe.device))
        one = replace(one, settings=replace(one.settings, seed=job.seed + picture.at))
        base = cast("ReferencePipeline", pipe)
        found = refinement.refine_job(base, kb, replace(job, n=1), one, critic=critics[by])
        yield [picture], one.settings, found


def _batches(
    pipe: System, prepared: Mapping[int, Prepared], missing: Sequence[_Picture]
) -> Iterator[tuple[list[_Picture], Neighbors, generation.Settings]]:
    """The pictures that are missing, as many at once as the network takes, of jobs that can go together: of equal
    settings and shapes, from one collection."""
    open_batches: dict[Any, list[_Picture]] = {}
    for picture in missing:
        one = prepared[picture.job]
        hits, settings = one.hits, replace(one.settings, seed=0)
        kind = (settings, hits.k, hits.embeddings.shape[-1], hits.weights is None, bool(hits.queries), hits.load_images)
        batch = open_batches.setdefault(kind, [])
        batch.append(picture)
        if len(batch) == generation.batch_size(pipe, settings):
            yield _batch(prepared, open_batches.pop(kind))
    for batch in open_batches.values():
        yield _batch(prepared, batch)


def _batch(
    prepared: Mapping[int, Prepared], batch: list[_Picture]
) -> tuple[list[_Picture], Neighbors, generation.Settings]:
    hits = Neighbors.stack([prepared[picture.job].hits.rows([picture.at]) for picture in batch])
    return batch, hits, prepared[batch[0].job].settings
