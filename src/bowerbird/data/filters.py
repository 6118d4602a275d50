"""`where`: SQL conditions over metadata, checked before they run and explained when they are wrong.

One dialect everywhere (DataFusion, as LanceDB speaks it), for the rows of a database and for a source that is not one
yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bowerbird.core.errors import BowerbirdError


def explain(where: str, columns: Sequence[str], error: Exception) -> BowerbirdError:
    """What to tell the person whose condition LanceDB refused."""
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    reason = reason.replace("`", "'")  # here backticks mark parameters of ours
    return BowerbirdError(f"`where` {where!r} does not work on these columns: {', '.join(columns)} ({reason})")


def check_condition(where: str) -> str:
    """`where`, unless it is blank: an unset variable of a shell must not mean every item. Raises: BowerbirdError."""
    if not where.strip():
        raise BowerbirdError(
            f"`where` {where!r} is empty; give a condition such as \"style = 'noto'\", or true for every item"
        )
    return where


def filter_rows(metadata: Sequence[dict[str, Any]], where: str | None) -> list[int]:
    """Positions of the rows of `metadata` that satisfy `where`, in order; all of them when `where` is None.

    Raises: BowerbirdError when the condition is empty, names an unknown column or is not SQL.
    """
    if where is None:
        return list(range(len(metadata)))
    check_condition(where)
    import lancedb
    import pyarrow as pa

    columns = sorted({key for row in metadata for key in row})
    try:
        table = pa.Table.from_pydict(
            {"_position": list(range(len(metadata))), **{c: [row.get(c) for row in metadata] for c in columns}}
        )
        rows = lancedb.connect("memory://").create_table("rows", table)
        found = rows.search().where(f"({where})").select(["_position"]).limit(len(metadata)).to_arrow()
    except Exception as error:  # LanceDB raises several kinds for one cause: the condition
        raise explain(where, columns, error) from error
    return sorted(found["_position"].to_pylist())
