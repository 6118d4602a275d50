"""From what a person asks to the neighbors a picture is grounded in: RDM's five ways of asking, one function each.

All return `Neighbors`; none knows a network. They speak to a database through `types.Retriever` only.
Source: RDM, arXiv 2204.11824, section 3.3 and the released sampling script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import check_opened
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.knowledge.rerank.registry import NONE, Rerank, check_rerank, load_reranker, rerank_name
from bowerbird.knowledge.search.terms import condition_of
from bowerbird.systems import coverage

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase

TEXT_MODES = ("neighbors", "text", "text+neighbors")
NO_PROMPT = "there is no prompt in the list; give one or several"
IMAGE_MODES = ("image+neighbors", "image", "neighbors")


@dataclass(frozen=True)
class Request:
    """What a person asks for: one of `prompts`, `images` (several make one picture), `class_name`, `unconditional`;
    and how to retrieve.

    What is None is the model's own (`System.resolve`): how many neighbors `k`, and the modes. `allow_no_neighbors`:
    a search that finds nothing is an answer, not an error. `min_score`: neighbors less similar are left out, as
    `KnowledgeBase.search` measures it. `rerank`: what orders them (`knowledge.rerank.registry.NAMES`); `auto` leaves
    out neighbors that contradict a color of the prompt, where others agree. `cover`: of each thing that a prompt names
    one before a second of any (`coverage.py`).
    """

    prompts: tuple[str, ...] | None = None
    images: tuple[Image.Image, ...] | None = None
    class_name: str | None = None
    unconditional: bool = False
    k: int | None = None
    text_mode: str | None = None
    image_mode: str | None = None
    search_mode: str | None = None
    where: str | None = None
    class_key: str | None = None
    top_m: float = 1.0
    allow_no_neighbors: bool = False
    min_score: float | None = None
    rerank: Rerank = "auto"
    cover: bool = False

    def __post_init__(self) -> None:
        given = {
            "prompt": self.prompts is not None,
            "image": self.images is not None,
            "class_name": self.class_name is not None,
            "unconditional": self.unconditional,
        }
        named = [name for name, there in given.items() if there]
        if named == ["prompt", "image"]:
            raise BowerbirdError(
                "`prompt` and `image` each say what to generate; give one of them. neighbors=kb.search(text=…,"
                " images=[…]) generates from what both find, neighbors=Neighbors.from_images([prompt], [picture],"
                " [caption]) what the prompt says from your picture (ReImagenPipeline), and KNNDiffusionPipeline with"
                " `source` changes the picture as the prompt says"
            )
        if len(named) != 1:
            raise BowerbirdError(
                "ask for one of prompt, image, class_name, unconditional, or give neighbors; got"
                f" {' and '.join(named) or 'none of them'}"
            )
        if self.min_score is not None and (self.unconditional or self.class_key is not None):
            raise BowerbirdError(
                "`min_score` is about what a search finds; items of a class and of an unconditional picture are drawn"
            )
        if isinstance(self.rerank, str | bool):
            check_rerank(self.rerank)
        if self.cover and self.prompts is None:
            raise BowerbirdError("`cover` is about the things that a prompt names; give a prompt with it")
        if self.cover and self.min_score is not None:
            raise BowerbirdError("`cover` and `min_score` each say what may be a neighbor; leave one of them out")
        if self.k is not None and self.k < 0:
            raise BowerbirdError(f"k is the number of neighbors, 0 or more; got {self.k}")


def make_request(
    prompt: str | Sequence[str] | None = None, image: Image.Image | Sequence[Image.Image] | None = None, **how: Any
) -> Request:
    """The request that a pipeline's arguments make: one prompt or several, one picture or several used together.

    `how`: the other fields of `Request`. Raises: BowerbirdError when not exactly one thing is asked for.
    """
    check_opened(() if image is None else image if isinstance(image, list | tuple) else (image,), "image")
    return Request(
        prompts=(prompt,) if isinstance(prompt, str) else None if prompt is None else tuple(prompt),
        images=None if image is None else tuple(image) if isinstance(image, Sequence) else (image,),
        **how,
    )


def make_prompt_request(prompt: str | Sequence[str] | None, **how: Any) -> Request:
    """`make_request` of a pipeline that reads prompts alone. Raises: BowerbirdError where there is none."""
    if prompt is None:
        raise BowerbirdError("give a prompt with knowledge_base=, or neighbors=")
    if not prompt and not isinstance(prompt, str):
        raise BowerbirdError(NO_PROMPT)
    return make_request(prompt, **how)


def with_prompts(given: Neighbors, prompt: str | Sequence[str] | None) -> Neighbors:
    """Neighbors that a person gave, with the prompts, one for all or one a row; None leaves those they have. Raises:
    BowerbirdError for another number of prompts."""
    prompts = (prompt,) if isinstance(prompt, str) else None if prompt is None else tuple(prompt)
    if prompts == () or not len(given):
        raise BowerbirdError(NO_PROMPT)
    if prompts is None:
        return given
    if len(prompts) not in (1, len(given)):
        raise BowerbirdError(f"{len(prompts)} prompts for {len(given)} sets of neighbors; give one, or one a set")
    return replace(given, queries=prompts if len(prompts) == len(given) else prompts * len(given))


def retrieve(kb: KnowledgeBase, request: Request, count: int, *, seed: int, counts: dict[int, int]) -> Neighbors:
    """The neighbors for a resolved `request`, `count` rows for each prompt or for the one thing asked for; row i draws
    from `seed + i`. `counts`: p_D by item id. Raises: BowerbirdError for a k below 1, or where nothing is found and
    that is not allowed."""
    k = request.k or 0
    if k < 1:
        raise BowerbirdError(f"k is the number of neighbors, 1 or more for this model; got {k}")
    if request.prompts is not None:
        text_mode, search_mode = request.text_mode or "neighbors", request.search_mode or "hybrid"
        return by_text(
            kb,
            request.prompts,
            k,
            text_mode=text_mode,
            search_mode=search_mode,
            where=request.where,
            min_score=request.min_score,
            allow_no_neighbors=request.allow_no_neighbors,
            rerank=request.rerank,
            cover=request.cover,
        ).repeat(count)
    if request.images is not None:
        image_mode = request.image_mode or "image+neighbors"
        return by_images(
            kb,
            request.images,
            k,
            image_mode=image_mode,
            where=request.where,
            min_score=request.min_score,
            allow_no_neighbors=request.allow_no_neighbors,
            rerank=request.rerank,
        ).repeat(count)
    if request.class_name is not None:
        return by_class(
            kb,
            request.class_name,
            k,
            class_key=request.class_key,
            count=count,
            seed=seed,
            min_score=request.min_score,
            rerank=request.rerank,
        )
    return by_proposal(kb, counts, k, top_m=request.top_m, count=count, seed=seed)


def rerank_of(request: Request) -> str | None:
    """What a record says of how the neighbors of `request` were ordered; None where they are not what a search
    found."""
    searched = request.images is not None or request.prompts is not None
    if not searched and (request.class_name is None or request.class_key is not None):
        return None
    return rerank_name(request.rerank, pictures=request.images is not None)


def by_text(
    kb: KnowledgeBase,
    prompts: Sequence[str],
    k: int,
    *,
    text_mode: str = "neighbors",
    search_mode: str = "hybrid",
    where: str | None = None,
    min_score: float | None = None,
    allow_no_neighbors: bool = False,
    rerank: Rerank = "auto",
    cover: bool = False,
) -> Neighbors:
    """One set a prompt: its k neighbors, its own embedding alone, or that and its k - 1 neighbors.

    Raises: BowerbirdError where a search finds nothing, unless `allow_no_neighbors`.
    """
    _choice("text_mode", text_mode, TEXT_MODES)
    if any(not p.strip() for p in prompts):
        raise BowerbirdError("the prompt is empty; say what to generate, or ask for an unconditional picture")

    def search(wanted: int) -> Neighbors:
        # a prompt may name what nobody has; its pictures must not become those of a word that is spelled alike
        found = kb.search(
            text=list(prompts),
            k=wanted,
            mode=search_mode,
            where=where,
            min_score=min_score,
            typos=False,
            operators=False,
            rerank=rerank,
        )
        empty = [prompt for prompt, row in zip(prompts, found.mask, strict=True) if not row.any()]
        if empty and not allow_no_neighbors:
            raise nothing_found(kb, f"for {empty[0]!r} by `search_mode={search_mode}`", where, min_score)
        return coverage.cover(kb, found, search_mode=search_mode, where=where) if cover else found

    if text_mode == "neighbors":
        return search(k)
    alone = Neighbors.from_embeddings(kb.encoder.embed_text(list(prompts))[:, None], [[f"(text) {p}"] for p in prompts])
    if text_mode == "text" or k == 1:
        return alone
    return Neighbors.concat(alone, search(k - 1))


def by_images(
    kb: KnowledgeBase,
    images: Sequence[Image.Image],
    k: int,
    *,
    image_mode: str = "image+neighbors",
    where: str | None = None,
    min_score: float | None = None,
    allow_no_neighbors: bool = False,
    rerank: Rerank = "auto",
) -> Neighbors:
    """One set (Q = 1) for all of `images` together: the pictures themselves, then their nearest items in turn,
    up to k.

    Raises: BowerbirdError where a search finds nothing, unless `allow_no_neighbors`.
    """
    _choice("image_mode", image_mode, IMAGE_MODES)
    if not images:
        raise BowerbirdError("no picture was given; pass one or several")
    embeddings = kb.encoder.embed_images(list(images))
    alone = Neighbors.from_embeddings(embeddings[None], [[f"(image {i + 1})" for i in range(len(images))]], images)
    rest = k if image_mode == "neighbors" else k - len(images)
    if image_mode == "image" or rest <= 0:
        return alone
    reranker = load_reranker(rerank)
    reads = reranker if reranker is not None and reranker.reads_pictures else NONE
    found = kb.search(images=images, k=k, where=where, min_score=min_score, rerank=reads)
    if not found.mask.any() and not allow_no_neighbors:
        raise nothing_found(kb, "for the picture", where, min_score)
    order = [(q, c) for c in range(found.k) for q in range(len(found)) if found.ids[q, c] != ABSENT]
    unique = list({int(found.ids[q, c]): (q, c) for q, c in reversed(order)}.values())[::-1]
    retrieved = kb.get(
        [int(found.ids[q, c]) for q, c in unique[:rest]], scores=[float(found.scores[q, c]) for q, c in unique[:rest]]
    )
    return retrieved if image_mode == "neighbors" else Neighbors.concat(alone, retrieved)


def by_class(
    kb: KnowledgeBase,
    name: str,
    k: int,
    *,
    class_key: str | None,
    count: int,
    seed: int,
    min_score: float | None = None,
    rerank: Rerank = "auto",
) -> Neighbors:
    """`count` sets for a class: the prompt "An image of a {name}", or k items drawn without replacement from those
    whose metadata `class_key` is `name`. Raises: BowerbirdError where there is no such column, or the class has fewer
    than k items."""
    if class_key is None:
        return by_text(kb, [class_prompt(name)], k, min_score=min_score, rerank=rerank).repeat(count)
    columns = {"caption": "string", "name": "string", **kb.store.columns()}
    column = next((each for each in columns if each.casefold() == class_key.casefold()), None)
    if column is None:
        raise BowerbirdError(f"`class_key` {class_key!r}: {kb.path} has no such column; it has {', '.join(columns)}")
    if columns[column] in ("string", "large_string"):
        of_class: str | None = f"{class_key} = '" + name.replace("'", "''") + "'"
    else:
        of_class = condition_of(column, columns[column], name)
    if of_class is None:
        raise BowerbirdError(
            f"class {name!r}: the column {column} holds values of type {columns[column]}, and this is none"
        )
    pool = kb.ids(where=of_class)
    if len(pool) < k:
        raise BowerbirdError(
            f"class {name!r}: {len(pool)} items have {class_key} = {name!r}, and k is {k}; choose a smaller k or"
            " another class"
        )
    draws = [seeds.numpy_generator(seed + i, "class").choice(pool, size=k, replace=False) for i in range(count)]
    return replace(Neighbors.stack([kb.get([int(i) for i in draw]) for draw in draws]), queries=(name,) * count)


def nothing_found(kb: KnowledgeBase, query: str, where: str | None, min_score: float | None = None) -> BowerbirdError:
    """The error of a search for `query` ("for …") that has no neighbor."""
    condition = "" if where is None else f" among the items that satisfy `where` {where!r}"
    condition += "" if min_score is None else f" with `min_score={min_score:g}` or more"
    return BowerbirdError(
        f"{kb.path}: no neighbor was found {query}{condition}, so nothing is generated; ask for something else, or"
        " allow it: `allow_no_neighbors`"
    )


def class_prompt(name: str) -> str:
    """How a class is asked for in words."""
    return f"An image of a {name}"


def by_proposal(kb: KnowledgeBase, counts: dict[int, int], k: int, *, top_m: float, count: int, seed: int) -> Neighbors:
    """`count` sets for unconditional pictures: x ~ p_D over the database's items, then the k neighbors of x (x among
    them).

    `counts`: how often each id was a training neighbor. Raises: BowerbirdError when they cover no item of this
    database.
    """
    from bowerbird.knowledge.neighbors.graph import proposal

    ids = kb.ids()
    known = np.array([counts.get(int(i), 0) for i in ids], np.int64)
    if known.sum() == 0:
        raise BowerbirdError(
            "unconditional pictures need p_D, and the model's training counts cover no item of this database; "
            "count over the database itself with --proposal database (Python: proposal=kb.proposal(k=4))"
        )
    p = proposal(known, top_m)
    drawn = [int(ids[seeds.numpy_generator(seed + i, "proposal").choice(len(ids), p=p)]) for i in range(count)]
    return kb.search(ids=drawn, k=k, include_self=True)


def _choice(what: str, given: str, allowed: Sequence[Any]) -> None:
    if given not in allowed:
        raise BowerbirdError(f"{what} {given!r} is not known; choose one of {', '.join(allowed)}")
