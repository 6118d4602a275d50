"""What an evaluation and a copy check leave on disk: `report.json` for machines, `report.md`, plots and sheets
for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.contact_sheet import labeled_grid
from bowerbird.core.credit import credit_line
from bowerbird.core.files import atomic_path, write_json
from bowerbird.core.images import square
from bowerbird.core.outputs import FileSet, output_directory
from bowerbird.core.text import printable, to_json
from bowerbird.evaluation import plots
from bowerbird.evaluation.copies.detect import GUARD, CopyReport
from bowerbird.evaluation.copies.nearest import KINDS, Nearest
from bowerbird.evaluation.copies.thresholds import ranks

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.evaluation.evaluate import Evaluation

EDGE = 128
SMALL_SAMPLE = (
    "The Fréchet distance is biased upwards for small samples: compare it only at equal n, or the extrapolated one."
    " Intervals are 95%; those of set measures come from random halves of the generated pictures and hold the real ones"
    " fixed."
)


EVALUATION = FileSet(
    "report.json",
    (
        "report.md",
        "best.png",
        "median.png",
        "worst.png",
        "nearest-training.png",
        "copies.png",
        "entities.png",
    ),
)
COPY_CHECK = FileSet("report.json", ("report.md", "similarities.png", "worst.png", "alike.png"))
"""What each leaves in its folder."""


def write_evaluation(found: Evaluation, out: Path) -> list[Path]:
    """`report.json`, `report.md`, and where there are such `copies.png`, `entities.png` and sheets of the best, median
    and worst pictures, in place of an earlier evaluation. Raises: BowerbirdError when `out` holds anything else."""
    report = found.report
    order = np.argsort(-found.goodness, kind="stable")
    shown = min(8, len(order))
    middle = max(0, len(order) // 2 - shown // 2)
    sheets = {"best": order[:shown], "median": order[middle : middle + shown], "worst": order[-shown:][::-1]}
    files = [f"{name}.png" for name in sheets if shown]
    with output_directory(out, EVALUATION) as folder:
        for file, (name, rows) in zip(files, sheets.items(), strict=False):
            _sheet(folder / file, found, rows, name)
        if found.copies is not None:
            copy_plot(folder / "copies.png", found.copies)
            copy_sheet(folder / "nearest-training.png", found.images, found.copies, found.training)
            files += ["nearest-training.png", "copies.png"]
        if found.entities:
            weakest = sorted(found.entities, key=lambda e: e[1])[:12]
            plots.intervals(
                folder / "entities.png",
                [(n, v, 0.0, v) for n, v in weakest],
                title="The entities named least",
                label="share named rightly",
            )
            files.append("entities.png")
        _write_text(folder / "report.md", _page("Evaluation", report, files))
        write_json(folder / "report.json", report)
    return [out / f for f in ("report.json", "report.md", *files)]


def write_copy_report(
    found: CopyReport,
    names: Sequence[str],
    generated: Sequence[Image.Image],
    training: Sequence[Image.Image],
    out: Path,
    facts: dict[str, Any],
    *,
    named: Sequence[Mapping[str, Any]] = (),
    near_named: Sequence[Sequence[Mapping[str, Any]]] = (),
) -> dict[str, Any]:
    """`report.json` (returned), `report.md`, a histogram, a sheet of the worst pairs, and one of the training pictures
    that are most alike, in place of an earlier check.

    `named`: what names each training picture, `near_named` each picture's neighbors, for report and sheet. Raises:
    BowerbirdError when `out` holds anything else.
    """
    rows = [
        {
            "file": names[i],
            "training": _pair(found.training, i, named),
            **({} if found.neighbors is None else {"neighbors": _pair(found.neighbors, i, _row(near_named, i))}),
        }
        for i in range(len(generated))
    ]
    report = {**facts, **found.report(), "pictures": rows}
    shown = {k: v for k, v in report.items() if k != "pictures"}
    with output_directory(out, COPY_CHECK) as folder:
        copy_plot(folder / "similarities.png", found)
        copy_sheet(folder / "worst.png", generated, found, training, named=named)
        alike_sheet(folder / "alike.png", found, training)
        _write_text(folder / "report.md", _page("Copy check", shown, ["worst.png", "alike.png", "similarities.png"]))
        write_json(folder / "report.json", report)
    return report


def _row(rows: Sequence[Sequence[Mapping[str, Any]]], i: int) -> Sequence[Mapping[str, Any]]:
    return rows[i] if rows else ()


def _pair(found: Nearest, i: int, named: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Picture i's similarities, the references they are to with what names them, and the window of the picture that
    `aligned` is about."""
    values = {kind: float(value[i]) for kind, value in found.similarities().items()}
    at = {kind: int(getattr(found, f"{kind}_at")[i]) for kind in KINDS}
    sources = {kind: named[row] for kind, row in at.items() if 0 <= row < len(named)}
    return {
        **values,
        "at": at,
        **({"of": sources} if sources else {}),
        "window": [round(float(x), 4) for x in found.window[i]],
    }


def copy_plot(path: Path, found: CopyReport) -> None:
    """Generated-to-training beside training-to-training, with the thresholds."""
    groups = {"training to training": found.baseline.whole, "generated to training": found.training.whole}
    if found.neighbors is not None:
        groups["generated to its neighbors"] = found.neighbors.known().whole
    plots.histogram(
        path,
        {name: values for name, values in groups.items() if len(values)},
        title="Similarity to the nearest (whole pictures)",
        label="cosine",
        marks=found.thresholds["whole"],
    )


def copy_sheet(
    path: Path,
    generated: Sequence[Image.Image],
    copies: CopyReport,
    training: Sequence[Image.Image],
    *,
    rows: int = 10,
    named: Sequence[Mapping[str, Any]] = (),
) -> None:
    """The most suspicious pictures, those that pass the most of the baseline, with the nearest by each kind; a frame
    where they agree, and their credit."""
    found = copies.training
    suspicion = np.max(
        [ranks(value, getattr(copies.baseline, kind)) for kind, value in found.similarities().items()], axis=0
    )
    order = np.lexsort((-found.whole, -suspicion))[:rows]
    columns = (found.whole_at, found.split_at, found.aligned_at)
    table: list[tuple[str, list[Image.Image | None], list[str]]] = [
        (
            "  ".join(f"{kind} {value[i]:.3g}" for kind, value in found.similarities().items()),
            [
                _framed(generated[i], found.window[i]),
                *(training[at[i]] if at[i] >= 0 else None for at in columns),
            ],
            ["generated", "nearest, whole", "nearest by windows", "laid over it"],
        )
        for i in order
    ]
    notes = [["", *(credit_line(named[at[i]]) if 0 <= at[i] < len(named) else "" for at in columns)] for i in order]
    with atomic_path(path) as temporary:
        labeled_grid(table, title="nearest training pictures", size=EDGE, divide=1, notes=notes).save(temporary, "PNG")


def alike_sheet(path: Path, copies: CopyReport, training: Sequence[Image.Image], *, rows: int = 6) -> None:
    """The training pictures that are most like another: what the strictest thresholds let pass."""
    found = copies.baseline
    suspicion = np.max([ranks(value, value) for value in found.similarities().values()], axis=0)
    table: list[tuple[str, list[Image.Image | None], list[str]]] = [
        (
            "  ".join(f"{kind} {value[i]:.3g}" for kind, value in found.similarities().items()),
            [training[copies.calibration.rows[i]], *(training[getattr(found, f"{kind}_at")[i]] for kind in KINDS)],
            ["training", "nearest, whole", "nearest by windows", "laid over it"],
        )
        for i in np.argsort(-suspicion, kind="stable")[:rows]
    ] or [("one training picture: there is no other to be like", [training[0]], [""])]
    with atomic_path(path) as temporary:
        labeled_grid(table, title="training pictures that are most alike", size=EDGE, divide=1).save(temporary, "PNG")


def copies_line(report: dict[str, Any]) -> str:
    """What a copy check found, in plain words, from its `report`: the pictures over the copy guard's
    threshold as a whole, and where there are training pictures enough to say what one in a hundred is, over that of
    their parts. Training pictures that are alike raise that, and not the guard's: rather too many than too few."""
    kinds = KINDS if report["baseline"]["pictures"] >= 100 else KINDS[:1]
    limits = {kind: max(report["thresholds"][kind].values(), default=np.inf) for kind in kinds}
    limits["whole"] = report["thresholds"]["whole"].get(GUARD, limits["whole"])
    rows = report["pictures"]
    found = [row["file"] for row in rows if any(row["training"][kind] > limits[kind] for kind in kinds)]
    of = f"{len(rows)} picture{'' if len(rows) == 1 else 's'}"
    names = f" ({', '.join(found[:5])}{', …' if len(found) > 5 else ''})" if found else ""
    return f"possible copies: {len(found)} of {of}{names}{'; look at worst.png' if found else ''}"


def recall_lines(report: dict[str, Any]) -> list[str]:
    """What a copy check says of itself, from its `report`: how many synthetic copies it finds, at how many false
    alarms, and how sure that is."""
    count = report["baseline"]["pictures"]
    rates = dict(report["synthetic copies found"])
    if not rates:
        return ["one training picture: there is nothing to say how like honest pictures are; look at the pairs"]
    lines = []
    names = ("false alarms", "false alarms, loose")
    alarms = [(rates.pop(name), rates.pop(f"{name}, at most")) for name in names]
    for (rate, most), name in zip(alarms, ("any", "any, loose"), strict=True):
        found = ", ".join(f"{kind} {share[name]:.0%}" for kind, share in rates.items())
        lines.append(
            f"synthetic copies found at {rate:.1%} false alarms (in {count} pictures; below {most:.0%}): {found}"
        )
    first = ", ".join(f"{kind} {share['source first']:.0%}" for kind, share in rates.items())
    lines.append(f"synthetic copies whose source is the nearest, whatever the threshold: {first}")
    if np.mean([share["any"] for share in rates.values()]) < 0.5 * np.mean(
        [share["source first"] for share in rates.values()]
    ):
        lines.append(
            "training pictures that are nearly alike raise these thresholds: alike.png shows them; a copy that is no"
            " nearer than they are to each other cannot be distinguished from an honest picture"
        )
    return lines


def _framed(picture: Image.Image, window: np.ndarray) -> Image.Image:
    """The picture's middle square at 128 px, with a frame around the window (left, top, edge, in shares of it)."""
    from PIL import ImageDraw

    made = square(picture.convert("RGB"), EDGE)
    if window[2] > 0:
        left, top, right, bottom = (
            min(float(x) * EDGE, EDGE - 1) for x in (window[0], window[1], window[0] + window[2], window[1] + window[2])
        )
        ImageDraw.Draw(made).rectangle((left, top, right, bottom), outline=(220, 0, 90), width=2)
    return made


def _sheet(path: Path, found: Evaluation, rows: np.ndarray, name: str) -> None:
    near = found.hits.rows(rows).images()
    table: list[tuple[str, list[Image.Image | None], list[str]]] = [
        (
            f"{-found.goodness[i]:.2f} from the nearest real picture",
            [found.images[i], *images],
            ["", *found.hits.captions[i]],
        )
        for i, images in zip(rows, near, strict=True)
    ]
    with atomic_path(path) as temporary:
        labeled_grid(table, title=f"{name}: distance to the nearest real picture", divide=1).save(temporary, "PNG")


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _page(title: str, report: dict[str, Any], pictures: Sequence[str]) -> str:
    """The report as a Markdown page: a table for each part, then the pictures."""
    lines = [f"# {title}", ""]
    plain = {k: v for k, v in report.items() if not isinstance(v, dict)}
    if plain:
        lines += [*_table(plain), ""]
    for part, values in report.items():
        if isinstance(values, dict) and values:
            lines += [f"## {part[0].upper()}{part[1:].replace('_', ' ')}", "", *_table(values), ""]
            if part == "distribution":
                lines += [SMALL_SAMPLE, ""]
    lines += [f"![{Path(p).stem}]({p})" for p in pictures]
    return "\n".join(lines) + "\n"


def _table(values: dict[str, Any]) -> list[str]:
    rows = ["| | |", "|---|---|"]
    for name, value in values.items():
        rows.append(f"| {_plain(name)} | {_plain(_text(value))} |")
    return rows


def _text(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"mean", "low", "high"}:
        return f"{value['mean']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_text(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else to_json(value)


def _plain(text: str) -> str:
    """Names and captions come from strangers: nothing in a cell may open a tag, a column or a link."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("[", "\\[")
