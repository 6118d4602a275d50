"""`bowerbird search`: what a knowledge base holds that is like a text or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, SeedOption, pick_device, print_json, say
from bowerbird.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.types import Neighbors


def search(
    kb: Annotated[Path, typer.Argument(metavar="KB", help="Directory of the knowledge base.")],
    text: Annotated[str | None, typer.Option("--text", help="Words to look for.")] = None,
    image: Annotated[list[Path] | None, typer.Option("--image", help="A picture to look for; may be given several times.")] = None,
    mode: Annotated[str, typer.Option("--mode", help="dense (embeddings), bm25 (words) or hybrid (both).")] = "hybrid",
    k: Annotated[int, typer.Option("-k", help="How many results.")] = 8,
    where: Annotated[str | None, typer.Option("--where", metavar="SQL", help="Only items that satisfy this.")] = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Write the results as one picture.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find pictures by words or by pictures.

    Example: bowerbird search my-kb --text "a red fox" -k 8 --sheet found.png
    """
    from bowerbird.knowledge.base import KnowledgeBase

    if (text is None) == (not image):
        raise BowerbirdError("search: give --text or --image, one of them")
    opened = KnowledgeBase.open(kb, device="cpu" if mode == "bm25" and not image else pick_device(device))
    hits = opened.search(text=text, k=k, mode=mode, where=where) if text is not None else _by_images(opened, image or [], k, where)
    results = [_result(opened, hits, c) for c in range(hits.k) if hits.mask[0, c]]
    if sheet is not None:
        from bowerbird.sheets import labelled

        labelled([(text or ", ".join(p.name for p in image or []), [i for i in hits.images()[0] if i is not None], list(hits.captions[0]))]).save(sheet)
    if as_json:
        query: dict[str, Any] = {"text": text} if text is not None else {"images": [str(p) for p in image or []]}
        print_json({"kb": str(kb), "version": opened.version, "mode": mode if text is not None else "dense", "query": query, "results": results})
        return
    for result in results:
        print(f"{result['score']:8.3f}  {result['id']:>19}  {result['caption'] or result['path']}")
    if not results:
        say(f"{kb}: nothing shares a word with {text!r}; try --mode dense")


def _by_images(kb: KnowledgeBase, paths: list[Path], k: int, where: str | None) -> Neighbors:
    """One ranking for several pictures: by the mean of their directions."""
    import numpy as np

    from bowerbird import images

    vectors = kb.encoder.embed_images([images.read(p) for p in paths])
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return kb.search(embeddings=unit.mean(0, keepdims=True), k=k, where=where)


def _result(kb: KnowledgeBase, hits: Neighbors, column: int) -> dict[str, Any]:
    item = int(hits.ids[0, column])
    return {
        "id": item,
        "score": round(float(hits.scores[0, column]), 6),
        "caption": hits.captions[0][column],
        "metadata": hits.metadata[0][column],
        "path": kb.name(item),
    }
