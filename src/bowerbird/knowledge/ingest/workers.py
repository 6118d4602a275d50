"""Embedding on all cores: one process a core with one thread each, which beats one network on all of them, and gives
the same bits.

An encoder works through its pictures in batches of its own size from the start of each piece of work, so what a piece
gives depends on neither the number of workers nor their order.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.data.item import SourceItem
from bowerbird.encoders.load import place_of
from bowerbird.knowledge.ingest import prepare
from bowerbird.knowledge.ingest.prepare import Look, Prepared

if TYPE_CHECKING:
    from bowerbird.core.types import Encoder

_encoder: Encoder | None = None  # of a worker process
_trouble = ""  # why it has none


def in_order(work: Iterable[list[SourceItem]], encoder: Encoder, look: Look, workers: int) -> Iterator[Prepared]:
    """`ingest.prepare` of each piece of `work`, in its order; with `workers` 0 in this process.

    Worker processes load the encoder by its name. Raises: MismatchError when that gives them another encoder.
    """
    if not workers:
        yield from _one_ahead(work, encoder, look)
        return
    under_way: deque[Future[Prepared]] = deque()
    try:
        pickle.dumps(look)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BowerbirdError(
            f"the filter {prepare.name_of(look.filter_fn)} cannot be handed to worker processes; give a function of a"
            " module, or no workers"
        ) from error
    context = multiprocessing.get_context("spawn")
    ending, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _start, (place_of(encoder), encoder.fingerprint, ending))
    try:
        for items in work:
            under_way.append(pool.submit(_prepare, items, look))
            if len(under_way) > 2 * workers:  # a bounded number of pictures waits in memory
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        raise BowerbirdError(
            "a worker process ended (out of memory, or a script that is no file); run it again with fewer workers or"
            " none"
        ) from error
    except BaseException:
        held.close()  # what the workers are at is of no use any more, and may take minutes
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        held.close()
        ending.close()


def _one_ahead(work: Iterable[list[SourceItem]], encoder: Encoder, look: Look) -> Iterator[Prepared]:
    """In this process: while some pictures are embedded and stored the next are read and decoded."""

    def portions() -> Iterator[tuple[prepare.Decoded, bool]]:
        for items in work:
            pieces = prepare.pieces(items) or [[]]
            for number, piece in enumerate(pieces, 1):
                yield prepare.decode(piece, encoder, look), number == len(pieces)

    coming, parts = portions(), []
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(next, coming, None)
        while (here := following.result()) is not None:
            following = ahead.submit(next, coming, None)
            parts.append(prepare.embed(here[0], encoder, look))
            if here[1]:
                yield prepare.join(parts, encoder)
                parts = []


def _end_with(ending: Connection) -> None:
    """End this process when the other end of the pipe closes: with the process that started it, however that ends, or
    before. Waiting for work it would live on, and hold the output that somebody reads."""
    multiprocessing.connection.wait([ending])
    os._exit(1)


def _start(name: str, fingerprint: str, ending: Connection) -> None:
    global _encoder, _trouble  # a worker has no other place to keep them
    threading.Thread(target=_end_with, args=(ending,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all, and the first process says what to do
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the libraries of numbers are loaded, which they are not yet
    from bowerbird import encoders
    from bowerbird.core import plugins

    try:  # what the first process has, it has on this machine
        _encoder = encoders.load(name) if plugins.is_path(name) else encoders.load_recorded(name, fingerprint)
        if _encoder.fingerprint != fingerprint:
            _trouble = (
                f"encoder {name!r} is {_encoder.fingerprint} in a worker process, and {fingerprint} here; give it as a"
                " directory, or no workers"
            )
    except BowerbirdError as error:  # raised here it would only end the process
        _trouble = f"{error}; worker processes load an encoder by its name"


def _prepare(items: list[SourceItem], look: Look) -> Prepared:
    if _encoder is None or _trouble:
        raise MismatchError(_trouble)
    return prepare.prepare(items, _encoder, look)
