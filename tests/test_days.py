"""The pages of a day's work (docs/day-*.md) run as they stand, on pictures that are drawn here."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COLORS = {"red": "#c8322d", "blue": "#2d5fc8", "green": "#3c8c3c", "yellow": "#e0b428"}


def drawing(what: str, color: str, *, ink: bool = False, size: int = 96) -> Image.Image:
    """A house, a mug, a circle or a star in flat colors, or as an outline."""
    image = Image.new("RGB", (size, size), "#f4efe4" if ink else "white")
    pen = ImageDraw.Draw(image)
    style = {"outline": color, "width": 4} if ink else {"fill": color}
    a, b = size // 6, size - size // 6
    if what == "house":
        pen.rectangle([a, size // 2, b, b], **style)  # type: ignore[arg-type]
        pen.polygon([(a, size // 2), (size // 2, a), (b, size // 2)], **style)  # type: ignore[arg-type]
    elif what == "mug":
        pen.rectangle([a, a, b - 16, b], **style)  # type: ignore[arg-type]
        pen.arc([b - 30, a + 12, b, b - 12], -90, 90, fill=color, width=6)
    elif what == "circle":
        pen.ellipse([a, a, b, b], **style)  # type: ignore[arg-type]
    else:
        pen.regular_polygon(
            (size // 2, size // 2, size // 3), 5, rotation=10, fill=None if ink else color, outline=color
        )
    return image


def catalog(folder: Path, products: dict[str, tuple[str, str, float]]) -> None:
    """Pictures, and a table with columns of its own names."""
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "sku", "title", "price", "license"])
        for sku, (what, color, price) in products.items():
            drawing(what, COLORS[color]).save(folder / f"{sku}.png")
            table.writerow([f"{sku}.png", sku, f"{color} {what}", price, "CC-BY-4.0"])


def run(page: str) -> None:
    from bowerbird.cli.main import app

    for text in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        for line in text.strip().splitlines():
            app(shlex.split(line, comments=True)[1:], standalone_mode=False)


def test_day_of_an_artist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("sketches", "inks"):
        Path(folder).mkdir()
        for what in ("house", "mug", "star"):
            for color, tone in COLORS.items():
                drawing(what, tone, ink=folder == "inks").save(f"{folder}/{color} {what}.png")
    drawing("house", COLORS["red"]).save("sketches/copy of the red house.jpg")
    rows = [{"file_name": file.name, "author": "Ada", "license": "CC0-1.0"} for file in Path("sketches").iterdir()]
    Path("sketches/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("ideas.txt").write_text("a blue star\n\na yellow mug\n")
    run("day-artist.md")
    assert Path("again/000.png").is_file()
    assert Image.open("houses/000.png").tobytes() == Image.open("again/000.png").tobytes()
    assert Image.open("houses/000.png").tobytes() != Image.open("houses-in-ink/000.png").tobytes()
    record = json.loads(Path("houses/generation.jsonl").read_text().splitlines()[0])
    assert "Ada" in json.dumps(record["neighbors"])
    assert b"dc:rights" in Path("houses/000.png").read_bytes()


def test_day_of_an_engineer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monday = {
        f"A{i}": (what, color, 10.0 + 7 * i)
        for i, (what, color) in enumerate((what, color) for what in ("mug", "house", "star") for color in COLORS)
    }
    tuesday = {sku: row for sku, row in monday.items() if sku != "A3"} | {
        "A1": ("circle", "blue", 9.5),
        "B0": ("mug", "red", 12.0),
    }
    catalog(Path("monday"), monday)
    catalog(Path("tuesday"), tuesday)
    Path("jobs.jsonl").write_text(
        '{"prompt": "a red mug", "seed": 3}\n{"prompt": "a green star", "k": 2, "where": "price > 20"}\n'
    )
    run("day-engineer.md")
    from bowerbird import KnowledgeBase

    kb = KnowledgeBase.open("shop")
    assert len(kb) == len(monday)  # restored
    records = [json.loads(line) for line in Path("jobs/generation.jsonl").read_text().splitlines()]
    assert [record["request"]["prompt"] for record in records] == ["a red mug", "a green star"]
    assert "A" in json.dumps(records[0]["neighbors"])


def test_day_of_a_researcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split, sizes in (("train", (64, 72, 80)), ("test", (96,))):
        for what in ("circle", "star", "house"):
            folder = Path("shapes") / split / what
            folder.mkdir(parents=True)
            for color, tone in COLORS.items():
                for size in sizes:
                    drawing(what, tone, size=size).save(folder / f"{color}-{size}.png")
    run("day-researcher.md")
    assert Path("runs/shapes/losses.csv").read_text().count("\n") > 1
    assert Path("circles/000.png").is_file()
