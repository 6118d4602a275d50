"""Making the drawings: packages checked by hash, icons that cannot reach out, and rows as in the files."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.datasets import drawings, npm, svg
from bowerbird.data.datasets.drawings import Listed

Table = dict[str, npm.Package]
Patch = pytest.MonkeyPatch
SHARED = Path(__file__).resolve().parents[1].parent / "shared/data"
INFO = {
    "name": "Shapes",
    "author": {"name": "A. Model", "url": "https://example.org/shapes"},
    "license": {"title": "CC BY 4.0", "spdx": "CC-BY-4.0", "url": "https://example.org/license"},
    "category": "UI Multicolor",
}
SQUARE = '<path fill="#f00" d="M0 0h8v16H0z"/>'
GROUPS = {"groups": {"3": "animals-nature"}, "subgroups": {"34": "animal-mammal"}}
NAMES = [
    {"hexcode": "1F436", "label": "dog face", "tags": ["pet", "dog"], "group": 3, "subgroup": 34},
    {"hexcode": "1F1E6", "label": "regional indicator A"},
]


def tarball(folder: Path, name: str, members: dict[str, Any]) -> npm.Package:
    """A package of the test's own under `folder`, laid out as a registry does, and what it is pinned to."""
    package = npm.Package(name, "1.0.0", "")
    path = folder / package.path
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            entry = tarfile.TarInfo(f"package/{member}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    digest = hashlib.sha512(path.read_bytes()).digest()
    return npm.Package(name, "1.0.0", "sha512-" + base64.b64encode(digest).decode())


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def registry(shelf: Path) -> Iterator[str]:
    """The address of a registry on this machine that serves `shelf`."""
    shelf.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(shelf)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def table(shelf: Path, registry: str) -> dict[str, npm.Package]:
    """An icon set, an emoji set and names, on the shelf."""
    icons = {name: {"body": SQUARE} for name in ("shopping-cart-1-flat", "kept-back", "wide")}
    icons["wide"]["width"] = 32
    packages = [
        tarball(shelf, "@iconify-json/marketeq", {
            "icons.json": {"icons": icons, "aliases": {"other": {"parent": "wide"}}}, "info.json": INFO,
            "metadata.json": {"categories": {"Shopping": ["shopping-cart-1-flat"], "Later": ["shopping-cart-1-flat"]}},
        }),
        tarball(shelf, "@iconify-json/noto", {
            "icons.json": {"icons": {"dog": {"body": SQUARE}, "a": {"body": SQUARE}}, "width": 16, "height": 16},
            "info.json": INFO, "chars.json": {"1f436": "dog", "1f1e6": "a"},
        }),
        tarball(shelf, "emojibase-data", {"en/data.json": NAMES, "meta/groups.json": GROUPS}),
    ]  # fmt: skip
    return {package.name: package for package in packages}


ENTRIES = [
    Listed("noto/1f1e6", "train"),
    Listed("noto/1f436", "rare"),
    Listed("marketeq/shopping-cart-1-flat", "train"),
    Listed("marketeq/other", "train"),
    Listed("marketeq/not-there", "train"),
]


def test_rows_are_those_of_the_list(table: Table, registry: str, tmp_path: Path) -> None:
    out = tmp_path / "d.parquet"
    seen: set[str] = set()
    report = drawings.build(
        out, entries=ENTRIES, table=table, styles=("noto", "marketeq"), registry=registry,
        progress=lambda done, total=None, stage="": seen.add(stage),
    )  # fmt: skip
    rows = pq.read_table(out)
    assert rows.schema.equals(drawings.schema())
    dog, cart, wide = (rows.to_pylist()[i] for i in (1, 2, 3))
    assert rows["id"].to_pylist() == [entry.id for entry in ENTRIES[:4]]  # nothing that is not listed
    assert report["missing"] == ["marketeq/not-there"]
    assert (report["rows"], report["splits"]) == (4, {"train": 3, "rare": 1})
    assert report["packages"] == dict.fromkeys(table, "1.0.0")
    assert {"noto", "marketeq", "emojibase-data@1.0.0"} <= seen
    picture = dog.pop("image")
    credit = "Shapes by A. Model (https://example.org/shapes), CC BY 4.0 (https://example.org/license)"
    assert dog == {
        "id": "noto/1f436", "style": "noto", "hexcode": "1f436", "name": "dog face", "tags": ["dog", "pet"],
        "group": "animals-nature", "subgroup": "animal-mammal", "split": "rare",
        "license": "CC-BY-4.0", "attribution": credit,
    }  # fmt: skip
    assert cart["name"] == cart["hexcode"] == "shopping cart 1"
    assert cart["tags"] == ["1", "cart", "shopping"]
    assert (cart["group"], cart["subgroup"]) == ("UI Multicolor", "Shopping")  # of two the first
    assert rows["tags"].to_pylist()[0] == []
    assert rows["group"].to_pylist()[0] == ""
    assert picture["path"] == "noto/1f436.webp"
    pixels = np.asarray(Image.open(io.BytesIO(picture["bytes"])).convert("RGBA"))
    assert pixels.shape == (128, 128, 4)
    assert (pixels[:, :64] == (255, 0, 0, 255)).all()
    assert (pixels[:, 64:, 3] == 0).all()
    alpha = np.asarray(Image.open(io.BytesIO(wide["image"]["bytes"])).convert("RGBA"))[..., 3]
    assert [(alpha[row] > 0).sum() for row in (16, 64, 112)] == [0, 32, 0]  # 32 x 16 in the middle of a square


def test_another_package_is_refused(table: Table, registry: str, shelf: Path, tmp_path: Path) -> None:
    package = table["@iconify-json/marketeq"]
    path = shelf / package.path
    out, data = tmp_path / "d.parquet", bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    options: dict[str, Any] = {"entries": ENTRIES, "table": table, "styles": ("noto", "marketeq")}
    with pytest.raises(BowerbirdError, match=r"is not the @iconify-json/marketeq@1.0.0 that was pinned"):
        drawings.build(out, registry=registry, **options)
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(path, kept / package.filename)
    with pytest.raises(BowerbirdError, match="nothing in it was read"):
        npm.fetch(package, tmp_path, packages=kept)
    assert (kept / package.filename).exists()  # what the user keeps stays
    assert not list(tmp_path.glob("*.parquet*")) + list(tmp_path.glob(".d.parquet*")) + list(tmp_path.glob("*.tgz"))


def test_larger_packages_are_not_read_on(table: Table, registry: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(npm, "MAX_TARBALL", 100)
    with pytest.raises(BowerbirdError, match="larger than"):
        npm.fetch(table["emojibase-data"], tmp_path, registry=registry)
    assert not list(tmp_path.glob("*.tgz"))
    monkeypatch.undo()
    path = npm.fetch(table["emojibase-data"], tmp_path, registry=registry)
    for bound in ("MAX_MEMBER", "MAX_CONTENTS"):
        with monkeypatch.context() as patch:
            patch.setattr(npm, bound, 10)
            with pytest.raises(BowerbirdError, match=r"larger than|more than"):
                npm.read_members(path, ["en/data.json"])


def test_where_packages_come_from(table: Table, registry: str, tmp_path: Path, monkeypatch: Patch) -> None:
    package = table["emojibase-data"]
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", registry + "/")
    assert npm.fetch(package, tmp_path).name == "emojibase-data-1.0.0.tgz"
    missing = npm.Package("@a/b", "2.0.0", package.integrity)
    assert (missing.filename, missing.path) == ("a-b-2.0.0.tgz", "@a/b/-/b-2.0.0.tgz")
    with pytest.raises(BowerbirdError, match=r"answered 404 .*`npm pack @a/b@2.0.0`"):
        npm.fetch(missing, tmp_path)
    with pytest.raises(BowerbirdError, match=r"127.0.0.1:9/.* cannot be reached .*`packages`"):
        npm.fetch(missing, tmp_path, registry="http://127.0.0.1:9")
    with pytest.raises(BowerbirdError, match="not the address of a registry"):
        npm.fetch(missing, tmp_path, registry="file:///etc")
    monkeypatch.delenv("NPM_CONFIG_REGISTRY")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BowerbirdError, match="npm is not installed; give `registry`"):
        npm.fetch(missing, tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    fake = programs / "npm"  # writes the tarball it is asked for, as npm pack does
    known = f'[ "$2" = emojibase-data@1.0.0 ] && exec /bin/cp {tmp_path}/{package.filename} "$4"'
    fake.write_text(f'#!/bin/sh\n{known}\necho "npm error code E404" >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    folder = tmp_path / "to"
    folder.mkdir()
    assert npm.fetch(package, folder) == folder / package.filename
    with pytest.raises(BowerbirdError, match=r"npm pack @a/b@2.0.0: code E404; try again online"):
        npm.fetch(missing, folder)


@pytest.mark.parametrize(
    "body",
    [
        '<image href="#a"/>', '<use href="file:///etc/passwd"/>', "<use xlink:href='http://example.org/a.svg#a'/>",
        '<path fill="url(a.svg#b)"/>', "<style>@import 'a'</style>", "<!DOCTYPE svg>", "<text>a</text>", "<script/>",
        '<use href="data:image/png;base64,AA"/>', '<feImage href="#a"/>', '<use\nhref = "a"/>',
        '<g xml:base="file:///"/>', '<a href="#a"/>',
    ],
)  # fmt: skip
def test_an_icon_that_reaches_out_is_refused(body: str) -> None:
    with pytest.raises(BowerbirdError, match="not drawn"):
        svg.document({"icons": {"a": {"body": SQUARE + body}}}, "a")


def test_gradients_take_over_the_transform_they_link_to() -> None:
    body = (
        '<linearGradient id="a" gradientTransform="rotate(90)"><stop/></linearGradient>'
        '<linearGradient id="b" href="#a"/><linearGradient id="c" xlink:href="#b"/>'
        '<linearGradient id="d" href="#d"/><linearGradient id="e" href="#none"/>'
        '<linearGradient id="f" href="#a" gradientTransform="scale(2)"></linearGradient>'
    )
    done = svg.inherit_transforms(body)
    assert '<linearGradient id="b" href="#a" gradientTransform="rotate(90)"/>' in done
    assert '<linearGradient id="c" xlink:href="#b" gradientTransform="rotate(90)"/>' in done
    assert done.count("gradientTransform") == 4
    svg.check(done, "a")


def test_the_list_and_the_packages_are_whole() -> None:
    entries, table = drawings.read_list(), drawings.pinned_packages()
    assert len({entry.id for entry in entries}) == len(entries) == 21630
    assert {entry.style for entry in entries} == set(drawings.STYLES)
    assert {drawings.package_of(style) for style in drawings.STYLES} | {drawings.NAMES} == set(table)
    assert all(len(base64.b64decode(package.integrity.removeprefix("sha512-"))) == 64 for package in table.values())


@pytest.mark.skipif(not SHARED.is_dir(), reason="the files it reproduces are not beside this checkout")
def test_the_list_is_that_of_the_files() -> None:
    tables = [pq.read_table(SHARED / name, columns=["id", "split"]) for name in ("emoji.parquet", "icons.parquet")]
    expected = [(row["id"], row["split"]) for table in tables for row in table.to_pylist()]
    assert [(entry.id, entry.split) for entry in drawings.read_list()] == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="the files it reproduces are not beside this checkout")
def test_icons_are_called_as_in_the_file() -> None:
    rows = pq.read_table(SHARED / "icons.parquet", columns=["id", "style", "name", "hexcode", "tags"]).to_pylist()
    for row in rows:
        name = drawings.icon_name(row["style"], row["id"].partition("/")[2])
        assert (name, name, sorted(set(name.split()))) == (row["name"], row["hexcode"], row["tags"])


def test_styles() -> None:
    assert drawings.parse_styles(None) == drawings.STYLES
    assert drawings.parse_styles("meteocons, noto") == ("noto", "meteocons")
    assert drawings.parse_styles("icons,twemoji") == ("twemoji", *drawings.ICONS)
    for wrong in ("nonesuch", ",", "notoo,noto"):
        with pytest.raises(BowerbirdError, match="`styles`"):
            drawings.parse_styles(wrong)


def test_the_command(table: Table, registry: str, tmp_path: Path, monkeypatch: Patch) -> None:
    from bowerbird.cli.main import app

    bundled = tmp_path / "bundled"
    bundled.mkdir()
    with gzip.open(bundled / "drawings.csv.gz", "wt", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows((entry.id, entry.split) for entry in ENTRIES)
    entries = drawings.read_list(bundled / "drawings.csv.gz")
    assert entries == ENTRIES
    monkeypatch.setattr(drawings, "read_list", lambda: entries)
    monkeypatch.setattr(drawings, "pinned_packages", lambda: table)
    command = ["datasets", "drawings", "--out", str(tmp_path / "d.parquet"), "--registry", registry]
    done = CliRunner().invoke(app, [*command, "--styles", "noto,marketeq"])
    assert done.exit_code == 0, done.output
    assert "d.parquet: 4 pictures of 2 styles (train 3, rare 1)" in done.stdout
    assert "the first marketeq/not-there" in done.stderr
    done = CliRunner().invoke(app, [*command, "--styles", "marketeq", "--json"])
    assert json.loads(done.stdout)["styles"] == {"marketeq": 2}
    assert pq.read_table(tmp_path / "d.parquet").num_rows == 2  # the file is replaced
