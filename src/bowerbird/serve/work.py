"""What a worker does with a job: prepare, generate, look for near copies, write. Each step is a call of the library.

A job is an `Order`; what is said of it on the way goes to `Tell`.
"""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from bowerbird.core.disk import disk_code
from bowerbird.core.errors import BowerbirdError
from bowerbird.serve.notes import notes_of
from bowerbird.serve.pipelines import Workbench

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from bowerbird.evaluation.copies.guard import Guarded
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System
    from bowerbird.systems.generation import Step
    from bowerbird.systems.grounded.pipeline import ReferencePipeline
    from bowerbird.systems.jobs import Job, Prepared

Tell = Callable[..., None]
"""`tell(event, id, blobs=(), **facts)`: to the web process."""
PREVIEW_EDGE = 256


class Cancelled(BowerbirdError):
    """Nobody wants what is being generated any more."""


@dataclass
class Order:
    """One job as the web process sends it. `variants`: of a comparison, in place of `job`, `kb` and `model`."""

    id: str
    kind: str
    model: str
    out: Path
    kb: str | None = None
    job: dict[str, Any] = field(default_factory=dict)
    variants: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    on_copy: str = "warn"
    previews: bool | int = True
    cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.out = Path(self.out)


@dataclass
class Ready:
    """An order whose neighbors are known."""

    order: Order
    pipe: System
    kb: KnowledgeBase | None
    job: Job
    prepared: Prepared
    sources: list[Image.Image] | None = None
    refinements: list[dict[str, Any]] | None = None

    @property
    def seeds(self) -> list[int]:
        """Of its pictures."""
        return [self.job.seed + i for i in range(len(self.prepared.hits))]


def job_of(fields: dict[str, Any]) -> Job:
    """A library's job of JSON fields."""
    from bowerbird.systems.jobs import Job

    made: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    for name in ("images", "references"):
        made[name] = tuple(map(Path, made.get(name) or ()))
    return Job(**made)


class Failing:
    """A block whose end, good or bad, is reported for these orders."""

    def __init__(self, order: Order | Sequence[Order], tell: Tell) -> None:
        self.orders = [order] if isinstance(order, Order) else list(order)
        self.tell = tell

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None:
            return False
        for order in self.orders:
            if isinstance(error, Cancelled) or order.cancelled.is_set():
                self.tell("cancelled", order.id)
            elif isinstance(error, BowerbirdError):
                self.tell("failed", order.id, message=str(error), ours=False)
            elif isinstance(error, Exception):
                import traceback

                traceback.print_exception(error)
                code = disk_code(error)
                cause = type(error).__name__ if code is None else os.strerror(code)
                self.tell("failed", order.id, message=f"the worker failed ({cause})", ours=True)
        return isinstance(error, Exception)


# -- generating and editing ------------------------------------------------------------------------------------------


def prepare(bench: Workbench, order: Order) -> Ready:
    """Model, knowledge base and neighbors of an order. Raises: BowerbirdError."""
    from bowerbird.systems import jobs

    started = perf_counter()
    job, path = job_of(order.job), order.kb
    pipe = bench.models.get(order.model)
    opened = None if path is None or jobs.stands_alone(job, has_kb=path is not None) else bench.knowledge_base(path)
    jobs.check(job, has_kb=opened is not None)
    if order.kind == "edit":
        return _prepare_edit(order, pipe, opened, job)
    ready = Ready(order, pipe, opened, job, jobs.prepare(pipe, opened, job))
    order.options["retrieve"] = perf_counter() - started
    return ready


def _prepare_edit(order: Order, pipe: System, kb: KnowledgeBase | None, job: Job) -> Ready:
    from bowerbird.core import images
    from bowerbird.systems import jobs

    can, options = pipe.capabilities, order.options["edit"]
    if not can.starts_from_image or not (can.edits or not options["show_source"]):
        raise BowerbirdError("this model does not edit pictures; choose one that does, as tiny-knn")
    if can.instructs and (job.images or not options["show_source"]):
        raise BowerbirdError("this model edits by an instruction: give it as prompt, without reference and img2img")
    if can.instructs and (options["strength"] != 1 or options["preservation"] is not None):
        raise BowerbirdError("this model edits by an instruction: image_guidance says how much of the picture stays")
    if options["image_guidance"] is not None and not can.instructs:
        raise BowerbirdError("image_guidance is of models that edit by an instruction; leave it out")
    pictures = [images.read(path) for path in order.files]
    prepared = jobs.prepare(pipe, kb, replace(job, n=job.n * len(pictures)))
    how = {key: value for key, value in options.items() if value is not None}
    prepared = replace(prepared, settings=replace(prepared.settings, **how))
    prepared.request["edited"] = list(order.files)
    return Ready(order, pipe, kb, job, prepared, [picture for picture in pictures for _ in range(job.n)])


def run_together(bench: Workbench, orders: Sequence[Order], tell: Tell) -> None:
    """Generate or edit, several orders in one pass of the network where they are alike."""
    groups: dict[Any, list[Ready]] = {}
    for order in orders:
        with Failing(order, tell):
            if order.cancelled.is_set():
                raise Cancelled
            tell("started", order.id)
            ready = prepare(bench, order)
            alone = order.kind == "edit" or ready.job.critic is not None
            groups.setdefault(id(order) if alone else _kind(ready), []).append(ready)
    for group in groups.values():
        with Failing([ready.order for ready in group], tell):
            _generate_group(bench, group, tell)


def _kind(ready: Ready) -> tuple[Any, ...]:
    """What is alike of orders that go through the network together."""
    hits, settings = ready.prepared.hits, replace(ready.prepared.settings, seed=0)
    shape: tuple[Any, ...] = (
        hits.k,
        hits.embeddings.shape[-1],
        hits.weights is None,
        bool(hits.queries),
        hits.load_images,
    )
    if ready.pipe.capabilities.takes_references:  # a base reads references of other weights in a pass of their own
        regions = None if hits.regions is None else hits.regions[0].tobytes()
        shape = (*shape, hits.effective_weights[0].tobytes(), regions)
    return (ready.order.model, settings, shape)


def _generate_group(bench: Workbench, group: Sequence[Ready], tell: Tell) -> None:
    from bowerbird.core.types import Neighbors
    from bowerbird.evaluation.copies import guard
    from bowerbird.systems import generation

    pipe = group[0].pipe
    hits = Neighbors.stack([ready.prepared.hits for ready in group]) if len(group) > 1 else group[0].prepared.hits
    hits = hits.reading_once()
    sources = group[0].sources if len(group) == 1 else None
    for ready in group:  # neighbors are read and looked at while the network is at work
        ready.prepared = replace(ready.prepared, hits=replace(ready.prepared.hits, load_images=hits.load_images))
        bench.finishing.submit(guard.look_ahead, ready.prepared.hits, ready.order.on_copy)
    owners = [(ready, row) for ready in group for row in range(len(ready.prepared.hits))]
    batch = generation.batch_size(pipe, group[0].prepared.settings)
    started, looks = perf_counter(), _Looks()

    def on_step(step: Step) -> None:
        if all(ready.order.cancelled.is_set() for ready in group):
            raise Cancelled
        _tell_step(pipe, step, owners, math.ceil(len(owners) / batch), batch, tell, looks)

    if group[0].job.critic is not None:
        _refine(bench, group[0], tell)
        return
    made = generation.generate(
        pipe,
        hits,
        group[0].prepared.settings,
        sources=sources,
        picture_seeds=[seed for ready in group for seed in ready.seeds],
        on_step=on_step,
    )
    spent = perf_counter() - started
    bench.finishing.submit(int).result()  # one group behind, and not more
    at, last = 0, None
    for ready in group:
        count = len(ready.prepared.hits)
        share = spent * count / len(owners)
        last = bench.finishing.submit(_finish, bench, ready, made[at : at + count], tell, {"generate": share})
        at += count
    if last is not None and any(ready.order.on_copy in ("drop", "resample") for ready in group):
        last.result()  # which may generate again, and a pipeline does one thing at a time


class _Looks:
    """Whether there is time for a preview: those nobody counts on take a fifth of the time at most, however slow a
    decoder is."""

    def __init__(self) -> None:
        self.ended, self.took = perf_counter(), 0.0

    def take(self, pipe: System, latents: Tensor, *, due: bool) -> list[Image.Image]:
        """Pictures of what a step leaves; none where it is too soon, unless one is `due`."""
        started = perf_counter()
        if started - self.ended < 4 * self.took and not due:
            return []
        pictures = pipe.preview(latents)
        self.ended = perf_counter()
        self.took = self.ended - started
        return pictures


def _refine(bench: Workbench, ready: Ready, tell: Tell) -> None:
    """The pictures of one order with a critic."""
    from bowerbird.systems import refinement

    passes: dict[int, int] = {}
    started = perf_counter()

    def on_step(step: Step) -> None:
        if ready.order.cancelled.is_set():
            raise Cancelled
        count = passes[0] = passes.get(0, 0) + (step.step == 1)
        tell("step", ready.order.id, step=step.step, steps=step.steps, batch=count, batches=count)

    assert ready.kb is not None
    pipe = cast("ReferencePipeline", ready.pipe)
    made = refinement.refine_job(pipe, ready.kb, ready.job, ready.prepared, on_step=on_step)
    ready.prepared = replace(ready.prepared, hits=made.hits)
    ready.refinements = made.records
    bench.finishing.submit(_finish, bench, ready, made.images, tell, {"generate": perf_counter() - started}).result()


def _tell_step(
    pipe: System,
    step: Step,
    owners: Sequence[tuple[Ready, int]],
    batches: int,
    batch: int,
    tell: Tell,
    looks: _Looks,
) -> None:
    """The step to each order of the batch in hand, and a preview of each picture where it is wanted."""
    there = [owners[i] for i in step.pictures]
    orders = {ready.order.id: ready.order for ready, _ in there}
    for name in orders:
        tell("step", name, step=step.step, steps=step.steps, batch=step.pictures.start // batch + 1, batches=batches)
    wanted = [order.previews for order in orders.values() if order.previews and not order.cancelled.is_set()]
    if not wanted or step.step >= step.steps:
        return
    due = any(_is_due(count, step) for count in wanted)
    if not due and not any(count is True for count in wanted):
        return
    for (ready, row), picture in zip(there, looks.take(pipe, step.latents[: len(there)], due=due), strict=False):
        if ready.order.previews is True or _is_due(ready.order.previews, step):
            tell("preview", ready.order.id, [_png(picture)], index=row, step=step.step)


def _is_due(count: bool | int, step: Step) -> bool:
    """Whether one of `count` previews, evenly over the steps, is of this step."""
    if count is True or not count:
        return False
    return step.step * (count + 1) // step.steps > (step.step - 1) * (count + 1) // step.steps


def _png(picture: Image.Image) -> bytes:
    if max(picture.size) > PREVIEW_EDGE:
        picture.thumbnail((PREVIEW_EDGE, PREVIEW_EDGE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _finish(bench: Workbench, ready: Ready, images: list[Image.Image], tell: Tell, stages: dict[str, float]) -> None:
    """Look for near copies, write the folder, and say that it is done."""
    with Failing(ready.order, tell):
        if ready.order.cancelled.is_set():
            raise Cancelled
        _write(bench, ready, images, tell, stages)


def _write(bench: Workbench, ready: Ready, images: list[Image.Image], tell: Tell, stages: dict[str, float]) -> None:
    from bowerbird.systems import output

    started = perf_counter()
    kept, made = guarded(bench, ready, images, ready.order.on_copy)
    looked = perf_counter()
    output.write(kept.images, made, kept.hits, ready.order.out, sources=ready.sources)
    stages |= {"retrieve": ready.order.options.get("retrieve", 0.0), "guard": looked - started}
    stages["write"] = perf_counter() - looked
    pictures = [picture_facts(image, record) for image, record in zip(kept.images, made, strict=True)]
    notes = notes_of(ready.pipe, ready.kb, ready.job, ready.prepared, ready.refinements, ready.sources)
    tell("done", ready.order.id, pictures=pictures, notes=notes, stages=stages)


def guarded(
    bench: Workbench, ready: Ready, images: list[Image.Image], policy: str
) -> tuple[Guarded, list[dict[str, Any]]]:
    """Pictures after the look for near copies, and their records."""
    from bowerbird.evaluation.copies import guard
    from bowerbird.systems import records

    pipe, settings, hits = ready.pipe, ready.prepared.settings, ready.prepared.hits
    how: dict[str, Any] = {"sources": ready.sources, "picture_seeds": ready.seeds}
    kept = guard.guard(pipe, images, hits, settings, policy=policy, **how)
    how["picture_seeds"] = kept.seeds
    request, kb, copies = ready.prepared.request, ready.kb, kept.copies
    how |= {"copies": copies, "refinements": ready.refinements, "fingerprint": bench.fingerprint(pipe)}
    made = records.generation_records(pipe, ready.order.model, kb, kept.hits, kept.images, settings, request, **how)
    return kept, made


def picture_facts(image: Image.Image, record: dict[str, Any]) -> dict[str, Any]:
    """What the web process keeps of a picture."""
    copy = record.get("copy")
    near = copy is not None and copy["score"] > copy["threshold"]
    return {"width": image.width, "height": image.height, "seed": record["seed"], "near_copy": near}
