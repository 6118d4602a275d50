"""`KnowledgeBase`: a directory of pictures that can be searched, changed, and trusted after a crash.

`kb.json` is the manifest and is written last; `files.json` holds the hash of every file of the rows; `rows.lance` holds the truth; `index/`
holds caches. Many readers, one writer. Knows encoders by their protocol only, and nothing of what is painted from its answers.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird import checkpoint, images
from bowerbird.errors import BowerbirdError, MismatchError
from bowerbird.knowledge import dense, files, indexes, ingest, query, sources
from bowerbird.knowledge.ingest import AddReport, Progress
from bowerbird.knowledge.lock import writer_lock
from bowerbird.knowledge.plan import DEFAULT_MEMORY
from bowerbird.knowledge.rows import FOLDER as ROWS_FOLDER
from bowerbird.knowledge.rows import HINT, OWN_COLUMNS, Rows
from bowerbird.knowledge.snapshot import Snapshot
from bowerbird.types import ABSENT, Encoder, Neighbors

if TYPE_CHECKING:
    from PIL import Image

FORMAT = 2
MANIFEST, FILES = "kb.json", "files.json"
MODES = ("dense", "bm25", "hybrid")
COMMIT_EVERY = 20_000
"""A long `add` makes a version each time so many items are in: what is in stays in when it is interrupted."""


class KnowledgeBase:
    """An opened knowledge base, fixed at the version it was opened at; `add`, `remove`, `update` and `compact` move it to a new one."""

    def __init__(
        self, path: Path, manifest: dict[str, Any], encoder: Encoder | None = None, device: str = "cpu", memory: int = DEFAULT_MEMORY,
        told: indexes.Told = indexes.quietly,
    ) -> None:  # fmt: skip
        self.path, self.manifest, self.device, self.memory, self.told = path, manifest, device, memory, told
        self._token = 0  # of the change that is being made
        if encoder is not None:
            self._check(encoder)
            self.encoder = encoder

    # -- opening and making ------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls, path: str | Path, *, version: int | None = None, encoder: Encoder | None = None, device: str = "cpu", memory: int = DEFAULT_MEMORY,
        told: indexes.Told = indexes.quietly,
    ) -> KnowledgeBase:  # fmt: skip
        """The knowledge base at `path`, at its newest version or an earlier one; its encoder is loaded by name when first needed, or given here.

        `memory`: bytes that making an index may take. Raises: BowerbirdError when there is none, it is damaged, or the version is gone,
        MismatchError when `encoder` is not the one it was made with.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            raise BowerbirdError(f"{path}: no knowledge base here; make one: bowerbird kb build {path} FOLDER_OF_PICTURES")
        manifest = checkpoint.read_sealed(path / MANIFEST, "knowledge base", trust=("encoder",))
        if manifest.get("format") != FORMAT:
            raise BowerbirdError(f"{path}: format {manifest.get('format')!r} of another bowerbird; this one reads format {FORMAT}; build it again")
        made = cls(path, manifest, encoder, device, memory, told)
        return made if version is None else made.at_version(version)

    def at_version(self, version: int) -> KnowledgeBase:
        """This knowledge base as it was at an earlier `version`. Raises: BowerbirdError when that version is not kept."""
        found = next((entry for entry in self.manifest["history"] if entry["version"] == version), None)
        if found is None:
            raise BowerbirdError(f"{self.path}: version {version} is not kept; there are {self.versions[0]} to {self.versions[-1]}")
        return KnowledgeBase(self.path, {**self.manifest, **found}, self.__dict__.get("encoder"), self.device, self.memory, self.told)

    @classmethod
    def build(
        cls,
        path: str | Path,
        source: str | Path | Sequence[str | Path],
        *,
        encoder: Encoder | str = "small",
        normalize: bool = True,
        caption_column: str | None = None,
        where: str | None = None,
        device: str = "cpu",
        memory: int = DEFAULT_MEMORY,
        progress: Progress | None = None,
        told: indexes.Told = indexes.quietly,
    ) -> tuple[KnowledgeBase, AddReport]:
        """Make a knowledge base at `path` from one source or several; it appears whole or not at all.

        Interrupted, the same call goes on where it was. `normalize` records that embeddings are compared by cosine (their raw form is what
        is stored). Raises: BowerbirdError when `path` is taken, or no picture of the sources can be read.
        """
        from bowerbird import encoders

        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "a knowledge base is there already; add to it: bowerbird kb add" if (path / MANIFEST).is_file() else "this path is taken; give a new one"
            raise BowerbirdError(f"{path}: {what}")
        loaded = encoders.load(encoder, device=device) if isinstance(encoder, str) else encoder
        several = [source] if isinstance(source, (str, Path)) else list(source)
        facts = {"name": loaded.name, "fingerprint": loaded.fingerprint, "dim": loaded.dim, "normalize": normalize}
        tag = {"sources": [str(Path(s).absolute()) for s in several], "encoder": facts, "caption": caption_column, "where": where}
        with checkpoint.resumable_directory(path, tag, worth=_holds_something) as target:
            if not (target / MANIFEST).is_file():
                shutil.rmtree(target / ROWS_FOLDER, ignore_errors=True)  # of a build that was killed this early
                Rows.create(target, loaded.dim)
                record_files(target)
                entry = {"version": 0, "items": 0, "rows_version": 1, "token": 0}
                metric = "cosine" if normalize else "inner product"
                checkpoint.write_sealed(target / MANIFEST, {"format": FORMAT, **entry, "metric": metric, "encoder": facts, "history": [entry]})
            kb = cls(target, checkpoint.read_sealed(target / MANIFEST, "knowledge base"), loaded, device, memory, told)
            report = kb.add(several, caption_column=caption_column, where=where, progress=progress)
            if len(kb) == 0:
                reason = f"the first reason: {report.unreadable[0]}" if report.unreadable else "no row was left"
                raise BowerbirdError(f"{source}: no picture could be read, so nothing was made ({reason})")
        return cls.open(path, encoder=loaded, device=device, memory=memory, told=told), report

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Counts the changes since the knowledge base was made."""
        return int(self.manifest["version"])

    @property
    def versions(self) -> list[int]:
        """The versions that can be opened."""
        return [int(entry["version"]) for entry in self.manifest["history"]]

    @property
    def encoder_name(self) -> str:
        """Name of the encoder it was made with."""
        return str(self.manifest["encoder"]["name"])

    @property
    def encoder_fingerprint(self) -> str:
        """Fingerprint of that encoder's weights."""
        return str(self.manifest["encoder"]["fingerprint"])

    def __len__(self) -> int:
        return int(self.manifest["items"])

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded by its recorded name. Raises: MismatchError when that name now means other weights."""
        from bowerbird import encoders

        found = encoders.load(self.encoder_name, device=self.device)
        self._check(found)
        return found

    def _check(self, encoder: Encoder) -> None:
        facts = self.manifest["encoder"]
        if encoder.fingerprint != facts["fingerprint"] or encoder.dim != facts["dim"]:
            raise MismatchError(
                f"{self.path}: made with encoder {facts['name']!r} ({facts['fingerprint']}, {facts['dim']} numbers), not with {encoder.name!r} "
                f"({encoder.fingerprint}, {encoder.dim}); open it with its own, or build it again: bowerbird kb build NEW SOURCE --encoder {encoder.name}"
            )

    def info(self) -> dict[str, Any]:
        """What `kb info --json` prints."""
        snapshot = self._snapshot
        index = snapshot.main.facts["index"]
        found = [p for p in self.path.rglob("*") if p.is_file()]
        return {
            "path": str(self.path),
            "version": self.version,
            "items": len(self),
            "encoder": dict(self.manifest["encoder"]),
            "indexes": {
                "dense": {**index, "metric": self.manifest["metric"], "exact": index["kind"] == "flat", "of version": snapshot.main.facts["version"]},
                "bm25": {"kind": "bm25s lucene"},
                "beside them": {"added": len(snapshot.tail), "removed": int((~snapshot.live).sum())},
            },
            "bytes": sum(p.stat().st_size for p in found),
            "metadata": self.rows.metadata_types(),
        }

    # -- rows and caches ---------------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> Rows:
        """The truth: the table of this version. Raises: BowerbirdError when its files are not those that were written."""
        wrong = files.changed(
            self.path, checkpoint.read_sealed(self.path / FILES, "list of files"), by_time=False, may_be_gone=bool(self.manifest.get("forgetting"))
        )  # fmt: skip
        if wrong:
            now = checkpoint.read_sealed(self.path / MANIFEST, "knowledge base", trust=("encoder",))
            if self.version not in [entry["version"] for entry in now["history"]]:
                raise BowerbirdError(f"{self.path}: version {self.version} was forgotten since it was opened; open it again")
            raise BowerbirdError(f"{wrong[0]}; restore it from a copy; bowerbird kb verify {self.path} names every damaged file")
        return Rows(self.path, int(self.manifest["rows_version"]))

    @cached_property
    def _snapshot(self) -> Snapshot:
        return self._opened(renew=False)

    def _opened(self, *, renew: bool) -> Snapshot:
        return indexes.open_snapshot(self.path, lambda: self.rows, self.tag(), self.dim, memory=self.memory, renew=renew, told=self.told)

    @property
    def dim(self) -> int:
        """Numbers an embedding has."""
        return int(self.manifest["encoder"]["dim"])

    @property
    def normalize(self) -> bool:
        """Whether embeddings are compared by cosine."""
        return bool(self.manifest["encoder"]["normalize"])

    def tag(self) -> dict[str, Any]:
        """What a cache of this version must say of itself to be of use."""
        return {
            "layout": indexes.LAYOUT,
            "version": self.version,
            "token": int(self.manifest["token"]),
            "fingerprint": self.encoder_fingerprint,
            "normalize": self.normalize,
        }

    def _forget(self) -> None:
        for name in ("rows", "_snapshot"):
            self.__dict__.pop(name, None)

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(
        self, source: str | Path | Sequence[str | Path], *, caption_column: str | None = None, where: str | None = None, progress: Progress | None = None
    ) -> AddReport:
        """Add every picture of `source`; one that is there already (same bytes, same caption) is not added twice.

        Unreadable pictures are reported by name and the rest goes in. Readers see the old version until the end, or until the next
        `COMMIT_EVERY` items are in; run again after an interruption, what is in is not embedded again.
        `progress` is called with (pictures done, pictures in all or None).
        """
        several = [source] if isinstance(source, (str, Path)) else list(source)
        report = AddReport()
        with self._writing():
            seen = set(self.rows.keys()[0].tolist())
            counts = [sources.count(one) for one in several]
            total = None if None in counts else sum(n or 0 for n in counts)
            done = since = 0
            for one in several:
                for items, read in ingest.chunks(one, caption_column, where):
                    before = report.added
                    ingest.append(self.rows, self.encoder, items, seen, report, self._token)
                    done, since = done + read, since + report.added - before
                    if progress is not None:
                        progress(done, total)
                    if since >= COMMIT_EVERY:
                        self._commit()
                        since = 0
            if since:
                self._commit()
            if report.added:
                self._renew()
        return report

    def remove(self, *, ids: Sequence[int] | None = None, where: str | None = None) -> int:
        """Remove items by id or by condition and return how many. Raises: BowerbirdError when neither or both are given."""
        with self._writing():
            gone = self._chosen("remove", ids, where)
            if len(gone):
                self.rows.delete(gone.tolist())
                self._commit()
                self._renew()
        return len(gone)

    def update(
        self, *, ids: Sequence[int] | None = None, where: str | None = None, caption: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> int:
        """Give items, by id or by condition, another caption or other metadata (a value None empties it), and return how many.

        Embeddings are kept. An item's id says its picture and caption, so with another caption it has another id.
        Raises: BowerbirdError when neither or both of `ids` and `where` are given, or nothing to change.
        """
        if caption is None and not metadata:
            raise BowerbirdError("update: nothing to change; give a caption or metadata")
        own = sorted(set(metadata or {}) & set(OWN_COLUMNS))
        if own:
            raise BowerbirdError(f"update: {own[0]} is not metadata; a caption has its own option, and the rest says what the item is")
        with self._writing():
            chosen = self._chosen("update", ids, where)
            if len(chosen):
                self.rows.change(chosen.tolist(), self._token, caption if caption is None else ingest.clean(caption), ingest.named(dict(metadata or {})))
                self._commit()
                self._renew()
        return len(chosen)

    def compact(self, *, forget: bool = False) -> None:
        """Write the rows as few files and the index anew; with `forget`, drop every version but the newest and the space they take."""
        with self._writing():
            self.rows.compact()
            self._commit()
            if forget:
                # while this is said, files that are gone are no damage: a kill between deleting them and the new list of files does no harm
                self._write_manifest({**self.manifest, "history": self.manifest["history"][-1:], "forgetting": True})
                self._finish_forgetting()
            indexes.make(self.path, self.rows, self.tag(), self.dim, memory=self.memory, told=self.told, anew=True)
            self.__dict__.pop("_snapshot", None)

    def _finish_forgetting(self) -> None:
        self._forget()
        self.rows.forget_others()
        record_files(self.path)
        self._write_manifest({key: value for key, value in self.manifest.items() if key != "forgetting"})
        self._forget()

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        checkpoint.write_sealed(self.path / MANIFEST, manifest)
        self.manifest = manifest

    def _chosen(self, verb: str, ids: Sequence[int] | None, where: str | None) -> np.ndarray:
        if (ids is None) == (where is None):
            raise BowerbirdError(f"{verb}: give ids or a where-condition, one of them")
        return self.rows.ids(where) if where is not None else np.intersect1d(_whole_numbers(ids or ()), self.rows.keys()[0])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock, at the newest version (another writer may have been here), without the rows of a write that never finished.

        Raises: BowerbirdError when the disk cannot; what was committed before stays, and nothing else.
        """
        with writer_lock(self.path):
            try:
                self.manifest = checkpoint.read_sealed(self.path / MANIFEST, "knowledge base", trust=("encoder",))
                self._forget()
                self._token = secrets.randbits(62)
                self.rows.roll_back()
                if self.manifest.get("forgetting"):
                    self._finish_forgetting()
                yield
            except BaseException as error:
                self._forget()  # what was appended and not committed is not to be seen
                if isinstance(error, OSError) or (isinstance(error, RuntimeError) and "lance" in str(error).lower()):
                    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
                    raise BowerbirdError(
                        f"{self.path}: could not be written ({reason}); it is whole at version {self.version}; see to the disk and run this again"
                    ) from error
                raise

    def _renew(self) -> None:
        """Take the new version's searchable form; an index that cannot be made is no loss, as what came since is searched without."""
        try:
            self.__dict__["_snapshot"] = self._opened(renew=True)
        except (BowerbirdError, OSError, RuntimeError) as error:
            self.told(f"{self.path}: the index was not renewed ({str(error)[:160]})")

    def _commit(self) -> None:
        """Record the new version; from here on readers see it."""
        record_files(self.path)
        entry = {"version": self.version + 1, "items": len(self.rows), "rows_version": self.rows.version, "token": self._token}
        self._write_manifest({**self.manifest, **entry, "history": [*self.manifest["history"], entry]})
        self._token = secrets.randbits(62)
        self.__dict__.pop("_snapshot", None)

    # -- asking ------------------------------------------------------------------------------------------------------

    def ids(self, where: str | None = None) -> np.ndarray:
        """The ids of all items, or of those that satisfy `where`, int64 `(n,)`."""
        return self._snapshot.ids if where is None else self.rows.ids(where)

    def search(
        self,
        *,
        text: str | Sequence[str] | None = None,
        images: Sequence[Image.Image] | None = None,
        embeddings: np.ndarray | None = None,
        ids: Sequence[int] | None = None,
        blend: Sequence[tuple[str | Image.Image | np.ndarray, float]] | None = None,
        k: int = 4,
        mode: str = "hybrid",
        where: str | None = None,
        include_self: bool = False,
        exact: bool = False,
        balance: float | None = None,
        diversity: float = 0.0,
    ) -> Neighbors:
        """The k nearest items of each query: texts, pictures, raw embeddings `(Q, d)`, items by id, or one blend of texts and pictures with weights.

        `mode` matters for text: `dense` compares embeddings, `bm25` words, `hybrid` fuses both rankings (reciprocal rank, or with `balance`
        scores, that share of them the dense ones), the dense one led by the pictures whose words match. `exact` compares with every item,
        whatever the index. `diversity` from 0 to 1 prefers results unlike those before (maximal marginal relevance).
        Queries by id leave the item itself out unless `include_self`. Rows with fewer than k results are padded with id -1.
        Raises: BowerbirdError for an unknown mode, an empty text, k over the number of items, or a wrong condition.
        """
        if [text is None, images is None, embeddings is None, ids is None, blend is None].count(False) != 1:
            raise BowerbirdError("search: give one of text, images, embeddings, ids, blend")
        if mode not in MODES:
            raise BowerbirdError(f"search mode {mode!r} is not known; choose one of {', '.join(MODES)}")
        if not 1 <= k <= len(self):
            raise BowerbirdError(f"k = {k} neighbours are asked for and {self.path} holds {len(self)} items; choose k from 1 to {len(self)}")
        if not 0 <= diversity <= 1 or not 0 <= (balance or 0.0) <= 1:
            raise BowerbirdError(f"diversity and balance are shares from 0 to 1, got {diversity} and {balance}")
        texts = [text] if isinstance(text, str) else list(text or [])
        if text is not None and (not texts or any(not t.strip() for t in texts)):
            raise BowerbirdError("search: the text is empty; say what to look for")
        snapshot = self._snapshot
        allowed = np.sort(snapshot.rows_of(self.rows.ids(where))) if where is not None else None
        wanted = min(len(self), 4 * k + 20) if diversity else k
        if texts:
            encoder = None if mode == "bm25" else self.encoder  # words need none, and it takes seconds to load
            found = query.by_text(
                snapshot, encoder, texts, wanted, mode=mode, normalize=self.normalize, allowed=allowed, exact=exact, balance=balance
            )  # fmt: skip
        else:
            own = self._rows_of(ids) if ids is not None else None
            vectors = self._vectors(images, embeddings, own, blend)
            alone = own is None or include_self
            found = snapshot.dense(dense.prepare(vectors, self.normalize), wanted if alone else min(wanted + 1, len(self)), allowed, exact=exact)
            found = found if own is None or include_self else query.without(found, own, wanted)
        hits = self._neighbors(*(query.various(snapshot, found, k, diversity) if diversity else found))
        return replace(hits, queries=tuple(texts)) if texts else hits

    def _vectors(
        self, images: Sequence[Image.Image] | None, embeddings: np.ndarray | None, own: np.ndarray | None,
        blend: Sequence[tuple[str | Image.Image | np.ndarray, float]] | None,
    ) -> np.ndarray:  # fmt: skip
        """The vectors of a query that is no text, raw `(Q, d)`."""
        if own is not None:
            return self._snapshot.embeddings(own)
        if blend is not None:
            return query.blended(self.encoder, blend)
        vectors: np.ndarray = self.encoder.embed_images(list(images)) if images is not None else np.asarray(embeddings, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise MismatchError(
                f"{self.path}: holds embeddings of {self.dim} numbers, the query has shape {vectors.shape}; embed it with encoder {self.encoder_name!r}"
            )
        return vectors

    def get(self, ids: Sequence[int], scores: Sequence[float] | None = None) -> Neighbors:
        """The items with these ids as one row of neighbours (Q = 1), in the order given; scores are 1 when None."""
        rows = self._rows_of(ids)
        values = np.ones(len(ids), np.float32) if scores is None else np.asarray(scores, np.float32)
        return self._neighbors(rows[None], values[None])

    def _rows_of(self, ids: Sequence[int]) -> np.ndarray:
        wanted = _whole_numbers(ids)
        rows = self._snapshot.rows_of(wanted)
        if (rows == ABSENT).any():
            raise BowerbirdError(f"{self.path}: no item with id {wanted[rows == ABSENT][0]}; list ids with bowerbird search {self.path} --json")
        return rows

    def _neighbors(self, rows: np.ndarray, scores: np.ndarray) -> Neighbors:
        snapshot = self._snapshot
        return Neighbors(
            ids=snapshot.ids_of(rows),
            scores=scores,
            embeddings=snapshot.embeddings(rows),
            captions=tuple(tuple("" if r == ABSENT else snapshot.caption(r) for r in row) for row in rows.tolist()),
            metadata=tuple(tuple({} if r == ABSENT else snapshot.metadata(r) for r in row) for row in rows.tolist()),
            load_images=self.pictures,
        )

    def name(self, item: int) -> str:
        """Where the item came from: its file or row name."""
        segment, at = self._snapshot.of(int(self._rows_of([item])[0]))
        return str(segment.table["name"][at].as_py())

    def pictures(self, ids: np.ndarray) -> list[list[Image.Image | None]]:
        """The pictures of `ids` `(Q, K)`, RGB on white; None where the id is absent or of no item.

        Raises: BowerbirdError when a stored picture is not the one that was added.
        """
        found = self.rows.pictures([int(i) for i in ids.reshape(-1) if i >= 0])
        decoded = {i: images.decode(data, str(i)) for i, data in found.items()}
        return [[decoded.get(int(i)) for i in row] for row in ids]

    def proposal(self, k: int = 4) -> dict[int, int]:
        """How often each item is among the k neighbours of the others: p_D's counts with the database as its own training set."""
        from bowerbird.knowledge.graph import knn_graph, neighbor_counts

        ids = self.ids()
        vectors = dense.prepare(self._snapshot.embeddings(self._snapshot.rows_of(ids)), self.normalize)
        positions, _ = knn_graph(vectors, vectors, k, query_ids=ids, database_ids=ids)
        return dict(zip(ids.tolist(), neighbor_counts(positions, len(self), k).tolist(), strict=True))


def _holds_something(folder: Path) -> bool:
    """Whether a build that ended in an error has committed items, which the same command then need not embed again."""
    try:
        return int(checkpoint.read_sealed(folder / MANIFEST, "knowledge base")["items"]) > 0
    except BowerbirdError:
        return False


def _whole_numbers(ids: Sequence[int]) -> np.ndarray:
    try:
        return np.asarray(ids, np.int64)
    except OverflowError as error:
        raise BowerbirdError("an id is a number of up to 63 bits; one of those given is larger") from error


def record_files(path: Path) -> None:
    """Write the hashes of the rows' files, which never change once written; done before the manifest that relies on them."""
    known = checkpoint.read_sealed(path / FILES, "list of files") if (path / FILES).is_file() else {}
    names = [f"{ROWS_FOLDER}/{name}" for name in files.listed(path / ROWS_FOLDER) if not name.endswith(HINT)]
    checkpoint.write_sealed(path / FILES, files.record(path, known=known, only=names, durable=True))
