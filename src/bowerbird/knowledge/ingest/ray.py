"""Embedding on a Ray cluster: each source is one task, and its parts are the same files as anywhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.encoders.load import place_of
from bowerbird.knowledge.ingest import parts, prepare
from bowerbird.knowledge.ingest.parts import Full
from bowerbird.knowledge.ingest.prepare import Choice, Look

if TYPE_CHECKING:
    from bowerbird.core.types import Encoder


def on_ray(
    groups: Sequence[Sequence[str]],
    out: Path,
    encoder: Encoder,
    choice: Choice,
    look: Look,
    full: Full,
    address: str,
) -> None:
    """Make the missing parts of all sources in `out`. Raises: BowerbirdError when Ray is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray  # type: ignore[import-not-found, unused-ignore]
        import ray.data  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise BowerbirdError("embedding on many machines needs Ray: pip install 'bowerbird[ray]'") from error
    mine = not ray.is_initialized()
    if mine:
        ray.init(
            address=address,
            include_dashboard=None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
        )
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        work = [{"number": number, "sources": list(group)} for number, group in enumerate(groups)]
        task = partial(
            _one_source,
            out=str(out),
            name=place_of(encoder),
            fingerprint=encoder.fingerprint,
            choice=choice,
            look=look,
            full=full,
        )
        ray.data.from_items(work, override_num_blocks=len(work)).map(task, num_cpus=1).take_all()
    finally:
        if mine:
            ray.shutdown()


def _one_source(
    row: dict[str, Any], *, out: str, name: str, fingerprint: str, choice: Choice, look: Look, full: Full
) -> dict[str, Any]:
    """The missing parts of one source, made where this runs."""
    from bowerbird import encoders

    encoder = encoders.load(name)
    if encoder.fingerprint != fingerprint:
        raise MismatchError(
            f"encoder {name!r} is {encoder.fingerprint} on this machine of the cluster, and {fingerprint} where it was"
            " asked for"
        )
    made = 0
    for path, items, mark, _ in parts.missing(row["sources"], int(row["number"]), Path(out), choice, full):
        if items is not None:
            parts.write(path, prepare.prepare(items, encoder, look), encoder, mark)
            made += 1
    return {"number": row["number"], "parts": made}
