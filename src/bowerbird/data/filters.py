"""`where`: SQL conditions over metadata, checked before they run and explained when they are wrong.

One dialect everywhere (DataFusion, as LanceDB speaks it), for the rows of a database and for a source that is not one
yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import ConditionError
from bowerbird.data.columns import as_column, column_of, common_type

if TYPE_CHECKING:
    import pyarrow as pa


def explain(where: str, columns: Sequence[str], error: Exception) -> ConditionError:
    """What to tell the person whose condition LanceDB refused."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    reason = reason.partition(" Valid fields are")[0][:160]  # the columns are named anyway
    reason = reason.replace("`", "'")  # here backticks mark parameters of ours
    if "literal of type 'Utf" in reason or "Cannot cast string" in reason:
        reason += "; a column of texts is compared with numbers as TRY_CAST(column AS DOUBLE)"
    return ConditionError(f"`where` {where!r} does not work on these columns: {', '.join(columns)} ({reason})")


def check_condition(where: str) -> str:
    """`where`, unless it is blank: an unset variable of a shell must not mean every item. Raises: ConditionError."""
    if not where.strip():
        raise ConditionError(
            f"`where` {where!r} is empty; give a condition such as \"style = 'noto'\", or true for every item"
        )
    return where


def filter_rows(metadata: Sequence[dict[str, Any]], where: str | None) -> list[int]:
    """Positions of the rows of `metadata` that satisfy `where`, in order; all of them when `where` is None.

    Raises: ConditionError when the condition is empty, names an unknown column or is not SQL.
    """
    return Condition(where).rows(metadata)


class Condition:
    """A condition on rows that come in portions: a column stays of the type it had first, and is empty where a later
    row has none, or a value of another type."""

    def __init__(self, where: str | None) -> None:
        self.where = where if where is None else check_condition(where)
        self._types: dict[str, pa.DataType] = {}

    def rows(self, metadata: Sequence[dict[str, Any]]) -> list[int]:
        """As `filter_rows`, of one portion."""
        if self.where is None:
            return list(range(len(metadata)))
        import lancedb
        import pyarrow as pa

        for name in sorted({key for row in metadata for key in row}):
            found = as_column([row.get(name) for row in metadata]).type
            known = self._types.get(name, found)
            widened = common_type(known, found)
            self._types[name] = widened if pa.types.is_floating(widened) else known
        try:
            columns = {name: column_of([row.get(name) for row in metadata], kind) for name, kind in self._types.items()}
            table = pa.table({"_position": list(range(len(metadata))), **columns})
            rows = lancedb.connect("memory://").create_table("rows", table)
            found = rows.search().where(f"({self.where})").select(["_position"]).limit(len(metadata)).to_arrow()
        except Exception as error:  # LanceDB raises several kinds for one cause: the condition
            raise explain(self.where, sorted(self._types), error) from error
        return sorted(found["_position"].to_pylist())
