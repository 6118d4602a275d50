"""A knowledge base of any encoder serves a model that was trained with another: its pictures are embedded again."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bowerbird import BowerbirdError, KnowledgeBase, MismatchError, RDMPipeline, encoders
from bowerbird.cli.main import app
from bowerbird.evaluation.likelihood import likelihood
from bowerbird.systems import other_encoder
from bowerbird.systems.queries import Request
from bowerbird.training import recipes
from bowerbird.training.recipe import build_objective, read_pictures
from tests.faults.plain import PlainEncoder


@pytest.fixture(scope="module")
def foreign(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    return KnowledgeBase.build(tmp_path_factory.mktemp("foreign") / "kb", drawn_folder, encoder=PlainEncoder())[0]


def test_what_is_found_is_embedded_by_the_models_encoder(random_rdm: Path, foreign: KnowledgeBase) -> None:
    pipe, own = RDMPipeline.from_pretrained(random_rdm), encoders.load("small")
    picture = Image.new("RGB", (40, 30), "red")
    asked = (
        Request(prompts=("red apple", "blue star"), k=3),
        Request(prompts=("red apple",), k=3, text_mode="text+neighbors"),
        Request(images=(picture,), k=3),
        Request(images=(picture,), k=2, image_mode="neighbors", min_score=-1.0),
    )
    for request in asked:
        hits = pipe.retrieve(request, foreign)
        pictures = hits.images()
        for place in zip(*np.nonzero(hits.ids >= 0), strict=True):
            expected = own.embed_images([pictures[place[0]][place[1]]])[0]
            np.testing.assert_allclose(hits.embeddings[place], expected, rtol=1e-4, atol=1e-5)
    plain = pipe.retrieve(asked[0], foreign)
    assert (plain.ids == foreign.search(text=["red apple", "blue star"], k=3, typos=False, operators=False).ids).all()
    beside = pipe.retrieve(asked[1], foreign)
    np.testing.assert_allclose(beside.embeddings[0, 0], own.embed_text(["red apple"])[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        pipe.retrieve(asked[2], foreign).embeddings[0, 0], own.embed_images([picture])[0], rtol=1e-4, atol=1e-5
    )
    drawn = pipe.retrieve(Request(unconditional=True, k=2), foreign, 2, proposal=foreign.proposal(2))
    assert drawn.embeddings.shape == (2, 2, own.dim)
    read = other_encoder.read_with(foreign, pipe.config)
    with pytest.raises(MismatchError, match="search by `images`"):
        read.search(embeddings=np.zeros((1, 4), np.float32))
    assert copy.copy(read).encoder is read.encoder
    assert read.at_version(foreign.version).get(foreign.ids()[:2].tolist()).embeddings.shape == (1, 2, own.dim)


def test_what_the_command_generates_is_made_again_from_its_png(
    random_rdm: Path, drawn_folder: Path, tmp_path: Path
) -> None:
    """The same picture as from a knowledge base of the model's own encoder, where words find the same."""
    for name, encoder in (("other", PlainEncoder()), ("own", "small")):
        KnowledgeBase.build(tmp_path / name, drawn_folder, encoder=encoder)  # type: ignore[arg-type]
    pictures = {}
    for name in ("other", "own"):
        asked = ["--prompt", "red apple", "--search-mode", "bm25", "-k", 2]
        words = ["generate", random_rdm, "--kb", tmp_path / name, *asked, "-n", 1, "--steps", 2, "--out"]
        made = CliRunner().invoke(app, [str(w) for w in (*words, tmp_path / f"out-{name}")])
        assert made.exit_code == 0, made.output
        pictures[name] = Image.open(tmp_path / f"out-{name}" / "000.png").tobytes()
    assert pictures["other"] == pictures["own"]
    again = CliRunner().invoke(
        app,
        [
            "generate",
            str(random_rdm),
            "--from",
            str(tmp_path / "out-other" / "000.png"),
            "--out",
            str(tmp_path / "again"),
        ],
    )
    assert again.exit_code == 0, again.output
    assert Image.open(tmp_path / "again" / "000.png").tobytes() == pictures["other"]


def test_an_item_without_a_picture_is_said(random_rdm: Path, foreign: KnowledgeBase) -> None:
    pipe = RDMPipeline.from_pretrained(random_rdm)
    blind = KnowledgeBase(foreign.store, PlainEncoder())
    blind.pictures = lambda ids, **_: [[None] * len(row) for row in ids]  # type: ignore[method-assign]
    with pytest.raises(BowerbirdError, match="no picture to embed with 'small'"):
        pipe.retrieve(Request(prompts=("red apple",), k=3), blind)


def test_a_model_whose_encoder_is_not_here_says_what_to_do(random_rdm: Path, foreign: KnowledgeBase) -> None:
    pipe = RDMPipeline.from_pretrained(random_rdm)
    pipe.register_to_config(encoder_fingerprint="0" * 16)
    with pytest.raises(MismatchError, match="kb build NEW SOURCE --encoder small"):
        pipe(prompt="red apple", knowledge_base=foreign)


def test_a_likelihood_is_measured_with_neighbors_of_the_models_encoder(
    drawn_folder: Path, foreign: KnowledgeBase, tmp_path: Path
) -> None:
    recipe = recipes.recipe("tiny-rarm", tiny=True)
    pictures = read_pictures(recipe, drawn_folder)
    pipe = build_objective(recipe, pictures, tmp_path).pipeline()  # type: ignore[operator]
    found = likelihood(pipe, foreign, pictures, [0, 5, 9], 2)
    own, _ = KnowledgeBase.build(tmp_path / "kb", drawn_folder)
    assert found.keys() == likelihood(pipe, own, pictures, [0, 5, 9], 2).keys()
