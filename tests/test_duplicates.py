"""`kb duplicates`: planted copies of every kind are found, drawings that are only alike are not, and what is removed
comes back."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from bowerbird import KnowledgeBase
from bowerbird.core import images
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.drawn import read_drawn
from bowerbird.knowledge.duplicates import candidates
from bowerbird.knowledge.duplicates.find import DuplicateReport, find_duplicates, remove_copies
from bowerbird.knowledge.duplicates.same_picture import TURNS, turned, view, view_of, window
from tests.test_cli import bowerbird, refused

R = Image.Resampling


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(picture: Image.Image, quality: int = 75) -> bytes:
    return encoded(picture, "JPEG", quality=quality)


def build(path: Path, rows: list[dict[str, Any]]) -> KnowledgeBase:
    """A knowledge base of rows with `image`, `name` and `caption`."""
    made = [{"image": {"bytes": row["image"], "path": row["name"]}, "caption": row.get("caption", "")} for row in rows]
    pq.write_table(pa.Table.from_pylist(made), path.with_suffix(".parquet"))
    return KnowledgeBase.build(path, path.with_suffix(".parquet"))[0]


def named(report: DuplicateReport) -> list[tuple[str, dict[str, str]]]:
    """The groups by names: the kept one, and what each copy is."""
    return [(group.kept.name, {copy.name: copy.kind for copy in group.copies}) for group in report.groups]


def cut(picture: Image.Image, n: int) -> Image.Image:
    """10 to 20% off each edge's length, somewhere."""
    width, height = (round(picture.width * (0.8 + 0.02 * (k % 6))) for k in (n, n + 2))
    left, top = (n * 37) % (picture.width - width + 1), (n * 53) % (picture.height - height + 1)
    return picture.crop((left, top, left + width, top + height))


PLANTED: dict[str, tuple[str, Callable[[Image.Image, int], bytes]]] = {
    "jpeg": ("re-saved", lambda p, n: jpeg(p, 60 + 5 * (n % 6))),
    "webp": ("re-saved", lambda p, n: encoded(p, "WEBP", quality=75)),
    "small": ("resized", lambda p, n: encoded(p.resize((70 + n % 30,) * 2, R.LANCZOS))),
    "small-jpeg": ("resized", lambda p, n: jpeg(p.resize((83 + n % 20,) * 2, R.BICUBIC), 85)),
    "large": ("resized", lambda p, n: encoded(p.resize((200 + 9 * (n % 9),) * 2, R.BICUBIC))),
    "cut": ("cropped", lambda p, n: encoded(cut(p, n))),
    "cut-jpeg": ("cropped", lambda p, n: jpeg(cut(p, n), 85)),
    "cut-small": ("cropped", lambda p, n: encoded(cut(p, n).reduce(2))),
    "turned": ("rotated", lambda p, n: encoded(p.rotate(90 * (1 + n % 3)))),
    "mirrored": ("mirrored", lambda p, n: jpeg(p.transpose(Image.Transpose(n % 2)))),
}


def test_planted_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    """216 drawings: things in several colors, several things in one style. Each third has a copy, all ten kinds and the
    same bytes under another caption."""
    rows, truth = [], {}
    for n, item in enumerate(read_drawn()):
        rows.append({"image": item.data, "name": f"{n}", "caption": item.caption})
        if n % 3:
            continue
        kind, change = (("exact", None), *PLANTED.values())[n // 3 % (len(PLANTED) + 1)]
        data = item.data if change is None else change(images.decode(item.data, "drawn"), n)
        rows.append({"image": data, "name": f"copy of {n}", "caption": f"again {item.caption}"})
        truth[n] = kind
    kb = build(tmp_path / "kb", rows)
    report = find_duplicates(kb)
    found, false = {}, []
    for group in report.groups:
        for copy in group.copies:
            numbers = {int(item.name.removeprefix("copy of ")) for item in (group.kept, copy)}
            if len(numbers) == 1:
                found[numbers.pop()] = copy.kind
            else:
                false.append((group.kept.name, copy.name, copy.kind))
    assert false == []
    assert report.pictures == len(kb) == len(rows)
    # what is turned is the same where the drawing is symmetric, and no test can tell
    symmetric = {"rotated": KINDS_OF_TURNED, "mirrored": KINDS_OF_TURNED}
    right = [n for n, kind in truth.items() if found.get(n) in symmetric.get(kind, (kind,))]
    missed = {n: (kind, found.get(n)) for n, kind in truth.items() if n not in right}
    assert len(right) >= 0.95 * len(truth), missed
    for kind in set(truth.values()):
        assert sum(truth[n] == kind for n in right) >= 0.75 * sum(k == kind for k in truth.values()), kind


KINDS_OF_TURNED = ("rotated", "mirrored", "re-saved")


def drawing(*, body: str = "#d03030", hand: float = 0.0, digit: str = "", outline: str | None = None) -> Image.Image:
    """A clock with a label: small things on it can be changed."""
    picture = Image.new("RGB", (160, 160), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((20, 20, 140, 140), fill=body, outline=outline, width=4)
    draw.ellipse((34, 34, 126, 126), fill="#f4f4f4")
    for number, length in ((hand, 26), (4.0, 38)):
        angle = number * np.pi / 6
        end = (80 + length * np.sin(angle), 80 - length * np.cos(angle))
        draw.line([(80, 80), end], fill="black", width=5)
    draw.text((70, 100), digit, fill="#203080", font_size=16)
    return picture


@pytest.mark.parametrize(
    "other",
    [
        {"body": "#3050d0"},  # another color
        {"body": "#b04030"},  # a little other color
        {"hand": 10.0},  # one small part elsewhere
        {"digit": "8"},  # a small part more
        {"body": "#f4f4f4", "outline": "black"},  # the outline alone
    ],
)
def test_alike_is_not_the_same(other: dict[str, Any], tmp_path: Path) -> None:
    pictures = [drawing(digit="3"), drawing(**({"digit": "3"} | other))]
    one, two = (view_of(p) for p in pictures)
    for first, second in ((one, two), (two, one), (one, view(jpeg(pictures[1], 85), "other"))):
        assert all(not same_turned(first.pixels, second.pixels, turn) for turn in range(len(TURNS)))
    part = view_of(pictures[1].crop((8, 8, 148, 148)))
    assert window(one, part, (0.05, 0.05, 0.875, 0.875)) is None
    own = view_of(pictures[0].crop((8, 8, 148, 148)))
    assert window(one, own, (0.07, 0.03, 0.86, 0.89)) == pytest.approx(140 / 160, abs=0.01)


def same_turned(one: np.ndarray, two: np.ndarray, turn: int) -> bool:
    from bowerbird.knowledge.duplicates.same_picture import same

    return same(turned(one, turn), two)


def test_no_chain_makes_a_group(tmp_path: Path) -> None:
    """Three windows that drift: each neighbor is a window of the one before, the last is none of the first."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    whole = Image.fromarray(noise).resize((256, 256), R.BICUBIC)
    second = whole.crop((0, 0, 200, 200))
    third = second.crop((0, 0, 156, 156))
    kb = build(
        tmp_path / "kb",
        [{"image": encoded(p), "name": n} for n, p in (("whole", whole), ("second", second), ("third", third))],
    )
    assert named(find_duplicates(kb)) == [("whole", {"second": "cropped"})]


def test_which_is_kept(tmp_path: Path) -> None:
    """Most pixels, then what lost nothing; a window never beside its whole; or the first."""
    picture = drawing()
    rows = [
        {"image": jpeg(picture, 95), "name": "lossy"},
        {"image": encoded(picture.resize((90, 90), R.LANCZOS)), "name": "small"},
        {"image": encoded(picture), "name": "best"},
        {"image": encoded(picture.crop((8, 8, 148, 148)).resize((300, 300), R.BICUBIC)), "name": "enlarged part"},
    ]
    kb = build(tmp_path / "kb", rows)
    best = find_duplicates(kb)
    assert named(best) == [("best", {"lossy": "re-saved", "small": "resized", "enlarged part": "cropped"})]
    first = find_duplicates(kb, keep="first")
    assert first.groups[0].kept.name == "lossy"
    assert len(first.groups[0].copies) == 3
    some = find_duplicates(kb, kinds=("re-saved",))
    assert named(some) == [("best", {"lossy": "re-saved"})]
    assert best.counts == {"exact": 0, "re-saved": 1, "resized": 1, "cropped": 1, "rotated": 0, "mirrored": 0}
    with pytest.raises(BowerbirdError, match="choose some of exact"):
        find_duplicates(kb, kinds=("blurred",))
    with pytest.raises(BowerbirdError, match="choose best or first"):
        find_duplicates(kb, keep="last")


def test_white_drawings_on_nothing_are_told_apart(tmp_path: Path) -> None:
    """White on transparent: laid on white they are all one."""

    def icon(box: tuple[int, int, int, int]) -> Image.Image:
        picture = Image.new("RGBA", (96, 96), (255, 255, 255, 0))
        ImageDraw.Draw(picture).rectangle(box, fill=(255, 255, 255, 255))
        return picture

    rows = [
        {"image": encoded(icon((10, 10, 40, 80))), "name": "left"},
        {"image": encoded(icon((10, 10, 85, 40))), "name": "top"},
        {"image": encoded(icon((10, 10, 40, 80)).resize((64, 64), R.LANCZOS)), "name": "left, small"},
        {"image": encoded(Image.new("RGB", (96, 96), "white")), "name": "blank"},
    ]
    found = find_duplicates(build(tmp_path / "kb", rows), kinds=("exact", "re-saved", "resized"))
    assert named(found) == [("left", {"left, small": "resized"})]


def test_descriptors_know_no_turns() -> None:
    grids = np.random.default_rng(0).integers(0, 256, (3, candidates.GRID, candidates.GRID, 3), np.uint8)
    plain = candidates.descriptors(grids)
    for turn in range(len(TURNS)):
        np.testing.assert_allclose(candidates.descriptors(turned(grids, turn)), plain, rtol=1e-4)
    apart = np.linalg.norm(plain[0] - plain[1])
    small = grids.reshape(3, 8, 2, 8, 2, 3).mean((2, 4))
    assert apart <= np.linalg.norm(small[0] - small[1]) + 1e-3


def test_apply_removes_and_restore_brings_back(tmp_path: Path) -> None:
    picture = drawing()
    rows = [
        {"image": encoded(picture), "name": "a", "caption": "a clock"},
        {"image": jpeg(picture), "name": "b", "caption": "another name of it"},
        {"image": encoded(picture.rotate(90)), "name": "c", "caption": "a clock"},
        {"image": encoded(picture.rotate(180)), "name": "d", "caption": "a clock upside down"},
        {"image": encoded(Image.effect_noise((64, 64), 90)), "name": "e", "caption": "noise"},
    ]
    kb = build(tmp_path / "kb", rows)
    before = sorted(kb.ids().tolist())
    done = bowerbird("kb", "duplicates", "kb", "--sheet", "s.png", cwd=tmp_path)
    assert "3 copies in 1 group among 5 pictures (1 re-saved, 2 rotated)" in done.stderr
    assert "nothing was changed" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["kept", "rotated", "rotated", "re-saved"]
    assert images.read(tmp_path / "s.png").width > 500
    assert sorted(KnowledgeBase.open(tmp_path / "kb").ids().tolist()) == before

    facts = json.loads(bowerbird("kb", "duplicates", "kb", "--apply", "--json", cwd=tmp_path).stdout)
    assert (facts["removed"], facts["items"], facts["version"]) == (2, 3, 2)
    assert facts["counts"]["rotated"] == 2
    copies = {copy["name"]: copy for copy in facts["groups"][0]["copies"]}
    assert copies["c"]["detail"] == "rotated 90"
    assert "caption" in copies["d"]["stays"]  # an arrow to the left is an arrow to the right, turned
    names = set(KnowledgeBase.open(tmp_path / "kb").names(KnowledgeBase.open(tmp_path / "kb").ids().tolist()))
    assert names == {"a", "d", "e"}
    bowerbird(*facts["undo"].split()[1:], cwd=tmp_path)
    assert sorted(KnowledgeBase.open(tmp_path / "kb").ids().tolist()) == before

    report = find_duplicates(kb := KnowledgeBase.open(tmp_path / "kb"))
    KnowledgeBase.open(tmp_path / "kb").remove(ids=[report.groups[0].kept.id])
    with pytest.raises(BowerbirdError, match="has changed since"):  # the one that is kept is gone
        remove_copies(kb, report)
    assert len(KnowledgeBase.open(tmp_path / "kb")) == 4


def test_refusals(tmp_path: Path) -> None:
    build(tmp_path / "kb", [{"image": encoded(drawing()), "name": "a"}])
    assert "0 copies in 0 groups among 1 picture" in bowerbird("kb", "duplicates", "kb", cwd=tmp_path).stderr
    refused("kb", "duplicates", "kb", "--sheet", "sheet.txt", says="give a name such as copies.png", cwd=tmp_path)
    refused("kb", "duplicates", "kb", "--keep", "all", says="--keep 'all' is not known", cwd=tmp_path)
    refused("kb", "duplicates", "kb", "--kinds", "blurred", says="--kinds 'blurred'", cwd=tmp_path)
