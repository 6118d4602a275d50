"""Sources that bring their embeddings: clip-retrieval's folders and the parts of RDM's published databases. Nothing is
embedded again.

What they were embedded with is not written in them: the knowledge base must be made with that encoder, and only its
embedding dimension can be checked.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.core.errors import BowerbirdError, PictureError
from bowerbird.data.captions import caption_column, take_captions, with_captions
from bowerbird.data.item import SourceItem
from bowerbird.data.sources.base import SourceOptions
from bowerbird.data.sources.named_pictures import NamedPictures

BATCH = 4096


class ClipRetrieval:
    """A folder that `clip-retrieval inference` wrote."""

    def matches(self, place: str) -> bool:
        return is_clip_retrieval(Path(place))

    def count(self, place: str) -> int | None:
        return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        return read_clip_retrieval(Path(place), options)


class CompvisParts:
    """Parts of RDM's published databases: a folder of them, or one."""

    def matches(self, place: str) -> bool:
        path = Path(place)
        return any(path.glob("*-part_*.npz")) if path.is_dir() else path.suffix.lower() == ".npz" and path.is_file()

    def count(self, place: str) -> int | None:
        return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        path = Path(place)
        return read_compvis(list(path.glob("*-part_*.npz")) if path.is_dir() else [path])


def part_number(path: Path) -> tuple[int, str]:
    """Parts in the order of their numbers: part 10 after part 9."""
    found = re.findall(r"\d+", path.stem)
    return (int(found[-1]) if found else -1, path.name)


def is_clip_retrieval(folder: Path) -> bool:
    """Whether `clip-retrieval inference` wrote this folder."""
    return (folder / "img_emb").is_dir() and any((folder / "img_emb").glob("*.npy"))


def read_clip_retrieval(folder: Path, options: SourceOptions) -> Iterator[SourceItem]:
    """The items of a clip-retrieval folder: `img_emb/img_emb_*.npy` beside `metadata/metadata_*.parquet`; pictures
    where their paths still lead, or in `options.pictures` by path or by the key of a sample.

    Raises: BowerbirdError when a part is damaged, or has another number of rows than its metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = NamedPictures(options.pictures, options.report)
    for part in sorted((folder / "img_emb").glob("*.npy"), key=part_number):
        table = folder / "metadata" / f"metadata_{part.stem.removeprefix('img_emb_')}.parquet"
        if (folder / "metadata").is_dir() and not table.is_file():
            raise BowerbirdError(f"{table}: not there, and {part.name} needs it; they belong together")
        try:
            vectors = np.load(part, mmap_mode="r", allow_pickle=False)
            file = pq.ParquetFile(table) if table.is_file() else None
        except (OSError, ValueError, EOFError, pa.ArrowInvalid) as error:
            raise BowerbirdError(
                f"{part}: cannot be read with its metadata {table.name} ({str(error).splitlines()[0][:100]})"
            ) from error
        if vectors.ndim != 2 or (file is not None and file.metadata.num_rows != len(vectors)):
            raise BowerbirdError(
                f"{part}: an array of shape {vectors.shape}, and {table.name} has"
                f" {file.metadata.num_rows if file else 0} rows; they belong together"
            )
        at = 0
        batches: Iterator[list[dict[str, Any]]] = (
            (b.to_pylist() for b in file.iter_batches(BATCH)) if file is not None else _empty(len(vectors))
        )
        for rows in batches:
            for row, vector in zip(rows, np.asarray(vectors[at : at + len(rows)], np.float32), strict=True):
                at += 1
                column = caption_column(row, options.caption_column)
                options.report.note_columns(row)
                path = str(row.get("image_path") or "")
                caption, metadata = with_captions(take_captions(row, column), row)
                name = path or f"{part.name}[{at - 1}]"
                data = _decodable(named.read(path) or _beside(folder, path), name)
                if not data:
                    options.report.note("embeddings_without_picture", name)
                yield SourceItem(data, name, caption, metadata, vector)


def _beside(folder: Path, path: str) -> bytes:
    """The file at `path` where that lies in the folder or beside it; else none. Metadata may name any file of this
    machine."""
    from bowerbird.core import images

    place = (folder / path).resolve()
    if (
        not path
        or place.suffix.lower() not in images.SUFFIXES
        or not place.is_relative_to(folder.resolve().parent)
        or not place.is_file()
    ):
        return b""
    return place.read_bytes()


def _decodable(data: bytes, name: str) -> bytes:
    """The bytes of a picture, none where they cannot be decoded."""
    from bowerbird.core import images

    if data:
        try:
            images.decode(data, name)
        except PictureError:
            return b""
    return data


def _empty(count: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, count, BATCH):
        yield [{} for _ in range(start, min(start + BATCH, count))]


def read_compvis(files: Sequence[Path]) -> Iterator[SourceItem]:
    """The items of RDM's database parts (`<rows>x<dim>-part_<n>.npz`), in numeric order: raw embedding, `img_id`,
    `patch_coords`.

    They hold no pictures and no captions: what an image is of, and whose it is, can only be looked up by `img_id` in
    the data set they were made from. Source: the databases released with RDM (`docs/released-weights.md`). Raises:
    BowerbirdError for a file that is not such a part.
    """
    for path in sorted(files, key=part_number):
        try:
            with np.load(path, allow_pickle=False) as part:
                vectors = np.asarray(part["embedding"], np.float32)
                names, places, classes = part["img_id"], part.get("patch_coords"), part.get("class_id")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BowerbirdError(
                f"{path}: not a part of an RDM database ({str(error)[:100]}); it holds embedding, img_id and"
                " patch_coords"
            ) from error
        beside = [array for array in (names, places, classes) if array is not None]
        if vectors.ndim != 2 or any(array.ndim == 0 or len(array) != len(vectors) for array in beside):
            raise BowerbirdError(
                f"{path}: embeddings of shape {vectors.shape} for {len(names)} images; they belong together"
            )
        for row, vector in enumerate(vectors):
            name = names[row].decode("utf-8", "replace") if isinstance(names[row], bytes) else str(names[row])
            metadata: dict[str, Any] = {"img_id": name}
            if places is not None and places.dtype.kind in "iuf":
                metadata |= {
                    f"patch_{side}": float(v)
                    for side, v in zip(("x_tl", "y_tl", "x_br", "y_br"), np.ravel(places[row]), strict=False)
                }
            if classes is not None and classes[row].size == 1:
                metadata["class_id"] = classes[row].item()
            yield SourceItem(b"", f"{path.name}[{row}]", "", metadata, vector)
