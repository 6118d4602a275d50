"""The balance of text and neighbors, exactly: on the closed-form denoiser of a set whose items have two labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bowerbird.core.errors import BowerbirdError
from bowerbird.diffusion import guidance
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.diffusion.guidance import Guidance

DATA = torch.tensor([[-1.0, 0.5], [1.0, 1.0], [0.3, -1.2], [-0.4, 1.4], [0.9, -0.6]])
TEXT = torch.tensor([0, 0, 1, 1, 0])
NEIGHBOR = torch.tensor([0, 1, 0, 1, 1])
ALPHA = 0.3


@dataclass
class IdealDenoiser:
    """The best noise prediction for `DATA` restricted to the items that fit the conditions present; counts rows and
    calls."""

    calls: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor, t: Tensor, condition: Conditioning) -> Tensor:
        self.calls.append(len(x))
        assert isinstance(condition.neighbors, Tokens)
        assert condition.text is not None
        fits = torch.ones(len(x), len(DATA))
        for tokens, labels in ((condition.text, TEXT), (condition.neighbors, NEIGHBOR)):
            fits = fits * torch.where(tokens.weights > 0, (labels[None] == tokens.keys[:, 0]).float(), torch.ones(1))
        squared = ((x[:, None] - ALPHA**0.5 * DATA[None]) ** 2).sum(-1)
        clean = torch.softmax((-squared / (2 * (1 - ALPHA))).masked_fill(fits == 0, -torch.inf), dim=1) @ DATA
        return (x - ALPHA**0.5 * clean) / (1 - ALPHA) ** 0.5


def asked(text: list[int], neighbors: list[int]) -> Conditioning:
    words, near = (
        Tokens(torch.tensor(v, dtype=torch.float32)[:, None, None], torch.ones(len(v), 1)) for v in (text, neighbors)
    )
    return Conditioning(near, near.absent(), words, words.absent())


CONDITION = asked([0, 1, 0], [1, 0, 0])
X = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
T = torch.tensor(5)


def single(*dropped: str) -> Tensor:
    return IdealDenoiser()(X, T, CONDITION.without(*dropped))


def test_the_four_predictions_differ() -> None:
    found = [single(), single("text"), single("neighbors"), single("text", "neighbors")]
    assert all((a - b).abs().max() > 0.05 for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize("kind", list(guidance.FORMS))
def test_weights_of_one_are_the_conditional_prediction(kind: str) -> None:
    predict = IdealDenoiser()
    guided = guidance.build_guidance(predict, CONDITION, Guidance(kind, 1.0, 1.0, 0.5), [0, 1, 2], [True] * 3, 8)
    torch.testing.assert_close(guided(X, T, 3), single())
    assert predict.calls == [3]  # and cost one pass


@given(w_p=st.floats(0, 8), w_n=st.floats(0, 8), eta=st.floats(0, 1))
def test_weighted_is_the_mixture_of_the_single_forms(w_p: float, w_n: float, eta: float) -> None:
    text = w_p * single() - (w_p - 1) * single("text")
    near = w_n * single() - (w_n - 1) * single("neighbors")
    predict = IdealDenoiser()
    torch.testing.assert_close(guidance.text_enhanced(predict, CONDITION, w_p)(X, T, 0), text, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(guidance.neighbor_enhanced(predict, CONDITION, w_n)(X, T, 0), near, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        guidance.weighted(predict, CONDITION, w_p, w_n, eta)(X, T, 0),
        eta * text + (1 - eta) * near,
        atol=1e-4,
        rtol=1e-4,
    )
    joined = w_p * single() - (w_p - 1) * single("text", "neighbors")
    torch.testing.assert_close(guidance.joint(predict, CONDITION, w_p)(X, T, 0), joined, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["interleaved", "weighted"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_at_its_ends_eta_gives_the_single_forms_in_two_passes(kind: str, eta: float) -> None:
    predict = IdealDenoiser()
    expected = (
        guidance.text_enhanced(predict, CONDITION, 3.0) if eta else guidance.neighbor_enhanced(predict, CONDITION, 2.0)
    )
    guided = guidance.build_guidance(predict, CONDITION, Guidance(kind, 3.0, 2.0, eta), [7, 8, 9], [True] * 3, 6)
    for step in range(6):
        predict.calls.clear()
        torch.testing.assert_close(guided(X, T, step), expected(X, T, step))
        assert predict.calls == [6, 6]


def test_interleaved_takes_one_form_a_step_and_picture() -> None:
    predict, settings, picture_seeds = IdealDenoiser(), Guidance("interleaved", 3.0, 2.0, 0.4), [11, 12, 13]
    drawn = guidance.sample_text_steps(picture_seeds, [True] * 3, 200, 0.4, stage=1)
    guided = guidance.build_guidance(predict, CONDITION, settings, picture_seeds, [True] * 3, 200)
    text, near = (
        guidance.text_enhanced(predict, CONDITION, 3.0)(X, T, 0),
        guidance.neighbor_enhanced(predict, CONDITION, 2.0)(X, T, 0),
    )
    for step in range(12):
        torch.testing.assert_close(guided(X, T, step), torch.where(drawn[:, step, None], text, near))
    assert (drawn.float().mean(1) - 0.4).abs().max() < 0.12
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(
        drawn[1:2], guidance.sample_text_steps([12], [True], 200, 0.4, stage=1)
    )  # a picture's draws are its own
    assert not torch.equal(drawn, guidance.sample_text_steps(picture_seeds, [True] * 3, 200, 0.4, stage=2))


@pytest.mark.parametrize("kind", ["interleaved", "weighted"])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_picture_without_neighbors_is_guided_by_its_text(kind: str, eta: float) -> None:
    rows = torch.tensor([False, True, False])
    nobody = CONDITION.without("neighbors", rows=rows)
    predict, present = IdealDenoiser(), (~rows).tolist()
    guided = guidance.build_guidance(predict, nobody, Guidance(kind, 3.0, 2.0, eta), [1, 2, 3], present, 5)
    alone = guidance.text_enhanced(predict, nobody, 3.0)(X, T, 0)
    as_ever = guidance.build_guidance(predict, CONDITION, Guidance(kind, 3.0, 2.0, eta), [1, 2, 3], [True] * 3, 5)
    for step in range(5):
        torch.testing.assert_close(guided(X, T, step)[1], alone[1])
        torch.testing.assert_close(guided(X, T, step)[[0, 2]], as_ever(X, T, step)[[0, 2]])


@pytest.mark.parametrize("kind", ["interleaved", "weighted", "joint"])
def test_scales_are_no_whole_numbers_where_the_sample_is_of_codes(kind: str) -> None:
    denoise, codes = IdealDenoiser(), torch.tensor([[1, 0], [0, 2], [1, 1]])

    def predict(x: Tensor, t: Tensor, condition: Conditioning) -> Tensor:
        return denoise(x.float(), t, condition)

    built = [
        guidance.build_guidance(each, CONDITION, Guidance(kind, 1.5, 1.75, 0.4), [1, 2, 3], [True, True, False], 6)
        for each in (predict, denoise)
    ]
    for step in range(6):
        torch.testing.assert_close(built[0](codes, T, step), built[1](codes.float(), T, step))


def test_weighted_in_the_middle_costs_three_rows_a_picture() -> None:
    predict = IdealDenoiser()
    guidance.weighted(predict, CONDITION, 3.0, 2.0, 0.5)(X, T, 0)
    assert predict.calls == [9]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(BowerbirdError, match=r"joint"):
        Guidance("sideways")
    with pytest.raises(BowerbirdError, match=r"0 to 1"):
        Guidance(text_ratio=1.5)
    with pytest.raises(BowerbirdError, match="finite"):
        Guidance(text_scale=float("nan"))
    with pytest.raises(ValueError, match="style"):
        CONDITION.without("style")
