"""The claim of the design space, run small; and its four forms: of one size, each reads what it says and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_claims import marked, short

from bowerbird import encoders
from bowerbird.core.types import Encoder
from bowerbird.encoders.small import SmallEncoder
from bowerbird.evaluation import claims
from bowerbird.evaluation.claims import benchmark as benchmark_module
from bowerbird.evaluation.claims import design_space, neighbor_forms
from bowerbird.evaluation.claims.experiment import Experiment, Settings
from bowerbird.models.patch_encoder import PatchEncoderConfig, PatchEncoderModel
from tests.conftest import random_autoencoder

SHAPE = (4, 16, 16)
SIZES = PatchEncoderConfig(channels=(8, 8, 8, 8), meaning_dim=16, token_dim=4, style_dim=8, buckets=64, text_dim=8)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """A random encoder of patches, in place of every other; and a small random autoencoder."""
    monkeypatch.setattr(neighbor_forms, "WIDTHS", (16, 16, 32))
    monkeypatch.setattr(neighbor_forms, "HEAD", 16)
    torch.manual_seed(0)
    autoencoder = random_autoencoder()
    monkeypatch.setattr(neighbor_forms, "load_autoencoder", lambda _: autoencoder)
    encoder = SmallEncoder(PatchEncoderModel(SIZES), "patched", "patched")
    monkeypatch.setattr(encoders, "load", lambda name, **_: encoder)
    return encoder


def network(form: str, encoder: Encoder) -> neighbor_forms.FormNetwork:
    torch.manual_seed(0)
    made = neighbor_forms.FormNetwork(form, encoder, SHAPE, neighbor_forms.time_width(form, encoder, SHAPE)).eval()
    torch.nn.init.normal_(made.unet.conv_out.weight, std=0.1)  # it is zero at first
    return made


def test_forms_use_as_many_parameters(patched: Encoder) -> None:
    used = [network(form, patched).used() for form in neighbor_forms.FORMS]
    assert max(used) / min(used) < 1.01


@pytest.mark.parametrize("form", neighbor_forms.FORMS)
def test_a_form_reads_its_neighbors_and_not_those_that_are_absent(form: str, patched: Encoder) -> None:
    pictures = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    read = neighbor_forms.read_as(form, pictures, patched)
    net, noisy, time = network(form, patched), torch.randn(1, *SHAPE), torch.tensor([500])

    @torch.no_grad()
    def predict(rows: list[int], weights: list[float]) -> torch.Tensor:
        given = net.condition(read[rows][None], torch.tensor([weights]))
        return net(noisy, time, given)

    alone = predict([0, 1], [1, 0])
    assert torch.allclose(alone, predict([0, 0], [1, 0]), atol=1e-5)
    assert not torch.allclose(alone, predict([1, 0], [1, 0]), atol=1e-5)
    with torch.no_grad():
        none = net(noisy, time, neighbor_forms.without(net.condition(read[[0, 1]][None], torch.ones(1, 2))))
    assert torch.allclose(none, predict([0, 1], [0, 0]), atol=1e-5)
    assert not torch.allclose(none, alone, atol=1e-5)


def test_one_embedding_says_nothing_of_the_patches(patched: Encoder) -> None:
    assert patched.layout is not None  # type: ignore[attr-defined]
    first = patched.layout.semantic  # type: ignore[attr-defined]
    vector = torch.randn(1, 1, patched.dim)
    other = vector.clone()
    other[..., first : first + 3] += 1
    for form, same in (("embedding", True), ("patches", False)):
        net = network(form, patched)
        keys = [net.condition(each, torch.ones(1, 1)).keys for each in (vector, other)]
        assert torch.equal(*keys) is same


def test_the_claim_measures_every_form(patched: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_module, "judge_recipe", short)
    monkeypatch.setattr(benchmark_module, "style_judge_recipe", short)
    monkeypatch.setattr(benchmark_module, "STYLE_JUDGE_STEPS", 2)
    monkeypatch.setattr(design_space, "BATCH", 4)
    drawings = marked("rare")
    experiment = Experiment(Settings(seeds=(0, 1), sampling_steps=1, train_steps=1), [], drawings)
    (found,) = claims.run(claims.load(["design-space"]), experiment, tmp_path)
    assert all(np.isfinite(effect["mean"]) for effect in found["effects"])
    assert set(found["values"]) == set(design_space.LABELS.values())
    assert all((tmp_path / found[each]).stat().st_size > 5000 for each in ("plot", "sheet"))
    again = claims.run(claims.load(["design-space"]), experiment, tmp_path)  # from the cache: the same figures
    assert again[0]["effects"] == found["effects"]
    plain = replace(experiment, settings=replace(experiment.settings, seeds=(0, 1)))
    monkeypatch.setattr(patched, "layout", None)
    (left,) = claims.run(claims.load(["design-space"]), plain, tmp_path / "plain")
    assert set(left["values"]) == set(design_space.LABELS.values()) - {design_space.LABELS["patches"]}
