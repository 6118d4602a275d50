"""The types that travel: what retrieval hands to models, and what either side must look like to the other.

numpy only: retrieval knows no torch, so neither does its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from bowerbird.core import shown
from bowerbird.core.credit import shown_name
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.neighbor_pictures import ABSENT as ABSENT
from bowerbird.core.neighbor_pictures import LoadPictures, own_pictures, pictures_of_both, stack_pictures

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class TokenLayout:
    """How an embedding that describes a picture part by part is laid out: `semantic` dimensions that texts share, then
    `tokens` patches of `token_dim` each, whose mean length together is `token_length`, then `style` dimensions."""

    semantic: int
    tokens: int
    token_dim: int
    style: int
    token_length: float

    @property
    def dim(self) -> int:
        """Dimensions of the whole embedding."""
        return self.semantic + self.tokens * self.token_dim + self.style


@runtime_checkable
class Encoder(Protocol):
    """A frozen network that places pictures and texts in one space: the contract of every encoder.

    Outputs are raw, float32: normalizing is the database's choice. The embedding of a picture or text must not depend
    on what else is in the call, or in which order: batch as you like inside, but give the same bits each time.

    `name`: what `encoders.load` is given to get this encoder again, or of a directory elsewhere the last part of its
    path, as it is recorded; `load` sets it on a class of somebody else's.
    `dim`: the embedding dimension d. `shared_dim`: how many of the first dimensions texts and pictures share, `dim`
    unless some are for pictures alone; beyond them a text's are 0. `fingerprint`: a short text that changes with the
    weights and the preprocessing, as a hash of the weights' files; a database is tied to it. An optional attribute
    `picture_size` (pixels): larger pictures are decoded smaller, to no less than three times that. Another, `layout`,
    is the `TokenLayout` of embeddings that systems may take apart. `embeds_text`, where it is False, says that
    `embed_text` refuses every text: see `embeds_text` here.

    A class of one's own works everywhere by the name `module:Class` (see `encoders.load`).
    """

    name: str
    dim: int
    shared_dim: int
    fingerprint: str

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """n texts, in any script -> raw float32 `(n, dim)`; `(0, dim)` for none."""
        ...

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures, of any size -> raw float32 `(n, dim)`; `(0, dim)` for none."""
        ...


@runtime_checkable
class TokenEncoder(Encoder, Protocol):
    """An encoder that also describes texts and pictures piece by piece, for late interaction (ColBERT, arXiv
    2004.12832): tokens are vectors of one space, and a query is near to a picture that has, for each token of the
    query, one like it. `token_dim`: their dimension."""

    token_dim: int

    def embed_text_tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        """n texts -> the unit vectors of each, float32 `(m, token_dim)`, m of 1 or more and its own for each."""
        ...

    def embed_images_with_tokens(self, pictures: Sequence[Image.Image]) -> tuple[np.ndarray, list[np.ndarray]]:
        """n RGB pictures -> what `embed_images` gives for them, and the unit vectors of each, as of a text."""
        ...


class TextEncoder(Protocol):
    """A frozen network for texts alone, which captions are searched by: `name`, `dim` and `fingerprint` as of an
    `Encoder`."""

    name: str
    dim: int
    fingerprint: str

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """n texts that are searched -> raw float32 `(n, dim)`; `(0, dim)` for none."""
        ...

    def embed_captions(self, texts: Sequence[str]) -> np.ndarray:
        """n texts that are searched among -> raw float32 `(n, dim)`; `(0, dim)` for none."""
        ...


def embeds_text(encoder: Encoder) -> bool:
    """Whether an encoder places texts beside pictures, or knows pictures alone."""
    return bool(getattr(encoder, "embeds_text", True))


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """Q queries with their K nearest items, best first: the only thing that travels from retrieval to models.

    `ids` int64 `(Q, K)`, -1 where there is none (always last), below -1 for what is of no knowledge base (a query
    itself, a picture of one's own); `scores` float32 `(Q, K)`, larger is closer; `embeddings` raw float32 `(Q, K, d)`,
    zero where absent, d = 0 where they are not known; `captions` and `metadata`, Q rows of K; `weights` float32 `(Q,
    K)`, how much each counts (None: as retrieved, 1 each); `measures`: what else is known of each, by name, float32
    `(Q, K)` (`similarity`: cosine to the query; `bm25`), NaN where it is not; `queries`: the text of each row, "" where
    it was none, empty when that is not known; `corrected`: for each row, words of the text that no item has and those
    searched in their place, empty when that is not known; `load_images`: ids `(Q, K)` -> Q rows of K pictures, None
    where pictures are not at hand; `notes`: of each row what a person should know of how it was found. Raises:
    BowerbirdError when the shapes do not agree.
    """

    ids: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray
    captions: tuple[tuple[str, ...], ...]
    metadata: tuple[tuple[dict[str, Any], ...], ...] = ()
    weights: np.ndarray | None = None
    measures: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)
    queries: tuple[str, ...] = ()
    corrected: tuple[Mapping[str, tuple[str, ...]], ...] = field(default=(), compare=False)
    load_images: LoadPictures | None = field(default=None, compare=False, repr=False)
    phrases: tuple[tuple[str, ...], ...] = ()
    regions: np.ndarray | None = None
    encoder: str = field(default="", compare=False)
    notes: tuple[tuple[str, ...], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.scores.shape != self.ids.shape or self.embeddings.shape[:2] != self.ids.shape:
            raise BowerbirdError(
                f"Neighbors: ids {self.ids.shape}, scores {self.scores.shape} and embeddings {self.embeddings.shape}"
                " must agree as (Q, K) and (Q, K, d)"
            )
        if self.weights is not None and self.weights.shape != self.ids.shape:
            raise BowerbirdError(f"Neighbors: weights {self.weights.shape} must have the shape of ids {self.ids.shape}")
        if self.queries and len(self.queries) != len(self.ids):
            raise BowerbirdError(f"Neighbors: {len(self.queries)} queries for {len(self.ids)} rows")
        if self.phrases and [len(row) for row in self.phrases] != [self.ids.shape[1]] * len(self.ids):
            raise BowerbirdError(f"Neighbors: phrases must be {len(self.ids)} rows of {self.ids.shape[1]}")
        if self.regions is not None and self.regions.shape != (*self.ids.shape, 4):
            raise BowerbirdError(f"Neighbors: regions {self.regions.shape} must be four numbers for each of the ids")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return shown.as_text(self.ids, self.scores, self._names(), self.queries)

    def _repr_png_(self) -> bytes | None:
        """The pictures, each with its caption, as notebooks show them; None where there are none at hand."""
        if self.load_images is None or not self.mask.any():
            return None
        ids = self.ids[: shown.MOST_ROWS, : shown.MOST_COLUMNS]
        return shown.as_png(self.load_images(ids), self._names(), self.queries)

    def _names(self) -> list[list[str]]:
        """What the neighbors that are shown are called: their captions, or their files where these say more."""
        rows, columns = range(min(len(self), shown.MOST_ROWS)), range(min(self.k, shown.MOST_COLUMNS))
        return [
            [shown_name(_cell(self.captions, row, c, ""), _cell(self.metadata, row, c, {})) for c in columns]
            for row in rows
        ]

    @property
    def k(self) -> int:
        """Columns K, absent ones included."""
        return int(self.ids.shape[1])

    @property
    def mask(self) -> np.ndarray:
        """Boolean `(Q, K)`: True where there is a neighbor."""
        return self.ids != ABSENT

    @property
    def effective_weights(self) -> np.ndarray:
        """How much each counts, float32 `(Q, K)`: 0 where absent, 1 where nothing else was asked for."""
        present = self.mask.astype(np.float32)
        return present if self.weights is None else present * self.weights

    def images(self) -> list[list[Image.Image | None]]:
        """The neighbors' pictures, Q rows of K; None where absent. Raises: BowerbirdError when no database stands
        behind them."""
        if self.load_images is None:
            raise BowerbirdError("these neighbors were made without a database, so they have no pictures")
        return self.load_images(self.ids)

    def reading_once(self) -> Neighbors:
        """The same neighbors, each picture of which is read once, however often it is looked at."""
        load = self.load_images
        if load is None:
            return self
        known: dict[int, Image.Image | None] = {}

        def look(ids: np.ndarray) -> list[list[Image.Image | None]]:
            fresh = [number for number in dict.fromkeys(ids.reshape(-1).tolist()) if number not in known]
            if fresh:
                known.update(zip(fresh, load(np.asarray([fresh], np.int64))[0], strict=True))
            return [[known[number] for number in row] for row in ids.tolist()]

        return replace(self, load_images=look)

    def weighted(self, weights: Sequence[float] | np.ndarray) -> Neighbors:
        """The same neighbors with `weights` (K or (Q, K), non-negative): 2 counts as if the reference stood there
        twice, 0 leaves it out. Raises: BowerbirdError for another number of weights, or one that is negative or not
        finite."""
        array = np.asarray(weights, dtype=np.float32)
        if array.shape[-1:] != (self.k,) or array.ndim > 2 or not np.isfinite(array).all() or (array < 0).any():
            raise BowerbirdError(
                f"weights: expected {self.k} numbers of 0 or more, one a neighbor; got {array.tolist()}"
            )
        return replace(self, weights=np.ascontiguousarray(np.broadcast_to(array, self.ids.shape)))

    def select(self, columns: Sequence[int]) -> Neighbors:
        """Only the neighbors at `columns`, in that order: how a person edits the set by hand. Raises: BowerbirdError
        for a column that is not there."""
        cols = list(columns)
        if any(not 0 <= c < self.k for c in cols):
            raise BowerbirdError(f"select: columns {cols} are not all within 0..{self.k - 1}")
        return replace(
            self,
            ids=self.ids[:, cols],
            scores=self.scores[:, cols],
            embeddings=self.embeddings[:, cols],
            captions=tuple(tuple(row[c] for c in cols) for row in self.captions),
            metadata=tuple(tuple(row[c] for c in cols) for row in self.metadata),
            weights=None if self.weights is None else self.weights[:, cols],
            measures={name: values[:, cols] for name, values in self.measures.items()},
            phrases=tuple(tuple(row[c] for c in cols) for row in self.phrases),
            regions=None if self.regions is None else self.regions[:, cols],
        )

    def repeat(self, times: int) -> Neighbors:
        """Every query `times` times in a row, for several pictures of one prompt."""
        rows = np.repeat(np.arange(len(self)), times)
        return self.rows(rows)

    def rows(self, rows: Sequence[int] | np.ndarray) -> Neighbors:
        """Only the queries at `rows`."""
        index = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            ids=self.ids[index],
            scores=self.scores[index],
            embeddings=self.embeddings[index],
            captions=tuple(self.captions[i] for i in index),
            metadata=tuple(self.metadata[i] for i in index) if self.metadata else (),
            weights=None if self.weights is None else self.weights[index],
            measures={name: values[index] for name, values in self.measures.items()},
            queries=tuple(self.queries[i] for i in index) if self.queries else (),
            corrected=tuple(self.corrected[i] for i in index) if self.corrected else (),
            phrases=tuple(self.phrases[i] for i in index) if self.phrases else (),
            regions=None if self.regions is None else self.regions[index],
            notes=tuple(self.notes[i] for i in index) if self.notes else (),
        )

    def padded(self, k: int, dim: int) -> Neighbors:
        """The same neighbors in `k` columns, absent ones behind, and `dim` dimensions where they have no embeddings: so
        that rows of several searches can be stacked. Raises: BowerbirdError for fewer columns than there are."""
        more = k - self.k
        if more < 0:
            raise BowerbirdError(f"padded: {self.k} neighbors do not go into {k} columns")
        count = len(self)

        def wider(array: np.ndarray, value: float) -> np.ndarray:
            widths = ((0, 0), (0, more), *((0, 0),) * (array.ndim - 2))
            return np.pad(array, widths, constant_values=value)

        known = self.embeddings if self.embeddings.shape[-1] else np.zeros((count, self.k, dim), np.float32)
        regions = self.regions
        if regions is not None:
            whole = np.broadcast_to(np.asarray([0, 0, 1, 1], regions.dtype), (count, more, 4))
            regions = np.concatenate([regions, whole], 1)
        return replace(
            self,
            ids=wider(self.ids, ABSENT),
            scores=wider(self.scores, -np.inf),
            embeddings=wider(known, 0),
            captions=tuple((*row, *("",) * more) for row in self.captions),
            metadata=tuple((*row, *({},) * more) for row in self.metadata),
            weights=None if self.weights is None else wider(self.weights, 0),
            measures={name: wider(values, np.nan) for name, values in self.measures.items()},
            phrases=tuple((*row, *("",) * more) for row in self.phrases),
            regions=regions,
        )

    # -- making them ---------------------------------------------------------------------------------------------------

    @staticmethod
    def from_embeddings(
        embeddings: np.ndarray, captions: Sequence[Sequence[str]], pictures: Sequence[Image.Image] = ()
    ) -> Neighbors:
        """Embeddings `(Q, K, d)` that belong to no knowledge base, such as a query's own, with score and weight 1.

        `pictures`: what the K of them are of, where they are of pictures.
        """
        shape = embeddings.shape[:2]
        own = -2 - np.arange(len(pictures), dtype=np.int64)
        return Neighbors(
            # below -1: present, yet no item of any knowledge base
            ids=np.broadcast_to(own, shape) if pictures else np.full(shape, -2, np.int64),
            scores=np.ones(shape, np.float32),
            embeddings=np.asarray(embeddings, np.float32),
            captions=tuple(map(tuple, captions)),
            metadata=tuple(({},) * shape[1] for _ in range(shape[0])),
            load_images=own_pictures(pictures) if pictures else None,
        )

    @staticmethod
    def from_images(
        prompts: str | Sequence[str], pictures: Sequence[Image.Image], captions: str | Sequence[str]
    ) -> Neighbors:
        """A person's own pictures as the neighbors of each prompt, with what each of them shows ("" leaves that open);
        one text is a list of one.

        They have no embeddings, so they serve models that read neighbors' pictures.
        Raises: BowerbirdError when captions and pictures do not pair up, or a picture is none.
        """
        from bowerbird.core.images import check_opened, on_background

        prompts, captions = ([each] if isinstance(each, str) else each for each in (prompts, captions))
        check_opened(pictures, "pictures")
        if len(pictures) != len(captions):
            raise BowerbirdError(
                f"pictures: {len(pictures)}, captions: {len(captions)}; give one `caption` for each, saying what it"
                ' shows ("" leaves that open)'
            )
        if not pictures:
            return Neighbors.empty(prompts)
        plain = [on_background(picture) for picture in pictures]
        shape = (len(prompts), len(pictures))
        return Neighbors(
            ids=np.broadcast_to(-2 - np.arange(len(pictures), dtype=np.int64), shape),
            scores=np.ones(shape, np.float32),
            embeddings=np.zeros((*shape, 0), np.float32),
            captions=tuple(tuple(captions) for _ in prompts),
            metadata=tuple(({},) * len(pictures) for _ in prompts),
            queries=tuple(prompts),
            load_images=own_pictures(plain),
        )

    @staticmethod
    def empty(prompts: Sequence[str]) -> Neighbors:
        """No neighbors (K = 0) for each prompt, for models that can generate from a text alone.

        Raises: BowerbirdError for an empty prompt.
        """
        if any(not prompt.strip() for prompt in prompts):
            raise BowerbirdError("the prompt is empty and there are no neighbors; say what to generate")
        count = len(prompts)
        return Neighbors(
            ids=np.zeros((count, 0), np.int64),
            scores=np.zeros((count, 0), np.float32),
            embeddings=np.zeros((count, 0, 0), np.float32),
            captions=((),) * count,
            metadata=((),) * count,
            queries=tuple(prompts),
            load_images=lambda ids: [[None] * row.size for row in ids],
        )

    @staticmethod
    def concat(first: Neighbors, second: Neighbors) -> Neighbors:
        """Both sets of each query, `first` before `second`, along K; texts are those of `second`, pictures those of
        each, where `second` has items alone."""
        return Neighbors(
            ids=np.concatenate([first.ids, second.ids], 1),
            scores=np.concatenate([first.scores, second.scores], 1),
            embeddings=np.concatenate([first.embeddings, second.embeddings], 1),
            captions=tuple(a + b for a, b in zip(first.captions, second.captions, strict=True)),
            metadata=tuple(a + b for a, b in zip(first.metadata, second.metadata, strict=True)),
            weights=np.concatenate([_given_weights(first), _given_weights(second)], 1),
            queries=second.queries,
            corrected=second.corrected,
            load_images=pictures_of_both((first.ids, first.load_images), (second.ids, second.load_images)),
            phrases=tuple(a + b for a, b in zip(_phrases(first), _phrases(second), strict=True))
            if first.phrases or second.phrases
            else (),
            regions=None
            if first.regions is None and second.regions is None
            else np.concatenate([_regions(first), _regions(second)], 1),
            encoder=first.encoder if first.encoder == second.encoder else "",
            notes=tuple(a + b for a, b in zip(_notes(first), _notes(second), strict=True))
            if first.notes or second.notes
            else (),
        )

    @staticmethod
    def stack(parts: Sequence[Neighbors]) -> Neighbors:
        """Several results of one K, of one knowledge base or with pictures of their own, as one batch, along Q."""
        weighted = all(part.weights is not None for part in parts)
        ids, load = stack_pictures([(part.ids, part.load_images) for part in parts])
        return Neighbors(
            ids=ids,
            scores=np.concatenate([part.scores for part in parts]),
            embeddings=np.concatenate([part.embeddings for part in parts]),
            captions=tuple(row for part in parts for row in part.captions),
            metadata=tuple(row for part in parts for row in part.metadata),
            weights=np.concatenate([part.weights for part in parts if part.weights is not None]) if weighted else None,
            measures={
                name: np.concatenate([part.measures[name] for part in parts])
                for name in parts[0].measures
                if all(name in part.measures for part in parts)
            },
            queries=tuple(text for part in parts for text in part.queries) if all(p.queries for p in parts) else (),
            corrected=tuple(row for part in parts for row in part.corrected)
            if all(len(part.corrected) == len(part) for part in parts)
            else (),
            load_images=load,
            phrases=tuple(row for part in parts for row in _phrases(part)) if any(p.phrases for p in parts) else (),
            regions=np.concatenate([_regions(part) for part in parts])
            if any(part.regions is not None for part in parts)
            else None,
            encoder=parts[0].encoder if len({part.encoder for part in parts}) == 1 else "",
            notes=tuple(row for part in parts for row in _notes(part)) if any(part.notes for part in parts) else (),
        )


def _cell(rows: Sequence[Sequence[Any]], row: int, column: int, default: Any) -> Any:
    """What stands there; a representation must not fail where somebody's rows are short."""
    return rows[row][column] if row < len(rows) and column < len(rows[row]) else default


def _phrases(part: Neighbors) -> tuple[tuple[str, ...], ...]:
    return part.phrases or (("",) * part.k,) * len(part)


def _notes(part: Neighbors) -> tuple[tuple[str, ...], ...]:
    return part.notes or ((),) * len(part)


def _regions(part: Neighbors) -> np.ndarray:
    whole = np.broadcast_to(np.asarray([0, 0, 1, 1], np.float32), (*part.ids.shape, 4))
    return whole if part.regions is None else part.regions


def _given_weights(part: Neighbors) -> np.ndarray:
    return part.mask.astype(np.float32) if part.weights is None else part.weights


@runtime_checkable
class Retriever(Protocol):
    """What a pipeline needs of a database: the encoder behind it and searches. `KnowledgeBase` is one."""

    @property
    def encoder(self) -> Encoder: ...

    def search(self, **query: Any) -> Neighbors: ...


@runtime_checkable
class FeatureExtractor(Protocol):
    """A frozen network as measures see it: pictures to vectors, and words for how they are prepared. Encoders satisfy
    it too."""

    name: str
    dim: int
    fingerprint: str
    preprocessing: str

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray: ...
