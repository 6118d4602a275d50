"""Edits as a table has them: two pictures and what is said, in place of those that code composes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.edits.pair import SAID, Edit, Edits, Shown
from bowerbird.data.edits.variants import whole
from bowerbird.data.edits.wordings import is_held_out
from bowerbird.data.pictures import Pictures
from bowerbird.data.sources.edit_rows import EDITED_ROLE, INSTRUCTION, ORIGINAL_ROLE, PAIR, ROLE

GROUP = "said"
PART = 64


def said_edits(pictures: Pictures) -> tuple[Edits, Edits] | None:
    """The edits that rows of `pictures` say (`data.sources.edit_rows`), and those that are held out: of one first
    prompt in sixteen. None for pictures that are of no table of edits.

    A pair of which one picture is missing, or that says nothing, is left out. Raises: BowerbirdError when that is all.
    """
    if not {PAIR, ROLE, INSTRUCTION} <= pictures.columns:
        return None
    rows: dict[str, dict[str, int]] = {}
    for row, (pair, role) in enumerate(zip(pictures.column(PAIR), pictures.column(ROLE), strict=True)):
        rows.setdefault(pair, {})[role] = row
    texts = pictures.column(INSTRUCTION)
    whole_pairs = [
        (found[ORIGINAL_ROLE], found[EDITED_ROLE])
        for found in rows.values()
        if ORIGINAL_ROLE in found and EDITED_ROLE in found and texts[found[EDITED_ROLE]].strip()
    ]
    if not whole_pairs:
        raise BowerbirdError(
            f"{len(pictures)} pictures of a table of edits, and no row with both of them and an instruction; give"
            " another table"
        )
    held = [is_held_out(pictures.captions[first] or texts[second]) for first, second in whole_pairs]
    if all(held):
        held = [False] * len(held)
    parts = []
    for which in (False, True):
        shown = [Shown(whole(row)) for row in range(len(pictures))]
        edits = [
            Edit(first, second, SAID, (texts[second],))
            for (first, second), out in zip(whole_pairs, held, strict=True)
            if out == which
        ]
        parts.append(Edits(shown, edits, {GROUP: list(range(len(edits)))} if edits else {}))
    return parts[0], parts[1]


def stored_parts(shown: Sequence[Shown], pictures: Pictures) -> Iterator[Tensor]:
    """The pictures of edits of a table, as they are: float `(<= PART, 3, S, S)` in [-1, 1], in order."""
    rows = [each.scene.things[0].row for each in shown]
    for start in range(0, len(rows), PART):
        yield pictures.pixels[rows[start : start + PART]].float() / 127.5 - 1
