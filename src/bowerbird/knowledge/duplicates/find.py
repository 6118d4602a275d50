"""Copies among the pictures of a knowledge base: candidates from small squares and embeddings, each looked at, then
groups around the picture that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import Progress
from bowerbird.knowledge.duplicates.groups import Found, Links, stars
from bowerbird.knowledge.duplicates.judge import KINDS, Judge
from bowerbird.knowledge.duplicates.scan import Scan, scan

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

KEEP = ("best", "first")


@dataclass(frozen=True)
class Item:
    """A picture of a group: `kind` of `KINDS` and `detail` say what it is to the one that is kept, whose are empty.
    `stays`: why `remove_copies` leaves it, where it does."""

    id: int
    name: str
    caption: str
    width: int
    height: int
    format: str
    bytes: int
    kind: str = ""
    detail: str = ""
    stays: str = ""


@dataclass(frozen=True)
class Group:
    """The picture that is kept, and its copies, each compared with it."""

    kept: Item
    copies: tuple[Item, ...]


@dataclass(frozen=True)
class DuplicateReport:
    """The groups in a knowledge base at `version`; how many pictures were compared, how many items have none, and a
    line for each that could not be decoded."""

    version: int
    pictures: int
    without_picture: int
    unreadable: list[str] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many copies of each kind."""
        kinds = [copy.kind for group in self.groups for copy in group.copies]
        return {kind: kinds.count(kind) for kind in KINDS}

    @property
    def removable(self) -> list[int]:
        """The ids that `remove_copies` removes."""
        return [copy.id for group in self.groups for copy in group.copies if not copy.stays]


def find_duplicates(
    kb: KnowledgeBase, *, keep: str = "best", kinds: Sequence[str] = KINDS, progress: Progress | None = None
) -> DuplicateReport:
    """Group the pictures of `kb` that are one picture.

    `keep`: `best` keeps what shows most (no window of another), then most pixels, then a format without losses, of the
    others most bytes a pixel, then what is listed first; `first` that alone. `kinds`: which copies are looked for.
    Every copy was compared with the one that is kept, so a chain of likenesses makes no group. Changes nothing.
    Raises: BowerbirdError for another `keep` or kind.
    """
    if keep not in KEEP:
        raise BowerbirdError(f"`keep` {keep!r} is not known; choose {' or '.join(KEEP)}")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise BowerbirdError(f"`kinds` {', '.join(unknown)!r}: choose some of {', '.join(KINDS)}")
    found = scan(kb.store, kb.ids(), progress)
    judge = Judge(kb, found, frozenset(kinds), progress)
    links = Links(len(found.ids))
    judge.exact(links)
    judge.wholes(links)
    if "cropped" in kinds:
        judge.crops(links, found.order())
    order = found.order() if keep == "best" else np.arange(len(found.ids))
    made = stars(links, order, judge.pairs, parts_last=keep == "best")
    groups = [(kept, [(i, edge) for i, edge in copies if judge.kind(kept, i, edge) in kinds]) for kept, copies in made]
    return DuplicateReport(
        kb.version,
        len(found.ids),
        found.without,
        found.unreadable,
        _describe(kb, found, judge, [(kept, copies) for kept, copies in groups if copies]),
    )


def remove_copies(kb: KnowledgeBase, report: DuplicateReport) -> int:
    """Remove the copies that `report` found, and return how many; `restore` undoes it.

    Raises: BowerbirdError when the knowledge base has changed since, so that nothing is removed whose kept picture is
    gone.
    """
    ids = report.removable
    return kb.remove(ids=ids, expected_version=report.version) if ids else 0


def _describe(
    kb: KnowledgeBase, found: Scan, judge: Judge, groups: list[tuple[int, list[tuple[int, Found]]]]
) -> list[Group]:
    """The groups as a person reads them, the largest first."""
    made = []
    for kept, copies in sorted(groups, key=lambda g: (-len(g[1]), g[0])):
        places = [kept, *(i for i, _ in copies)]
        ids = found.ids[places].tolist()
        captions, names = kb.get(ids).captions[0], kb.names(ids)
        items = []
        for place, number, name, caption in zip(places, ids, names, captions, strict=True):
            height, width = found.sizes[place].tolist()
            facts = (number, name, caption, width, height, found.formats[place], int(found.lengths[place]))
            items.append(Item(*facts))
        for at, (place, how) in enumerate(copies, 1):
            kind = judge.kind(kept, place, how)
            another = kind in ("rotated", "mirrored") and items[at].caption != items[0].caption and items[at].caption
            stays = "turned, and it has another caption" if another else ""
            items[at] = replace(items[at], kind=kind, detail=how.detail, stays=stays)
        made.append(Group(items[0], tuple(items[1:])))
    return made
