"""Work for several processes: what depends on a number alone, made ahead and handed over in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

MadeT = TypeVar("MadeT")


def in_processes(make: Callable[[int], MadeT], numbers: Sequence[int], workers: int) -> Iterator[MadeT]:
    """`make` of each of `numbers`, in order, by so many processes, which are a few numbers ahead of whoever asks.

    What is made are tensors, or what holds tensors. The processes are forked: they see what this one holds, and
    `make` need not be picklable; it must not use a GPU.
    """
    from torch.utils.data import DataLoader, Dataset

    class Made(Dataset[MadeT]):
        """What torch's loader asks by number."""

        def __getitem__(self, number: int) -> MadeT:
            return make(number)

    yield from DataLoader(
        Made(), batch_size=None, sampler=numbers, num_workers=workers, multiprocessing_context="fork", prefetch_factor=4
    )
