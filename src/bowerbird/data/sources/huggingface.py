"""HF data sets: one saved to disk is read as the Arrow files it is; `hf:NAME` asks the `datasets` library, where it is
installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import read_json
from bowerbird.data.item import SourceItem
from bowerbird.data.sources import table
from bowerbird.data.sources.base import SourceOptions


class HubDataset:
    """`hf:NAME` or `hf:NAME:SPLIT`."""

    def matches(self, place: str) -> bool:
        return place.startswith("hf:")

    def count(self, place: str) -> int | None:
        return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        return read_hub(place.removeprefix("hf:"), options)


class SavedDataset:
    """A folder that `save_to_disk` wrote."""

    def matches(self, place: str) -> bool:
        return is_saved(Path(place))

    def count(self, place: str) -> int | None:
        return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        return read_saved(Path(place), options)


def is_saved(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and any(folder.glob("*.arrow"))
    )


def read_saved(folder: Path, options: SourceOptions) -> Iterator[SourceItem]:
    """The items of a saved data set, of every split in turn, which is named in the metadata `split`. Raises:
    BowerbirdError for a folder that is damaged."""
    import pyarrow as pa

    if (folder / "dataset_dict.json").is_file():
        for split in _list(folder / "dataset_dict.json", "splits"):
            inside = folder / Path(str(split)).name  # a plain name below, whatever is written
            if inside == folder or (inside / "dataset_dict.json").is_file():
                raise BowerbirdError(f"{folder / 'dataset_dict.json'}: {split!r} is no split")
            for item in read_saved(inside, options):
                yield replace(item, metadata={"split": str(split)} | item.metadata)
        return
    for entry in _list(folder / "state.json", "_data_files"):
        path = folder / Path(str(entry.get("filename") if isinstance(entry, dict) else entry)).name
        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_stream(source)
                yield from table.read_batches(reader.schema, reader, path, options, name=f"{folder.name}/{path.name}")
        except (OSError, pa.ArrowInvalid) as error:
            raise BowerbirdError(
                f"{path}: cannot be read as part of a saved data set ({str(error).splitlines()[0][:100]})"
            ) from error


def _list(path: Path, key: str) -> list[Any]:
    """A list in one of the data set's descriptions."""
    found = read_json(path, "description of a data set").get(key)
    if isinstance(found, list):
        return found
    raise BowerbirdError(f"{path}: not the description of a data set ({key} is no list)")


def read_hub(name: str, options: SourceOptions) -> Iterator[SourceItem]:
    """The items of `NAME` or `NAME:SPLIT` on the hub, streamed; pictures undecoded.

    Raises: BowerbirdError when `datasets` is not installed, or the data set cannot be had.
    """
    dataset, _, split = name.partition(":")
    if Path(dataset).is_dir():
        yield from read_saved(Path(dataset), options)
        return
    try:
        import datasets  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise BowerbirdError(
            f"hf:{name}: needs the datasets library: pip install datasets; or save it to disk where it is, and give"
            " that folder"
        ) from error
    try:
        stream = datasets.load_dataset(dataset, split=split or "train", streaming=True)
        for column, feature in (stream.features or {}).items():
            if isinstance(feature, datasets.Image):
                stream = stream.cast_column(column, datasets.Image(decode=False))
        place = Path(f"hf-{dataset.replace('/', '-')}")
        described = stream.features.arrow_schema.metadata if stream.features else None  # names of classes
        for number, part in enumerate(stream.with_format("arrow").iter(batch_size=256)):
            schema = part.schema.with_metadata(described or part.schema.metadata)
            yield from table.read_batches(schema, part.to_batches(), place, options, name=f"{place.name}-{number}")
    except BowerbirdError:
        raise
    except Exception as error:  # the library has many ways to say that it cannot
        raise BowerbirdError(f"hf:{name}: cannot be loaded ({type(error).__name__}: {str(error)[:120]})") from error
