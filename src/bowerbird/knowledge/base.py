"""`KnowledgeBase`: a directory of pictures that can be searched, changed, and trusted after a crash.

`kb.json` is the manifest and is written last; `rows.lance` holds the truth; `index/` holds caches. Many readers, one writer.
Knows encoders by their protocol only, and nothing of what is painted from its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird import checkpoint, images
from bowerbird.errors import BowerbirdError, MismatchError, PictureError
from bowerbird.knowledge import caches, dense, fuse, sources, sparse
from bowerbird.knowledge.lock import writer_lock
from bowerbird.knowledge.rows import OWN_COLUMNS, Rows
from bowerbird.types import ABSENT, Encoder, Neighbors

if TYPE_CHECKING:
    from PIL import Image

FORMAT = 1
MANIFEST = "kb.json"
MODES = ("dense", "bm25", "hybrid")
Progress = Callable[[int, int | None], None]


@dataclass
class AddReport:
    """What `add` did: items added, items that were there already, and the pictures that could not be read with the reason."""

    added: int = 0
    present: int = 0
    unreadable: list[str] = field(default_factory=list)


class KnowledgeBase:
    """An opened knowledge base, fixed at the version it was opened at; `add` and `remove` move it to a new one."""

    def __init__(self, path: Path, manifest: dict[str, Any], encoder: Encoder | None = None, device: str = "cpu") -> None:
        self.path, self.manifest, self.device = path, manifest, device
        if encoder is not None:
            self._check(encoder)
            self.encoder = encoder

    # -- opening and making ------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Path, *, encoder: Encoder | None = None, device: str = "cpu") -> KnowledgeBase:
        """The knowledge base at `path`; its encoder is loaded by name when first needed, or given here.

        Raises: BowerbirdError when there is none, MismatchError when `encoder` is not the one it was made with.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            raise BowerbirdError(f"{path}: no knowledge base here; make one: bowerbird kb build {path} FOLDER_OF_PICTURES")
        manifest = checkpoint.read_json(path / MANIFEST, "knowledge base")
        if manifest.get("format") != FORMAT:
            raise BowerbirdError(f"{path}: format {manifest.get('format')!r} of another bowerbird; this one reads format {FORMAT}; build it again")
        return cls(path, manifest, encoder, device)

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
        progress: Progress | None = None,
    ) -> tuple[KnowledgeBase, AddReport]:
        """Make a knowledge base at `path` from one source or several; it appears whole or not at all.

        `normalize` records that embeddings are compared by cosine (their raw form is what is stored).
        Raises: BowerbirdError when `path` is taken, or no picture of the sources can be read.
        """
        from bowerbird import encoders

        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "a knowledge base is there already; add to it: bowerbird kb add" if (path / MANIFEST).is_file() else "this path is taken; give a new one"
            raise BowerbirdError(f"{path}: {what}")
        loaded = encoders.load(encoder, device=device) if isinstance(encoder, str) else encoder
        with checkpoint.atomic_directory(path) as target:
            Rows.create(target, loaded.dim)
            facts = {"name": loaded.name, "fingerprint": loaded.fingerprint, "dim": loaded.dim, "normalize": normalize}
            manifest = {"format": FORMAT, "version": 0, "items": 0, "rows_version": 1, "metric": "cosine" if normalize else "inner product", "encoder": facts}
            checkpoint.write_json(target / MANIFEST, manifest)
            kb = cls(target, manifest, loaded, device)
            report = kb.add(source, caption_column=caption_column, where=where, progress=progress)
            if report.added == 0:
                reason = f"the first reason: {report.unreadable[0]}" if report.unreadable else "no row was left"
                raise BowerbirdError(f"{source}: no picture could be read, so nothing was made ({reason})")
        return cls.open(path, encoder=loaded, device=device), report

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Counts the changes since the knowledge base was made."""
        return int(self.manifest["version"])

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
        table = self._caches.table
        files = [p for p in self.path.rglob("*") if p.is_file()]
        return {
            "path": str(self.path),
            "version": self.version,
            "items": len(self),
            "encoder": dict(self.manifest["encoder"]),
            "indexes": {"dense": {"kind": "flat", "metric": self.manifest["metric"], "exact": True}, "bm25": {"kind": "bm25s lucene"}},
            "bytes": sum(p.stat().st_size for p in files),
            "metadata": {f.name: str(f.type) for f in table.schema if f.name not in OWN_COLUMNS},
        }

    # -- rows and caches ---------------------------------------------------------------------------------------------

    @cached_property
    def _rows(self) -> Rows:
        return Rows(self.path, int(self.manifest["rows_version"]))

    @cached_property
    def _caches(self) -> caches.Caches:
        tag = self._tag()
        found = caches.load(self.path / "index", tag, tag["normalize"])
        if found is not None:
            return found
        made = caches.from_rows(self._rows.everything_but_pictures(), tag["normalize"])
        try:
            made.write(self.path / "index", tag)
        except OSError:
            pass  # a read-only place: the caches live in memory for this process
        return made

    def _tag(self) -> dict[str, Any]:
        facts = self.manifest["encoder"]
        return {"version": self.version, "fingerprint": facts["fingerprint"], "normalize": bool(facts["normalize"])}

    def _forget(self) -> None:
        for name in ("_rows", "_caches"):
            self.__dict__.pop(name, None)

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(
        self, source: str | Path | Sequence[str | Path], *, caption_column: str | None = None, where: str | None = None, progress: Progress | None = None
    ) -> AddReport:
        """Add every picture of `source`; one that is there already (same bytes, same caption) is not added twice.

        Unreadable pictures are reported by name and the rest goes in. All or nothing: readers see the old version until the end.
        `progress` is called with (pictures done, pictures in all or None).
        """
        several = [source] if isinstance(source, (str, Path)) else list(source)
        report = AddReport()
        with writer_lock(self.path):
            self._reopen_for_writing()
            seen = set(self._rows.ids().tolist())
            for one in several:
                items = _filtered(one, caption_column, where)
                for start in range(0, len(items), 512):
                    self._add_chunk(items[start : start + 512], seen, report)
                    if progress is not None:
                        progress(min(start + 512, len(items)), len(items))
            if report.added:
                self._commit()
        return report

    def _add_chunk(self, items: Sequence[sources.SourceItem], seen: set[int], report: AddReport) -> None:
        rows, pictures = [], []
        for item in items:
            number = sources.content_id(item)
            if number in seen:
                report.present += 1
                continue
            try:
                pictures.append(images.decode(item.data, item.name))
            except PictureError as error:
                report.unreadable.append(str(error))
                continue
            seen.add(number)
            metadata = {k: v for k, v in item.metadata.items() if k not in OWN_COLUMNS}
            rows.append({"id": number, "caption": item.caption, "name": item.name, "image": item.data, "metadata": metadata})
        if rows:
            self._rows.append(rows, np.asarray(self.encoder.embed_images(pictures), np.float32))
            report.added += len(rows)

    def remove(self, *, ids: Sequence[int] | None = None, where: str | None = None) -> int:
        """Remove items by id or by condition and return how many. Raises: BowerbirdError when neither or both are given."""
        if (ids is None) == (where is None):
            raise BowerbirdError("remove: give ids or a where-condition, one of them")
        with writer_lock(self.path):
            self._reopen_for_writing()
            gone = self._rows.ids(where) if where is not None else np.intersect1d(np.asarray(ids, np.int64), self._rows.ids())
            if len(gone):
                self._rows.delete(gone.tolist())
                self._commit()
        return len(gone)

    def _reopen_for_writing(self) -> None:
        """Take the newest manifest (another writer may have been here) and drop rows of a write that never finished."""
        self.manifest = checkpoint.read_json(self.path / MANIFEST, "knowledge base")
        self._forget()
        self._rows.roll_back()

    def _commit(self) -> None:
        """Record the new version; from here on readers see it. Then make its caches."""
        self.manifest = {**self.manifest, "version": self.version + 1, "items": len(self._rows), "rows_version": self._rows.version}
        checkpoint.write_json(self.path / MANIFEST, self.manifest)
        self._forget()
        _ = self._caches

    # -- asking ------------------------------------------------------------------------------------------------------

    def ids(self, where: str | None = None) -> np.ndarray:
        """The ids of all items, or of those that satisfy `where`, int64 `(n,)`."""
        return self._caches.ids if where is None else self._rows.ids(where)

    def search(
        self,
        *,
        text: str | Sequence[str] | None = None,
        images: Sequence[Image.Image] | None = None,
        embeddings: np.ndarray | None = None,
        ids: Sequence[int] | None = None,
        k: int = 4,
        mode: str = "hybrid",
        where: str | None = None,
        include_self: bool = False,
    ) -> Neighbors:
        """The k nearest items of each query: texts, pictures, raw embeddings `(Q, d)`, or items by id.

        `mode` matters for text: `dense` compares embeddings, `bm25` words, `hybrid` fuses both rankings
        (reciprocal rank), the dense one led by the pictures whose words match.
        Queries by id leave the item itself out unless `include_self`. Rows with fewer than k results are padded with id -1.
        Raises: BowerbirdError for an unknown mode, an empty text, k over the number of items, or a wrong condition.
        """
        if [text is None, images is None, embeddings is None, ids is None].count(False) != 1:
            raise BowerbirdError("search: give one of text, images, embeddings, ids")
        if mode not in MODES:
            raise BowerbirdError(f"search mode {mode!r} is not known; choose one of {', '.join(MODES)}")
        if not 1 <= k <= len(self):
            raise BowerbirdError(f"k = {k} neighbours are asked for and {self.path} holds {len(self)} items; choose k from 1 to {len(self)}")
        allowed = self._rows.ids(where) if where is not None else None
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if any(not t.strip() for t in texts):
                raise BowerbirdError("search: the text is empty; say what to look for")
            return replace(self._search_text(texts, k, mode, allowed), queries=tuple(texts))
        if ids is not None:
            vectors = self.get(list(ids)).embeddings[0]
        else:
            vectors = self.encoder.embed_images(list(images)) if images is not None else np.asarray(embeddings, np.float32)
        more = k if ids is None or include_self else min(k + 1, len(self))
        found, scores = self._dense(vectors, more, allowed)
        if ids is not None and not include_self:
            found, scores = _without(found, scores, np.asarray(ids, np.int64), k)
        return self._neighbors(found, scores)

    def _search_text(self, texts: Sequence[str], k: int, mode: str, allowed: np.ndarray | None) -> Neighbors:
        words: tuple[np.ndarray, np.ndarray] | None = None
        depth = k if mode != "hybrid" else min(len(self), max(50, 2 * k))
        if mode in ("bm25", "hybrid"):
            rows = None if allowed is None else np.isin(self._caches.ids, allowed)
            pairs = [sparse.search(self._caches.sparse, self._caches.ids, t, depth, rows) for t in texts]
            words = (np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs]))
            if mode == "bm25":
                return self._neighbors(*words)
        vectors = self.encoder.embed_text(texts)
        if words is None:
            return self._neighbors(*self._dense(vectors, k, allowed))
        looks, _ = self._dense(self._feedback(vectors, *words), depth, allowed)
        fused = [fuse.reciprocal_rank_fusion([words[0][q], looks[q]], k) for q in range(len(texts))]
        return self._neighbors(np.stack([f[0] for f in fused]), np.stack([f[1] for f in fused]))

    def _feedback(self, vectors: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Text embeddings moved to the pictures whose words matched best (pseudo-relevance feedback).

        A small encoder does not know a new name, but the pictures that carry it show what to look for. Without any match in words
        the text embedding stays as it is.
        """
        moved = dense.prepare(vectors, True)
        for q in range(len(moved)):
            best = [int(i) for i, s in zip(ids[q, :4], scores[q, :4], strict=True) if i != ABSENT and s >= 0.7 * scores[q, 0]]
            if best:
                likes = dense.prepare(self._caches.vectors[[self._caches.row_of[i] for i in best]], True)
                moved[q] = 0.5 * moved[q] + likes.mean(0)
        return moved

    def _dense(self, vectors: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        dim = self.manifest["encoder"]["dim"]
        if vectors.ndim != 2 or vectors.shape[1] != dim:
            raise MismatchError(
                f"{self.path}: holds embeddings of {dim} numbers, the query has shape {vectors.shape}; embed it with encoder {self.encoder_name!r}"
            )
        return dense.search(self._caches.dense, dense.prepare(vectors, self._tag()["normalize"]), k, allowed)

    def get(self, ids: Sequence[int], scores: Sequence[float] | None = None) -> Neighbors:
        """The items with these ids as one row of neighbours (Q = 1), in the order given; scores are 1 when None."""
        missing = [i for i in ids if int(i) not in self._caches.row_of]
        if missing:
            raise BowerbirdError(f"{self.path}: no item with id {missing[0]}; list ids with bowerbird search {self.path} --json")
        values = np.ones(len(ids), np.float32) if scores is None else np.asarray(scores, np.float32)
        return self._neighbors(np.asarray(ids, np.int64)[None], values[None])

    def _neighbors(self, ids: np.ndarray, scores: np.ndarray) -> Neighbors:
        store = self._caches
        rows = [[store.row_of.get(int(i), ABSENT) for i in row] for row in ids]
        width = self.manifest["encoder"]["dim"]
        embeddings = np.zeros((*ids.shape, width), np.float32)
        for q, row in enumerate(rows):
            for c, r in enumerate(row):
                if r != ABSENT:
                    embeddings[q, c] = store.vectors[r]
        captions = store.table["caption"]
        return Neighbors(
            ids=ids,
            scores=scores,
            embeddings=embeddings,
            captions=tuple(tuple("" if r == ABSENT else captions[r].as_py() for r in row) for row in rows),
            metadata=tuple(tuple({} if r == ABSENT else store.metadata(r) for r in row) for row in rows),
            load_images=self.pictures,
        )

    def name(self, item: int) -> str:
        """Where the item came from: its file or row name."""
        return str(self._caches.table["name"][self._caches.row_of[int(item)]].as_py())

    def pictures(self, ids: np.ndarray) -> list[list[Image.Image | None]]:
        """The pictures of `ids` `(Q, K)`, RGB on white; None where the id is absent or of no item."""
        found = self._rows.pictures([int(i) for i in ids.reshape(-1) if i >= 0])
        decoded = {i: images.decode(data, str(i)) for i, data in found.items()}
        return [[decoded.get(int(i)) for i in row] for row in ids]

    def proposal(self, k: int = 4) -> dict[int, int]:
        """How often each item is among the k neighbours of the others: p_D's counts with the database as its own training set."""
        from bowerbird.knowledge.graph import knn_graph, neighbor_counts

        vectors = dense.prepare(self._caches.vectors, self._tag()["normalize"])
        positions, _ = knn_graph(vectors, vectors, k, query_ids=self._caches.ids, database_ids=self._caches.ids)
        return dict(zip(self._caches.ids.tolist(), neighbor_counts(positions, len(self), k).tolist(), strict=True))


def _filtered(source: str | Path, caption_column: str | None, where: str | None) -> list[sources.SourceItem]:
    from bowerbird.knowledge.where import filter_rows

    items = list(sources.read(source, caption_column=caption_column))
    return [items[i] for i in filter_rows([item.metadata for item in items], where)]


def _without(ids: np.ndarray, scores: np.ndarray, own: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row without its own id, cut or padded to k."""
    out_ids, out_scores = np.full((len(ids), k), ABSENT, np.int64), np.full((len(ids), k), -np.inf, np.float32)
    for q in range(len(ids)):
        keep = np.flatnonzero(ids[q] != own[q])[:k]
        out_ids[q, : len(keep)], out_scores[q, : len(keep)] = ids[q, keep], scores[q, keep]
    return out_ids, out_scores
