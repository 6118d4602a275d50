"""How the drawings of `bowerbird datasets drawings` differ from the files they are to reproduce, style by style.

Words are compared column by column. Pictures are compared on white, which is what models see: a picture is identical
when each of its 128 x 128 x 3 numbers (0 to 255) is, and its alpha too. The mean is over all numbers of a style.

    bowerbird datasets drawings --out drawings.parquet
    python benchmarks/drawings_data.py drawings.parquet ../shared/data/emoji.parquet ../shared/data/icons.parquet
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

WORDS = ("style", "hexcode", "name", "tags", "group", "subgroup", "split", "license")


def pixels(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A picture on white, `(128, 128, 3)` float, and its alpha, `(128, 128)`."""
    with Image.open(io.BytesIO(data)) as picture:
        rgba = np.asarray(picture.convert("RGBA")).astype(np.float64)
    alpha = rgba[..., 3:]
    return rgba[..., :3] * (alpha / 255) + 255 - alpha, alpha[..., 0]


def read(paths: list[Path], style: str) -> dict[str, dict[str, Any]]:
    """The rows of a style by id."""
    tables = [pq.read_table(path, filters=[("style", "=", style)]) for path in paths]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


def compare(made: dict[str, dict[str, Any]], held: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Counts of rows and words that differ, and how far pictures do."""
    both = [key for key in held if key in made]
    found: dict[str, Any] = {"rows": len(held), "missing": len(held) - len(both), "extra": len(made) - len(both)}
    found["words"] = {}
    for column in WORDS:
        changed = sum(column in held[key] and made[key][column] != held[key][column] for key in both)
        if changed:
            found["words"][column] = changed
    means, most, worst = [], 0.0, ""
    identical = 0
    for key in both:
        (one, one_alpha), (other, other_alpha) = (pixels(rows[key]["image"]["bytes"]) for rows in (made, held))
        apart = np.abs(one - other)
        if not apart.any() and (one_alpha == other_alpha).all():
            identical += 1
        means.append(float(apart.mean()))
        most = max(most, float(apart.max()))
        if means[-1] == max(means) and means[-1] > 0:
            worst = key
    pictures = {"mean": float(np.mean(means)), "worst_mean": max(means), "worst": worst, "max": most}
    return {**found, "identical": identical, **pictures}


def main() -> None:
    """Print a Markdown table, and a JSON document where `--json` names one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("made", type=Path)
    parser.add_argument("held", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    columns = [pq.read_table(path, columns=["style"])["style"] for path in arguments.held]
    order = [style for column in columns for style in column.unique().to_pylist()]
    found = {style: compare(read([arguments.made], style), read(arguments.held, style)) for style in order}
    print("| style | rows | missing | extra | other words | identical pictures | mean | worst mean | max |")
    print("|---|---|---|---|---|---|---|---|---|")
    for style, row in found.items():
        words = ", ".join(f"{column} {count}" for column, count in row["words"].items()) or "none"
        share = f"{row['identical']:,} ({100 * row['identical'] / max(1, row['rows'] - row['missing']):.2f}%)"
        worst = f"{row['worst_mean']:.2f} ({row['worst']})" if row["worst"] else "0"
        numbers = f"{row['mean']:.4f} | {worst} | {row['max']:.0f}"
        print(f"| {style} | {row['rows']:,} | {row['missing']} | {row['extra']} | {words} | {share} | {numbers} |")
    rows, same = (sum(row[key] for row in found.values()) for key in ("rows", "identical"))
    print(f"\n{same:,} of {rows:,} pictures are identical")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
