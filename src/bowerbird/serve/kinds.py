"""Every kind of order: those that generate or edit go together (`work.py`), the others one by one.

Each is a call of the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from bowerbird.serve.pipelines import Workbench
from bowerbird.serve.work import Cancelled, Failing, Order, Ready, Tell, guarded, picture_facts, prepare, run_together

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import Neighbors
    from bowerbird.systems.generation import Step


def run(bench: Workbench, orders: Sequence[Order], tell: Tell) -> None:
    """Do orders: several of one kind go through the network together where they can."""
    if orders[0].kind in ("generate", "edit"):
        run_together(bench, orders, tell)
        return
    bench.finishing.submit(int).result()  # what was generated before is written first
    for order in orders:
        with Failing(order, tell):
            {"compare": _compare, "check": _check, "regenerate": _regenerate}[order.kind](bench, order, tell)


def _compare(bench: Workbench, order: Order, tell: Tell) -> None:
    """The variants one after the other, each with the seeds of the others, and one sheet with a row a variant."""
    from bowerbird.core.contact_sheet import labeled_grid
    from bowerbird.core.outputs import output_directory
    from bowerbird.systems import generation, output

    tell("started", order.id)
    first = {"generate": 0.0}
    pictures: list[dict[str, Any]] = []
    rows: list[tuple[str, list[Image.Image | None], list[str]]] = []
    written: list[tuple[Image.Image, dict[str, Any], Neighbors]] = []
    parts = [replace(order, model=each["model"], kb=each["kb"], job=each["job"]) for each in order.variants]
    ready = [prepare(bench, part) for part in parts]  # all are refused, or none
    for number, one in enumerate(ready):
        started = perf_counter()

        def on_step(step: Step, number: int = number, one: Ready = one) -> None:
            if order.cancelled.is_set():
                raise Cancelled
            facts = {"batch": number + 1, "batches": len(ready)}
            tell("step", order.id, step=step.step, steps=step.steps, **facts)

        images = generation.generate(one.pipe, one.prepared.hits, one.prepared.settings, on_step=on_step)
        first["generate"] += perf_counter() - started
        kept, made = guarded(bench, one, images, "warn")
        pictures += [picture_facts(i, r) | {"variant": number} for i, r in zip(kept.images, made, strict=True)]
        rows.append((order.variants[number]["label"], list(kept.images), [""] * len(kept.images)))
        written += [(image, made[i], kept.hits.rows([i])) for i, image in enumerate(kept.images)]
    with output_directory(order.out, output.FILES) as folder:
        names = [folder / f"{i:03d}.png" for i in range(len(written))]
        for path, (image, record, hits) in zip(names, written, strict=True):
            output.save(image, path, record, hits)
        labeled_grid(rows).save(folder / "sheet.png", "PNG")
        output.write_lines(
            folder, [output.line(path, record) for path, (_, record, _) in zip(names, written, strict=True)]
        )
    tell("done", order.id, pictures=pictures, notes=[], stages=first)


def _check(bench: Workbench, order: Order, tell: Tell) -> None:
    """How like the items of a knowledge base, and their own neighbors, pictures are."""
    from bowerbird.evaluation import check

    tell("started", order.id)

    def progress(done: int, total: int | None = None, stage: str = "") -> None:
        if order.cancelled.is_set():
            raise Cancelled
        tell("progress", order.id, done=done, total=total, stage=stage)

    report = check.check_files(
        [Path(file) for file in order.files],
        [str(order.kb)],
        order.out,
        **order.options["check"],
        progress=progress,
        on_message=lambda line: None,
    )
    tell("done", order.id, pictures=[], report=report, notes=[], stages={})


def _regenerate(bench: Workbench, order: Order, tell: Tell) -> None:
    """The picture of a record again, bit for bit."""
    from bowerbird.core import provenance
    from bowerbird.systems import generation, output, regeneration

    tell("started", order.id)
    record = provenance.read_png(order.files[0])
    pipe = bench.models.get(order.model)
    started = perf_counter()

    def on_step(step: generation.Step) -> None:
        if order.cancelled.is_set():
            raise Cancelled
        tell("step", order.id, step=step.step, steps=step.steps, batch=1, batches=1)

    image, hits = regeneration.regenerate(pipe, record, on_step=on_step)
    source = regeneration.source_of(regeneration.parse_record(record))
    stages = {"generate": perf_counter() - started}
    output.write([image], [record], hits, order.out, sources=None if source is None else [source])
    tell("done", order.id, pictures=[picture_facts(image, record)], notes=[], stages=stages)
