"""`KnowledgeBase`: pictures that can be searched, changed, and trusted after a crash; here is what one asks of it.

Where it lies is a store's business (`storage/protocol.py`): a directory or a Milvus server. Knows encoders by their
protocol only, and nothing of what is generated from its answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import ref

import numpy as np

from bowerbird.core import images
from bowerbird.core.credit import MOST_COLUMNS
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import OnMessage, Progress, log_message
from bowerbird.core.text import LONGEST, with_article
from bowerbird.core.types import Encoder, Neighbors, TextEncoder
from bowerbird.knowledge import captions, changes, creation, items, statistics
from bowerbird.knowledge.encoder import check as check_encoder
from bowerbird.knowledge.encoder import load as load_encoder
from bowerbird.knowledge.encoder import load_recorded
from bowerbird.knowledge.ingest.add import fill
from bowerbird.knowledge.ingest.prepare import AddReport, Choice, Filter
from bowerbird.knowledge.ingest.sync import SyncReport, check_store, sync
from bowerbird.knowledge.rerank.registry import NONE, Rerank
from bowerbird.knowledge.rerank.tokens import count_of
from bowerbird.knowledge.search.analyzer import Analyzer, check_language
from bowerbird.knowledge.search.planner import DEFAULT_MEMORY
from bowerbird.knowledge.searching import SearchRequest, search
from bowerbird.knowledge.storage.open import open_store
from bowerbird.knowledge.storage.protocol import CAPTIONS, HoldsCaptionVectors

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.storage.protocol import Store


class KnowledgeBase:
    """An opened knowledge base, fixed at the version it was opened at; `add`, `remove`, `update`, `restore` and
    `compact` move it to a new one."""

    def __init__(
        self,
        store: Store,
        encoder: Encoder | None = None,
        device: str = "cpu",
        caption_encoder: TextEncoder | None = None,
    ) -> None:
        self.store, self.device = store, device
        if encoder is not None:
            check_encoder(store.manifest, encoder, str(self.path))
            self.encoder = encoder
        if caption_encoder is not None:
            captions.check(store.manifest, caption_encoder, str(self.path))
            self.caption_encoder = caption_encoder
        if isinstance(store, HoldsCaptionVectors):
            # not the method itself: in a circle with its store, a base that is let go of would keep its files open
            store.embed_captions = partial(_embed_captions, ref(self))

    # -- opening and making ------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        version: int | None = None,
        encoder: Encoder | str | None = None,
        caption_encoder: TextEncoder | str | None = None,
        device: str = "cpu",
        memory: int = DEFAULT_MEMORY,
        on_message: OnMessage = log_message,
    ) -> KnowledgeBase:
        """The knowledge base at `path`, a directory or a `milvus://` address, at its newest version or an earlier one.

        Its encoder is loaded by its recorded name when first needed, or given here, itself or a name for
        `encoders.load`. One that is code of somebody's own (`module:Class`) must be given: a recorded name runs no
        code, as the knowledge base may come from anybody. So it is with `caption_encoder`, where captions have vectors.

        `memory`: bytes that making an index may take. Raises: BowerbirdError when there is none, it is damaged, or the
        version is gone, MismatchError when `encoder` is not the one it was made with.
        """
        given = captions.load(caption_encoder, device)
        made = cls(open_store(path, memory, on_message), load_encoder(encoder, device), device, given)
        return made if version is None else made.at_version(version)

    def at_version(self, version: int) -> KnowledgeBase:
        """This knowledge base as it was at an earlier `version`. Raises: BowerbirdError when that version is
        not kept."""
        known = self.__dict__
        earlier = self.store.at_version(version)
        return KnowledgeBase(earlier, known.get("encoder"), self.device, known.get("caption_encoder"))

    @classmethod
    def build(
        cls,
        path: str | Path,
        source: str | Path | Sequence[str | Path],
        *,
        encoder: Encoder | str = "small",
        caption_encoder: TextEncoder | str | None = None,
        normalize: bool = True,
        caption_column: str | None = None,
        where: str | None = None,
        patches: int = 0,
        dedup: float | None = None,
        filter_fn: Filter | None = None,
        fetch_urls: bool = False,
        private_urls: bool = False,
        max_pixels: int = images.MAX_PIXELS,
        pictures: Sequence[str | Path] = (),
        bm25_weights: Sequence[int] = (1, 1),
        language: str | None = None,
        compounds: bool = False,
        keep_accents: bool = False,
        credit: Sequence[str] = (),
        tokens: int = 0,
        workers: int = 0,
        device: str = "cpu",
        memory: int = DEFAULT_MEMORY,
        progress: Progress | None = None,
        on_message: OnMessage = log_message,
    ) -> tuple[KnowledgeBase, AddReport]:
        """Make a knowledge base at `path` from one source or several; it appears whole or not at all.

        Interrupted, the same call goes on where it was. `normalize` records that embeddings are compared by cosine
        (their raw form is what is stored); `caption_encoder`: a text encoder (`encoders.load_text`) that captions are
        searched by, beside words and embeddings; `bm25_weights`: how often a word of a caption, and of the tags, counts
        in BM25; `language`: take words by its stems (`knowledge.search.analyzer.LANGUAGES`), default the singulars of
        English nouns; `compounds`: find words inside longer ones, as German has them; `keep_accents`: a word with
        accents is another one; `credit`: see `set_credit`; `tokens`: so many token vectors of each item are kept beside
        its embedding, for searches with `rerank="late"` (0: none), also of those that are added later. The rest: `add`.
        Raises: BowerbirdError when `path` is taken, or no picture of the sources can be read.
        """
        creation.check_weights(bm25_weights)
        analyzer = Analyzer(None if language is None else check_language(language), compounds, keep_accents)
        design = creation.Design(
            encoder=load_encoder(encoder, device),
            caption_encoder=captions.load(caption_encoder, device),
            normalize=normalize,
            bm25_weights=bm25_weights,
            analyzer=analyzer,
            tokens=tokens,
            credit=credit,
        )
        report = creation.build(
            path,
            _several(source),
            design,
            Choice(caption_column, where, patches, fetch_urls, private_urls, max_pixels, tuple(map(str, pictures))),
            dedup=dedup,
            filter_fn=filter_fn,
            workers=workers,
            progress=progress,
            memory=memory,
            on_message=on_message,
        )
        own, text = design.encoder, design.caption_encoder
        made = cls.open(path, encoder=own, caption_encoder=text, device=device, memory=memory, on_message=on_message)
        return made, report

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path | str:
        """Where it is: a directory, or a `milvus://` address."""
        return self.store.path

    @property
    def manifest(self) -> dict[str, Any]:
        """What is recorded of it."""
        return self.store.manifest

    @property
    def version(self) -> int:
        """Counts the changes since the knowledge base was made."""
        return int(self.manifest["version"])

    @property
    def versions(self) -> list[int]:
        """The versions that can be opened."""
        return self.store.versions

    @property
    def encoder_name(self) -> str:
        """Name of the encoder it was made with."""
        return str(self.manifest["encoder"]["name"])

    @property
    def encoder_fingerprint(self) -> str:
        """Fingerprint of that encoder's weights."""
        return str(self.manifest["encoder"]["fingerprint"])

    @property
    def dim(self) -> int:
        """The embedding dimension."""
        return self.store.dim

    @property
    def normalize(self) -> bool:
        """Whether embeddings are compared by cosine."""
        return bool(self.manifest["encoder"]["normalize"])

    @property
    def token_count(self) -> int:
        """Token vectors that an item is pooled to; 0 where none are kept."""
        return count_of(self.manifest)

    def __len__(self) -> int:
        return len(self.store)

    def __repr__(self) -> str:
        return f"KnowledgeBase({str(self.path)!r}: {len(self):,} items, version {self.version}, {self.encoder_name})"

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded by its recorded name. Raises: MismatchError when that name now means other weights,
        BowerbirdError when it is the name of code or of what would be fetched, which must be given to `open`."""
        return load_recorded(self.manifest, str(self.path), self.device)

    @cached_property
    def caption_encoder(self) -> TextEncoder | None:
        """The text encoder of the captions' vectors, loaded by its recorded name; None where captions have none.

        Raises: as `encoder`.
        """
        return captions.load_recorded(self.manifest, str(self.path), self.device)

    def info(self) -> dict[str, Any]:
        """What `kb info --json` prints."""
        return {
            "path": str(self.path),
            "version": self.version,
            "items": len(self),
            "encoder": dict(self.manifest["encoder"]),
            **({CAPTIONS: dict(self.manifest[CAPTIONS])} if CAPTIONS in self.manifest else {}),
            "credit": list(self.credit),
            "caption_column": self.caption_column,
            **({"tokens": dict(self.manifest["tokens"])} if self.token_count else {}),
            **self.store.info(),
        }

    @property
    def credit(self) -> tuple[str, ...]:
        """The metadata columns that say who made an item, see `set_credit`."""
        kept = self.manifest.get("credit")
        columns = [c for c in kept if isinstance(c, str) and len(c) <= LONGEST] if isinstance(kept, list) else []
        return tuple(columns[:MOST_COLUMNS])

    @property
    def caption_column(self) -> str | None:
        """The column that captions were read from when somebody named one, which `sync` reads again."""
        kept = self.manifest.get("caption_column")
        return kept if isinstance(kept, str) and kept and len(kept) <= LONGEST else None

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        caption_column: str | None = None,
        where: str | None = None,
        patches: int = 0,
        dedup: float | None = None,
        filter_fn: Filter | None = None,
        fetch_urls: bool = False,
        private_urls: bool = False,
        max_pixels: int = images.MAX_PIXELS,
        pictures: Sequence[str | Path] = (),
        workers: int = 0,
        progress: Progress | None = None,
    ) -> AddReport:
        """Add every picture of `source`; one that is there already (same bytes, same caption) is not added twice.

        `patches`: so many random crops of each picture in place of it. `dedup`: leave out what is at least this
        like (cosine) an item that is there or came before. `filter_fn(picture, item)` gives a reason to leave one
        out, or None. `fetch_urls` allows the addresses of a source to be asked, `private_urls` also those of this
        machine and its network. `max_pixels`: the largest picture that is decoded. `pictures`: folders and `.tar`
        shards of the pictures that a clip-retrieval folder only names. `workers`: processes that embed, 0 for this one
        alone; the result is the same. `progress` counts pictures.

        Unreadable pictures are reported by name and the rest goes in. Readers see the old version until the end, or
        until the next `ingest.add.COMMIT_EVERY` items are in; run again after an interruption, what is in is
        not embedded again.
        """
        changes.check_dedup(self.store, dedup)
        return fill(
            self.store,
            self.encoder,
            _several(source),
            Choice(
                caption_column,
                where,
                patches,
                fetch_urls,
                private_urls,
                images.check_max_pixels(max_pixels),
                tuple(map(str, pictures)),
            ),
            dedup=dedup,
            filter_fn=filter_fn,
            processes=workers,
            progress=progress,
        )

    def sync(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        key: str,
        delete_missing: bool = False,
        dry_run: bool = False,
        caption_column: str | None = None,
        fetch_urls: bool = False,
        private_urls: bool = False,
        max_pixels: int = images.MAX_PIXELS,
        workers: int = 0,
        progress: Progress | None = None,
    ) -> SyncReport:
        """Bring the items to what `source` says of the same `key`, a metadata column or `name` (the file's): what is
        new is added, a changed picture is embedded again, changed captions and metadata are written without that.

        `caption_column`: default the one that `build` or an earlier `sync` was given. An item keeps its id, whatever of
        it changes. Columns that the source does not have are kept. `delete_missing`
        removes the items whose key the source does not have; items without a key stay. `dry_run` changes nothing.
        Readers see all of it or nothing: it is one version. The rest: `add`.
        Raises: BowerbirdError, before anything is embedded, when a row has no key, or two rows, or two items, have the
        same one.
        """
        column = caption_column if caption_column is not None else self.caption_column
        report = sync(
            check_store(self.store),
            lambda: self.encoder,
            _several(source),
            key,
            Choice(column, None, 0, fetch_urls, private_urls, images.check_max_pixels(max_pixels)),
            delete_missing=delete_missing,
            dry_run=dry_run,
            processes=workers,
            progress=progress,
        )
        if column != self.caption_column and not dry_run:
            with self.store.writing():
                self.store.keep({"caption_column": column})
        return report

    def remove(
        self, *, ids: Sequence[int] | None = None, where: str | None = None, expected_version: int | None = None
    ) -> int:
        """Remove items by id or by condition (`true` for all) and return how many; `restore` undoes it.

        `expected_version`: remove nothing when another writer has changed it since that version.
        Raises: BowerbirdError when neither or both are given, the condition is empty, or that version is past.
        """
        return changes.remove(self.store, ids, where, expected_version=expected_version)

    def update(
        self,
        *,
        ids: Sequence[int] | None = None,
        where: str | None = None,
        caption: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> int:
        """Give items, by id or by condition, another caption or other metadata (a value None empties it), and return
        how many.

        Embeddings are kept. An item's id says its picture and caption, so with another caption it has another id.
        Raises: BowerbirdError when neither or both of `ids` and `where` are given, the condition is empty, or there is
        nothing to change.
        """
        return changes.update(self.store, ids, where, caption=caption, metadata=metadata)

    def set_credit(self, columns: Sequence[str]) -> None:
        """Keep which metadata columns say who made an item and what its license is, none with an empty list: their
        values go, beside the file's name, into the record of every picture that is generated from it.

        It holds for every version and makes no new one. Raises: BowerbirdError for a column that is not there.
        """
        changes.set_credit(self.store, columns)

    def close(self) -> None:
        """Give back what is held open: a Milvus Lite file is one process's at a time."""
        self.store.close()

    def compact(self, *, drop_history: bool = False) -> None:
        """Write the rows as few files and the index again; with `drop_history`, drop every version but the
        newest and the space they take."""
        self.store.compact(drop_history=drop_history)

    def restore(self, version: int, *, expected_version: int | None = None) -> int:
        """Make a new version that holds what `version` held, and return its number; the versions between stay.

        The present version is left as it is; what others changed since `version` is not in the new one, so whoever
        undoes a change of theirs gives its number as `expected_version`. Raises: BowerbirdError when `version` is not
        kept, or `expected_version` is not the present one.
        """
        changes.restore(self.store, version, expected_version=expected_version)
        return self.version

    # -- asking ------------------------------------------------------------------------------------------------------

    def select_ids(self, *, ids: Sequence[int] | None = None, where: str | None = None) -> np.ndarray:
        """What `remove` and `update` would change: those of `ids` that are here, or the ids that satisfy `where`, int64
        `(n,)`. Raises: BowerbirdError when neither or both are given, or the condition is empty."""
        return changes.select_ids(self.store, ids, where)

    def ids(self, where: str | None = None) -> np.ndarray:
        """The ids of all items, or of those that satisfy `where`, int64 `(n,)`."""
        return self.store.ids(where)

    def search(
        self,
        text: str | Sequence[str] | None = None,
        *,
        images: Sequence[Image.Image] | None = None,
        embeddings: np.ndarray | None = None,
        ids: Sequence[int] | None = None,
        query_mix: Sequence[tuple[str | Image.Image | np.ndarray, float]] | None = None,
        k: int | None = None,
        mode: str = "hybrid",
        where: str | None = None,
        include_self: bool = False,
        exact: bool = False,
        alpha: float | Literal["auto", "even"] = "auto",
        diversity: float = 0.0,
        min_score: float | None = None,
        typos: bool = True,
        operators: bool = True,
        rerank: Rerank = NONE,
    ) -> Neighbors:
        """The k nearest items of each query: texts, pictures, raw embeddings `(Q, d)`, items by id, or one query_mix of
        texts and pictures with weights. k None: 4, or as many as there are.

        `mode` matters for text: `dense` compares embeddings, `bm25` words, `captions` what captions mean, where they
        have vectors; `hybrid` fuses these rankings by reciprocal rank, the dense ranks counting what the words
        leave open (with `alpha="even"` as much as the others; with a number scores are fused, that share of them the
        dense ones), the dense one led by the
        pictures whose words match; `mixed` compares the query, a picture too,
        with the mean of picture and caption. `exact` compares with every item, whatever the index. `diversity` from 0
        to 1 prefers results unlike those before (maximal marginal relevance). `min_score` leaves out what is less
        similar to the query: a cosine, or with `bm25` a BM25 score (`measures` of the result has both; `similarities`
        what is usual). `typos`: a word that no item has is searched as those near to it, which count less (`corrected`
        of the result). `operators`: words in quotation marks must stand next to each other, and `sku:ABC-12` is a value
        of the metadata column `sku` where there is one; False takes both as plain words. `rerank`: a name of
        `rerank.registry.NAMES` or a reranker of one's own, which orders what the search finds. Queries by id
        leave the item itself out unless `include_self`. Rows with fewer than k results are padded with id -1.
        Raises: BowerbirdError for an unknown mode, an empty text, k over the number of items, or a wrong condition.
        """
        request = SearchRequest(
            text=text,
            images=images,
            embeddings=embeddings,
            ids=ids,
            query_mix=query_mix,
            k=k,
            mode=mode,
            where=where,
            include_self=include_self,
            exact=exact,
            alpha=alpha,
            diversity=diversity,
            min_score=min_score,
            typos=typos,
            operators=operators,
            rerank=rerank,
        )
        return search(self, request)

    def similarities(
        self,
        *,
        text: str | None = None,
        query_mix: Sequence[tuple[str | Image.Image | np.ndarray, float]] | None = None,
    ) -> np.ndarray:
        """The cosines of one query with up to 1,000 items spread over all, ascending, float32 `(n,)`.

        They say what is usual: a `min_score` is chosen by them, and a result's `similarity` read.
        Raises: BowerbirdError when neither or both of `text` and `query_mix` are given.
        """
        return statistics.similarities(self, text, query_mix)

    def get(self, ids: Sequence[int], scores: Sequence[float] | None = None) -> Neighbors:
        """The items with these ids as one row of neighbors (Q = 1), in the order given; scores are 1 when None."""
        values = np.ones(len(ids), np.float32) if scores is None else np.asarray(scores, np.float32)
        return items.neighbors(self.store, items.rows_of(self.store, ids)[None], values[None], self.pictures)

    def name(self, item: int) -> str:
        """Where the item came from: its file or row name."""
        return self.names([item])[0]

    def names(self, ids: Sequence[int]) -> list[str]:
        """Where items came from: their file or row names."""
        return self.store.snapshot.names(items.rows_of(self.store, ids))

    def credits(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """What names the source of each of `ids`: its file `name`, without the folders, and `credit`, its values of
        the columns of `set_credit`. Nothing for an id that is no item's."""
        return items.credits_of(self.store, ids, self.credit)

    def pictures(self, ids: np.ndarray, *, at_least: int | None = None) -> list[list[Image.Image | None]]:
        """The pictures of `ids` `(Q, K)`, RGB on white; None where the id is absent or of no item. With `at_least`,
        large ones reduced, their shorter side still that many pixels.

        Raises: BowerbirdError when a stored picture is not the one that was added.
        """
        return items.pictures(self.store, ids, at_least=at_least)

    def tokens(self, ids: Sequence[int]) -> dict[int, np.ndarray]:
        """The token vectors of these items, of length 1, float32 `(m, d)`, by id; items without are left out.

        Raises: BowerbirdError where some are not as they were written.
        """
        return items.tokens(self.store, ids)

    def proposal(self, k: int = 4) -> dict[int, int]:
        """How often each item is among the k neighbors of the others: p_D's counts with the database as its own
        training set."""
        return statistics.proposal(self.store, k)


def _several(source: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """One source or several as a list. Raises: BowerbirdError for pictures, rows and the like in their place."""
    found: list[Any] = [source]
    if isinstance(source, Iterable) and not isinstance(source, str | Path):
        found = list(source)
    odd = next((type(each).__name__ for each in found if not isinstance(each, str | Path)), None)
    if odd is not None:
        raise BowerbirdError(
            f"source: a path or a name, or a list of them, not {with_article(odd)}; save pictures into a folder, or a"
            ' table as a file (dataset.to_parquet("rows.parquet")), and give that'
        )
    return found


def _embed_captions(base: ref[KnowledgeBase], texts: Sequence[str]) -> np.ndarray:
    """Vectors of captions by the encoder of the base that `base` refers to."""
    there = base()
    assert there is not None, "a store is changed by an opened knowledge base alone"
    if there.caption_encoder is None:
        raise BowerbirdError(f"{there.path}: captions have no vectors here")
    return there.caption_encoder.embed_captions(texts)
