"""Which dense index a knowledge base gets, and what making it will cost: decided from its size and the memory allowed,
before it starts.

`flat` compares a query with every item. `rabitq` compares one bit a number first and ranks the best again exactly;
`ivf-rabitq` does that in the nearest lists only. All of `INDEXES` give exact scores; those that are not flat can miss
an item, how often is measured when they are made.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from bowerbird.core.errors import BowerbirdError

DEFAULT_MEMORY = 2 * 1024**3
SAMPLE_A_LIST = 64
"""Training vectors a list of `ivf-rabitq`: k-means gains little from more."""
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


@dataclass(frozen=True)
class Index:
    """A kind of dense index: chosen from `least` items on, made by FAISS's `index_factory` from `factory`, in which
    `{lists}` stands for the number of lists; None compares with every vector. Inner product, ranked again exactly."""

    least: int
    factory: str | None

    @property
    def has_lists(self) -> bool:
        """Whether it searches in the nearest lists only."""
        return self.factory is not None and "{lists}" in self.factory


INDEXES: dict[str, Index] = {
    "flat": Index(0, None),
    "rabitq": Index(20_001, "RaBitQfs"),
    "ivf-rabitq": Index(50_001, "IVF{lists},RaBitQfs"),
}
"""The kinds by name; the one with the largest `least` that is reached is taken. A line here is an index."""


@dataclass(frozen=True)
class Plan:
    """The index for `items` vectors of dimension `dim`: its kind, lists, training sample, items a shard, and the
    estimates.

    `small`: whether the vectors are also kept in 8 bits a number, in memory, to rank by before the exact ones are
    read.
    """

    kind: str
    items: int
    dim: int
    lists: int = 0
    sample: int = 0
    shard: int = 0
    seconds: float = 0.0
    memory: int = 0
    disk: int = 0
    small: bool = False

    def describe(self) -> str:
        """One line for a person."""
        lists = f", {self.lists} lists from {self.sample:,} samples" if self.lists else ""
        return (
            f"{self.kind} index over {self.items:,} items of dimension {self.dim}{lists}: about {self.seconds:.0f} s, "
            f"{self.memory / 1e6:,.0f} MB of memory, {self.disk / 1e6:,.0f} MB of disk"
        )

    def facts(self) -> dict[str, Any]:
        """What `kb info` says of it."""
        return {"kind": self.kind, **({"lists": self.lists} if self.lists else {})}


def parse_memory(text: str) -> int:
    """Bytes of `2G`, `500M` or a plain number. Raises: BowerbirdError for anything else, or for less than 64M."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", text, re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < 64 * _UNITS["M"]:
        raise BowerbirdError(f"`memory` {text}: give at least 64M, as in 500M or 2G")
    return size


def choose(items: int, dim: int, memory: int = DEFAULT_MEMORY) -> Plan:
    """The plan for so many vectors within `memory` bytes."""
    row = 4 * dim
    code = dim // 8 + 16 + 8  # one bit a number, two factors, the id
    disk = items * (row + 12)
    # half of the budget is for what streams through: batches of rows, and a block of scores
    half = memory // 2
    kind = max((name for name, index in INDEXES.items() if items >= index.least), key=lambda name: INDEXES[name].least)
    # codes that do not fit: every search reads all vectors from disk
    if INDEXES[kind].factory is None or items * code * 1.2 > half:
        return Plan(
            "flat",
            items,
            dim,
            shard=max(1024, half // (2 * row)),
            seconds=items * 2e-5,
            memory=min(half, items * row) + 50_000_000,
            disk=disk,
        )
    lists, sample = 0, 0
    if INDEXES[kind].has_lists:
        # filling costs what the lists are, and reading a list of codes next to nothing
        lists = 2 ** (round(math.log2(items) / 2) - 1)
        sample = min(items, lists * SAMPLE_A_LIST, max(lists, half // (2 * row)))
    # a block of vectors is there three times: as read, scaled, and turned
    shard = min(items, max(4096, min(65_536, (half - sample * row) // (3 * row))))
    small = items * (dim + 4) <= half // 2
    flops = 2.0 * dim * lists * (items + 10 * sample) + 2.0 * dim * dim * items
    held = round(items * code * 1.2) + (items * (dim + 4) if small else 0)
    return Plan(
        kind=kind,
        items=items,
        dim=dim,
        lists=lists,
        sample=sample,
        shard=shard,
        small=small,
        seconds=flops / 6e10 + items * 1e-5,
        memory=held + sample * row + 3 * shard * row + 150_000_000,
        disk=disk + items * (code + (dim + 4 if small else 0)),
    )
