"""A knowledge base as a directory: manifest, rows, index, versions; many readers, one writer.

`kb.json` is the manifest and is written last; `files.json` holds the hash of every file of the rows; `rows.lance`
holds the truth; `index/` holds caches. Knows embeddings as arrays and an encoder by its fingerprint only.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import checksums, files, leftovers
from bowerbird.core.errors import BowerbirdError, Terminated
from bowerbird.core.lock import writer_lock
from bowerbird.core.progress import OnMessage, log_message
from bowerbird.core.text import in_shell
from bowerbird.data.item import CAPTION_EMBEDDING
from bowerbird.knowledge.search import build
from bowerbird.knowledge.search.analyzer import Analyzer
from bowerbird.knowledge.search.planner import DEFAULT_MEMORY
from bowerbird.knowledge.search.snapshot import Snapshot
from bowerbird.knowledge.storage.failures import first_line, is_of_disk, reason_of
from bowerbird.knowledge.storage.file_list import FILES, record_files
from bowerbird.knowledge.storage.lance import Form, Rows
from bowerbird.knowledge.storage.manifest import MANIFEST, check_same, read_manifest
from bowerbird.knowledge.storage.protocol import CAPTIONS, EmbedCaptions

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 2


class DirectoryStore:
    """A `storage.protocol.Store`: the directory at `path`, fixed at the version of `manifest`; a change moves it
    to a new one.

    `memory`: bytes that making an index may take. `on_message` hears what takes long.
    """

    def __init__(
        self, path: Path, manifest: dict[str, Any], memory: int = DEFAULT_MEMORY, on_message: OnMessage = log_message
    ) -> None:
        self.path, self.manifest, self.memory, self.on_message = path, manifest, memory, on_message
        self.embed_captions: EmbedCaptions | None = None
        self._token = 0  # of the change that is being made
        self._seen: tuple[int, ...] | None = None  # how kb.json lay there when it was found to be this one's

    @classmethod
    def open(cls, path: Path, memory: int = DEFAULT_MEMORY, on_message: OnMessage = log_message) -> DirectoryStore:
        """The directory at its newest version. Raises: BowerbirdError when no knowledge base is there, or its manifest
        is damaged."""
        if not (path / MANIFEST).is_file():
            raise BowerbirdError(
                f"{path}: no knowledge base here; make one: bowerbird kb build {in_shell(path)} FOLDER_OF_PICTURES"
            )
        manifest = read_manifest(path)
        if manifest.get("format") != FORMAT:
            raise BowerbirdError(
                f"{path}: format {manifest.get('format')!r} of another bowerbird; this one reads format {FORMAT}; build"
                " it again"
            )
        return cls(path, manifest, memory, on_message)

    def at_version(self, version: int) -> DirectoryStore:
        """As it was at an earlier `version`. Raises: BowerbirdError when that version is not kept."""
        return DirectoryStore(self.path, {**self.manifest, **self._entry(version)}, self.memory, self.on_message)

    def _entry(self, version: int) -> dict[str, Any]:
        """What the manifest keeps of an earlier version."""
        entry: dict[str, Any] | None = next((e for e in self.manifest["history"] if e["version"] == version), None)
        if entry is None:
            first, last = self.versions[0], self.versions[-1]
            dropped = " (earlier ones were dropped by kb compact --drop-history)" if version < first else ""
            kept = f"there is {last} alone" if first == last else f"there are {first} to {last}"
            raise BowerbirdError(f"{self.path}: version {version} is not kept; {kept}{dropped}")
        return entry

    @property
    def versions(self) -> list[int]:
        """The versions that can be opened."""
        return [int(entry["version"]) for entry in self.manifest["history"]]

    @property
    def dim(self) -> int:
        """The embedding dimension."""
        return int(self.manifest["encoder"]["dim"])

    def __len__(self) -> int:
        return int(self.manifest["items"])

    def info(self) -> dict[str, Any]:
        """Its indexes, bytes on disk, and metadata columns."""
        main = self.snapshot.main.facts
        index = main["index"]
        return {
            "indexes": {
                "dense": {
                    **index,
                    "metric": self.manifest["metric"],
                    "exact": index["kind"] == "flat",
                    "of version": main["version"],
                },
                "bm25": {
                    "kind": "bm25 (lucene)",
                    "weights": dict(zip(("caption", "tags"), self.manifest["words"], strict=True)),
                    "analyzer": Analyzer.of(self.manifest).described(),
                },
                "beside them": {"added": len(self.snapshot.tail), "removed": int((~self.snapshot.live).sum())},
            },
            "bytes": sum(_size(p) for p in self.path.rglob("*")),
            "metadata": self.rows.metadata_types(),
        }

    def close(self) -> None:
        """Nothing is held that others could want."""

    # -- reading -----------------------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> Rows:
        """The truth: the table of this version. Raises: BowerbirdError when its files are not those that were
        written."""
        with self._still_there():
            forgetting = bool(self.manifest.get("forgetting"))
            recorded = files.read_sealed(self.path / FILES, "list of files")
            wrong = checksums.find_changes(self.path, recorded, by_time=False, may_be_gone=forgetting)
            if wrong:
                raise BowerbirdError(
                    f"{wrong[0]}; restore it from a copy; bowerbird kb verify {in_shell(self.path)} names every damaged"
                    " file"
                )
            return Rows(self.path, int(self.manifest["rows_version"]))

    def _check_same(self) -> None:
        self._seen = check_same(self.path, self.manifest, self._seen)

    @cached_property
    def snapshot(self) -> Snapshot:
        """What is searched."""
        return self._open_snapshot(renew=False)

    def _open_snapshot(self, *, renew: bool) -> Snapshot:
        return build.open_snapshot(
            self.path,
            lambda: self.rows,
            self.tag(),
            self.dim,
            memory=self.memory,
            renew=renew,
            on_message=self.on_message,
        )

    def tag(self) -> dict[str, Any]:
        """What a cache of this version must say of itself to be of use."""
        return {
            "layout": build.LAYOUT,
            "version": int(self.manifest["version"]),
            "token": int(self.manifest["token"]),
            "fingerprint": str(self.manifest["encoder"]["fingerprint"]),
            "normalize": bool(self.manifest["encoder"]["normalize"]),
            "words": list(self.manifest["words"]),
            **Analyzer.of(self.manifest).tag(),
            **self._captions_tag(),
        }

    def _captions_tag(self) -> dict[str, Any]:
        facts = self.manifest.get(CAPTIONS)
        return {} if facts is None else {CAPTIONS: {key: facts[key] for key in ("fingerprint", "dim")}}

    def ids(self, where: str | None = None) -> np.ndarray:
        """The ids of all items, or of those that satisfy `where`, int64 `(n,)`. Raises: BowerbirdError for a wrong
        condition."""
        if where is None:
            return self.snapshot.ids
        with self._still_there():
            return self.rows.ids(where)

    def all_ids(self) -> np.ndarray:
        """The ids of all items, from the rows: also of those that no commit names yet."""
        return self.rows.keys()[0]

    def contents(self) -> np.ndarray:
        """The content hashes of all items, from the rows."""
        return self.rows.contents()

    def columns(self) -> dict[str, str]:
        """Metadata columns and their types."""
        return self.rows.metadata_types()

    def allowed(self, where: str) -> np.ndarray:
        """The rows that satisfy `where`, as the snapshot takes them."""
        return np.sort(self.snapshot.rows_of(self.ids(where)))

    def pictures(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The original bytes of these items' pictures, by id; items without a picture are left out."""
        with self._still_there():
            return self.rows.pictures(ids)

    def tokens(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The token matrices of these items, by id; items without are left out."""
        with self._still_there():
            return self.rows.tokens(ids)

    @contextmanager
    def _still_there(self) -> Iterator[None]:
        """Rows are read lazily: say so when another process forgot this version, or put another knowledge base
        here; also where nothing failed, as the answer may be of that one."""
        self._check_same()
        try:
            yield
        except (BowerbirdError, OSError, RuntimeError, ValueError) as error:
            try:
                self._check_same()
            except BowerbirdError as cause:
                raise cause from error
            if isinstance(error, BowerbirdError):
                raise
            raise BowerbirdError(
                f"{self.path}: cannot be read ({first_line(error)}); bowerbird kb verify"
                f" {in_shell(self.path)} names every damaged file"
            ) from error
        self._check_same()

    def whole(self, ids: Sequence[int]) -> pa.Table:
        """The rows of `ids` with everything they hold, in the order of `ids`."""
        with self._still_there():
            return self.rows.whole(ids)

    # -- changing ----------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock, at the newest version (another writer may have been here), without the rows of a write that
        never finished.

        Raises: BowerbirdError when the disk cannot; what was committed before stays, and nothing else.
        """
        with writer_lock(self.path):
            try:
                self.manifest = read_manifest(self.path, same_as=self.manifest)
                self._forget()
                leftovers.clear(self.path, alone=True)
                self._token = secrets.randbits(62)
                self.rows.roll_back()
                if self.manifest.get("forgetting"):
                    self._finish_forgetting()
                yield
            except BaseException as error:
                self._forget()  # what was appended and not committed is not to be seen
                if isinstance(error, (KeyboardInterrupt, Terminated)):
                    error.add_note(
                        f"{self.path}: whole at version {self.manifest['version']}; the same command goes on from there"
                    )
                if is_of_disk(error, self.path):
                    version = self.manifest["version"]
                    raise BowerbirdError(
                        f"{self.path}: could not be written ({reason_of(error)});"
                        f"{f' it is whole at version {version};' if version else ''} see to the disk and run this again"
                    ) from error
                raise

    def unfit(self, item: dict[str, Any]) -> str | None:
        """Why an item cannot be stored here: a directory takes everything."""
        return None

    def append(self, items: Sequence[dict[str, Any]], embeddings: np.ndarray) -> None:
        """Add items (id, caption, name, image, metadata) with their raw embeddings `(n, d)`; seen from the next
        `commit` on. A column whose values disagree becomes text."""
        for line in self.rows.widen(items, self._token):
            self.on_message(line)
        self._append(items, embeddings)

    def _append(self, items: Sequence[dict[str, Any]], embeddings: np.ndarray) -> None:
        self.rows.append(self._with_vectors(items), embeddings, self._token)

    def _with_vectors(self, items: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The items, each caption with its vector where this knowledge base has them."""
        if CAPTIONS not in self.manifest:
            return items
        new = [at for at, item in enumerate(items) if item["caption"].strip() and item.get(CAPTION_EMBEDDING) is None]
        if new and self.embed_captions is None:
            raise BowerbirdError(f"{self.path}: captions have vectors here; open it as a KnowledgeBase to change it")
        made = list(items)
        if new and self.embed_captions is not None:
            vectors = self.embed_captions([items[at]["caption"] for at in new])
            for at, vector in zip(new, np.asarray(vectors, "<f4"), strict=True):
                made[at] = items[at] | {CAPTION_EMBEDDING: vector.tobytes()}
        return made

    def delete(self, ids: Sequence[int]) -> None:
        """Remove items; gone from the next `commit` on."""
        self.rows.delete(ids)

    def change(self, ids: Sequence[int], caption: str | None, metadata: dict[str, Any]) -> None:
        """Give items another caption or other metadata, from the next `commit` on."""
        self.rows.change(ids, caption, metadata, self._append)

    def described(self) -> pa.Table:
        """All rows without picture and embedding, from the rows."""
        return self.rows.described()

    def rewrite(self, ids: Sequence[int], form: Form) -> None:
        """Write items again as `form` makes them, from the next `commit` on; embeddings are kept."""
        self.rows.rewrite(ids, form, self.append)

    def keep(self, facts: Mapping[str, Any]) -> None:
        """Keep facts in the manifest, of every version, and make no new one."""
        self._write_manifest({**self.manifest, **facts})

    def restore(self, version: int) -> None:
        """Hold what `version` holds, from the next `commit` on."""
        self.rows.restore(int(self._entry(version)["rows_version"]))

    def commit(self) -> None:
        """Record the new version; from here on readers see it."""
        record_files(self.path)
        entry = {
            "version": int(self.manifest["version"]) + 1,
            "items": len(self.rows),
            "rows_version": self.rows.version,
            "token": self._token,
        }
        self._write_manifest({**self.manifest, **entry, "history": [*self.manifest["history"], entry]})
        self._token = secrets.randbits(62)
        self.__dict__.pop("snapshot", None)

    def renew(self) -> None:
        """Take the new version's searchable form; an index that cannot be made is no loss, as what came since is
        searched without."""
        try:
            self.__dict__["snapshot"] = self._open_snapshot(renew=True)
        except (BowerbirdError, OSError, RuntimeError) as error:
            self.on_message(f"{self.path}: the index was not renewed ({str(error)[:160]})")

    def compact(self, *, drop_history: bool) -> None:
        """Write the rows as few files and the index again; with `drop_history`, drop every version but the
        newest and the space they take."""
        with self.writing():
            self.rows.compact()
            self.commit()
            if drop_history:
                # while this is said, files that are gone are no damage: a kill between deleting them and the new list
                # of files does no harm
                self._write_manifest({**self.manifest, "history": self.manifest["history"][-1:], "forgetting": True})
                self._finish_forgetting()
            build.make(
                self.path, self.rows, self.tag(), self.dim, memory=self.memory, on_message=self.on_message, rebuild=True
            )
            self.__dict__.pop("snapshot", None)

    def _finish_forgetting(self) -> None:
        self._forget()
        self.rows.forget_others()
        record_files(self.path)
        self._write_manifest({key: value for key, value in self.manifest.items() if key != "forgetting"})
        self._forget()

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        files.write_sealed(self.path / MANIFEST, manifest)
        self.manifest = manifest

    def _forget(self) -> None:
        for name in ("rows", "snapshot"):
            self.__dict__.pop(name, None)


def _size(path: Path) -> int:
    """Bytes of a file; none of one that another process removed at this moment."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
