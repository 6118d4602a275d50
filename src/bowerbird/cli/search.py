"""`bowerbird search`: what a knowledge base holds that is like a text or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, print_json, print_line, say, say_source
from bowerbird.cli.filling import (
    CoverOption,
    KbArgument,
    OpenCaptionEncoderOption,
    OpenEncoderOption,
    RerankOption,
    read_rerank,
)
from bowerbird.core.credit import credit_line, credit_of
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.tensors import pick_device
from bowerbird.core.text import shortened
from bowerbird.core.types import embeds_text

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from bowerbird.core.types import Neighbors
    from bowerbird.knowledge.base import KnowledgeBase

USUAL = 8
"""Results where -k is not given."""
ALWAYS = ("similarity", "bm25")
"""Measures that every result has, None where the search did not look at it."""
BATCH = 256
"""Queries searched at once."""


def search(
    kb: KbArgument,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Words to look for; with several, or with pictures, what is like all of them."),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="A picture to look for; may be given several times.")
    ] = None,
    negative: Annotated[
        list[str] | None,
        typer.Option("--negative", metavar="TEXT", help="Words to keep away from; may be given several times."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Of texts and pictures, texts first, as in 1,0.5,-0.3.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries", metavar="FILE.txt", help="A text a line, all searched at once; answers as JSON lines."
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option("--mode", help="dense (embeddings), bm25 (words), captions (their meaning), hybrid (all), mixed."),
    ] = "hybrid",
    k: Annotated[
        int | None, typer.Option("-k", "--num-neighbors", help="How many results; default 8, or as many as there are.")
    ] = None,
    where: Annotated[str | None, typer.Option("--where", metavar="SQL", help="Only items that satisfy this.")] = None,
    diversity: Annotated[
        float, typer.Option("--diversity", help="From 0 to 1: prefer results unlike those before.")
    ] = 0.0,
    alpha: Annotated[
        str | None,
        typer.Option(
            "--alpha",
            metavar="SHARE|auto",
            help="hybrid by scores, this share dense; auto: by ranks, dense as much as words leave open.",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", help="Leave out what is less similar: a cosine; with --mode bm25 a BM25 score."),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every item, whatever the index.")] = False,
    typos: Annotated[
        bool,
        typer.Option("--typos/--no-typos", help="Whether a word that no item has is searched as those near to it."),
    ] = True,
    rerank: RerankOption = "none",
    cover: CoverOption = False,
    encoder: OpenEncoderOption = None,
    caption_encoder: OpenCaptionEncoderOption = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Write the results as one picture.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find pictures by words, by pictures, or by a sum of them.

    Example: bowerbird search my-kb --text "a red fox" -k 8 --sheet found.png
    """
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.rerank.registry import NONE, rerank_name

    reranker = read_rerank(rerank, no_rerank=False)
    if cover and (min_score is not None or diversity):
        raise BowerbirdError("search: --cover chooses itself; leave out --min-score and --diversity")
    if queries is not None:
        if text or image or negative or weights is not None or sheet is not None:
            raise BowerbirdError(
                "search: --queries stands alone, without --text, --image, --negative, --weights and --sheet"
            )
        _batch(
            kb,
            queries,
            mode,
            {
                "k": k,
                "where": where,
                "diversity": diversity,
                "exact": exact,
                "alpha": _share(alpha),
                "min_score": min_score,
            }
            | {"typos": typos, "rerank": reranker},
            (encoder, caption_encoder),
            device,
            cover=cover,
        )
        return
    if not text and not image:
        raise BowerbirdError("search: give --text or --image")
    opened = KnowledgeBase.open(
        kb,
        encoder=encoder,
        caption_encoder=caption_encoder,
        device="cpu" if mode == "bm25" and not image else pick_device(device),
        on_message=say,
    )
    single = text[0] if text and len(text) == 1 and not image and not negative and weights is None else None
    options: dict[str, Any] = {"k": _count(opened, k), "where": where, "diversity": diversity, "exact": exact}
    options["min_score"] = min_score
    usual: np.ndarray | None = None
    if single is not None:
        hits = opened.search(text=single, mode=mode, alpha=_share(alpha), typos=typos, rerank=reranker, **options)
        hits = _covering(opened, hits, mode, where) if cover else hits
        query: dict[str, Any] = {"text": single}
        if mode not in ("bm25", "captions") and (as_json or min_score is not None) and embeds_text(opened.encoder):
            usual = opened.similarities(text=single)
    else:
        if cover:
            raise BowerbirdError("search: --cover is about the things that one --text names; leave out the others")
        if alpha is not None or mode == "bm25":
            raise BowerbirdError(
                "search: a sum of texts and pictures goes by embeddings alone; leave out --alpha and --mode bm25"
            )
        parts: list[str | Path] = [*(text or []), *(image or []), *(negative or [])]
        counts = _weights(weights, len(text or []) + len(image or [])) + [-0.5] * len(negative or [])
        query = {
            "text": text or [],
            "images": [str(p) for p in image or []],
            "negative": negative or [],
            "weights": counts,
        }
        query = {"images": query["images"]} if image and not text and not negative and weights is None else query
        mix = [(_read(part), weight) for part, weight in zip(parts, counts, strict=True)]
        one = image is not None and len(parts) == 1 and weights is None and reranker != NONE
        how: dict[str, Any] = {"images": [mix[0][0]]} if one else {"query_mix": mix}
        hits = opened.search(**how, rerank=reranker, **options)
        usual = opened.similarities(query_mix=mix) if as_json or min_score is not None else None
    _say_count(opened, k)
    for note in hits.notes[0] if hits.notes else ():
        say(note)
    corrected = _corrected(hits)
    for word, others in corrected.items():
        say(f"no item has {word!r}: searched for {' or '.join(map(repr, others))} (--no-typos: only as written)")
    results = [_result(opened, hits, c) for c in range(hits.k) if hits.mask[0, c]]
    if sheet is not None:
        from bowerbird.core import images
        from bowerbird.core.contact_sheet import labeled_grid

        label = ", ".join([*(text or []), *(p.name for p in image or []), *(f"not {t}" for t in negative or [])])
        asked = [images.read(path) for path in image or []]
        there = [c for c in range(hits.k) if hits.mask[0, c]]  # those without a picture keep their place and caption
        cells = [*asked, *(hits.images()[0][c] for c in there)]
        shown = [*("query" for _ in asked), *(hits.captions[0][c] for c in there)]
        notes = [*("" for _ in asked), *(credit_line(opened.credits([int(hits.ids[0, c])])[0]) for c in there)]
        images.write(labeled_grid([(label, cells, shown)], divide=len(asked) or None, notes=[notes]), sheet)
    if as_json:
        print_json(
            {
                "kb": str(kb),
                "version": opened.version,
                "mode": mode if single is not None else "dense",
                "rerank": rerank_name(reranker, pictures=single is None),
                **({"cover": True} if cover else {}),
                "query": query,
                "corrected": corrected,
                **({} if usual is None else {"usual_similarity": _usual(usual)}),
                "results": results,
            }
        )
        return
    if results:
        meaning = f"{'caption':>7}  " if "caption_similarity" in hits.measures else ""
        say(f"{'score':>8}  {'cosine':>6}  {'bm25':>6}  {meaning}{'id':>19}  file: caption")
    for result in results:
        known = (result.get(n) for n in ("similarity", "bm25", "caption_similarity"))
        cosine, words, said = (f"{value:.3f}" if value is not None else "-" for value in known)
        meaning = f"{said:>7}  " if "caption_similarity" in result else ""
        text_of = ": ".join(part for part in (result["path"], shortened(result["caption"])) if part)
        text_of += f"  ({credit})" if (credit := ", ".join(map(str, result["credit"].values()))) else ""
        print_line(f"{result['score']:8.3f}  {cosine:>6}  {words:>6}  {meaning}{result['id']:>19}  {text_of}")
    if not results:
        say(f"{kb}: nothing{_why_nothing(single, mode, where, min_score, usual)}")


def _batch(
    kb: str,
    queries: Path,
    mode: str,
    options: dict[str, Any],
    given: tuple[str | None, str | None],
    device: str,
    *,
    cover: bool,
) -> None:
    """One JSON line a query, in their order."""
    from bowerbird.data.report import SourceReport
    from bowerbird.data.text import lines_of, read_text_file
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.rerank.registry import rerank_name

    report = SourceReport()
    texts = [text for line in lines_of(read_text_file(queries, "a query a line", report)) if (text := line.strip())]
    say_source(report)
    if not texts:
        raise BowerbirdError(f"{queries}: no query in it; write one a line")
    opened = KnowledgeBase.open(
        kb,
        encoder=given[0],
        caption_encoder=given[1],
        device="cpu" if mode == "bm25" else pick_device(device),
        on_message=say,
    )
    k = options["k"]
    options["k"] = _count(opened, k)
    for start in range(0, len(texts), BATCH):
        hits = opened.search(text=texts[start : start + BATCH], mode=mode, **options)
        hits = _covering(opened, hits, mode, options["where"]) if cover else hits
        for row, text in enumerate(hits.queries):
            results = [_result(opened, hits, c, row) for c in range(hits.k) if hits.mask[row, c]]
            print_json(
                {
                    "kb": str(kb),
                    "version": opened.version,
                    "mode": mode,
                    "rerank": rerank_name(options["rerank"]),
                    **({"cover": True} if cover else {}),
                    "query": {"text": text},
                    "corrected": _corrected(hits, row),
                    "results": results,
                },
                indent=None,
            )
    _say_count(opened, k)


def _covering(kb: KnowledgeBase, hits: Neighbors, mode: str, where: str | None) -> Neighbors:
    from bowerbird.systems import coverage

    return coverage.cover(kb, hits, search_mode=mode, where=where)


def _why_nothing(text: str | None, mode: str, where: str | None, least: float | None, usual: np.ndarray | None) -> str:
    """Why there is no result: the condition, the words, the cut-off."""
    from bowerbird.knowledge.search.terms import is_plain

    among = f" among the items that satisfy --where {where!r}" if where else ""
    if least is None and text is not None and not is_plain(text):
        return f"{among} has the phrases and fields of {text!r}; leave out quotation marks, or the name before a colon"
    if least is None:
        return f"{among} shares a word with {text!r}; try --mode dense" if mode == "bm25" else f"{among} was found"
    if usual is None:
        return f"{among} has a BM25 score of {least:g} or more; lower --min-score, or try --mode dense"
    ordinary = ", ".join(f"{name} of all items reach {value:.3f}" for name, value in _usual(usual).items())
    return f"{among} is as similar as --min-score {least:g} (with this query, {ordinary}); lower it"


def _usual(usual: np.ndarray) -> dict[str, float]:
    """The similarity to a query that half of all items exceed, one in ten, and one in a hundred."""
    import numpy as np

    shares = {"half": 0.5, "a tenth": 0.9, "a hundredth": 0.99}
    return {name: round(float(np.quantile(usual, below)), 6) for name, below in shares.items()}


def _share(text: str | None) -> float | Literal["auto"] | None:
    """What --alpha says. Raises: BowerbirdError for what is neither a number nor auto."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError as error:
        raise BowerbirdError(f"--alpha {text[:40]!r}: a share from 0 to 1, as in 0.5, or auto") from error


def _count(kb: KnowledgeBase, k: int | None) -> int | None:
    """How many results: those asked for, else the usual number or as many as there are; an empty one is refused by the
    search."""
    return k if k is not None or not len(kb) else min(USUAL, len(kb))


def _say_count(kb: KnowledgeBase, k: int | None) -> None:
    """A line where fewer results than usual are all there is."""
    if k is None and len(kb) < USUAL:
        say(f"{kb.path} holds {len(kb)} items, fewer than the usual {USUAL} results: all are ranked")


def _read(part: str | Path) -> str | Image.Image:
    from bowerbird.core import images

    return images.read(part) if isinstance(part, Path) else part


def _weights(text: str | None, count: int) -> list[float]:
    """The numbers of `--weights`, one a text or picture; 1 each when not given."""
    try:
        found = [1.0] * count if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise BowerbirdError(f"--weights {text!r}: numbers with commas between them, as in 1,0.5,-0.3") from error
    if len(found) != count:
        raise BowerbirdError(f"--weights {text!r}: {len(found)} numbers for {count} texts and pictures; give one each")
    return found


def _result(kb: KnowledgeBase, hits: Neighbors, column: int, row: int = 0) -> dict[str, Any]:
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


def _corrected(hits: Neighbors, row: int = 0) -> dict[str, list[str]]:
    """The words of a query that no item has, with those searched in their place."""
    return {word: list(others) for word, others in hits.corrected[row].items()} if hits.corrected else {}


def _known(values: np.ndarray | None, row: int, column: int) -> float | None:
    """A measure, None where it is not known."""
    value = None if values is None else float(values[row, column])
    return None if value is None or value != value else round(value, 6)  # NaN: the search did not look at it
