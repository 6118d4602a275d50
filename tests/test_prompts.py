"""`generate --prompts`: many jobs with one model, each picture as if it were the only one, and only what is missing."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bowerbird import KnowledgeBase, ReImagenPipeline
from bowerbird.core import provenance
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.report import SourceReport
from bowerbird.systems import generation, jobs, other_encoder, prompt_file, series
from bowerbird.systems.jobs import Job
from tests.test_search_scores import run

LINES = [
    {"prompt": "red apple", "seed": 3, "n": 2},
    {"text": "blue circle", "k": 2, "guidance_scale": 1.5},
    "a green star",
    {"prompt": "a house", "num_inference_steps": 1, "where": "style = 'flat'", "size": None},
    {"class": "ball", "num_images": 2, "cfg": 2},
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in LINES) + "\n\n")
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_each_picture_is_as_if_alone(prompts: Path, random_rdm: Path, kb_path: Path, tmp_path: Path) -> None:
    """Three batches of jobs of unlike settings; then the commands of single pictures."""
    base = ["generate", str(random_rdm), "--kb", str(kb_path), "--steps", "2"]
    run(*base, "--prompts", str(prompts), "--out", str(tmp_path / "all"))
    single = {
        "000.png": ["--prompt", "red apple", "--seed", "3", "-n", "1"],
        "001.png": ["--prompt", "red apple", "--seed", "4", "-n", "1"],
        "002.png": ["--prompt", "blue circle", "-k", "2", "-n", "1", "--guidance-scale", "1.5"],
        "003.png": ["--prompt", "a green star", "-n", "1"],
        "004.png": ["--prompt", "a house", "-n", "1", "--steps", "1", "--where", "style = 'flat'"],
        "006.png": ["--class", "ball", "-n", "2", "--guidance-scale", "2"],
    }
    for name, options in single.items():
        out = tmp_path / name[:3]
        run(*base, *options, "--out", str(out))
        alone = sorted(out.glob("0*.png"))[-1]
        np.testing.assert_array_equal(pixels(tmp_path / "all" / name), pixels(alone))
        record, expected = (provenance.read_png(p) for p in (tmp_path / "all" / name, alone))
        record.pop(series.KEY)
        assert record == expected
    lines = [json.loads(line) for line in (tmp_path / "all/generation.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [f"{i:03d}.png" for i in range(7)]
    assert (tmp_path / "all/sheet.png").is_file()


def test_only_what_is_missing_is_generated(
    prompts: Path, random_rdm: Path, kb_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a batch; then a line that says something else, one that is new, and another model setting."""
    out, made = tmp_path / "out", []
    command = ["generate", str(random_rdm), "--kb", str(kb_path), "--steps", "1", "--prompts", str(prompts)]
    command += ["--no-rerank", "--out", str(out)]  # all with four neighbors, and so in batches of two
    generate = generation.generate

    def counted(pipe: object, hits: object, settings: object, *, picture_seeds: list[int]) -> object:
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(len(picture_seeds))
        return generate(pipe, hits, settings, picture_seeds=picture_seeds)  # type: ignore[arg-type]

    monkeypatch.setattr(generation, "generate", counted)
    run(*command, expect=130)
    there = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert len(there) == made[0] == 2  # whole pictures, and nothing else
    assert not (out / "generation.jsonl").exists()
    made.append(0)
    _, said = run(*command)
    assert "2 of 7 pictures were there already" in said
    assert sum(made) == 7
    assert all((out / name).stat().st_mtime_ns == time for name, time in there.items())
    first = (out / "generation.jsonl").read_text()
    made.clear()
    made.extend([0, 0])
    run(*command)
    assert sum(made) == 0
    assert (out / "generation.jsonl").read_text() == first
    prompts.write_text("\n".join(json.dumps(line) for line in [*LINES[:2], "a red star", *LINES[3:], "a cup"]))
    run(*command)
    assert sum(made) == 2
    assert len((out / "generation.jsonl").read_text().splitlines()) == 8
    prompts.write_text(json.dumps(LINES[0]))
    assert "longer list of prompts" in run(*command, expect=2)[1]


def test_several_prompts_are_the_lines_of_a_file(random_rdm: Path, kb_path: Path, tmp_path: Path) -> None:
    """Each --prompt has its pictures, in order; of another question the last would be taken silently."""
    base = ["generate", str(random_rdm), "--kb", str(kb_path), "--steps", "1", "-n", "2"]
    (tmp_path / "p.txt").write_text("red apple\na green star\n")
    run(*base, "--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "file"))
    two = [*base, "--prompt", "red apple", "--prompt", "a green star"]
    run(*two, "--out", str(tmp_path / "two"))
    lines = [(tmp_path / name / "generation.jsonl").read_text() for name in ("file", "two")]
    assert lines[0] == lines[1]
    assert [json.loads(line)["request"]["prompt"] for line in lines[0].splitlines()] == ["red apple"] * 2 + [
        "a green star"
    ] * 2
    for options, message in (
        (["--prompt", " "], "prompt 3 of 3"),
        (["--class", "ball"], "several --prompt"),
        (["--best-of", "2"], "one --prompt"),
        (["--prompts", "p.txt"], "leave out --prompt"),
        (["--where", "true", "--where", "style = 'flat'"], "--where is given 2 times"),
    ):
        _, said = run(*two, *options, "--out", str(tmp_path / "no"), expect=2)
        assert message in said
        assert said.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_a_folder_of_something_else_is_refused(prompts: Path, random_rdm: Path, kb_path: Path, tmp_path: Path) -> None:
    base = ["generate", str(random_rdm), "--kb", str(kb_path), "--prompts", str(prompts), "--out"]
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    for out, message in ((tmp_path, "mine.png"), (prompts, "is a file")):
        _, said = run(*base, str(out), expect=2)
        assert message in said
        assert said.count("\n") == 1
    assert "leave out --prompt" in run(*base, str(tmp_path / "new"), "--prompt", "x", expect=2)[1]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x", "negative_prompt": "y"}', '"negative_prompt" is not known'),
        ('{"prompt": "x", "seed": -1}', '"seed" is -1'),
        ('{"prompt": "x", "seed": 1e400}', '"seed" is inf'),
        ('{"prompt": "x", "steps": 100000}', '"steps" is 100000'),
        ('{"prompt": "x", "n": 2.5}', '"n" is 2.5'),
        ('{"prompt": "x", "size": 100000}', '"size" is 100000'),
        ('{"prompt": "x", "weights": [NaN]}', '"weights" is not a number'),
        ('{"prompt": "x", "text": "y"}', "there twice"),
        ('{"prompt": "x", "sampler": "os:abort"}', "is code"),
        ('{"prompt": ["x", "y"]}', '"prompt" is a list'),
        ('{"prompt": "x", "reference": "no.png", "image": "a.png"}', "reference"),
        ('{"prompt": "x"', "damaged"),
        ("[" * 100_000, "damaged"),
        ("17", "a line is 17"),
    ],
)
def test_a_line_that_cannot_be_done_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(BowerbirdError, match=r"p\.jsonl:2: ") as error:
        prompt_file.read_jobs(path, Job(), has_kb=True)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_text_files(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes('\ufeffein Füchslein\r\n\r\n  "quoted"  \n# one\n'.encode())
    found = prompt_file.read_jobs(path, Job(seed=5, n=2), has_kb=True)
    assert [job.prompt for job in found] == ["ein Füchslein", '"quoted"', "# one"]
    assert {(job.seed, job.n) for job in found} == {(5, 2)}
    report = SourceReport()
    for encoding in ("latin-1", "utf-16"):  # of an old editor, and of `>` in a Windows shell
        path.write_bytes("Füchse\r\nam Ufer\r\n".encode(encoding))
        found = prompt_file.read_jobs(path, Job(), has_kb=True, report=report)
        assert [job.prompt for job in found] == ["Füchse", "am Ufer"]
    assert report.names == {"encodings": ["p.txt (cp1252)", "p.txt (UTF-16)"]}


@pytest.mark.parametrize("name", ["p.json", "p.csv", "p.TSV"])
def test_tables_are_not_taken_for_prompts(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('[{"prompt": "a red fox"}]')
    with pytest.raises(BowerbirdError, match=r"\.jsonl"):
        prompt_file.read_jobs(tmp_path / name, Job(), has_kb=True)
    (tmp_path / "p.NDJSON").write_text('{"prompt": "a red fox", "seed": 7}')
    assert [job.seed for job in prompt_file.read_jobs(tmp_path / "p.NDJSON", Job(), has_kb=True)] == [7]


def test_references_of_a_line(tmp_path: Path, random_reimagen: Path, kb_path: Path) -> None:
    """A line brings its own pictures, the next looks them up: each as alone, although they read pictures."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "r.png")
    lines = [
        {"prompt": "a hat", "reference": "r.png", "caption": "red", "seed": 1},
        {"prompt": "a red apple", "k": 2},
        {"prompt": "blue circle", "k": 2, "seed": 9},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    kb, pipe = KnowledgeBase.open(kb_path), ReImagenPipeline.from_pretrained(random_reimagen)
    work = prompt_file.read_jobs(tmp_path / "p.jsonl", Job(steps=(2,)), has_kb=True)

    def finish(images: list[Image.Image], hits: object, settings: object, seeds: list[int]) -> series.Finished:
        return series.Finished(images, hits, seeds, [None] * len(seeds))  # type: ignore[arg-type]

    done = series.run(pipe, "m", kb, work, tmp_path / "out", finish=finish)
    for job, path in zip(work, done.paths, strict=True):
        one = jobs.prepare(pipe, kb, job)
        np.testing.assert_array_equal(pixels(path), np.asarray(generation.generate(pipe, one.hits, one.settings)[0]))
    assert provenance.read_png(done.paths[0])["kb"] is None
    sheet = pixels(tmp_path / "out" / "sheet.png")
    assert (sheet[: len(sheet) // 3] == (255, 0, 0)).all(-1).sum() > 1000  # the first line's own picture
    (tmp_path / "r.png").unlink()
    with pytest.raises(BowerbirdError, match=r"r\.png"):
        series.run(pipe, "m", kb, work, tmp_path / "out2", finish=finish)


def test_the_encoder_to_build_with_is_one_that_opens(kb_path: Path) -> None:
    """An encoder of a folder goes by the folder's name, which as --encoder would open nothing."""
    kb = KnowledgeBase.open(kb_path)
    for name, said in (("model", "DIR, the folder"), ("small", "small"), ("openai/clip-x", "openai/clip-x")):
        config = SimpleNamespace(encoder_fingerprint="0" * 16, encoder_name=name)
        with pytest.raises(BowerbirdError, match=f"--encoder {said}"):
            other_encoder.read_with(kb, config)


class _Ray:
    """As much of Ray as is used, in this process."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self.groups: list[list[str]] = []
        self.exceptions = SimpleNamespace(RayError=ArithmeticError)

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.said |= options

    def shutdown(self) -> None:
        self.said["over"] = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **options: Any) -> Any:
        def actor(kind: Any) -> Any:
            def make(task: Any) -> Any:
                pickle.dumps(task)  # it travels
                made = kind(task)

                def do(names: list[str]) -> Any:
                    self.groups.append(names)
                    return made.make(names)

                return SimpleNamespace(make=SimpleNamespace(remote=do))

            return SimpleNamespace(remote=make)

        return actor

    def get(self, answers: list[Any]) -> list[Any]:
        return answers


def test_a_cluster_generates_the_same_and_only_what_is_missing(
    prompts: Path, random_rdm: Path, kb_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ["generate", str(random_rdm), "--kb", str(kb_path), "--steps", "1", "--prompts", str(prompts), "--out"]
    run(*base, str(tmp_path / "here"))
    ray = _Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    run(*base, str(tmp_path / "there"), "--ray", "auto")
    assert (ray.said["address"], ray.said["over"]) == ("auto", True)
    assert [name for group in ray.groups for name in group] == [f"{i:03d}.png" for i in range(7)]
    for i in range(7):
        here, there = (tmp_path / place / f"{i:03d}.png" for place in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()
    lists = [(tmp_path / place / "generation.jsonl").read_text() for place in ("here", "there")]
    assert lists[0] == lists[1]
    assert (tmp_path / "there" / "sheet.png").is_file()
    ray.groups.clear()
    (tmp_path / "there" / "005.png").unlink()
    run(*base, str(tmp_path / "there"), "--ray", "auto")
    assert ray.groups == [["005.png"]]
    _, said = run(
        "generate", "tiny-rdm", "--kb", str(kb_path), "--prompt", "a", "--ray", "auto", "--out", "x", expect=2
    )
    assert "--prompts FILE" in said


def test_a_real_cluster_generates_the_same(prompts: Path, random_rdm: Path, kb_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="pip install 'bowerbird[ray]'")
    base = ["generate", str(random_rdm), "--kb", str(kb_path), "--steps", "1", "--prompts", str(prompts), "--out"]
    run(*base, str(tmp_path / "here"))
    run(*base, str(tmp_path / "there"), "--ray", "local")
    for i in range(7):
        here, there = (tmp_path / place / f"{i:03d}.png" for place in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()
