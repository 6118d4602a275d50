"""Is the index the one of these rows? Every file of it is compared with what the rows give, not only with its hash: an
index that was made of other rows is whole, and wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from bowerbird.core import checksums, files
from bowerbird.core.disk import disk_errors
from bowerbird.core.errors import BowerbirdError
from bowerbird.knowledge.search import bm25, dense, segment
from bowerbird.knowledge.search.analyzer import Analyzer
from bowerbird.knowledge.search.segment import Segment
from bowerbird.knowledge.storage.directory import DirectoryStore

if TYPE_CHECKING:
    import faiss

MOVED = 1e-3
"""Up to this share of items may lie in other lists than here: another machine rounds otherwise where two lists are as
near."""
BLOCK = 16_384


def index_fault(store: DirectoryStore) -> str | None:
    """What is wrong with the main segment, if anything."""
    folder = store.path / segment.FOLDER
    if not folder.exists():
        return f"{folder}: not there"
    try:
        recorded = files.read_sealed(folder / segment.MANIFEST, "index", exactly=True)["files"]
        wrong = checksums.find_changes(folder, recorded, thorough=True)
    except (BowerbirdError, KeyError, TypeError, AttributeError) as error:
        return f"{folder / segment.MANIFEST}: {error}"
    if wrong:
        return wrong[0]
    main = segment.load(folder, store.tag())
    if main is None:
        return f"{folder / segment.MANIFEST}: of another encoder or another bowerbird"
    return next(_faults(store, main, folder, recorded), None)


def _faults(store: DirectoryStore, main: Segment, folder: Path, recorded: dict[str, object]) -> Iterator[str]:
    """The table and the vectors beside the rows, then what is made of those two."""
    for file, what in _against_rows(store, main):
        yield f"{folder / file}: not {what} of the rows"
    if not _lengths_fit(main, main.vectors, bool(store.tag()["normalize"])):
        yield f"{folder / segment.LENGTHS}: not the lengths of the vectors"
    if main.captions is not None and not _lengths_fit(main, main.captions, True):
        yield f"{folder / segment.CAPTION_LENGTHS}: not the lengths of the captions' vectors"
    if main.vectors.small is not None and not _quantized_fits(main):
        yield f"{folder / segment.SMALL}: not the vectors in 8 bits"
    if main.index is not None and not _lists_fit(main):
        yield f"{folder / segment.DENSE}: not an index of the vectors"
    if (name := _other_words(store, main, recorded)) is not None:
        yield f"{folder / name}: not the words of the rows"


def _against_rows(store: DirectoryStore, main: Segment) -> Iterator[tuple[str, str]]:
    for batch in store.rows.checked_batches(4096):
        ids, added = (batch.column(batch.schema.get_field_index(name)).to_numpy() for name in ("id", "added"))
        at = main.rows_of(ids)
        same = (at >= 0) & (main.added[at] == added) if len(main) else np.zeros(len(ids), bool)
        if not same.any():
            continue
        here = batch.filter(pa.array(same))
        if not np.array_equal(main.vectors.raw[at[same]], segment.vectors_of(here, store.dim)):
            yield segment.VECTORS, "the embeddings"
        if main.captions is not None:
            said = segment.caption_vectors_of(here, main.captions.raw.shape[1])
            if not np.array_equal(main.captions.raw[at[same]], said):
                yield segment.CAPTION_VECTORS, "the captions' vectors"
        there = main.table.take(pa.array(at[same]))
        for name in segment.shown_columns(here.schema):
            column = here.column(here.schema.get_field_index(name))
            known = there[name].combine_chunks() if name in there.column_names else pa.nulls(len(column), column.type)
            if not known.equals(column):
                yield segment.TABLE, f"the column {name}"


def _lengths_fit(main: Segment, vectors: dense.Vectors, normalize: bool) -> bool:
    def same(rows: slice) -> bool:
        made = dense.lengths_of(np.asarray(vectors.raw[rows], np.float32), normalize)
        return np.allclose(vectors.lengths[rows], made, rtol=1e-6, atol=0)

    return _everywhere(main, same)


def _quantized_fits(main: Segment) -> bool:
    def same(rows: slice) -> bool:
        assert main.vectors.small is not None
        assert main.vectors.steps is not None
        steps = main.vectors.steps[rows, None]
        off = np.abs(main.vectors.small[rows] * steps - main.vectors.scaled(rows))
        return bool((off <= 0.501 * steps).all())  # half a step is what rounding leaves

    return _everywhere(main, same)


def _everywhere(main: Segment, same: Callable[[slice], bool]) -> bool:
    """`same` of all rows, a block at a time."""
    for start in range(0, len(main), BLOCK):
        fits = same(slice(start, min(start + BLOCK, len(main))))
        main.vectors.release()
        if not fits:
            return False
    return True


def _lists_fit(main: Segment) -> bool:
    """Whether the FAISS index, emptied and filled with the vectors again, is the same: what it was trained to do with a
    vector says nothing about the rows, and what it holds of them does."""
    import faiss

    assert main.index is not None
    if main.index.ntotal != len(main):
        return False
    before = faiss.serialize_index(main.index)
    again = faiss.deserialize_index(before)
    again.reset()
    for start in range(0, len(main), BLOCK):
        again.add(main.vectors.scaled(slice(start, min(start + BLOCK, len(main)))))
        main.vectors.release()
    if np.array_equal(before, faiss.serialize_index(again)):
        return True
    lists = _lists_of(main.index), _lists_of(again)
    if lists[0] is None or lists[1] is None:
        return False
    return float((lists[0] != lists[1]).mean()) <= MOVED


def _lists_of(index: faiss.Index) -> np.ndarray | None:
    """The list that each row lies in, int64 `(n,)`; None for an index without lists."""
    import faiss

    inside = faiss.try_extract_index_ivf(index)
    if inside is None or inside.invlists is None:
        return None
    made = np.full(inside.ntotal, -1, np.int64)
    for number in range(inside.nlist):
        size = inside.invlists.list_size(number)
        if size:
            made[faiss.rev_swig_ptr(inside.invlists.get_ids(number), size)] = number
    return made


def _other_words(store: DirectoryStore, main: Segment, recorded: dict[str, object]) -> str | None:
    """A file of the word index that captions, tags and names do not give."""
    if not len(main):
        return None
    words, mean = segment.word_index(main.table, store.tag()["words"], Analyzer.of(store.tag()))
    if mean != main.facts["mean_words"]:
        return segment.MANIFEST
    with tempfile.TemporaryDirectory(prefix="bowerbird-") as place, disk_errors(place):
        bm25.save(words, Path(place) / segment.WORDS)
        made = checksums.record(Path(place))
    known = {name: facts for name, facts in recorded.items() if name.startswith(f"{segment.WORDS}/")}
    odd = [name for name in sorted({*made, *known}) if _hash(made.get(name)) != _hash(known.get(name))]
    return odd[0] if odd else None


def _hash(facts: object) -> object:
    return facts["sha256"] if isinstance(facts, dict) else None
