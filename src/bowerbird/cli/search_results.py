"""What a search found, as JSON, as lines on a terminal, and as a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.cli.common import print_line, say
from bowerbird.core.credit import credit_line, credit_of
from bowerbird.core.text import shorten

if TYPE_CHECKING:
    import numpy as np

    from bowerbird.core.types import Neighbors
    from bowerbird.knowledge.base import KnowledgeBase

ALWAYS = ("similarity", "bm25")
"""Measures that every result has, None where the search did not look at it."""


def results_of(kb: KnowledgeBase, hits: Neighbors, row: int = 0) -> list[dict[str, Any]]:
    """The results of one query, best first."""
    return [_result(kb, hits, column, row) for column in range(hits.k) if hits.mask[row, column]]


def _result(kb: KnowledgeBase, hits: Neighbors, column: int, row: int) -> dict[str, Any]:
    item = int(hits.ids[row, column])
    return {
        "id": item,
        "score": round(float(hits.scores[row, column]), 6),
        **{name: _known(hits.measures.get(name), row, column) for name in dict.fromkeys((*ALWAYS, *hits.measures))},
        **({"phrase": hits.phrases[row][column]} if hits.phrases else {}),
        "caption": hits.captions[row][column],
        "metadata": hits.metadata[row][column],
        "path": kb.name(item),
        "credit": credit_of(hits.metadata[row][column], kb.credit),
    }


def corrected_words(hits: Neighbors, row: int = 0) -> dict[str, list[str]]:
    """The words of a query that no item has, with those searched in their place."""
    return {word: list(others) for word, others in hits.corrected[row].items()} if hits.corrected else {}


def _known(values: np.ndarray | None, row: int, column: int) -> float | None:
    """A measure, None where it is not known."""
    value = None if values is None else float(values[row, column])
    return None if value is None or value != value else round(value, 6)  # NaN: the search did not look at it


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """A line a result, with its scores."""
    meaning = f"{'caption':>7}  " if any("caption_similarity" in result for result in results) else ""
    say(f"{'score':>8}  {'cosine':>6}  {'bm25':>6}  {meaning}{'id':>19}  file: caption")
    for result in results:
        known = (result.get(n) for n in ("similarity", "bm25", "caption_similarity"))
        cosine, words, said = (f"{value:.3f}" if value is not None else "-" for value in known)
        meaning = f"{said:>7}  " if "caption_similarity" in result else ""
        text_of = ": ".join(part for part in (result["path"], shorten(result["caption"])) if part)
        text_of += f"  ({credit})" if (credit := ", ".join(map(str, result["credit"].values()))) else ""
        print_line(f"{result['score']:8.3f}  {cosine:>6}  {words:>6}  {meaning}{result['id']:>19}  {text_of}")


def write_sheet(
    kb: KnowledgeBase,
    hits: Neighbors,
    place: Path,
    *,
    text: Sequence[str],
    image: Sequence[Path],
    negative: Sequence[str],
) -> None:
    """The pictures that were asked with and those that were found, as one picture."""
    from bowerbird.core import images
    from bowerbird.core.contact_sheet import labeled_grid

    label = ", ".join([*text, *(p.name for p in image), *(f"not {t}" for t in negative)])
    asked = [images.read(path) for path in image]
    there = [c for c in range(hits.k) if hits.mask[0, c]]  # those without a picture keep their place and caption
    cells = [*asked, *(hits.images()[0][c] for c in there)]
    shown = [*("query" for _ in asked), *(hits.captions[0][c] for c in there)]
    notes = [*("" for _ in asked), *(credit_line(kb.credits([int(hits.ids[0, c])])[0]) for c in there)]
    images.write(labeled_grid([(label, cells, shown)], divide=len(asked) or None, notes=[notes]), place)


def usual_similarity(usual: np.ndarray) -> dict[str, float]:
    """The similarity to a query that half of all items exceed, one in ten, and one in a hundred."""
    import numpy as np

    shares = {"half": 0.5, "a tenth": 0.9, "a hundredth": 0.99}
    return {name: round(float(np.quantile(usual, below)), 6) for name, below in shares.items()}


def why_nothing(text: str | None, mode: str, where: str | None, least: float | None, usual: np.ndarray | None) -> str:
    """Why there is no result: the condition, the words, the cut-off."""
    from bowerbird.knowledge.search.terms import is_plain

    among = f" among the items that satisfy --where {where!r}" if where else ""
    if least is None and text is not None and not is_plain(text):
        return f"{among} has the phrases and fields of {text!r}; leave out quotation marks, or the name before a colon"
    if least is None:
        return f"{among} shares a word with {text!r}; try --mode dense" if mode == "bm25" else f"{among} was found"
    if usual is None:
        return f"{among} has a BM25 score of {least:g} or more; lower --min-score, or try --mode dense"
    ordinary = ", ".join(f"{name} of all items reach {value:.3f}" for name, value in usual_similarity(usual).items())
    return f"{among} is as similar as --min-score {least:g} (with this query, {ordinary}); lower it"
