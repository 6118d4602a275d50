"""What `bowerbird generate` does once it is known what to generate: one job, a list of them, or a record again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.cli.common import open_model, say, show_progress, with_flags
from bowerbird.cli.pictures import print_result, say_fewer, say_warnings, warn_of_copies
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import in_shell

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System
    from bowerbird.systems.content_credentials import Signer
    from bowerbird.systems.jobs import Job, Prepared
    from bowerbird.systems.reference_settings import Adapter
    from bowerbird.systems.refinement import RefinedPictures


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a model runs and reads from, and where its pictures go."""

    kb: str | None
    encoder: str | None
    device: str
    dtype: str
    adapter: Adapter | None
    out: Path
    on_copy: str
    signer: Signer | None
    as_json: bool

    def open_kb(self) -> KnowledgeBase | None:
        """The knowledge base, where one is given."""
        from bowerbird.knowledge.base import KnowledgeBase

        return None if self.kb is None else KnowledgeBase.open(self.kb, encoder=self.encoder)


@dataclass(frozen=True)
class One:
    """A job with what it is generated with."""

    model: str
    job: Job
    pipe: System
    kb: KnowledgeBase | None
    prepared: Prepared


def prepare_one(model: str, job: Job, run: Run) -> One:
    """Open what a job needs and find its neighbors, with what there is to say of them."""
    from bowerbird.systems import jobs, unfamiliar
    from bowerbird.systems.mixture import mixture_hint

    jobs.check(job, has_kb=run.kb is not None)
    opened = run.open_kb()
    pipe = open_model(model, run.device, run.dtype, run.adapter)
    prepared = jobs.prepare(pipe, opened, job)
    if opened is not None:
        say_fewer(pipe, opened, job.k)
    say_warnings(model, unfamiliar.find_warnings(pipe, prepared.hits, prepared.settings))
    asked = job.prompt if job.k is None and job.items is None else None
    if opened is not None and asked and (hint := mixture_hint(opened, prepared.hits, asked)):
        say(with_flags(hint))
    return One(model, job, pipe, opened, prepared)


def finish_one(one: One, made: RefinedPictures, run: Run, *, best_of: int, seeds: list[int] | None) -> None:
    """Say how a job's neighbors were found, check its pictures for copies, and write them. `seeds`: of those chosen
    from `best_of`."""
    from bowerbird.evaluation.copies import guard
    from bowerbird.systems import jobs, output, records, refinement

    for note in jobs.notes(one.prepared, one.job):
        say(note)
    settings = one.prepared.settings
    kept = guard.guard(one.pipe, made.images, made.hits, settings, picture_seeds=seeds, policy=run.on_copy)
    made_records = records.generation_records(
        one.pipe,
        one.model,
        one.kb,
        kept.hits,
        kept.images,
        settings,
        one.prepared.request | ({"best_of": best_of} if best_of > 1 else {}),
        picture_seeds=kept.seeds,
        copies=kept.copies,
        refinements=made.records,
    )
    paths = output.write(kept.images, made_records, kept.hits, run.out, signer=run.signer)
    warn_of_copies(made_records, paths)
    for path, record in zip(paths, made.records or (), strict=False):
        if lacks := refinement.say_missing(record):
            say(f"{path.name}: {lacks}")
    print_result(paths, run.out, run.as_json)


def generate_series(model: str, work: Sequence[Job], run: Run, *, ray: str | None) -> None:
    """The pictures of every job with one model; those that are there already are kept."""
    from bowerbird.evaluation.copies import guard, series_on_ray
    from bowerbird.systems import series

    opened = run.open_kb()
    pipe = open_model(model, run.device, run.dtype, run.adapter)

    def finish(images: Any, hits: Any, settings: Any, seeds: list[int]) -> guard.Guarded:
        return guard.guard(pipe, images, hits, settings, picture_seeds=seeds, policy=run.on_copy)

    def spread(groups: list[list[str]]) -> series.Series:
        place = str(Path(model).absolute()) if Path(model).is_dir() else model
        base = None if run.kb is None else run.kb if "://" in run.kb else str(Path(run.kb).absolute())
        how = (run.device, run.dtype, run.adapter, base, run.encoder)
        task = series_on_ray.Task(place, *how, work, run.out.absolute(), run.on_copy)
        return series_on_ray.generate(groups, task, str(ray))

    with show_progress("generating", run.as_json, sum(job.n for job in work)) as progress:
        made = series.run(
            pipe,
            model,
            opened,
            work,
            run.out,
            finish=finish,
            how=run.on_copy,
            signer=run.signer,
            elsewhere=None if ray is None else spread,
            progress=progress,
        )
    if made.kept:
        say(f"{made.kept} of {len(made.paths)} pictures were there already and are kept")
    for line in made.notes:
        say(line)
    for line in made.near_copies:
        say(f"{line}; --on-copy drop or resample avoids that")
    print_result(made.paths, run.out, run.as_json)


def regenerate(source: Path, model: str | None, run: Run, *, sampler: str | None) -> None:
    """The picture of a PNG again, as its record says. Raises: BowerbirdError for a model that is not named."""
    from bowerbird.core import provenance
    from bowerbird.models.weights import bundled
    from bowerbird.systems import output, regeneration

    record = provenance.read_png(source)
    found = regeneration.parse_record(record)
    name = found.model.name
    if model is None and bundled(name) is None:
        raise BowerbirdError(
            f"{source}: was generated by {name!r}, which is not bundled; a record opens and fetches no other model by"
            f" itself, so give it: bowerbird generate MODEL --from {in_shell(source)} --out {in_shell(run.out)}"
        )
    pipe = open_model(model or name, run.device, found.dtype, run.adapter)
    image, hits = regeneration.regenerate(pipe, record, sampler=sampler)
    edited = regeneration.source_of(found)
    sources = None if edited is None else [edited]
    paths = output.write([image], [record], hits, run.out, sources=sources, signer=run.signer)
    print_result(paths, run.out, run.as_json)
