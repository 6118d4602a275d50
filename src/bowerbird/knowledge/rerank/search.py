"""A search whose results a reranker orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.knowledge.rerank.protocol import Collection, Reranker, Task

if TYPE_CHECKING:
    from PIL import Image


class SearchableCollection(Collection, Protocol):
    """A knowledge base as it is searched."""

    @property
    def search(self) -> Callable[..., Neighbors]: ...


def search_reranked(
    base: SearchableCollection,
    reranker: Reranker,
    *,
    text: str | Sequence[str] | None,
    words: Callable[[str], str],
    images: Sequence[Image.Image] | None,
    k: int,
    options: dict[str, Any],
) -> Neighbors:
    """The k best of each text, or of each picture, as `reranker` has them; `words`: gives a text without its operators;
    `options`: the other arguments of `search`.

    Raises: BowerbirdError where the query is neither, or the options say the order themselves.
    """
    if (text is None) == (images is None):
        raise BowerbirdError(
            f"`rerank={reranker.name}` is for queries that are texts or pictures, one of them; leave it out for a sum,"
            " for items and for embeddings"
        )
    if options.get("diversity"):
        raise BowerbirdError("`rerank` and `diversity` both choose the order; leave one of them out")
    texts = () if text is None else (text,) if isinstance(text, str) else tuple(text)
    pictures = () if images is None else tuple(images)

    def find(rows: Sequence[int], n: int) -> Neighbors:
        if pictures:
            return base.search(images=[pictures[row] for row in rows], k=n, **options)
        return base.search(text=[texts[row] for row in rows], k=n, **options)

    if pictures and not reranker.reads_pictures:
        return find(range(len(pictures)), k)
    return reranker.rerank(Task(base=base, texts=tuple(map(words, texts)), pictures=pictures, k=k, find=find))
