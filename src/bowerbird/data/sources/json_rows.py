"""Rows of JSON documents beside pictures, in the shapes that trainers and data sets give them."""

from __future__ import annotations

from typing import Any

from bowerbird.data.captions import EVERY
from bowerbird.data.sources.layout import file_column


def json_rows(found: Any) -> list[dict[str, Any]]:
    """The rows of a document: a list of objects, also under a name; COCO's images and captions; columns, as pandas
    writes them; or what each file is called, as in kohya's `meta_cap.json`."""
    if isinstance(found, list):
        return [row for row in found if isinstance(row, dict)]
    if not isinstance(found, dict):
        return []
    if isinstance(found.get("images"), list):
        return _coco_rows(found)
    for inner in found.values():
        if isinstance(inner, list) and any(isinstance(one, dict) and file_column(one) is not None for one in inner):
            return [row for row in inner if isinstance(row, dict)]
    if (files := file_column(found)) is not None and isinstance(found[files], (list, dict)):
        return _turned(found, files)
    return [made for name, value in found.items() if (made := _row_of(name, value)) is not None]


def _row_of(name: str, value: Any) -> dict[str, Any] | None:
    """What is said of one file: an object, a caption, or several."""
    if isinstance(value, dict):
        return {"file_name": name, **value}
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(one, str) for one in value)):
        return {"file_name": name, "caption": value}
    return None


def _turned(columns: dict[str, Any], files: str) -> list[dict[str, Any]]:
    """Rows of columns: lists of one length, or objects with the same keys."""
    keys = list(columns[files]) if isinstance(columns[files], dict) else list(range(len(columns[files])))
    rows = []
    for key in keys:
        row = {}
        for name, values in columns.items():
            there = (
                key in values if isinstance(values, dict) else isinstance(values, list) and key in range(len(values))
            )
            if there:
                row[name] = values[key]
        rows.append(row)
    return rows


def _number(written: Any) -> str | float | None:
    """What an image and its annotations have in common, None for what can be no number."""
    return written if isinstance(written, str | int | float) else None


def _coco_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Images with the captions of their annotations, or their own sentences; boxes and the like are left alone."""
    captions: dict[str | float | None, list[str]] = {}
    annotations = found.get("annotations")
    for one in annotations if isinstance(annotations, list) else ():
        if isinstance(one, dict) and isinstance(one.get("caption"), str):
            captions.setdefault(_number(one.get("image_id")), []).append(one["caption"])
    captions.pop(None, None)
    rows = []
    for image in found["images"]:
        files = file_column(image) if isinstance(image, dict) else None
        if files is None:
            continue
        own = captions.get(_number(image.get("id"))) or next(
            (image[k] for k in ("sentences", EVERY, "caption") if k in image), None
        )
        split = {"split": image["split"]} if isinstance(image.get("split"), str) else {}
        rows.append({"file_name": str(image[files]), **split, **({} if own is None else {"caption": own})})
    return rows
