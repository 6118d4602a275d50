"""Metadata as values and as columns: what of a file's value can be stored, of which type a column is, and what becomes
of one whose values disagree.

A value is a text, a number, a truth value or a list of texts; anything else is kept as JSON text. Dates are ISO text,
which SQL compares with dates as they are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

DEEPEST = 32
"""A value that is nested deeper is not kept."""
NOTHING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?"})
"""Cells that say nothing, in a column of numbers."""
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def column_key(name: object) -> str:
    """A column's name without what people write differently: case, blanks, `_` and `-`."""
    return re.sub(r"[\s_-]+", "", str(name)).casefold()


def clean(text: str) -> str:
    """Text that can be stored: what is no character (half of a pair, in JSON from elsewhere) becomes a question
    mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it, None where it says nothing or cannot be kept: dates as ISO text, decimals as numbers,
    NaN and bytes as None.

    Raises: ValueError when it is nested deeper than `DEEPEST`.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST}")
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), depth)
    if isinstance(value, np.generic):
        return plain(value.item(), depth)
    if isinstance(value, dict):
        return {clean(str(key)): plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(one, depth + 1) for one in value]
    return _plain_object(value)


def _plain_object(value: Any) -> Any:
    """What a table's library makes of dates, decimals and the like."""
    if isinstance(value, datetime):
        midnight = value.tzinfo is None and value.time() == time(0)
        return value.date().isoformat() if midnight else value.isoformat()
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return int(value) if value.as_tuple().exponent == 0 and abs(value) < 2**63 else float(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return None
    return clean(str(value))


def text_of(value: Any) -> str:
    """A plain value in a column of texts: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def as_column(values: Sequence[Any]) -> pa.Array:
    """Metadata values as one Arrow column: numbers, booleans, texts and lists of texts as such, anything else, and what
    disagrees, as JSON text."""
    import pyarrow as pa

    kept = [v.tolist() if isinstance(v, np.ndarray) else v for v in values]
    present = [v for v in kept if v is not None]
    kinds = {type(v) for v in present}
    if kinds and (kinds <= {str} or kinds <= {bool} or kinds <= {int} or kinds <= {int, float}):
        try:
            return pa.array([float(v) if v is not None and kinds == {int, float} else v for v in kept])
        except (pa.ArrowInvalid, OverflowError):
            pass
    if kinds == {list} and all(isinstance(x, str) for v in present for x in v):
        return pa.array(kept, pa.list_(pa.string()))
    return pa.array([v if v is None else text_of(v) for v in kept], pa.string())


def common_type(known: pa.DataType, coming: pa.DataType) -> pa.DataType:
    """The type of a column that holds values of both: whole and other numbers are numbers, all else that disagrees is
    text."""
    import pyarrow as pa

    if known == coming or pa.types.is_null(coming):
        return known
    if pa.types.is_null(known):
        return coming
    numbers = {pa.int64(), pa.float64()}
    return pa.float64() if {known, coming} == numbers else pa.string()


def column_of(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Plain values as a column of `kind`; None for one that is of no such type."""
    import pyarrow as pa

    return pa.array([_fitting(value, kind) for value in values], kind)


def _fitting(value: Any, kind: pa.DataType) -> Any:
    """A value as a column of `kind` takes it, else None."""
    import pyarrow as pa

    value = value.tolist() if isinstance(value, np.ndarray) else value
    if value is None:
        return None
    if pa.types.is_string(kind):
        return text_of(value)
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if pa.types.is_integer(kind):
        return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None
    if pa.types.is_floating(kind):
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else None


def type_cells(rows: Sequence[dict[str, Any]], leave: Iterable[str] = ()) -> None:
    """The cells of a table of texts, in place: a column of nothing but numbers, or of true and false, becomes one; the
    empty cells are None. Columns in `leave` stay texts, and so do numbers with zeros in front: they are codes."""
    for name in {name for row in rows for name in row} - set(leave):
        cells = [row[name] for row in rows if isinstance(row.get(name), str)]
        said = [cell.strip() for cell in cells if cell.strip().lower() not in NOTHING]
        if said and all(cell.lower() in ("true", "false") for cell in said):
            _convert(rows, name, lambda cell: cell.lower() == "true")
        elif said and all(_WHOLE.fullmatch(cell) for cell in said):
            _convert(rows, name, int)
        elif said and all(_NUMBER.fullmatch(cell) and not _is_code(cell) for cell in said):
            _convert(rows, name, float)
        else:
            for row in rows:
                if row.get(name) == "":
                    row[name] = None


def _is_code(cell: str) -> bool:
    """Whether zeros stand in front, as in 00123."""
    digits = cell.lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()


def _convert(rows: Sequence[dict[str, Any]], name: str, kind: Any) -> None:
    for row in rows:
        cell = row.get(name)
        if isinstance(cell, str):
            row[name] = None if cell.strip().lower() in NOTHING else kind(cell.strip())
