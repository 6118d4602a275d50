"""What the settings of a system say of themselves: their range, and which of them name a column of the data or a
network.

A recipe that was made for other data, or by somebody else, is judged by these marks: `names` finds what it names,
`without_columns` takes out what the data lacks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Mark = Literal["column", "network"]
WORDS = {
    "model_type": "should be an object, names with values",
    "model_attributes_type": "should be an object, names with values",
    "dict_type": "should be an object, names with values",
    "missing": "is missing",
    "extra_forbidden": "is no setting here",
}
"""What is wrong with an entry, by pydantic's type of error, where its own words are about Python."""
SettingsT = TypeVar("SettingsT", bound=BaseModel)


def shares(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """`parts` themselves, things with a `share`. Raises: ValueError where there is nothing to choose."""
    if not sum(part.share for part in parts) > 0:
        raise ValueError("give at least one entry with a share above 0")
    return parts


def column(default: str | None) -> Any:
    """A setting that names a column of the data's metadata."""
    return Field(default=default, json_schema_extra={"names": "column"})


def network(default: str | None) -> Any:
    """A setting that names a network to be opened: bundled, a directory, a hub id, or code of somebody's own."""
    return Field(default=default, json_schema_extra={"names": "network"})


def names(settings: BaseModel, mark: Mark, at: str = "system") -> Iterator[tuple[str, str]]:
    """(dotted key, value) of every setting with this mark that has a value; entries of a list go by the list's key."""
    for name, value in settings:
        if _marked(settings, name) == mark and value is not None:
            yield f"{at}.{name}", str(value)
        for below in _models(value):
            for key, found in names(below, mark, f"{at}.{name}"):
                yield (key if isinstance(value, BaseModel) else f"{at}.{name}"), found


def without_columns(
    settings: SettingsT, absent: Collection[str], keep: Callable[[str], bool], at: str = "system"
) -> SettingsT:
    """`settings` without what names a column of `absent`, but for the keys that are to `keep`: such a setting becomes
    None, and such an entry of a list goes (of a list that would be empty the first stays, without the column)."""
    changed: dict[str, Any] = {}
    for name, value in settings:
        key = f"{at}.{name}"
        if keep(key):
            continue
        if _marked(settings, name) == "column" and value in absent and _optional(settings, name):
            changed[name] = None
        elif isinstance(value, BaseModel):
            changed[name] = without_columns(value, absent, keep, key)
        elif isinstance(value, tuple) and value and all(isinstance(entry, BaseModel) for entry in value):
            cleaned = [without_columns(entry, absent, keep, key) for entry in value]
            kept = tuple(new for new, old in zip(cleaned, value, strict=True) if new == old)
            changed[name] = kept or tuple(cleaned[:1])
    changed = {name: new for name, new in changed.items() if new != getattr(settings, name)}
    return settings.model_copy(update=changed) if changed else settings


def with_names(settings: SettingsT, mark: Mark, rename: Callable[[str], str]) -> SettingsT:
    """`settings` with what those with this mark name called otherwise."""
    changed: dict[str, Any] = {}
    for name, value in settings:
        if _marked(settings, name) == mark and isinstance(value, str):
            changed[name] = rename(value)
        elif isinstance(value, BaseModel):
            changed[name] = with_names(value, mark, rename)
        elif isinstance(value, tuple) and value and all(isinstance(entry, BaseModel) for entry in value):
            changed[name] = tuple(with_names(entry, mark, rename) for entry in value)
    changed = {name: new for name, new in changed.items() if new != getattr(settings, name)}
    return settings.model_copy(update=changed) if changed else settings


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with what somebody wrote, as "place: what", in words of the file and not of the
    library that reads it."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ascii(".".join(map(str, first["loc"])))[1:-1][:160]  # a stranger's key may be anything
    said = WORDS.get(first["type"]) or re.sub(r" or (?:instance|an instance) of \w+", "", first["msg"])
    return f"{place}: {said[0].lower()}{said[1:]}"


def _models(value: Any) -> list[BaseModel]:
    if isinstance(value, BaseModel):
        return [value]
    return [entry for entry in value if isinstance(entry, BaseModel)] if isinstance(value, tuple) else []


def _marked(settings: BaseModel, name: str) -> object:
    extra = type(settings).model_fields[name].json_schema_extra
    return extra.get("names") if isinstance(extra, dict) else None


def _optional(settings: BaseModel, name: str) -> bool:
    return type(None) in get_args(type(settings).model_fields[name].annotation)
