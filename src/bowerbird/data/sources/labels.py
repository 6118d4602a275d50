"""Class labels of hub data sets: numbers in the table, names in its schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json

if TYPE_CHECKING:
    import pyarrow as pa


def label_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the classes of each label column, as the hub writes them into a schema."""
    try:
        written = (schema.metadata or {}).get(b"huggingface", b"{}")
        features = parse_json(written, "the schema", "description of features")["info"]["features"]
        found = {name: _class_names(feature) for name, feature in features.items()}
    except (BowerbirdError, KeyError, TypeError, AttributeError):
        return {}
    return {name: names for name, names in found.items() if names}


def _class_names(feature: Any) -> list[str]:
    """The names of a `ClassLabel`, or of a list of them; empty for any other feature."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        return [str(name) for name in feature["names"]]
    return _class_names(feature["feature"]) if "feature" in feature else []


def with_labels(row: dict[str, Any], labels: dict[str, list[str]]) -> dict[str, Any]:
    """The row with names in place of the numbers of classes; what has no name stays a number, and -1 (none) is None."""

    def named(value: Any, names: list[str]) -> Any:
        if isinstance(value, list):
            return [named(one, names) for one in value]
        if not isinstance(value, int):
            return value
        return names[value] if 0 <= value < len(names) else None if value == -1 else value

    return row | {name: named(row[name], names) for name, names in labels.items() if name in row}
