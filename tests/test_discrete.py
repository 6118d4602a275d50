"""Discrete diffusion against enumeration, and against diffusers' scheduler where the two chains agree."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.diffusion import discrete, guidance
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.diffusion.discrete import MaskAndReplace
from bowerbird.models import vq

SMALL = MaskAndReplace(symbols=3, times=5, replaced=0.3)


def at(*times: int) -> torch.Tensor:
    return torch.tensor(times)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.floats(0, 1), st.data())
def test_rows_of_every_transition_sum_to_one(symbols: int, times: int, replaced: float, data: st.DataObject) -> None:
    schedule = MaskAndReplace(symbols, times, replaced)
    s = data.draw(st.integers(0, times))
    t = data.draw(st.integers(s, times))
    matrix = schedule.matrix(s, t)
    assert matrix.min() >= -1e-12
    torch.testing.assert_close(matrix.sum(1), torch.ones(symbols + 1, dtype=torch.float64))


def test_transitions_compose_and_end_in_masks_alone() -> None:
    for s, m, t in itertools.combinations_with_replacement(range(SMALL.times + 1), 3):
        torch.testing.assert_close(SMALL.matrix(s, m) @ SMALL.matrix(m, t), SMALL.matrix(s, t))
    assert (SMALL.matrix(0, SMALL.times)[:, SMALL.symbols] == 1).all()


@pytest.mark.parametrize("replaced", [0.0, 0.3, 1.0])
def test_posterior_equals_enumeration_for_every_pair_of_times(replaced: float) -> None:
    schedule = MaskAndReplace(3, 5, replaced)
    said = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    for s, t in itertools.combinations(range(schedule.times + 1), 2):
        first, second, whole = schedule.matrix(0, s), schedule.matrix(s, t), schedule.matrix(0, t)
        for x_t in range(4):
            possible = whole[:3, x_t] > 0
            if not possible.any():
                continue
            expected = torch.zeros(4, dtype=torch.float64)
            for x_0 in range(3):
                if possible[x_0]:  # Bayes for one x_0, weighed by what the network says of it
                    expected += said[x_0] * first[x_0] * second[:, x_t] / whole[x_0, x_t]
            expected /= expected.sum()
            found = discrete.posterior(
                schedule, said.log().float()[None, None], torch.tensor([[x_t]]), at(s), at(t)
            ).exp()[0, 0]
            torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_corruption_has_the_frequencies_of_the_matrix() -> None:
    tokens = torch.arange(3).repeat(20_000)[None]
    found = discrete.corrupt(SMALL, tokens, at(3), torch.Generator().manual_seed(0))
    counts = torch.stack([torch.bincount(found[0][tokens[0] == i], minlength=4) for i in range(3)]).double() / 20_000
    torch.testing.assert_close(counts, SMALL.matrix(0, 3)[:3], atol=0.015, rtol=0)
    assert (discrete.corrupt(SMALL, tokens, at(SMALL.times), torch.Generator()) == SMALL.symbols).all()


def test_divergence_is_zero_for_the_truth_and_a_log_likelihood_at_the_last_step() -> None:
    tokens = torch.randint(3, (4, 50), generator=torch.Generator().manual_seed(1))
    t = at(1, 2, 3, 5)
    x_t = discrete.corrupt(SMALL, tokens, t, torch.Generator().manual_seed(2))
    truth = torch.nn.functional.one_hot(tokens, 3).float().clamp(min=1e-30).log()
    assert discrete.divergence(SMALL, truth, tokens, x_t, t).abs().max() < 1e-5
    said = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(3)).log_softmax(-1)
    found = discrete.divergence(SMALL, said, tokens, x_t, t)
    assert found.min() > -1e-5
    masked = x_t[0] == 3
    torch.testing.assert_close(
        found[0, masked], -said[0].gather(1, tokens[0][:, None])[masked, 0], atol=1e-4, rtol=1e-4
    )


def test_the_bound_of_a_network_that_knows_the_prior_is_the_entropy() -> None:
    """The variational bound is tight for the true reverse chain: over every x_0 and x_t, its terms sum to H(prior),
    neither more nor less."""
    prior = torch.tensor([0.6, 0.3, 0.1])
    total = torch.tensor(0.0, dtype=torch.float64)
    for t in range(1, SMALL.times + 1):
        for x_0, x_t in itertools.product(range(3), range(4)):
            chance = prior[x_0] * SMALL.matrix(0, t)[x_0, x_t]
            if chance > 0:
                seen = torch.tensor([[x_t]])
                said = discrete.informed(SMALL, prior.log()[None, None], seen, at(t))
                total += chance * discrete.divergence(SMALL, said, torch.tensor([[x_0]]), seen, at(t))[0, 0]
    assert float(total) == pytest.approx(float(-(prior * prior.log()).sum()), abs=1e-5)


def test_an_oracle_is_sampled_back_whatever_the_number_of_steps() -> None:
    """With a network that knows the truth, sampling from masks alone ends at the truth: 1 step, some, all."""
    truth = torch.randint(3, (2, 30), generator=torch.Generator().manual_seed(4))
    known = torch.nn.functional.one_hot(truth, 3).float().clamp(min=1e-30).log()
    for steps in (1, 2, SMALL.times, 99):
        x = torch.full_like(truth, SMALL.symbols)
        pairs = discrete.times(SMALL, steps)
        assert pairs[0][0] == SMALL.times
        assert pairs[-1][1] == 0
        for t, s in pairs:
            x = discrete.sample(
                discrete.posterior(SMALL, known, x, at(s, s), at(t, t)),
                [torch.Generator().manual_seed(i) for i in (5, 6)],
            )
        assert torch.equal(x, truth)


def test_sampling_follows_the_network_s_distribution() -> None:
    """Ancestral sampling of one place reproduces p(x_0), which the posterior must leave unbiased at every skip."""
    prior = torch.tensor([0.6, 0.3, 0.1])
    for steps in (1, 2, SMALL.times):
        x = torch.full((1, 20_000), SMALL.symbols)
        generator = torch.Generator().manual_seed(0)
        for t, s in discrete.times(SMALL, steps):
            # the ideal network for independent places knows the prior alone
            said = discrete.informed(SMALL, prior.log().expand(1, 20_000, 3), x, at(t))
            x = discrete.sample(discrete.posterior(SMALL, said, x, at(s), at(t)), [generator])
        torch.testing.assert_close(torch.bincount(x[0], minlength=3) / 20_000, prior, atol=0.015, rtol=0)


def test_what_truncation_rules_out_altogether_stays_as_it_is() -> None:
    """Without replacement a seen symbol can only have been itself; a network that rules it out must not turn it into a
    mask at time 0."""
    schedule = MaskAndReplace(3, 5, 0.0)
    said = discrete.truncated(torch.tensor([[[0.9, 0.09, 0.01]]]).log(), 0.5)
    found = discrete.posterior(schedule, said, torch.tensor([[2]]), at(0), at(2)).exp()
    torch.testing.assert_close(found, torch.tensor([[[0.0, 0.0, 1.0, 0.0]]]))


def test_guidance_in_log_space() -> None:
    """Weight 1 is the conditional distribution, 0 the unconditional; another is log p(-) + w (log p(y) - log p(-)),
    renormalized."""
    given, none = torch.randn(1, 7, 3).log_softmax(-1), torch.randn(1, 7, 3).log_softmax(-1)
    condition = Conditioning(
        Tokens(torch.ones(1, 1, 2), torch.ones(1, 1)), Tokens(torch.zeros(1, 1, 2), torch.ones(1, 1))
    )

    def predict(x: torch.Tensor, t: torch.Tensor, asked: Conditioning) -> torch.Tensor:
        keys = asked.neighbors.keys  # type: ignore[union-attr]
        return torch.cat([given if bool(row.any()) else none for row in keys])

    x, t = torch.zeros(1, 7, dtype=torch.long), torch.tensor(3)
    for weight, expected in ((1.0, given), (0.0, none), (3.0, (none + 3 * (given - none)).log_softmax(-1))):
        found = discrete.normalized(guidance.classifier_free(predict, condition, weight)(x, t, 0))
        torch.testing.assert_close(found, expected)


def test_truncation_keeps_the_likeliest_share() -> None:
    said = torch.tensor([[[0.5, 0.3, 0.15, 0.05]]]).log()
    torch.testing.assert_close(discrete.truncated(said, 0.7).exp(), torch.tensor([[[0.625, 0.375, 0.0, 0.0]]]))
    assert discrete.truncated(said, 1.0) is said


def test_a_symbol_is_the_code_nearest_to_a_vector() -> None:
    """Also where codes are far from the origin, in parts, and in half precision."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(50, 3, generator=generator) + 20
    vectors = torch.cat([torch.randn(600, 3, generator=generator) + 20, codes])
    distances = (vectors.double()[:, None] - codes.double()[None]).square().sum(2)
    assert torch.equal(vq.nearest_codes(codes, vectors), distances.argmin(1))
    halved = vq.nearest_codes(codes.half(), codes.half())
    assert torch.equal(halved, torch.arange(50))
