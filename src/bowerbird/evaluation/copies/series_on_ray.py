"""A file of prompts on a Ray cluster: each machine opens the model once and generates groups of pictures into the one
folder, which all of them see. What is there already is kept, as everywhere.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.systems import series
from bowerbird.systems.jobs import Job
from bowerbird.systems.reference_settings import Adapter


@dataclass(frozen=True)
class Task:
    """What every machine is sent: `place` of the model and of the knowledge base, as they are called on all of them."""

    model: str
    device: str
    dtype: str
    adapter: Adapter | None
    kb: str | None
    encoder: str | None
    work: Sequence[Job]
    out: Path
    policy: str


class Maker:
    """One process that generates; made where it runs."""

    def __init__(self, task: Task) -> None:
        from bowerbird.core.quiet import quiet_libraries
        from bowerbird.core.tensors import pick_device
        from bowerbird.knowledge.base import KnowledgeBase
        from bowerbird.systems.loading import load_pipeline

        quiet_libraries()
        self.task = task
        self.kb = None if task.kb is None else KnowledgeBase.open(task.kb, encoder=task.encoder)
        self.pipe = load_pipeline(task.model, pick_device(task.device), task.dtype, task.adapter)

    def make(self, names: Sequence[str]) -> series.Series | str:
        """What came of a group of pictures, or why it is refused."""
        from bowerbird.evaluation.copies import guard

        task = self.task

        def finish(images: Any, hits: Any, settings: Any, seeds: list[int]) -> guard.Guarded:
            return guard.guard(self.pipe, images, hits, settings, picture_seeds=seeds, policy=task.policy)

        try:
            return series.run(
                self.pipe, task.model, self.kb, task.work, task.out, finish=finish, how=task.policy, only=set(names)
            )
        except BowerbirdError as error:
            return str(error)


def generate(groups: Sequence[Sequence[str]], task: Task, address: str) -> series.Series:
    """The pictures of all groups, by as many processes as the cluster has processors, or GPUs for `cuda`.

    Raises: BowerbirdError when Ray is not installed, no cluster answers, one of its processes ends, or refuses.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise BowerbirdError("generating on many machines needs Ray: pip install 'bowerbird[ray]'") from error
    kept = {key: value for key in ("PYTHONPATH", "BOWERBIRD_CACHE") if (value := os.environ.get(key))}
    mine = not ray.is_initialized()
    try:
        if mine:
            quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
            ray.init(address=address, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", **kept}}, **quiet)
        gpu = task.device.startswith("cuda")
        there = int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1))
        actor = ray.remote(num_cpus=1, num_gpus=int(gpu))(Maker)
        makers = [actor.remote(task) for _ in range(max(1, min(there, len(groups))))]
        coming = [makers[n % len(makers)].make.remote(list(group)) for n, group in enumerate(groups)]
        found = ray.get(coming)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise BowerbirdError(
            f"--ray {address}: the cluster failed ({type(error).__name__}); what is done is kept, and the same"
            " command goes on"
        ) from error
    finally:
        if mine:
            ray.shutdown()
    for answer in found:
        if isinstance(answer, str):
            raise BowerbirdError(answer)
    return series.Series([], 0, sorted({line for answer in found for line in answer.near_copies}), [])
