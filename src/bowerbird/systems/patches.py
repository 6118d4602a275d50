"""Decoding with the nearest windows of a collection: what came after the codes around a place, merged with what the
model says comes there. Nothing is trained.

A window is the codes left of a place, above it, and above to the left and right; its entry is the code at the place.
Source: DAiD of AR-RAG, arXiv 2506.06962: p = (1 - w) p_model + w p_near, p_near ~ exp(-distance / temperature).
Differs from the paper:
- A window counts as often as it was seen. There each next code counts once; most of a drawing is flat, and beside
  ground the next code is ground thousands of times and a hundred others once.
- Places at the edges are looked up too, among places at the same edge, by the codes that they have.
- Distances are relative to the mean one between two codes, so that a temperature means the same for every tokenizer.
- The search is exact: windows that are equal are one entry, and distances are looked up by symbol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import cache, images, seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import Progress
from bowerbird.core.types import ABSENT
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.models.vq import codebook_of, same_codes, to_tokens

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

MOST_NEIGHBORS = 256
MOST_TEMPERATURE = 100.0
MOST_ITEMS = 20_000
"""Pictures that windows are taken from, by chance where a knowledge base holds more."""
PARTS = 32
"""Files that the codes of a knowledge base are kept in: one more item has one of them made again."""
AT_ONCE = 32
AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
"""Row and column of a window's codes, seen from its place."""
TRACE = "bowerbird patches"
"""The entry of a PIL picture's `info` with the `Trace` of it."""


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """`weight` of the windows beside the model, from 0 (the model alone) to 1; the `neighbors` that are looked at for
    each place; and the `temperature` by which their weight falls with distance.

    Raises: BowerbirdError for values outside their range.
    """

    weight: float = 0.0
    neighbors: int = 64
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise BowerbirdError(f"`patch_weight` is from 0 (the model alone) to 1; got {self.weight:g}")
        if not 1 <= self.neighbors <= MOST_NEIGHBORS:
            raise BowerbirdError(f"`patch_neighbors` is from 1 to {MOST_NEIGHBORS}; got {self.neighbors}")
        if not 0 < self.temperature <= MOST_TEMPERATURE:
            raise BowerbirdError(
                f"`patch_temperature` is above 0 and at most {MOST_TEMPERATURE:g}; got {self.temperature:g}"
            )


class Source(Protocol):
    """Where the codes after a window come from."""

    def near(self, tokens: np.ndarray, settings: PatchSettings) -> tuple[np.ndarray, np.ndarray]:
        """The codes that may come after `tokens` `(B, t)`, int32 `(B, n)` with -1 behind, and how probable each is,
        float32."""
        ...

    def check(self, places: int, codebook: np.ndarray) -> None:
        """Raises: BowerbirdError where it is of pictures of other sizes, or another codebook `(S, d)`."""
        ...


@dataclass(frozen=True)
class PatchDecoding:
    """How the windows of a `source` are merged with the model. Two are equal where they come of the same codes; `where`
    is the condition that the items satisfy."""

    settings: PatchSettings
    key: str
    source: Source = field(compare=False)
    where: str | None = None

    def distribution(self, logits: Tensor, near: tuple[np.ndarray, np.ndarray], how: TokenSampling) -> Tensor:
        """Logits `(B, S)` and what `source.near` gave -> log-probabilities that are drawn from. Windows are merged
        after the temperature, and before top-k, top-p and min-p."""
        weight = self.settings.weight
        said = (logits.float() / (1.0 if how.greedy else how.temperature)).softmax(-1)
        codes, chances = (torch.from_numpy(part).to(said.device) for part in near)
        found = torch.zeros_like(said).scatter_add(1, codes.long().clamp(min=0), chances)
        merged = (1 - weight) * said + weight * found
        return replace(how, temperature=0.0 if how.greedy else 1.0).distribution(merged.log())


@dataclass(frozen=True, eq=False)
class Trace:
    """What was found for each place of one picture, so that it can be generated again without the collection: `codes`
    int32 `(N, n)`, -1 behind, and `chances` float32."""

    codes: np.ndarray
    chances: np.ndarray

    def near(self, tokens: np.ndarray, settings: PatchSettings) -> tuple[np.ndarray, np.ndarray]:
        """As it was found after as many tokens, for every row."""
        at, rows = tokens.shape[1], len(tokens)
        return tuple(np.repeat(part[at : at + 1], rows, 0) for part in (self.codes, self.chances))  # type: ignore[return-value]

    def check(self, places: int, codebook: np.ndarray) -> None:
        """Raises: BowerbirdError where it is of another model's pictures, as far as places and codes say."""
        symbols = len(codebook)
        if len(self.codes) != places or int(self.codes.max(initial=0)) >= symbols:
            raise BowerbirdError(
                f"the windows of the record are of {len(self.codes)} places, this model has {places} of {symbols} codes"
            )


def traces(found: Sequence[tuple[np.ndarray, np.ndarray]], rows: int) -> list[Trace]:
    """The trace of each of `rows` pictures, from what `Source.near` gave for place after place."""
    width = max(codes.shape[1] for codes, _ in found)

    def stacked(part: int, value: float) -> np.ndarray:
        wide = [np.pad(each[part], ((0, 0), (0, width - each[part].shape[1])), constant_values=value) for each in found]
        return np.stack(wide, 1)

    codes, chances = stacked(0, ABSENT), stacked(1, 0)
    return [Trace(codes[row], chances[row]) for row in range(rows)]


@dataclass(frozen=True, eq=False)
class _Windows:
    """The windows of places that have the same codes around them: symbols `keys` `(M, m)`, the code `after` each
    `(M,)`, and how often it was seen; the most frequent first."""

    keys: np.ndarray
    after: np.ndarray
    count: np.ndarray


@dataclass(frozen=True, eq=False)
class PatchBase:
    """The windows of pictures with codes `(n, side, side)` of a `codebook` `(S, d)`."""

    codes: np.ndarray
    codebook: np.ndarray

    @cached_property
    def side(self) -> int:
        """Rows and columns."""
        return int(self.codes.shape[1])

    @cached_property
    def unit(self) -> float:
        """The mean squared distance between two codes."""
        book = self.codebook.astype(np.float64)
        return float(2 * ((book**2).sum(1).mean() - (book.mean(0) ** 2).sum())) or 1.0

    @cached_property
    def windows(self) -> Mapping[tuple[int, ...], _Windows]:
        """By the numbers in `AROUND` of the codes that a place has."""
        found: dict[tuple[int, ...], list[np.ndarray]] = {}
        for row in range(self.side):
            for column in range(self.side):
                there = self._around(row, column)
                parts = [self.codes[:, row + AROUND[j][0], column + AROUND[j][1]] for j in there]
                found.setdefault(there, []).append(np.stack([*parts, self.codes[:, row, column]], 1))
        return {there: _count(np.concatenate(rows)) for there, rows in found.items()}

    def _around(self, row: int, column: int) -> tuple[int, ...]:
        return tuple(j for j, (y, x) in enumerate(AROUND) if row + y >= 0 and 0 <= column + x < self.side)

    def near(self, tokens: np.ndarray, settings: PatchSettings) -> tuple[np.ndarray, np.ndarray]:
        """The codes after the nearest windows of the collection; exact, and the same whatever the other rows are."""
        row, column = divmod(tokens.shape[1], self.side)
        there = self._around(row, column)
        places = [(row + AROUND[j][0]) * self.side + column + AROUND[j][1] for j in there]
        rows = [self._nearest(self.windows[there], own[places], settings) for own in tokens]
        width = max(len(codes) for codes, _ in rows)
        made = np.full((len(rows), width), ABSENT, np.int32), np.zeros((len(rows), width), np.float32)
        for i, found in enumerate(rows):
            for whole, part in zip(made, found, strict=True):
                whole[i, : len(part)] = part
        return made

    def _nearest(self, windows: _Windows, query: np.ndarray, settings: PatchSettings) -> tuple[np.ndarray, np.ndarray]:
        distance = np.zeros(len(windows.after), np.float32)
        for j, symbol in enumerate(query):
            distance += self._distances(int(symbol))[windows.keys[:, j]]
        distance /= max(1, len(query))
        most = settings.neighbors
        chosen = np.arange(len(distance))
        if len(distance) > most:
            limit = np.partition(distance, most - 1)[most - 1]
            nearer = np.flatnonzero(distance < limit)
            # of equally near ones the most frequent, which come first
            chosen = np.concatenate([nearer, np.flatnonzero(distance == limit)[: most - len(nearer)]])
        weights = np.exp(-(distance[chosen] - distance[chosen].min()).astype(np.float64) / settings.temperature)
        weights *= windows.count[chosen]
        codes, place = np.unique(windows.after[chosen], return_inverse=True)
        chances = np.bincount(place, weights, len(codes))
        return codes.astype(np.int32), (chances / chances.sum()).astype(np.float32)

    def _distances(self, symbol: int) -> np.ndarray:
        """From one code to all, squared, in `unit`s."""
        if symbol not in self._known:
            self._known[symbol] = (((self.codebook - self.codebook[symbol]) ** 2).sum(1) / self.unit).astype(np.float32)
        return self._known[symbol]

    @cached_property
    def _known(self) -> dict[int, np.ndarray]:
        return {}

    def check(self, places: int, codebook: np.ndarray) -> None:
        """Raises: BowerbirdError where it is of pictures of other sizes, or another codebook `(S, d)`."""
        if self.side**2 != places or len(self.codebook) != len(codebook):
            raise BowerbirdError(
                f"the windows are of {self.side**2} places and {len(self.codebook)} codes, this model has {places} and"
                f" {len(codebook)}; make them with its own tokenizer"
            )
        if not same_codes(torch.from_numpy(self.codebook), torch.from_numpy(codebook)):
            raise BowerbirdError(
                f"the {len(codebook)} codes of the windows mean something else than this model's; make them with its"
                " own tokenizer (patch_decoding)"
            )


def _count(rows: np.ndarray) -> _Windows:
    """Equal rows `(M, m + 1)` as one, the most frequent first."""
    ordered = rows[np.lexsort(rows.T)]
    new = np.append(True, (ordered[1:] != ordered[:-1]).any(1))
    starts = np.flatnonzero(new)
    count = np.diff(np.append(starts, len(ordered)))
    first = np.argsort(-count, kind="stable")
    unique, count = ordered[starts][first], count[first]
    return _Windows(np.ascontiguousarray(unique[:, :-1]), np.ascontiguousarray(unique[:, -1]), count)


def decoding(
    vae: Any,
    edge: int,
    kb: KnowledgeBase,
    settings: PatchSettings,
    fingerprint: str,
    *,
    where: str | None = None,
    progress: Progress | None = None,
) -> PatchDecoding:
    """Decoding with the windows of the items of `kb` that satisfy `where`, as the tokenizer `vae` encodes them at
    `edge` pixels; `fingerprint`: of its weights.

    The codes are kept in the cache, by the tokenizer and the items' ids, which say what their pictures are: so what is
    added or removed is met when they are next asked for, and deleting them loses nothing. Raises: BowerbirdError where
    no item is there.
    """
    ids = np.sort(kb.ids(where=where))
    if not len(ids):
        condition = "" if where is None else f" that satisfies `where` {where!r}"
        raise BowerbirdError(
            f"{kb.path}: holds no item{condition}, so there are no windows to decode with; add pictures, or leave"
            " `patch_weight` out"
        )
    if len(ids) > MOST_ITEMS:
        ids = np.sort(seeds.numpy_generator(0, "patches").permutation(ids)[:MOST_ITEMS])

    def encode(own: np.ndarray) -> dict[str, Tensor]:
        found = []
        for start in range(0, len(own), AT_ONCE):
            [pictures] = kb.pictures(own[None, start : start + AT_ONCE])
            there = [images.square(picture, edge) for picture in pictures if picture is not None]
            if len(there) < len(pictures):
                raise BowerbirdError(
                    f"{kb.path}: an item has no picture, as of embeddings that were imported, so there are no windows"
                    " to decode with; build it from pictures, or leave `patch_weight` out"
                )
            found.append(to_tokens(vae, tensors.to_float(tensors.stack(there))).cpu().int())
        return {"codes": torch.cat(found)}

    parts, keys = [], []
    for number in range(PARTS):
        own = ids[ids % PARTS == number]
        if not len(own):
            continue
        keys.append(cache.key("patch codes", fingerprint, edge, own))
        file = cache.directory("patches") / f"{keys[-1][:32]}.safetensors"
        parts.append(cache.memoize(file, keys[-1], lambda own=own: encode(own))["codes"].numpy())  # type: ignore[misc]
        if progress is not None:
            progress(sum(map(len, parts)), len(ids))
    codes = np.concatenate(parts)
    side = round(codes.shape[1] ** 0.5)
    base = PatchBase(codes.reshape(-1, side, side), codebook_of(vae).numpy())
    return PatchDecoding(settings, cache.key(*keys), base, where)
