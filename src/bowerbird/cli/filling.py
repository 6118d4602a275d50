"""What the commands that fill a knowledge base share: their options, a person's own filter, and the report of what was
left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli.common import print_json, say, say_source
from bowerbird.core import plugins
from bowerbird.core.credit import usual_columns
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import atomic_path
from bowerbird.core.text import in_shell, to_json
from bowerbird.data.item import RENAMED_COLUMNS

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.ingest.prepare import AddReport, Filter
    from bowerbird.knowledge.rerank.registry import Rerank

SHOWN = 20
"""So many of what was left out are named on the terminal."""
NEIGHBORS = "Neighbors"
"""Heading of options on what is retrieved, in the help of commands that group theirs."""
KbArgument = Annotated[
    str, typer.Argument(metavar="KB", help="Directory of the knowledge base, or milvus://HOST:PORT/COLLECTION.")
]
SourceArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE…",
        help=(
            "Folder, picture, .parquet, .csv, .jsonl, .tar, .zip, clip-retrieval folder, saved HF data set, hf:NAME,"
            " emoji-font, or your own module:Class[@PLACE]."
        ),
    ),
]
EncoderOption = Annotated[
    str, typer.Option(help="small (bundled), a directory or hub id of CLIP, SigLIP2, DINO …, or your own module:Class.")
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help="Runtime of the image encoder: torch, onnx or openvino (same numbers to 0.001), or bfloat16.",
    ),
]
CaptionEncoderOption = Annotated[
    str | None,
    typer.Option(
        "--caption-encoder",
        metavar="NAME|DIR",
        help="Also embed captions, for semantic search: minilm, or a directory or hub id of sentence-transformers.",
    ),
]
OpenCaptionEncoderOption = Annotated[
    str | None,
    typer.Option(
        "--caption-encoder", metavar="NAME|DIR", help="Encoder of its captions, if it cannot be found by its name."
    ),
]
OpenEncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="Encoder the knowledge base was built with; needed only for your own module:Class.",
        rich_help_panel=NEIGHBORS,
    ),
]
RerankOption = Annotated[
    str,
    typer.Option(
        "--rerank",
        metavar="NAME|DIR",
        help="Reranker of the results: color (drops those that contradict a color in the text, if others match), late"
        " (late interaction, needs kb build --tokens), auto (color), none, or the directory of a trained one (bowerbird"
        " train reranker).",
        rich_help_panel=NEIGHBORS,
    ),
]
NoRerankOption = Annotated[
    bool, typer.Option("--no-rerank", help="The same as --rerank none.", rich_help_panel=NEIGHBORS)
]
TokensOption = Annotated[
    int,
    typer.Option(
        "--tokens", min=0, metavar="N", help="Keep N token vectors per picture (16 to 64), for --rerank late."
    ),
]
CoverOption = Annotated[
    bool,
    typer.Option(
        "--cover",
        help="For a text that names several things: one result for each before a second for any.",
        rich_help_panel=NEIGHBORS,
    ),
]
CaptionOption = Annotated[str | None, typer.Option("--caption-column", help="Column that holds the captions.")]
CreditOption = Annotated[
    str | None,
    typer.Option(
        "--credit",
        metavar="COLUMNS",
        help="Metadata columns that credit a picture, e.g. sku,license,author; they go into the "
        "record of every picture made from it.",
    ),
]
MemoryOption = Annotated[
    str,
    typer.Option(
        "--memory", metavar="SIZE", help="Memory for pictures in flight and for building the index, e.g. 500M or 8G."
    ),
]
PatchesOption = Annotated[
    int,
    typer.Option(
        "--patches",
        min=0,
        metavar="N",
        help="N random crops of each picture instead of the whole, as in RDM's databases.",
    ),
]
DedupOption = Annotated[
    float | None,
    typer.Option(
        "--dedup",
        metavar="COSINE",
        help="Leave out near-duplicates: embeddings with at least this similarity, e.g. 0.99.",
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.jsonl", help="Write what was left out, one line each with the reason."),
]
FilterOption = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="MODULE:FUNCTION",
        help="Your own function(picture, item) that returns a reason to leave it out, or None.",
    ),
]
FetchOption = Annotated[
    bool, typer.Option("--fetch-urls", help="Download pictures from the addresses in a column url.")
]
PrivateOption = Annotated[
    bool,
    typer.Option("--private-urls", help="With --fetch-urls: also from addresses of this machine and its network."),
]
MaxPixelsOption = Annotated[
    int,
    typer.Option(
        "--max-pixels",
        metavar="N",
        help="Largest picture that is decoded, in pixels; a larger JPEG is decoded at a half, a quarter or an eighth.",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        min=0,
        metavar="N",
        help="Processes that embed; 0 for this one alone. The result does not depend on it.",
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option("--where", metavar="SQL", help="Only rows that satisfy this condition, e.g. \"style = 'noto'\"."),
]


def load_filter(text: str | None) -> Filter | None:
    """The function of `--filter`. Raises: BowerbirdError when there is none of that name."""
    if text is None:
        return None
    found = plugins.load_object(text, "--filter")
    if not callable(found):
        raise BowerbirdError(f"--filter {text!r}: is not a function")
    checked: Filter = found
    return checked


def parse_weights(text: str) -> list[int]:
    """The numbers of `--bm25-weights`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BowerbirdError(
            f"--bm25-weights {text!r}: two whole numbers, for captions and for tags, as in 3,1"
        ) from error


def parse_columns(text: str | None) -> list[str]:
    """The columns of `--credit`, with commas between. Raises: BowerbirdError when there is none in it."""
    found = [part.strip() for part in (text or "").split(",") if part.strip()]
    if text is not None and not found:
        raise BowerbirdError(f"--credit {text!r}: names of columns with commas between, as in sku,license,author")
    return found


def say_credit_hint(kb: KnowledgeBase, place: str) -> None:
    """A line where columns are there that often say who made a picture, and none is credited."""
    columns = [] if kb.credit else usual_columns(name for name in kb.info()["metadata"] if name not in RENAMED_COLUMNS)
    if columns:
        listed = ",".join(columns)
        say(
            f"{place}: no column is credited in the records of pictures that are generated from it; to name"
            f" {'them' if len(columns) > 1 else 'it'}: bowerbird kb credit {in_shell(place)} {listed}"
        )


def check_report_path(path: Path | None) -> Path | None:
    """`--report`, before the work is done. Raises: BowerbirdError when no file can be written there."""
    if path is not None and (path.is_dir() or (path.parent.exists() and not path.parent.is_dir())):
        raise BowerbirdError(f"--report {path}: is not the name of a file; give a name such as left-out.jsonl")
    return path


def print_report(done: AddReport, version: int, items: int, kb: str, report: Path | None, as_json: bool) -> None:
    left = [
        {"name": name, "like": like, "cosine": round(cosine, 4), "left out": "near-duplicate"}
        for name, like, cosine in done.duplicates
    ]
    if report is not None:
        reasons = [
            {"left out": kind, "reason": line}
            for kind, lines in (("unreadable", done.unreadable), ("filter", done.filtered))
            for line in lines
        ]
        with atomic_path(report) as temporary:
            temporary.write_text("".join(to_json(line) + "\n" for line in [*left, *reasons]), encoding="utf-8")
    if as_json:
        print_json(
            {
                "path": str(kb),
                "version": version,
                "items": items,
                "added": done.added,
                "already_present": done.already_present,
                "unreadable": done.unreadable,
                "filtered": done.filtered,
                "duplicates": left,
                "source": done.source.facts(),
            }
        )
        return
    for line in [*done.unreadable[:SHOWN], *done.filtered[:SHOWN]]:
        say(f"left out: {line}")
    more = max(0, len(done.unreadable) - SHOWN) + max(0, len(done.filtered) - SHOWN)
    if more:
        say(f"left out: and {more} more; --report FILE.jsonl writes them all")
    say_source(done.source)
    counts = (
        (done.already_present, "already there (same picture and caption)"),
        (len(done.duplicates), "near-duplicates left out"),
        (len(done.unreadable), "could not be read"),
        (len(done.filtered), "refused by the filter"),
    )
    say(
        f"{kb}: added {done.added}"
        + "".join(f", {n} {what}" for n, what in counts if n)
        + f"; {items} items (version {version})"
    )
    say(f'next: bowerbird search {in_shell(kb)} --text "…" --sheet found.png')


def read_rerank(name: str, *, no_rerank: bool) -> Rerank:
    """The reranker that the flags name. Raises: BowerbirdError for one that is not known, or both flags."""
    from bowerbird.knowledge.rerank.registry import NONE, open_reranker

    if no_rerank and name not in ("auto", NONE):
        raise BowerbirdError(f"--rerank {name} and --no-rerank: give one of them")
    return NONE if no_rerank else open_reranker(name)
