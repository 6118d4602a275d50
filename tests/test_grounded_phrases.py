"""A base model that reads a prompt by its phrases: references for each, structure, a critic, and the record of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import doubles
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bowerbird.cli.common import with_flags
from bowerbird.cli.main import app
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.provenance import read_png
from bowerbird.core.types import Neighbors
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.grounded.prompting import make_plan
from bowerbird.systems.grounded.structure import structured
from bowerbird.systems.phrases.parse import load_parser, parse_prompt

# of a scheduler's old default
pytestmark = pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
PROMPT = "a red heart left of a blue star"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in a directory, and an adapter beside it."""
    folder = tmp_path_factory.mktemp("base")
    pipe = doubles.sd()
    pipe.save_pretrained(folder / "base")
    doubles.ip_adapter(folder / "adapter", pipe)
    return folder


def run(*arguments: str | Path | int) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: str | Path | int) -> str:
    """The one line that bad input gives."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert isinstance(done.exception, BowerbirdError), done.exception
    assert "\n" not in str(done.exception)
    return str(done.exception)


def usual(base: Path, kb: Path) -> list[str | Path | int]:
    adapter = next((base / "adapter").glob("*.safetensors"))
    return [base / "base", "--adapter", adapter, "--kb", kb, "--steps", 2, "-n", 1, "--scale", 1]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_each_phrase_has_its_reference_and_its_side_and_the_record_gives_it_again(
    base: Path, kb_path: Path, tmp_path: Path
) -> None:
    how = usual(base, kb_path)
    said = run("generate", *how, "--prompt", f"{PROMPT} and a violin", "--phrases", "rules", "--out", tmp_path / "out")
    assert "no reference for 'a violin': nothing is near enough" in said
    record = read_png(tmp_path / "out" / "000.png")
    near = record["neighbors"]
    assert [(each["phrase"], each["caption"], each["region"]) for each in near] == [
        ("a red heart", "a red heart", [0.0, 0.0, 0.5, 1.0]),
        ("a blue star", "a blue star", [0.5, 0.0, 1.0, 1.0]),
    ]
    assert record["request"]["phrases"] == ["a red heart", "a blue star", "a violin"]
    assert record["request"]["without"][0][0] == "a violin"
    run("generate", *how[:3], "--from", tmp_path / "out" / "000.png", "--out", tmp_path / "again")
    assert (pixels(tmp_path / "again" / "000.png") == pixels(tmp_path / "out" / "000.png")).all()


def test_brackets_say_the_phrases_and_are_not_read_by_the_base(base: Path, kb_path: Path, tmp_path: Path) -> None:
    how = [*usual(base, kb_path), "--phrases", "brackets"]
    run("generate", *how, "--prompt", "a red [heart] on a blue star", "--out", tmp_path / "out")
    record = read_png(tmp_path / "out" / "000.png")
    assert record["query"] == record["request"]["prompt"] == "a red heart on a blue star"
    assert [each["phrase"] for each in record["neighbors"]] == ["heart"]
    assert "a bracket is not closed" in refused("generate", *how, "--prompt", "a [heart", "--out", tmp_path / "no")


@pytest.mark.parametrize("form", ["mean", "conjunction"])
def test_structure_changes_the_picture_and_is_in_the_record(
    base: Path, kb_path: Path, tmp_path: Path, form: str
) -> None:
    how = [*usual(base, kb_path), "--phrases", "rules", "--prompt", "a red heart left of a blue square"]
    run("generate", *how, "--out", tmp_path / "plain")
    run("generate", *how, "--structure", form, "--out", tmp_path / "out")
    assert (pixels(tmp_path / "plain" / "000.png") != pixels(tmp_path / "out" / "000.png")).any()
    said = read_png(tmp_path / "out" / "000.png")["references"]
    assert (said["structure"], said["spans"]) == (form, [[0, 11], [20, 33]])
    run("generate", *how[:3], "--from", tmp_path / "out" / "000.png", "--out", tmp_path / "again")
    assert (pixels(tmp_path / "again" / "000.png") == pixels(tmp_path / "out" / "000.png")).all()


def test_structure_needs_no_knowledge_base_and_no_adapter(base: Path, tmp_path: Path) -> None:
    how = ["--structure", "mean", "-k", 0, "-n", 1, "--steps", 1, "--prompt", PROMPT]
    run("generate", base / "base", *how, "--out", tmp_path / "a")
    pipe = ReferencePipeline(doubles.sd())
    call: dict[str, Any] = {"num_inference_steps": 1, "output_type": "np", "k": 0}
    plain = pipe(PROMPT, **call).images
    one = pipe(PROMPT, structure="mean", spans=[(20, 31)], **call).images
    both = pipe(PROMPT, structure="mean", spans=[(0, 11), (20, 31)], **call).images
    assert (one != plain).any()
    assert (pipe(PROMPT, structure="mean", spans=(), **call).images == plain).all()  # no phrases were given
    assert (pipe(PROMPT, structure="mean", **call).images == both).all()  # the phrases that rules find
    with structured(pipe, [parse_prompt(PROMPT, parser=load_parser("rules"))]):
        assert (pipe(PROMPT, **call).images == both).all()


def test_phrases_in_python_are_those_of_the_command(base: Path, kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    adapter = next((base / "adapter").glob("*.safetensors"))
    pipe = ReferencePipeline.from_pretrained(base / "base", adapter=adapter)
    call: dict[str, Any] = {"num_inference_steps": 1, "output_type": "np"}
    out = pipe([PROMPT, "a [blue star]"], knowledge_base=kb, phrases="rules", seed=3, **call)
    assert out.neighbors.queries == (PROMPT, "a blue star")
    assert out.neighbors.phrases == (("a red heart", "a blue star"), ("blue star", ""))
    plan = make_plan(PROMPT, kb, parser="rules")
    again = pipe(neighbors=pipe.ground(kb, plan, plan.choice.references), seed=3, **call)
    np.testing.assert_allclose(out.images[0], again.images[0], atol=1e-5)
    one = pipe(PROMPT, knowledge_base=kb, phrases="rules", k=1, search_mode="bm25", **call)
    assert one.neighbors.k == 1
    with pytest.raises(BowerbirdError, match="`k=0`, `rerank` and `cover`"):
        pipe(PROMPT, knowledge_base=kb, phrases="rules", k=0)
    with pytest.raises(BowerbirdError, match="give a prompt and knowledge_base="):
        pipe(neighbors=out.neighbors, phrases="rules")


def test_the_critic_asks_for_what_is_missing_and_the_best_picture_is_kept(
    base: Path, kb_path: Path, tmp_path: Path
) -> None:
    how = [*usual(base, kb_path)[:-4], "-n", 2, "--critic", "encoder", "--max-passes", 2]
    said = run("generate", *how, "--prompt", PROMPT, "--out", tmp_path / "out")
    for name in ("000.png", "001.png"):
        record = read_png(tmp_path / "out" / name)
        refined = record["refinement"]
        assert refined["phrases"] == ["a red heart", "a blue star"]
        assert refined["passes"][0]["references"] == []  # a draft of the base's own
        best = refined["passes"][refined["best"]]
        lacks = [repr(p) for p, value in zip(refined["phrases"], best["missing"], strict=True) if value >= 0.5]
        assert (f"{name}: the critic does not see {', '.join(lacks)}" in said) == bool(lacks)
        assert best["score"] == max(one["score"] for one in refined["passes"])
        assert [each["phrase"] for each in record["neighbors"]] == [phrase for phrase, _ in best["references"]]
        run("generate", *how[:3], "--from", tmp_path / "out" / name, "--out", tmp_path / name)
        assert (pixels(tmp_path / name / "000.png") == pixels(tmp_path / "out" / name)).all()


def test_a_critic_looks_at_each_of_several_prompts_as_at_one(base: Path, kb_path: Path, tmp_path: Path) -> None:
    """A file of prompts with a critic: pictures, records and lines of the same prompts alone."""
    how = [*usual(base, kb_path)[:-4], "--critic", "encoder", "--max-passes", 2]
    lines = [PROMPT, "a blue square"]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    said = run("generate", *how, "-n", 2, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "all")
    for at, prompt in enumerate(lines):
        alone = run("generate", *how, "-n", 2, "--prompt", prompt, "--out", tmp_path / str(at))
        for i in range(2):
            there, here = tmp_path / "all" / f"{2 * at + i:03d}.png", tmp_path / str(at) / f"{i:03d}.png"
            assert (pixels(there) == pixels(here)).all()
            records = [read_png(path) for path in (there, here)]
            assert records[0]["refinement"] == records[1]["refinement"]
            assert records[0]["neighbors"] == records[1]["neighbors"]
            lack = f"{here.name}: the critic does not see"
            assert (lack in alone) == (f"{there.name}: the critic does not see" in said)
    again = run("generate", *how, "-n", 2, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "all")
    assert "4 of 4 pictures were there already" in again


@pytest.mark.parametrize("way", [["--phrases", "rules"], ["--critic", "encoder"]])
def test_a_condition_that_nothing_satisfies_is_refused(
    way: list[str], base: Path, kb_path: Path, tmp_path: Path
) -> None:
    how = [*usual(base, kb_path), "--prompt", PROMPT, *way, "--where", "style = 'no such'"]
    assert "no neighbor was found for the phrases of" in refused("generate", *how, "--out", tmp_path / "no")
    run("generate", *how, "--allow-no-neighbors", "--out", tmp_path / "out")
    assert read_png(tmp_path / "out" / "000.png")["neighbors"] == []


def test_a_file_of_prompts_says_which_phrases_have_no_reference(base: Path, kb_path: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(f"a red heart\n{PROMPT} and a violin")
    how = [*usual(base, kb_path), "--phrases", "rules", "--prompts", tmp_path / "prompts.txt"]
    assert "prompt 2: no reference for 'a violin'" in run("generate", *how, "--out", tmp_path / "out")


def test_a_base_without_adapter_advises_the_flag(base: Path, kb_path: Path, tmp_path: Path) -> None:
    said = refused("generate", base / "base", "--kb", kb_path, "--prompt", PROMPT, "--out", tmp_path / "no")
    assert said.startswith("a StableDiffusionPipeline reads no pictures by itself")
    assert with_flags(said).endswith("give an adapter for it (--adapter), or -k 0 for the prompt alone")


@pytest.mark.parametrize(("kind", "step"), [("sd", 8), ("sdxl", 8), ("sd3", 1), ("flux", 2)])
def test_a_size_that_the_base_cannot_have_is_one_line(kind: str, step: int) -> None:
    pipe = ReferencePipeline(getattr(doubles, kind)())
    with pytest.raises(BowerbirdError, match=rf"^height is a multiple of {step} pixels for this base \(made for \d+\)"):
        pipe(PROMPT, k=0, num_inference_steps=1, height=33, width=32)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--phrases", "nltk"], "`phrases`"),
        (["--structure", "sum"], "`structure`"),
        (["--max-passes", "3"], "`critic`"),
        (["--critic", "encoder", "--max-passes", "99"], "`max_passes`"),
        (["--critic", "no such model"], "no hub id of an image-text model"),
        (["--critic", "encoder", "-k", "0"], "`k=0`"),
        (["--critic", "encoder", "--weights", "2,1"], "`weights`"),
        (["--phrases", "rules", "--min-score", "9"], "`min_score`"),
        (["--phrases", "rules", "--cover"], "`cover`"),
    ],
)
def test_bad_input_is_one_line(given: list[str], said: str, base: Path, kb_path: Path, tmp_path: Path) -> None:
    assert said in refused("generate", *usual(base, kb_path), "--prompt", PROMPT, *given, "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_phrases_are_for_bases(kb_path: Path, tmp_path: Path) -> None:
    given = ["tiny-rdm", "--kb", kb_path, "--prompt", PROMPT, "--phrases", "rules"]
    assert "for base models of diffusers" in refused("generate", *given, "--out", tmp_path / "a")


def test_rows_of_several_searches_stack_where_they_are_padded(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    two = replace(kb.get(kb.ids()[:2].tolist()), phrases=(("a", "b"),), regions=np.zeros((1, 2, 4), np.float32))
    both = Neighbors.stack([two, Neighbors.empty(["x"]).padded(2, kb.dim)])
    assert both.mask.tolist() == [[True, True], [False, False]]
    assert both.effective_weights.tolist() == [[1, 1], [0, 0]]
    assert (both.embeddings[0] == two.embeddings[0]).all()
    wide = two.padded(3, kb.dim)
    assert wide.ids[0, 2] == -1
    assert wide.phrases == (("a", "b", ""),)
    assert wide.regions is not None
    assert wide.regions[0, 2].tolist() == [0, 0, 1, 1]
