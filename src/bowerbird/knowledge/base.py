"""`KnowledgeBase`: pictures that can be searched, changed, and trusted after a crash; here is what one asks of it.

Where it lies is a store's business (`storage/protocol.py`): a directory or a Milvus server. Knows encoders by their
protocol only, and nothing of what is generated from its answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from bowerbird.core import images
from bowerbird.core.credit import LONGEST, MOST_COLUMNS, credit_of, source_name
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.progress import OnMessage, Progress, log_message
from bowerbird.core.text import in_shell
from bowerbird.core.types import ABSENT, Encoder, Neighbors, TextEncoder, TokenEncoder
from bowerbird.data.columns import clean
from bowerbird.data.item import OWN_COLUMNS, clean_metadata
from bowerbird.knowledge import captions
from bowerbird.knowledge.ingest.add import fill
from bowerbird.knowledge.ingest.credit import check_sources, known_columns
from bowerbird.knowledge.ingest.prepare import AddReport, Choice, Filter, name_of
from bowerbird.knowledge.ingest.sync import SyncReport, check_store, sync
from bowerbird.knowledge.rerank.registry import NONE, Rerank, load_reranker
from bowerbird.knowledge.rerank.search import search_reranked
from bowerbird.knowledge.rerank.tokens import check_tokens, count_of, unpack
from bowerbird.knowledge.search import dense, query
from bowerbird.knowledge.search.analyzer import Analyzer, check_language
from bowerbird.knowledge.search.planner import DEFAULT_MEMORY
from bowerbird.knowledge.search.terms import Terms, is_plain, parse
from bowerbird.knowledge.search.typos import shown
from bowerbird.knowledge.storage.open import NewStore, create_store, open_store
from bowerbird.knowledge.storage.protocol import CAPTIONS, HoldsCaptionVectors, HoldsTokens

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.storage.protocol import Store

MODES = ("dense", "bm25", "hybrid", "captions", "mixed")
DEFAULT_K = 4
"""Results of a search that does not say how many, where there are as many."""


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
            self._check(encoder)
            self.encoder = encoder
        if caption_encoder is not None:
            captions.check(store.manifest, caption_encoder, str(self.path))
            self.caption_encoder = caption_encoder
        if isinstance(store, HoldsCaptionVectors):
            store.embed_captions = self._embed_captions

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
        made = cls(open_store(path, memory, on_message), _load_encoder(encoder, device), device, given)
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
        if (
            len(bm25_weights) != 2
            or not all(isinstance(w, int) and 0 <= w <= 100 for w in bm25_weights)
            or not any(bm25_weights)
        ):
            raise BowerbirdError(
                f"`bm25_weights` {bm25_weights}: two whole numbers from 0 to 100, for captions and for tags, as in 3,1"
            )
        analyzer = Analyzer(None if language is None else check_language(language), compounds, keep_accents)
        loaded, text = _load_encoder(encoder, device), captions.load(caption_encoder, device)
        token_dim = _token_dim(loaded) if tokens and check_tokens(tokens) else 0
        several = [source] if isinstance(source, (str, Path)) else list(source)
        facts = {"name": loaded.name, "fingerprint": loaded.fingerprint, "dim": loaded.dim, "normalize": normalize}
        tag = {
            "sources": [str(Path(s).absolute()) for s in several],
            "encoder": facts,
            "caption": caption_column,
            "where": where,
            "patches": patches,
            "dedup": dedup,
            "filter": name_of(filter_fn),
            "words": list(bm25_weights),
            **({"tokens": tokens} if tokens else {}),
            **analyzer.recorded(),
            **captions.recorded(text),
        }
        with create_store(path, NewStore(facts, bm25_weights, tag, analyzer), memory, on_message) as store:
            captions.keep(store, text)
            kb = cls(store, loaded, device, text)
            if tokens:
                if not isinstance(store, HoldsTokens):
                    raise BowerbirdError(
                        f"{store.path}: keeps no tokens, which a directory does; leave out `tokens`, or build in one"
                    )
                store.keep({"tokens": {"count": tokens, "dim": token_dim}})
            if credit:
                check_sources(several, Choice(caption_column, where, 0, fetch_urls, private_urls), credit)
            report = kb.add(
                several,
                caption_column=caption_column,
                where=where,
                patches=patches,
                dedup=dedup,
                filter_fn=filter_fn,
                fetch_urls=fetch_urls,
                private_urls=private_urls,
                max_pixels=max_pixels,
                workers=workers,
                progress=progress,
            )
            if len(kb) == 0:
                reason = (
                    f"the first reason: {(report.unreadable + report.filtered)[0]}"
                    if report.unreadable or report.filtered
                    else "no row was left"
                )
                places = ", ".join(map(str, several))
                raise BowerbirdError(f"{places}: no picture could be read, so nothing was made ({reason})")
            if caption_column is not None:
                store.keep({"caption_column": caption_column})
            if credit:
                kb.set_credit(credit)
        made = cls.open(path, encoder=loaded, caption_encoder=text, device=device, memory=memory, on_message=on_message)
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

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded by its recorded name. Raises: MismatchError when that name now means other weights,
        BowerbirdError when it is the name of code or of what would be fetched, which must be given to `open`."""
        from bowerbird import encoders

        found = encoders.load_recorded(self.encoder_name, self.encoder_fingerprint, device=self.device)
        self._check(found)
        return found

    @cached_property
    def caption_encoder(self) -> TextEncoder | None:
        """The text encoder of the captions' vectors, loaded by its recorded name; None where captions have none.

        Raises: as `encoder`.
        """
        return captions.load_recorded(self.manifest, str(self.path), self.device)

    def _embed_captions(self, texts: Sequence[str]) -> np.ndarray:
        if self.caption_encoder is None:
            raise BowerbirdError(f"{self.path}: captions have no vectors here")
        return self.caption_encoder.embed_captions(texts)

    def _check(self, encoder: Encoder) -> None:
        facts = self.manifest["encoder"]
        if encoder.fingerprint != facts["fingerprint"] or encoder.dim != facts["dim"]:
            raise MismatchError(
                f"{self.path}: made with encoder {facts['name']!r} ({facts['fingerprint']}, embedding dimension"
                f" {facts['dim']}), not with {encoder.name!r} ({encoder.fingerprint}, {encoder.dim}); open it"
                f" with its own, or build it again: bowerbird kb build NEW SOURCE --encoder {encoder.name}"
            )

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
        workers: int = 0,
        progress: Progress | None = None,
    ) -> AddReport:
        """Add every picture of `source`; one that is there already (same bytes, same caption) is not added twice.

        `patches`: so many random crops of each picture in place of it. `dedup`: leave out what is at least this
        like (cosine) an item that is there or came before. `filter_fn(picture, item)` gives a reason to leave one
        out, or None. `fetch_urls` allows the addresses of a source to be asked, `private_urls` also those of this
        machine and its network. `max_pixels`: the largest picture that is decoded. `workers`: processes that embed,
        0 for this one alone; the result is the same. `progress` counts pictures.

        Unreadable pictures are reported by name and the rest goes in. Readers see the old version until the end, or
        until the next `ingest.add.COMMIT_EVERY` items are in; run again after an interruption, what is in is
        not embedded again.
        """
        several = [source] if isinstance(source, (str, Path)) else list(source)
        if dedup is not None and not 0 < dedup <= 1:
            raise BowerbirdError(
                f"near-duplicates from a cosine of {dedup}: give a number above 0 and up to 1, as in 0.99"
            )
        if dedup is not None and not self.normalize:
            raise BowerbirdError(
                f"{self.path}: near-duplicates are found by cosine, and this knowledge base compares by inner products;"
                " leave out dedup"
            )
        choice = Choice(caption_column, where, patches, fetch_urls, private_urls, images.check_max_pixels(max_pixels))
        return fill(
            self.store,
            self.encoder,
            several,
            choice,
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
        several = [source] if isinstance(source, (str, Path)) else list(source)
        column = caption_column if caption_column is not None else self.caption_column
        choice = Choice(column, None, 0, fetch_urls, private_urls, images.check_max_pixels(max_pixels))
        report = sync(
            check_store(self.store),
            lambda: self.encoder,
            several,
            key,
            choice,
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
        with self.store.writing():
            if expected_version not in (None, self.version):
                raise BowerbirdError(
                    f"{self.path}: has changed since version {expected_version} (now {self.version}), so nothing was"
                    " removed; look at it again"
                )
            gone = self.select_ids(ids=ids, where=where)
            if len(gone):
                self.store.delete(gone.tolist())
                self.store.commit()
                self.store.renew()
        return len(gone)

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
        check_change(caption, metadata)
        with self.store.writing():
            chosen = self.select_ids(ids=ids, where=where)
            if len(chosen):
                self.store.change(
                    chosen.tolist(),
                    caption if caption is None else clean(caption),
                    clean_metadata(dict(metadata or {})),
                )
                self.store.commit()
                self.store.renew()
        return len(chosen)

    def set_credit(self, columns: Sequence[str]) -> None:
        """Keep which metadata columns say who made an item and what its license is, none with an empty list: their
        values go, beside the file's name, into the record of every picture that is generated from it.

        It holds for every version and makes no new one. Raises: BowerbirdError for a column that is not there.
        """
        with self.store.writing():
            there = self.store.info()["metadata"]
            self.store.keep({"credit": list(known_columns(columns, there, str(self.path)))})

    def close(self) -> None:
        """Give back what is held open: a Milvus Lite file is one process's at a time."""
        self.store.close()

    def compact(self, *, drop_history: bool = False) -> None:
        """Write the rows as few files and the index again; with `drop_history`, drop every version but the
        newest and the space they take."""
        self.store.compact(drop_history=drop_history)

    def restore(self, version: int) -> int:
        """Make a new version that holds what `version` held, and return its number; the versions between stay.

        The present version is left as it is. Raises: BowerbirdError when `version` is not kept.
        """
        with self.store.writing():
            if version != self.version:
                self.store.restore(version)
                self.store.commit()
                self.store.renew()
        return self.version

    # -- asking ------------------------------------------------------------------------------------------------------

    def select_ids(self, *, ids: Sequence[int] | None = None, where: str | None = None) -> np.ndarray:
        """What `remove` and `update` would change: those of `ids` that are here, or the ids that satisfy `where`, int64
        `(n,)`. Raises: BowerbirdError when neither or both are given, or the condition is empty."""
        if (ids is None) == (where is None):
            raise BowerbirdError(f"{self.path}: give `ids` or `where`, one of them; `where=true` means every item")
        if where is not None:
            return self.store.ids(where)
        return np.intersect1d(_whole_numbers(ids or ()), self.store.all_ids())

    def ids(self, where: str | None = None) -> np.ndarray:
        """The ids of all items, or of those that satisfy `where`, int64 `(n,)`."""
        return self.store.ids(where)

    def search(
        self,
        *,
        text: str | Sequence[str] | None = None,
        images: Sequence[Image.Image] | None = None,
        embeddings: np.ndarray | None = None,
        ids: Sequence[int] | None = None,
        query_mix: Sequence[tuple[str | Image.Image | np.ndarray, float]] | None = None,
        k: int | None = None,
        mode: str = "hybrid",
        where: str | None = None,
        include_self: bool = False,
        exact: bool = False,
        alpha: float | Literal["auto"] | None = None,
        diversity: float = 0.0,
        min_score: float | None = None,
        typos: bool = True,
        operators: bool = True,
        rerank: Rerank = NONE,
    ) -> Neighbors:
        """The k nearest items of each query: texts, pictures, raw embeddings `(Q, d)`, items by id, or one query_mix of
        texts and pictures with weights. k None: 4, or as many as there are.

        `mode` matters for text: `dense` compares embeddings, `bm25` words, `captions` what captions mean, where they
        have vectors; `hybrid` fuses these rankings (reciprocal rank, or with `alpha` scores, that share of them the
        dense ones; with `alpha="auto"` the dense ranks count what the words leave open), the dense one led by the
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
        if [text is None, images is None, embeddings is None, ids is None, query_mix is None].count(False) != 1:
            raise BowerbirdError("search: give one of text, images, embeddings, ids, query_mix")
        if mode not in MODES:
            raise BowerbirdError(f"search mode {mode!r} is not known; choose one of {', '.join(MODES)}")
        if not len(self):
            raise BowerbirdError(
                f"{self.path} holds no items; add pictures: bowerbird kb add {in_shell(self.path)} SOURCE"
            )
        k = min(DEFAULT_K, len(self)) if k is None else k
        if (reranker := load_reranker(rerank)) is not None:
            options: dict[str, Any] = {"mode": mode, "where": where, "exact": exact, "alpha": alpha}
            options |= {"diversity": diversity, "min_score": min_score, "typos": typos, "operators": operators}
            return search_reranked(self, reranker, text=text, images=images, k=k, options=options)
        if not 1 <= k <= len(self):
            raise BowerbirdError(
                f"k = {k} neighbors are asked for and {self.path} holds {len(self)} items; choose k from 1 to"
                f" {len(self)}"
            )
        share = 0.0 if alpha is None or alpha == query.AUTO else alpha
        if not 0 <= diversity <= 1 or isinstance(share, str) or not 0 <= share <= 1:
            raise BowerbirdError(
                f"diversity and alpha are shares from 0 to 1, got {diversity} and {alpha}; alpha may be auto"
            )
        words_alone = text is not None and mode == "bm25"
        if min_score is not None and not (min_score >= 0 if words_alone else -1 <= min_score <= 1):
            raise BowerbirdError(
                f"`min_score` {min_score}: a cosine from -1 to 1, as in 0.3; with `mode=bm25` a BM25 score of 0 or more"
            )
        texts = [
            clean(one) for one in ([text] if isinstance(text, str) else text or [])
        ]  # a command line may hand over what is no character
        if text is not None and (not texts or any(not t.strip() for t in texts)):
            raise BowerbirdError("search: the text is empty; say what to look for")
        snapshot = self.store.snapshot
        allowed = self.store.allowed(where) if where is not None else None
        wanted = min(len(self), 4 * k + 20) if diversity else k
        if texts:
            encoder = None if mode == "bm25" else self.encoder  # words need none, and it takes seconds to load
            how = query.TextOptions(mode, self.normalize, exact, alpha, typos)
            if operators and not all(map(is_plain, texts)):
                each = [
                    self._by_terms(encoder, parse(text, self.store.columns()), wanted, where, how) for text in texts
                ]
                answer = query.joined(each)
            else:
                answer = query.by_text(
                    snapshot, encoder, texts, wanted, allowed=allowed, options=how, captions=self._captions_for(mode)
                )
            found, vectors, words, said = answer.found, answer.vectors, answer.words, answer.said
            corrected = tuple(map(shown, answer.near))
        else:
            own = self._rows_of(ids) if ids is not None else None
            vectors, words, said, corrected = self._vectors(images, embeddings, own, query_mix), None, None, ()
            alone = own is None or include_self
            least = wanted if alone else min(wanted + 1, len(self))
            depth = min(len(self), max(50, 2 * least)) if mode == "mixed" else least
            found = snapshot.dense(dense.prepare(vectors, self.normalize), depth, allowed, exact=exact)
            if mode == "mixed":
                found = query.mixed(snapshot, self.encoder, vectors, [found[0]], least)
            found = found if own is None or include_self else query.without(found, own, wanted)
        found = query.various(snapshot, found, k, diversity) if diversity else found
        measures = query.measure(snapshot, found[0], vectors, words, said)
        if min_score is not None:
            known = next((measures[n] for n in ("similarity", "caption_similarity", "bm25") if n in measures), found[1])
            found = query.at_least(found, known, min_score)
            measures = query.measure(snapshot, found[0], vectors, words, said)
        return replace(self._neighbors(*found), queries=tuple(texts), corrected=corrected, measures=measures)

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
        if (text is None) == (query_mix is None):
            raise BowerbirdError("similarities: give text or query_mix, one of them")
        vectors = self._vectors(None, None, None, query_mix if query_mix is not None else [(str(text), 1.0)])
        return query.sample_similarities(self.store.snapshot, vectors)[0]

    def _by_terms(
        self, encoder: Encoder | None, terms: Terms, k: int, where: str | None, options: query.TextOptions
    ) -> query.TextResult:
        """The k best for one text with phrases and fields."""
        both = " AND ".join(f"({part})" for part in (where, terms.where) if part is not None)
        allowed, snapshot = self.store.allowed(both) if both else None, self.store.snapshot
        for phrase in terms.phrases:
            allowed = snapshot.narrowed(phrase, allowed)
        if options.mode == "bm25" and not terms.words:  # fields alone: what has them, in the order of ids
            rows = snapshot.rows_of(np.sort(self.store.ids(both))[:k])
            return query.unranked(rows, k)
        return query.by_text(
            snapshot,
            encoder,
            [terms.text],
            k,
            allowed=allowed,
            options=options,
            as_written=terms.phrases,
            captions=self._captions_for(options.mode),
        )

    def _captions_for(self, mode: str) -> TextEncoder | None:
        """The encoder of captions, where a search of this mode goes by it. Raises: BowerbirdError where there is none
        and the mode needs it."""
        if mode == "captions" and CAPTIONS not in self.manifest:
            raise BowerbirdError(
                f"{self.path}: captions have no vectors here; search with `mode=hybrid`, or build it again with"
                " `caption_encoder=minilm`"
            )
        return self.caption_encoder if mode in ("captions", "hybrid") else None

    def _vectors(
        self,
        images: Sequence[Image.Image] | None,
        embeddings: np.ndarray | None,
        own: np.ndarray | None,
        query_mix: Sequence[tuple[str | Image.Image | np.ndarray, float]] | None,
    ) -> np.ndarray:
        """The vectors of a query that is no text, raw `(Q, d)`."""
        if own is not None:
            return self.store.snapshot.embeddings(own)
        if query_mix is not None:
            return query.mix_queries(self.encoder, query_mix)
        vectors: np.ndarray = (
            self.encoder.embed_images(list(images)) if images is not None else np.asarray(embeddings, np.float32)
        )
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise MismatchError(
                f"{self.path}: its embedding dimension is {self.dim}, the query has shape {vectors.shape}; embed it"
                f" with encoder {self.encoder_name!r}"
            )
        return vectors

    def get(self, ids: Sequence[int], scores: Sequence[float] | None = None) -> Neighbors:
        """The items with these ids as one row of neighbors (Q = 1), in the order given; scores are 1 when None."""
        rows = self._rows_of(ids)
        values = np.ones(len(ids), np.float32) if scores is None else np.asarray(scores, np.float32)
        return self._neighbors(rows[None], values[None])

    def _rows_of(self, ids: Sequence[int]) -> np.ndarray:
        wanted = _whole_numbers(ids)
        rows = self.store.snapshot.rows_of(wanted)
        if (rows == ABSENT).any():
            raise BowerbirdError(
                f"{self.path}: no item with id {wanted[rows == ABSENT][0]}; list them with bowerbird kb list"
                f" {in_shell(self.path)}"
            )
        return rows

    def _neighbors(self, rows: np.ndarray, scores: np.ndarray) -> Neighbors:
        snapshot = self.store.snapshot
        captions, metadata = snapshot.describe(rows)
        return Neighbors(
            ids=snapshot.ids_of(rows),
            scores=scores,
            embeddings=snapshot.embeddings(rows),
            captions=captions,
            metadata=metadata,
            load_images=self.pictures,
            encoder=self.encoder_fingerprint,
        )

    def name(self, item: int) -> str:
        """Where the item came from: its file or row name."""
        return self.names([item])[0]

    def names(self, ids: Sequence[int]) -> list[str]:
        """Where items came from: their file or row names."""
        return self.store.snapshot.names(self._rows_of(ids))

    def credits(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """What names the source of each of `ids`: its file `name`, without the folders, and `credit`, its values of
        the columns of `set_credit`. Nothing for an id that is no item's."""
        rows = self.store.snapshot.rows_of(_whole_numbers(ids))
        there = np.flatnonzero(rows != ABSENT)
        names, metadata = self.store.snapshot.names(rows[there]), self.store.snapshot.describe(rows[there][None])[1][0]
        found: list[dict[str, Any]] = [{} for _ in rows]
        for at, name, values in zip(there.tolist(), names, metadata, strict=True):
            found[at] = {"name": source_name(name), "credit": credit_of(values, self.credit)}
        return found

    def pictures(self, ids: np.ndarray, *, at_least: int | None = None) -> list[list[Image.Image | None]]:
        """The pictures of `ids` `(Q, K)`, RGB on white; None where the id is absent or of no item. With `at_least`,
        large ones reduced, their shorter side still that many pixels.

        Raises: BowerbirdError when a stored picture is not the one that was added.
        """
        found = self.store.pictures([int(i) for i in ids.reshape(-1) if i >= 0])
        cap = images.MOST_PIXELS
        decoded = {i: images.decode(data, str(i), at_least=at_least, max_pixels=cap) for i, data in found.items()}
        return [[decoded.get(int(i)) for i in row] for row in ids]

    def tokens(self, ids: Sequence[int]) -> dict[int, np.ndarray]:
        """The token vectors of these items, of length 1, float32 `(m, d)`, by id; items without are left out.

        Raises: BowerbirdError where some are not as they were written.
        """
        if not self.token_count or not isinstance(self.store, HoldsTokens):
            return {}
        dim, found = int(self.manifest["tokens"]["dim"]), self.store.tokens(ids)
        made = {number: unpack(data, dim) for number, data in found.items()}
        damaged = next((number for number, matrix in made.items() if matrix is None), None)
        if damaged is not None:
            raise BowerbirdError(
                f"{self.path}: the tokens of id {damaged} are not as they were written; bowerbird kb verify"
                f" {in_shell(self.path)} names the damaged file"
            )
        return {number: matrix for number, matrix in made.items() if matrix is not None}

    def proposal(self, k: int = 4) -> dict[int, int]:
        """How often each item is among the k neighbors of the others: p_D's counts with the database as its own
        training set."""
        snapshot = self.store.snapshot
        rows = snapshot.rows_of(self.ids())
        counts: Counter[int] = Counter(dict.fromkeys(rows.tolist(), 0))
        for start in range(0, len(rows), 512):
            own = rows[start : start + 512]
            found = snapshot.dense(dense.prepare(snapshot.embeddings(own), self.normalize), min(k + 1, len(self)))
            counts.update(query.without(found, own, k)[0].ravel().tolist())
        counts.pop(ABSENT, None)
        return dict(zip(snapshot.ids_of(rows).tolist(), (counts[row] for row in rows.tolist()), strict=True))


@overload
def _load_encoder(encoder: Encoder | str, device: str) -> Encoder: ...
@overload
def _load_encoder(encoder: Encoder | str | None, device: str) -> Encoder | None: ...
def _load_encoder(encoder: Encoder | str | None, device: str) -> Encoder | None:
    """An encoder that a person gave, itself or by a name."""
    from bowerbird import encoders

    return encoders.load(encoder, device=device) if isinstance(encoder, str) else encoder


def _token_dim(encoder: Encoder) -> int:
    """Raises: BowerbirdError for an encoder that gives no tokens."""
    if not isinstance(encoder, TokenEncoder):
        raise BowerbirdError(
            f"encoder {encoder.name!r} gives one vector of a picture and no tokens; leave out `tokens`, or take small,"
            " CLIP, SigLIP, ColPali, ColQwen2 or ColModernVBERT"
        )
    return encoder.token_dim


def check_change(caption: str | None, metadata: Mapping[str, Any] | None) -> None:
    """Raises: BowerbirdError when `update` was given nothing to change, or what is not to be changed."""
    if caption is None and not metadata:
        raise BowerbirdError("update: nothing to change; give `caption` or `metadata`")
    own = sorted(set(metadata or {}) & set(OWN_COLUMNS))
    if own:
        raise BowerbirdError(
            f"update: {own[0]} is not metadata; a caption has its own option, and the rest says what the item is"
        )


def _whole_numbers(ids: Sequence[int]) -> np.ndarray:
    try:
        return np.asarray(ids, np.int64)
    except OverflowError as error:
        raise BowerbirdError("an id is a number of up to 63 bits; one of those given is larger") from error
