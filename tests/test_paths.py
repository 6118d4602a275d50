"""What is written goes to other people: no file says where on the machine it was made, or by whom."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.core import files
from bowerbird.models.weights import bundled
from tests.test_cli import bowerbird

USER = "Mar1na-Musterfrau"


def says_who(file: Path) -> bool:
    """Whether the name of the user's folder is in a file, packed or not."""
    data = file.read_bytes()
    if data.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(data))
        data += str((table.schema.metadata, table.to_pylist())).encode()
    if file.suffix == ".png":
        with Image.open(file) as picture:
            picture.load()
            data += str(picture.info).encode()  # its texts, unpacked
    return any(USER.encode(code) in data for code in ("utf-8", "utf-16-le"))


def test_nothing_that_is_written_says_where_or_by_whom(
    random_rdm: Path, drawn_folder: Path, short_sheets: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / USER
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))
    small = bundled("small")
    assert small is not None
    given = home / "given"  # what was there before, and may say whose it is
    for file in sorted(drawn_folder.glob("*/*"))[:24]:
        (given / "pictures").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, given / "pictures")
    (given / "pictures" / "broken.png").write_text("no picture")
    shutil.copytree(small, given / "encoder")
    shutil.copytree(random_rdm, given / "model")
    picture = sorted((given / "pictures").glob("[0-9]*.png"))[0]
    rows = [{"image": {"bytes": picture.read_bytes(), "path": str(picture)}, "text": "a thing"}]
    pq.write_table(pa.Table.from_pylist(rows), given / "table.parquet")
    out, data, encoder = home / "out", given / "pictures", ("--encoder", given / "encoder")
    recipe = ("train", "tiny-rdm", "--tiny", "--data", data, "--set", "train.steps=1", "--out", out / "run")
    few, one_step = ("--baseline", "4", "--copies-per-kind", "1"), ("-n", "1", "--steps", "1")
    measured = ("-n", "4", "--judge", "none", "--features", f"encoder:{given / 'encoder'}", "--steps", "1")
    for command in (
        ("kb", "build", out / "kb", data, given / "table.parquet", *encoder, "--report", out / "left-out.jsonl"),
        ("kb", "embed", data, given / "table.parquet", *encoder, "--out", out / "parts"),
        ("kb", "export", out / "kb", out / "folder"),
        ("kb", "export", out / "kb", out / "tables", "--format", "parquet"),
        ("kb", "neighbors", out / "kb", data, out / "near.parquet", "-k", "2"),
        ("search", out / "kb", "--image", picture, "--sheet", out / "found.png"),
        (*recipe, "--set", f"system.encoder={given / 'encoder'}"),
        (*recipe, "--set", f"system.encoder={given / 'encoder'}"),  # the same command goes on
        ("generate", out / "run" / "model", "--kb", out / "kb", "--image", picture, *one_step, "--out", out / "made"),
        ("export", given / "model", "--out", out / "diffusers"),
        ("evaluate", given / "model", "--kb", out / "kb", "--data", data, *measured, "--out", out / "evaluated"),
        ("check-copies", out / "made", data, "--against", out / "kb", *few, "--out", out / "checked"),
    ):
        bowerbird(*command, cwd=home)
    written = [file for file in out.rglob("*") if file.is_file()]
    assert len(written) > 60
    assert [file.relative_to(out) for file in written if says_who(file)] == []
    assert KnowledgeBase.open(out / "kb").encoder_name == "encoder"
    named = [json.loads(line)["file_name"] for line in (out / "folder" / "metadata.jsonl").read_text().splitlines()]
    assert len(named) == 13
    report = json.loads((out / "checked" / "report.json").read_text())
    assert report["against"] == ["kb"]
    assert json.loads((out / "evaluated" / "report.json").read_text())["model"]["name"] == "model"
    # what was given by its folder is found again, and asked for where that is gone
    found = bowerbird("search", out / "kb", "--text", "red apple", "-k", "1", cwd=home).stdout
    assert found
    shutil.move(given / "encoder", given / "moved")
    said = bowerbird("search", out / "kb", "--text", "red apple", "-k", "1", cwd=home, expect=2).stderr
    assert "--encoder" in said
    again = bowerbird("search", out / "kb", "--text", "red apple", "-k", "1", "--encoder", given / "moved", cwd=home)
    assert again.stdout == found


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("small", "small"),
        ("openai/clip", "openai/clip"),
        ("runs/mine", "runs/mine"),
        ("/home/me/mine", "mine"),
        ("~/mine/", "mine"),
        ("../me/mine", "mine"),
        ("C:\\Users\\me\\mine", "mine"),
        ("\\\\server\\me\\mine", "mine"),
    ],
)
def test_a_name_that_is_recorded(path: str, kept: str) -> None:
    assert files.portable(path) == kept
