"""`bowerbird search`: what a knowledge base holds that is like a text or a picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, print_json, say, say_source
from bowerbird.cli.filling import (
    CoverOption,
    KbArgument,
    OpenCaptionEncoderOption,
    OpenEncoderOption,
    RerankOption,
    read_rerank,
)
from bowerbird.cli.search_results import (
    corrected_words,
    print_table,
    results_of,
    usual_similarity,
    why_nothing,
    write_sheet,
)
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.tensors import pick_device
from bowerbird.core.types import embeds_text

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from bowerbird.core.types import Neighbors
    from bowerbird.knowledge.base import KnowledgeBase

USUAL = 8
"""Results where -k is not given."""
BATCH = 256
"""Queries searched at once."""


def search(
    kb: KbArgument,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Text to search for; several texts and images are combined into one query."),
    ] = None,
    image: Annotated[list[Path] | None, typer.Option("--image", help="Image to search for; repeatable.")] = None,
    negative: Annotated[
        list[str] | None,
        typer.Option("--negative", metavar="TEXT", help="Text to move away from; repeatable."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Weights of the texts, then of the images, e.g. 1,0.5,-0.3.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries", metavar="FILE.txt", help="One query per line, searched as a batch; results are JSON lines."
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            help="dense (embeddings), bm25 (words), captions (caption embeddings), hybrid (all of "
            "them), or mixed (mean of picture and caption).",
        ),
    ] = "hybrid",
    k: Annotated[
        int | None,
        typer.Option("-k", "--num-neighbors", help="Number of results; default 8, or all items if there are fewer."),
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Only items that satisfy this condition.")
    ] = None,
    diversity: Annotated[
        float,
        typer.Option(
            "--diversity", help="Prefer results unlike those ranked above (maximal marginal relevance), 0 to 1."
        ),
    ] = 0.0,
    alpha: Annotated[
        str | None,
        typer.Option(
            "--alpha",
            metavar="auto|even|SHARE",
            help="Fusion in hybrid: by ranks, dense weighted by how much the words leave open (auto) "
            "or equally (even); or by scores with this SHARE of dense.",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score", help="Drop results below this cosine similarity; with --mode bm25, below this BM25 score."
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every item instead of using the approximate index.")
    ] = False,
    typos: Annotated[
        bool,
        typer.Option("--typos/--no-typos", help="Replace words that no item has by similar ones that some have."),
    ] = True,
    rerank: RerankOption = "none",
    cover: CoverOption = False,
    encoder: OpenEncoderOption = None,
    caption_encoder: OpenCaptionEncoderOption = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Write the results as a contact sheet.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Search by text, by image, or by a combination of both.

    Example: bowerbird search my-kb --text "a red fox" -k 8 --sheet found.png
    """
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.rerank.registry import rerank_name

    reranker = read_rerank(rerank, no_rerank=False)
    if cover and (min_score is not None or diversity):
        raise BowerbirdError("search: --cover chooses itself; leave out --min-score and --diversity")
    options: dict[str, Any] = {"where": where, "diversity": diversity, "exact": exact, "min_score": min_score}
    options["rerank"] = reranker
    if queries is not None:
        if text or image or negative or weights is not None or sheet is not None:
            raise BowerbirdError(
                "search: --queries stands alone, without --text, --image, --negative, --weights and --sheet"
            )
        options |= {"k": k, "mode": mode, "alpha": _share(alpha), "typos": typos}
        _batch(kb, queries, options, (encoder, caption_encoder), device, cover=cover)
        return
    if not text and not image:
        raise BowerbirdError("search: give --text or --image")
    asked = _Query(tuple(text or ()), tuple(image or ()), tuple(negative or ()), weights)
    if asked.single is None and cover:
        raise BowerbirdError("search: --cover is about the things that one --text names; leave out the others")
    if asked.single is None and (alpha is not None or mode == "bm25"):
        raise BowerbirdError(
            "search: a sum of texts and pictures goes by embeddings alone; leave out --alpha and --mode bm25"
        )
    opened = KnowledgeBase.open(
        kb,
        encoder=encoder,
        caption_encoder=caption_encoder,
        device="cpu" if mode == "bm25" and not image else pick_device(device),
        on_message=say,
    )
    options["k"] = _count(opened, k)
    measured = as_json or min_score is not None
    if asked.single is not None:
        options |= {"mode": mode, "alpha": _share(alpha), "typos": typos}
        hits, usual = _by_text(opened, asked.single, options, measured=measured)
        hits = _covering(opened, hits, mode, where) if cover else hits
    else:
        hits, usual = _by_sum(opened, asked, options, measured=measured)
    _say_count(opened, k)
    for note in hits.notes[0] if hits.notes else ():
        say(note)
    corrected = corrected_words(hits)
    for word, others in corrected.items():
        say(f"no item has {word!r}: searched for {' or '.join(map(repr, others))} (--no-typos: only as written)")
    results = results_of(opened, hits)
    if sheet is not None:
        write_sheet(opened, hits, sheet, text=asked.texts, image=asked.images, negative=asked.negative)
    if as_json:
        print_json(
            {
                "kb": str(kb),
                "version": opened.version,
                "mode": mode if asked.single is not None else "dense",
                "rerank": rerank_name(reranker, pictures=asked.single is None),
                **({"cover": True} if cover else {}),
                "query": asked.described(),
                "corrected": corrected,
                **({} if usual is None else {"usual_similarity": usual_similarity(usual)}),
                "results": results,
            }
        )
    elif results:
        print_table(results)
    else:
        say(f"{kb}: nothing{why_nothing(asked.single, mode, where, min_score, usual)}")


@dataclass(frozen=True)
class _Query:
    """What one search looks for: texts, pictures, and texts to keep away from; `weights` as they were written."""

    texts: tuple[str, ...]
    images: tuple[Path, ...]
    negative: tuple[str, ...]
    weights: str | None

    @property
    def single(self) -> str | None:
        """The text, where it is one and nothing else."""
        alone = len(self.texts) == 1 and not self.images and not self.negative and self.weights is None
        return self.texts[0] if alone else None

    @cached_property
    def counts(self) -> list[float]:
        """The weight of each text, picture and negative text. Raises: BowerbirdError for as many as there are not."""
        return _weights(self.weights, len(self.texts) + len(self.images)) + [-0.5] * len(self.negative)

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        if self.single is not None:
            return {"text": self.single}
        pictures = [str(path) for path in self.images]
        if self.images and not self.texts and not self.negative and self.weights is None:
            return {"images": pictures}
        return {
            "text": list(self.texts),
            "images": pictures,
            "negative": list(self.negative),
            "weights": self.counts,
        }


def _by_text(
    kb: KnowledgeBase, text: str, options: dict[str, Any], *, measured: bool
) -> tuple[Neighbors, np.ndarray | None]:
    """What one text finds, and where it is `measured` what is usually similar to it."""
    hits, mode = kb.search(text=text, **options), options["mode"]
    if not measured or mode in ("bm25", "captions") or not embeds_text(kb.encoder):
        return hits, None
    return hits, kb.similarities(text=text)


def _by_sum(
    kb: KnowledgeBase, asked: _Query, options: dict[str, Any], *, measured: bool
) -> tuple[Neighbors, np.ndarray | None]:
    """What several texts and pictures find together, or one picture, and what is usually similar to them."""
    from bowerbird.knowledge.rerank.registry import NONE

    parts: list[str | Path] = [*asked.texts, *asked.images, *asked.negative]
    mix = [(_read(part), weight) for part, weight in zip(parts, asked.counts, strict=True)]
    one = bool(asked.images) and len(parts) == 1 and asked.weights is None and options["rerank"] != NONE
    how: dict[str, Any] = {"images": [mix[0][0]]} if one else {"query_mix": mix}
    return kb.search(**how, **options), kb.similarities(query_mix=mix) if measured else None


def _batch(
    kb: str,
    queries: Path,
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
        device="cpu" if options["mode"] == "bm25" else pick_device(device),
        on_message=say,
    )
    k, mode = options["k"], options["mode"]
    options["k"] = _count(opened, k)
    for start in range(0, len(texts), BATCH):
        hits = opened.search(text=texts[start : start + BATCH], **options)
        hits = _covering(opened, hits, mode, options["where"]) if cover else hits
        for row, text in enumerate(hits.queries):
            print_json(
                {
                    "kb": str(kb),
                    "version": opened.version,
                    "mode": mode,
                    "rerank": rerank_name(options["rerank"]),
                    **({"cover": True} if cover else {}),
                    "query": {"text": text},
                    "corrected": corrected_words(hits, row),
                    "results": results_of(opened, hits, row),
                },
                indent=None,
            )
    _say_count(opened, k)


def _covering(kb: KnowledgeBase, hits: Neighbors, mode: str, where: str | None) -> Neighbors:
    from bowerbird.systems import coverage

    return coverage.cover(kb, hits, search_mode=mode, where=where, operators=True)


def _share(text: str | None) -> float | Literal["auto", "even"]:
    """What --alpha says. Raises: BowerbirdError for what is neither a number nor auto nor even."""
    if text is None or text == "auto":
        return "auto"
    if text == "even":
        return "even"
    try:
        return float(text)
    except ValueError as error:
        raise BowerbirdError(f"--alpha {text[:40]!r}: auto, even, or a share from 0 to 1, as in 0.5") from error


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
