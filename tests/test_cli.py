"""The command line as other programs meet it: exit codes, one clear line, JSON, nothing half-written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird.core import provenance
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.drawn import read_drawn


def environment() -> dict[str, str]:
    """Of a process of its own, as it is when the test runs: fixtures change it."""
    return {**os.environ, "PYTHONWARNINGS": "ignore", "COLUMNS": "120"}


def process(*arguments: object, expect: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: some seconds of imports."""
    command = [sys.executable, "-m", "bowerbird", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=cwd, env=environment())
    assert done.returncode == expect, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def bowerbird(*arguments: object, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """The command as it is in a process, in this one: `main` with its arguments, in the folder `cwd`."""
    from bowerbird.cli import main

    command = ["bowerbird", *map(str, arguments)]
    modules = set(sys.modules)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        patch.chdir(cwd)
        patch.setenv("COLUMNS", "120")
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as left:
            main()
    for name in set(sys.modules) - modules:  # a person's own module in `cwd` is not met by the next test
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == cwd:
            del sys.modules[name]
    done = subprocess.CompletedProcess(command, int(left.value.code or 0), out.getvalue(), errors.getvalue())
    assert done.returncode == expect, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def refused(*arguments: object, says: str, cwd: Path) -> None:
    """Exit 2, one line on stderr that says what, and no new file."""
    before = sorted(p for p in cwd.rglob("*"))
    done = bowerbird(*arguments, expect=2, cwd=cwd)
    assert says in done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("source: ")]  # what reading passed over
    assert len(said) == 1, done.stderr
    assert done.stdout == ""
    assert sorted(p for p in cwd.rglob("*")) == before


def test_a_refusal_as_a_whole_process(tmp_path: Path) -> None:
    done = process("kb", "build", "kb", "nowhere", expect=2, cwd=tmp_path)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no such file" in done.stderr
    assert not any(tmp_path.iterdir())


def test_bad_input_is_one_line_and_exit_2(tmp_path: Path, kb_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.png").write_text("no picture")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    cases: list[tuple[tuple[object, ...], str]] = [
        (("kb", "build", "kb", "nowhere"), "no such file"),
        (("kb", "build", "kb", "empty"), "no pictures"),
        (("kb", "build", "kb", "texts"), "a.png"),
        (("kb", "build", "full", "drawn"), "taken"),
        (("kb", "build", "kb", "drawn", "--encoder", "nope"), "not a bundled name"),
        (("kb", "build", "kb", "drawn", "--where", "nope = 1"), "columns"),
        (("kb", "info", "nowhere"), "kb build"),
        (("kb", "remove", kb_path, "--ids", "abc"), "whole numbers"),
        (("kb", "remove", kb_path), "one of them"),
        (("kb", "remove", kb_path, "--ids", ""), "--ids ''"),
        (("kb", "remove", kb_path, "--where", ""), "--where '' is empty"),
        (("kb", "remove", kb_path, "--where", " ", "--dry-run"), "true for every item"),
        (("kb", "update", kb_path, "--where", "", "--set", "x=1"), "--where '' is empty"),
        (("kb", "update", kb_path, "--where", "true", "--dry-run"), "nothing to change"),
        (("kb", "export", kb_path, "out", "--where", ""), "--where '' is empty"),
        (("kb", "show", kb_path, "17"), "no item with id 17"),
        (("kb", "list", kb_path, "--where", ""), "--where '' is empty"),
        (("kb", "sheet", kb_path, "s.png", "--where", "caption = 'nope'"), "no sheet to write"),
        (("kb", "sheet", kb_path, "s.xyz"), "no picture format"),
        (("search", kb_path, "--text", "x", "--mode", "bm25", "--sheet", "s"), "no picture format"),
        (("kb", "restore", kb_path, "--version", "7"), "there are 0 to 1"),
        (("search", kb_path), "--text or --image"),
        (("search", kb_path, "--text", " "), "empty"),
        (("search", kb_path, "--text", "x", "-k", "100000"), "choose k from 1 to 216"),
        (("search", kb_path, "--text", "x", "--mode", "psychic"), "bm25"),
        (("search", kb_path, "--text", "x", "--where", "nope = 1"), "columns"),
        (("search", kb_path, "--image", "nowhere.png"), "nowhere.png"),
        (("generate", "nope", "--kb", kb_path, "--prompt", "x", "--out", "o"), "not bundled"),
        (("generate", "tiny-rdm", "--prompt", "x", "--out", "o"), "--kb"),
        (("generate", "tiny-rdm", "--kb", kb_path, "--prompt", "x"), "--out"),
        (("generate", "--from", "texts/a.png", "--out", "o"), "a.png"),
        (("train", "nope", "--data", "drawn"), "tiny-rdm"),
        (("train", "tiny-rdm"), "--data"),
        (("train", "os:system", "--data", "drawn"), "without arguments"),
        (("train", "tiny-rdm", "--data", "drawn", "--set", "train.stepz=1"), "train.stepz"),
        (("search", kb_path, "--text", "x", "--nope"), "--help"),
        (("nope",), "--help"),
        (("doctor", "--device"), "--help"),
    ]
    for arguments, says in cases:
        refused(*arguments, says=says, cwd=tmp_path)


def test_generate_refuses_before_it_writes(tmp_path: Path, kb_path: Path, random_rdm: Path) -> None:
    base = ("generate", random_rdm, "--kb", kb_path, "--out", "o")
    for extra, says in (
        (("--prompt", " "), "empty"),
        (("--prompt", "x", "-k", "9999"), "choose k"),
        (("--unconditional",), "--proposal database"),
        (("--prompt", "x", "--unconditional"), "one of prompt"),
        (("--prompt", "x", "--image", "a.png"), "bowerbird edit tiny-knn with --kb, --image F and --prompt"),
        (("--prompt", "x", "--sampler", "magic"), "dpmsolver++"),
        (("--prompt", "x", "--weights", "a"), "--weights"),
        (("--prompt", "x", "--size", "50"), "multiple"),
        (("--prompt", "x", "--guidance-scale", "nan"), "guidance_scale is nan"),
        (("--prompt", "x", "--eta", "5"), "0 to 1; got 5"),
        (("--prompt", "x", "--top-m", "nan"), "top_m"),
    ):
        refused(*base, *extra, says=says, cwd=tmp_path)


def test_own_references_and_stages(tmp_path: Path, random_reimagen: Path, random_rdm: Path) -> None:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "own.png")
    (tmp_path / "bad.png").write_text("no picture")
    base = ("generate", random_reimagen, "--prompt", "x", "--out", "o")
    for arguments, says in (
        ((*base, "--reference", "own.png"), "1 of --reference and 0 of --caption; give one --caption for each"),
        ((*base, "--reference", "bad.png", "--caption", "x"), "bad.png"),
        ((*base, "-k", "0", "--size", "64"), "16, 32 px"),
        ((*base, "-k", "0", "--guidance", "sideways"), "interleaved"),
        (("generate", random_reimagen, "-k", "0", "--out", "o"), "--prompt"),
        (
            ("generate", random_rdm, "--prompt", "x", "--reference", "own.png", "--caption", "x", "--out", "o"),
            "--image",
        ),
    ):
        refused(*arguments, says=says, cwd=tmp_path)
    made = (
        *base,
        "--reference",
        "own.png",
        "--caption",
        "a red thing",
        "--steps",
        "2",
        "-n",
        "1",
        "--text-ratio",
        "0.3",
        "--on-copy",
        "off",
    )
    bowerbird(*made, cwd=tmp_path)
    record = provenance.read_png(tmp_path / "o" / "000.png")
    assert record["neighbors"][0]["caption"] == "a red thing"
    assert [stage["eta"] for stage in record["guidance"]] == [0.3, 0.3]
    bowerbird("generate", random_reimagen, "--from", tmp_path / "o" / "000.png", "--out", "again", cwd=tmp_path)
    assert (tmp_path / "o" / "000.png").read_bytes() == (tmp_path / "again" / "000.png").read_bytes()


def test_edit_writes_what_changed_and_generates_it_again(
    tmp_path: Path, tiny_knn: Path, random_rdm: Path, kb_path: Path
) -> None:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "own.png")
    base = ("edit", tiny_knn, "--kb", kb_path, "--image", "own.png", "--out", "o")
    for arguments, says in (
        (base, "one of them"),
        ((*base, "--prompt", "star", "--reference", "own.png"), "one of them"),
        ((*base, "--prompt", "star", "--img2img"), "--strength"),
        ((*base, "--prompt", "star", "--strength", "1.5"), "strength"),
        (
            ("edit", random_rdm, "--kb", kb_path, "--image", "own.png", "--prompt", "star", "--out", "o"),
            "does not edit",
        ),
    ):
        refused(*arguments, says=says, cwd=tmp_path)
    done = bowerbird(
        *base, "--reference", "own.png", "-n", "2", "--steps", "3", "--strength", "0.7", "--json", cwd=tmp_path
    )
    assert len(json.loads(done.stdout)["images"]) == 2
    record = provenance.read_png(tmp_path / "o" / "001.png")
    assert (record["edit"]["strength"], record["request"]["reference"]) == (0.7, "own.png")
    bowerbird("generate", tiny_knn, "--from", tmp_path / "o" / "001.png", "--out", "again", cwd=tmp_path)
    assert (tmp_path / "o" / "001.png").read_bytes() == (tmp_path / "again" / "000.png").read_bytes()


def test_kb_life_in_json(tmp_path: Path, drawn_folder: Path) -> None:
    built = json.loads(bowerbird("kb", "build", "kb", drawn_folder, "--json", cwd=tmp_path).stdout)
    assert (built["items"], built["added"], built["version"]) == (36, 36, 1)
    info = json.loads(bowerbird("kb", "info", "kb", "--json", cwd=tmp_path).stdout)
    assert set(info) == {
        "path",
        "version",
        "items",
        "encoder",
        "credit",
        "caption_column",
        "indexes",
        "bytes",
        "metadata",
    }
    found = json.loads(
        bowerbird("search", "kb", "--text", "red", "--mode", "bm25", "-k", "3", "--json", cwd=tmp_path).stdout
    )
    assert set(found) == {"kb", "version", "mode", "query", "rerank", "corrected", "results"}
    keys = {"id", "score", "similarity", "bm25", "caption", "metadata", "path", "credit"}
    assert all(set(r) == keys for r in found["results"])
    scores = [r["score"] for r in found["results"]]
    assert scores == sorted(scores, reverse=True)
    item = found["results"][0]["id"]
    dry = bowerbird("kb", "remove", "kb", "--where", "true", "--dry-run", cwd=tmp_path)
    assert "would remove 36 of 36 items, 31 more not shown" in dry.stderr
    assert dry.stdout.count("\n") == 5
    dry = bowerbird("kb", "update", "kb", "--ids", item, "--set", "x=1", "--dry-run", "--json", cwd=tmp_path)
    assert (json.loads(dry.stdout)["would update"], json.loads(dry.stdout)["first"][0]["id"]) == (1, item)
    removed = json.loads(bowerbird("kb", "remove", "kb", "--ids", item, "--json", cwd=tmp_path).stdout)
    assert (removed["removed"], removed["items"], removed["version"]) == (1, 35, 2)
    assert removed["undo"] == "bowerbird kb restore kb --version 1"
    restored = json.loads(bowerbird(*removed["undo"].split()[1:], "--json", cwd=tmp_path).stdout)
    assert restored == {"path": "kb", "version": 3, "items": 36, "restored": 1}
    assert "kb restore kb --version 3" in bowerbird("kb", "remove", "kb", "--ids", item, cwd=tmp_path).stderr
    again = json.loads(bowerbird("kb", "add", "kb", drawn_folder, "--json", cwd=tmp_path).stdout)
    assert (again["added"], again["already_present"]) == (1, 35)
    bowerbird("search", "kb", "--image", drawn_folder / "flat" / "000.png", "--sheet", "s.png", cwd=tmp_path)
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width > 200


def test_a_command_that_is_shown_works(tmp_path: Path) -> None:
    """Also where a folder's name has blanks and quotes, as on most desktops."""
    place = "Ann's pictures/my kb"
    done = bowerbird("kb", "info", place, expect=2, cwd=tmp_path)
    shown = shlex.split(done.stderr.partition("make one: bowerbird ")[2])
    assert shown == ["kb", "build", place, "FOLDER_OF_PICTURES"]
    done = bowerbird(*shown[:3], "drawn", cwd=tmp_path)
    shown = shlex.split(done.stderr.partition("next: bowerbird ")[2].splitlines()[0])
    assert shown[:2] == ["search", place]


def test_what_is_said_is_short_and_names_what_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    item = next(iter(read_drawn()))
    (folder / "p.png").write_bytes(item.data)
    (folder / "p.txt").write_text("novel " * 2_000)
    (tmp_path / "q.txt").write_bytes("no\u2028vel\r\n\r\nFüchse".encode("utf-16"))  # as `>` of a Windows shell writes
    bowerbird("kb", "build", "kb", "pictures", cwd=tmp_path)
    listed = bowerbird("kb", "list", "kb", cwd=tmp_path)
    assert "p.png: novel" in listed.stdout
    assert len(listed.stdout) < 400
    found = bowerbird("search", "kb", "--mode", "bm25", "--queries", "q.txt", cwd=tmp_path)
    assert [json.loads(line)["query"]["text"] for line in found.stdout.splitlines()] == ["no\u2028vel", "Füchse"]
    assert "q.txt (UTF-16)" in found.stderr
    number = json.loads(bowerbird("kb", "list", "kb", "--json", cwd=tmp_path).stdout)["results"][0]["id"]
    removed = bowerbird("kb", "remove", "kb", "--ids", f"{number},7,8", "--json", cwd=tmp_path)
    assert (json.loads(removed.stdout)["removed"], json.loads(removed.stdout)["not_here"]) == (1, [7, 8])
    assert "ids that are not here: 2 (7, 8)" in removed.stderr


def test_looking_at_what_a_knowledge_base_holds(tmp_path: Path, kb_path: Path, drawn_folder: Path) -> None:
    all_of_it = json.loads(bowerbird("kb", "list", kb_path, "-n", "0", "--json", cwd=tmp_path).stdout)
    assert (all_of_it["items"], len(all_of_it["results"])) == (216, 216)
    red = json.loads(
        bowerbird("kb", "list", kb_path, "--where", "caption LIKE '%red%'", "-n", "3", "--json", cwd=tmp_path).stdout
    )
    assert red["items"] == sum("red" in item["caption"] for item in all_of_it["results"]) > 3
    assert [set(item) for item in red["results"]] == [{"id", "caption", "metadata", "path"}] * 3
    first = red["results"][0]
    lines = bowerbird("kb", "list", kb_path, cwd=tmp_path)
    assert lines.stdout.count("\n") == 20
    assert "216 items; 196 more: -n 0 lists all" in lines.stderr
    shown = json.loads(bowerbird("kb", "show", kb_path, first["id"], "--json", cwd=tmp_path).stdout)
    assert {name: shown[name] for name in first} == first
    data = next(item.data for item in read_drawn() if item.caption == first["caption"] and item.name == first["path"])
    with Image.open(io.BytesIO(data)) as drawn:
        size = {"width": drawn.width, "height": drawn.height}
    assert shown["picture"] == {"format": "png", "bytes": len(data), **size}
    text = bowerbird("kb", "show", kb_path, first["id"], cwd=tmp_path).stdout
    assert first["caption"] in text
    assert f"{size['width']} x {size['height']} pixels, {len(data):,} bytes" in text
    done = bowerbird("kb", "sheet", kb_path, "s.png", "--where", "caption LIKE '%red%'", "-n", "12", cwd=tmp_path)
    assert f"12 of {red['items']} items; -n shows more" in done.stderr
    with Image.open(tmp_path / "s.png") as sheet:
        corners = [(190 + 104 * (n % 8), 44 + 126 * (n // 8)) for n in range(16)]
        drawn_at = [len(sheet.crop((x, y, x + 96, y + 96)).getcolors(9216) or []) > 1 for x, y in corners]
    assert drawn_at == [True] * 12 + [False] * 4


def test_generate_and_generate_the_same_again(tmp_path: Path, kb_path: Path, random_rdm: Path) -> None:
    made = json.loads(
        bowerbird(
            "generate",
            random_rdm,
            "--kb",
            kb_path,
            "--prompt",
            "red apple",
            "-n",
            "3",
            "--steps",
            "3",
            "--seed",
            "7",
            "--out",
            "o",
            "--json",
            cwd=tmp_path,
        ).stdout
    )
    assert [Path(p).name for p in made["images"]] == ["000.png", "001.png", "002.png"]
    lines = [json.loads(line) for line in (tmp_path / "o" / "generation.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [7, 8, 9]
    assert (tmp_path / "o" / "sheet.png").is_file()
    picture = tmp_path / "o" / "001.png"
    record = provenance.read_png(picture)
    assert record["request"]["prompt"] == "red apple"
    assert {"name", "fingerprint"} == set(record["model"])
    assert record["kb"]["version"] == 1
    assert all({"id", "score", "caption"} <= set(n) for n in record["neighbors"])
    opened = Image.open(picture)
    assert opened.text["parameters"].startswith(
        "red apple\nSteps: 3, Sampler: dpmsolver++, CFG scale: 3.0, Seed: 8, Size: 64x64"
    )
    assert "trainedAlgorithmicMedia" in opened.text["XML:com.adobe.xmp"]
    process("generate", random_rdm, "--from", picture, "--out", "again", cwd=tmp_path)  # another one
    assert (np.asarray(Image.open(tmp_path / "again" / "000.png")) == np.asarray(opened)).all()
    other = tmp_path / "plain.png"
    Image.new("RGB", (4, 4)).save(other)
    with pytest.raises(BowerbirdError, match="no bowerbird record"):
        provenance.read_png(other)


def test_train_dry_run_tiny_and_resume(tmp_path: Path, drawn_folder: Path) -> None:
    recipe = json.loads(bowerbird("train", "tiny-rdm", "--dry-run", "--set", "train.steps=9", cwd=tmp_path).stdout)
    assert recipe["train"]["steps"] == 9
    dry = bowerbird("train", "small-patches-text", "--dry-run", cwd=tmp_path)
    place = "runs/small-patches/model"
    assert json.loads(dry.stdout)["system"]["base"] == place
    absent = f"system.base {place} is not there; train it first: bowerbird train small-patches"
    assert absent in dry.stderr
    refused("train", "small-patches-text", "--data", "never-read", "--out", "run", says=absent, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
    command = (
        "train",
        "tiny-autoencoder",
        "--tiny",
        "--data",
        drawn_folder,
        "--out",
        "run",
        "--device",
        "cpu",
        "--json",
    )
    assert json.loads(bowerbird(*command, cwd=tmp_path).stdout)["steps"] == 2
    assert (tmp_path / "run" / "recipe.json").is_file()
    bowerbird(*command, cwd=tmp_path)
    refused(*command[:-1], "--set", "train.steps=3", says="other settings", cwd=tmp_path)


def test_interrupt_leaves_with_130_and_nothing_behind(tmp_path: Path, drawn_folder: Path) -> None:
    verb = [
        "train",
        "tiny-autoencoder",
        "--tiny",
        "--set",
        "train.steps=100000",
        "--data",
        str(drawn_folder),
        "--out",
        "run",
        "--device",
        "cpu",
    ]
    # where these tests run in the background of a shell an interrupt is ignored, and children would inherit that
    command = [
        sys.executable,
        "-c",
        (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from bowerbird.cli import main;"
            " main()"
        ),
        *verb,
    ]
    child = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        assert child.stderr is not None
        while "step 50 " not in child.stderr.readline():
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, rest = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130
    assert "Traceback" not in rest
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_check_finds_what_was_copied_and_refuses_bad_input(tmp_path: Path, kb_path: Path, small_kb_path: Path) -> None:
    from bowerbird import KnowledgeBase

    small_kb = KnowledgeBase.open(small_kb_path)
    hits = small_kb.search(text="a red apple", k=2)
    taken, names = hits.images()[0], [name.rpartition("/")[2] for name in small_kb.names(hits.ids[0].tolist())]
    (tmp_path / "made").mkdir()
    (tmp_path / "empty").mkdir()
    for i, picture in enumerate(taken):
        assert picture is not None
        picture.save(tmp_path / "made" / f"{i}.PNG")
    (tmp_path / "made" / "._0.PNG").write_bytes(b"\0\5\x16\7")
    for arguments, says in (
        (("check-copies", "empty", "--against", kb_path), "no picture to check"),
        (("check-copies", "made", "--against", "nowhere"), "no such file"),
        (("check-copies", "made", "--against", kb_path, "--descriptor", "psychic:x"), "KIND:PATH"),
        (("evaluate", "tiny-rdm", "--kb", "nowhere", "--data", "made", "--out", "r"), "kb build"),
        (
            ("evaluate", "tiny-rdm", "--kb", kb_path, "--data", "made", "--out", "r", "--metrics", "fdi"),
            "--metrics 'fdi'",
        ),
        (
            ("evaluate", "tiny-rdm", "--kb", kb_path, "--data", "made", "--out", "r", "--caption-column", "capton"),
            "no row has the --caption-column 'capton'",
        ),
        (("reproduce", "--data", "nowhere.parquet"), "datasets drawings"),
        (("reproduce", "style"), "datasets drawings"),
        (("reproduce", "stile"), "claim 'stile' is not known; choose from"),
    ):
        refused(*arguments, says=says, cwd=tmp_path)
    report = json.loads(
        bowerbird(
            "check-copies",
            "made",
            "--against",
            small_kb_path,
            "--baseline",
            20,
            "--copies-per-kind",
            5,
            "--out",
            "r",
            "--json",
            cwd=tmp_path,
        ).stdout
    )
    assert [p["training"]["whole"] > 0.99 for p in report["pictures"]] == [True, True]
    assert [p["training"]["of"]["whole"]["name"] for p in report["pictures"]] == names
    assert report["synthetic copies found"]["copy"]["source first"] > 0.9
    assert report["synthetic copies found"]["false alarms"] <= 6 / (
        1 + report["baseline"]["pictures"]
    )  # a pair in each kind
    assert report["left out"] == ["._0.PNG: a file that macOS leaves beside another, not a picture"]
    assert {p.name for p in (tmp_path / "r").iterdir()} == {
        "report.json",
        "report.md",
        "worst.png",
        "alike.png",
        "similarities.png",
    }


def test_the_help_of_generate_shows_each_option_once_under_its_heading(tmp_path: Path) -> None:
    import typer

    from bowerbird.cli.main import app

    text = bowerbird("generate", "--help", cwd=tmp_path).stdout
    sections: dict[str, list[str]] = {}
    for line in text[text.index("Arguments:") :].splitlines():
        if line.endswith(":") and not line.startswith(" "):
            sections[line] = []
        elif line.startswith("  -"):
            flag = next(word for word in line.replace(",", "").split() if word.startswith("--"))
            sections[list(sections)[-1]].append(flag)
    parameters = typer.main.get_command(app).commands["generate"].params  # type: ignore[attr-defined]
    flags = {max(each.opts, key=len) for each in parameters if each.param_type_name == "option"}
    assert sorted(flag for rows in sections.values() for flag in rows) == sorted(flags | {"--help"})
    assert {"--kb", "--rerank", "--cover"} <= set(sections["Neighbors:"])
    assert "--adapter" in sections["Diffusers base models:"]
    assert "--json" in sections["Other options:"]


def test_claims_are_listed_without_measuring(tmp_path: Path) -> None:
    (claim,) = json.loads(bowerbird("reproduce", "style", "--list", "--json", cwd=tmp_path).stdout)["claims"]
    assert claim["name"] == "style"
    lines = bowerbird("reproduce", "--list", cwd=tmp_path).stdout.splitlines()
    assert f"style: {claim['says']} ({claim['source']})" in lines
    assert not list(tmp_path.iterdir())


def test_models_and_doctor(tmp_path: Path) -> None:
    listed = json.loads(bowerbird("models", "--json", cwd=tmp_path).stdout)["models"]
    assert {m["name"] for m in listed} == {
        "reimagen-drawings",
        "small",
        "small-patches",
        "tiny-autoencoder",
        "tiny-copies",
        "tiny-instruct",
        "tiny-ip-adapter",
        "tiny-knn",
        "tiny-racm3",
        "tiny-rdm",
        "tiny-rdm-fast",
        "tiny-reimagen",
        "tiny-sd",
        "vq-drawings",
    }
    checks = json.loads(bowerbird("doctor", "--json", cwd=tmp_path).stdout)
    assert {c["name"] for c in checks["checks"]} >= {"python", "torch", "models", "emoji font"}
    assert all(c["fix"] for c in checks["checks"] if not c["ok"])


def test_demo_makes_its_sheet_without_sockets(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "def watch(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.bind'):\n"
        "        raise RuntimeError(f'a socket: {event} {args}')\n"
        "sys.addaudithook(watch)\n"
        # two steps a picture and none more than is shown: what the models can do is seen elsewhere
        "from dataclasses import replace\n"
        "from bowerbird.systems import generation\n"
        "whole = generation.generate\n"
        "generation.generate = lambda pipe, hits, settings, **more: whole(pipe, hits, replace(settings, steps=2),"
        " **(more | {'batch': 1}))\n"
        "sys.argv = ['bowerbird', 'demo', '--out', 'demo', '--json']\n"
        "from bowerbird.cli import main\n"
        "main()\n"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, cwd=tmp_path, env=environment()
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["images"] >= 20
    assert report["seconds"] <= time.perf_counter() - start
    sheet = np.asarray(Image.open(tmp_path / "demo" / "sheet.png").convert("L"), float)
    assert sheet.shape[0] > 600
    assert sheet.std() > 20
