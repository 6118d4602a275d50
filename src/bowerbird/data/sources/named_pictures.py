"""Pictures that a source only names: by a path, which was right on another machine or in another folder, or by the key
of a sample in webdataset shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import archive, layout
from bowerbird.data.sources.folder import FolderTree, walk
from bowerbird.data.sources.layout import NameIndex

TAR = ".tar"


class NamedPictures:
    """The pictures of `places`: folders, with the shards in them, or shards. Nothing outside them is read, whatever a
    name says. Raises: BowerbirdError for a place that is not there, or a shard that cannot be read."""

    def __init__(self, places: Sequence[str], report: SourceReport) -> None:
        self._folders: list[tuple[str, FolderTree, NameIndex]] = []
        self._shards: list[Path] = []
        self._samples: dict[str, tuple[int, int, int] | None] = {}
        for place in map(Path, places):
            if place.is_dir():
                names = walk(place, report)
                tree = FolderTree(place, [name for name in names if layout.is_picture(name)])
                self._folders.append((place.resolve().name, tree, NameIndex(tree.names)))
                for name in names:
                    if name.lower().endswith(TAR):
                        self._add_shard(place / name)
            elif place.is_file() and place.name.lower().endswith(TAR):
                self._add_shard(place)
            else:
                raise BowerbirdError(f"{place}: no folder and no {TAR} shard; `pictures` says where the pictures lie")

    def _add_shard(self, path: Path) -> None:
        number = len(self._shards)
        self._shards.append(path)
        for name, start, size in archive.picture_spans(path):
            key = layout.sample_key(name)
            before = self._samples.get(key, (number, start, size))
            # further pictures of a sample are masks and the like; the same key in two shards may mean either
            self._samples[key] = before if before is not None and before[0] == number else None

    def read(self, name: str) -> bytes:
        """The bytes of the picture that is written `name`; none where it is not there, or two could be meant."""
        for own, tree, index in self._folders:
            for candidate in _below(name, own):
                found = index.find(candidate)
                if found is not None:
                    try:
                        return tree.read(found)
                    except OSError:
                        return b""
        sample = self._samples.get(name)
        if sample is None:
            return b""
        number, start, size = sample
        with self._shards[number].open("rb") as file:
            file.seek(start)
            return file.read(size)


def _below(name: str, folder: str) -> list[str]:
    """What a path may mean below a folder of this name, the longest first: all of it, or what stands after the folder's
    name."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    starts = [0, *(i + 1 for i, part in enumerate(parts[:-1]) if part == folder)]
    return ["/".join(parts[start:]) for start in starts]
