"""Random variations of drawings: what each number does, and that a picture's change is its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.data import variation
from bowerbird.data.pictures import load_pictures


@pytest.fixture
def disc() -> tuple[Tensor, Tensor]:
    """Four red discs on nothing, 32 px: what is seen on white, and alpha."""
    at = torch.arange(32) - 15.5
    alpha = ((at[:, None] ** 2 + at[None] ** 2) < 100).byte() * 255
    pixels = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    pixels[1:, alpha > 0] = 0
    return pixels.repeat(4, 1, 1, 1), alpha.repeat(4, 1, 1)


def test_no_change_is_the_picture_on_white(disc: tuple[Tensor, Tensor]) -> None:
    pixels, alpha = disc
    assert torch.allclose(variation.apply(variation.identity(4), pixels, alpha, 32), pixels / 127.5 - 1, atol=1e-6)


def test_a_ground_shows_where_the_picture_does_not_cover(disc: tuple[Tensor, Tensor]) -> None:
    pixels, alpha = disc
    change = variation.identity(4)
    change.ground[:, :2] = torch.tensor([0.0, 0.0, 1.0])
    blue = variation.apply(change, pixels, alpha, 32)
    assert blue[0, :, 0, 0].tolist() == [-1, -1, 1]
    assert blue[0, :, 16, 16].tolist() == [1, -1, -1]
    assert torch.equal(
        variation.apply(change, pixels, torch.full_like(alpha, 255), 32),
        variation.apply(variation.identity(4), pixels, alpha, 32),
    )  # a photograph covers it all


def test_colors_change_the_thing_and_not_the_ground(disc: tuple[Tensor, Tensor]) -> None:
    change = variation.identity(4)
    change.color[:, :, :3] = torch.eye(3)[[1, 0, 2]]
    green = variation.apply(change, *disc, 32)
    assert green[0, :, 16, 16].tolist() == [-1, 1, -1]
    assert (green[0, :, 0, 0] == 1).all()


def test_an_outline_surrounds_the_thing_by_its_width(disc: tuple[Tensor, Tensor]) -> None:
    change = variation.identity(4)
    change.outline[:] = torch.tensor([0.0, 0.0, 0.0, 3 / 32])
    rimmed, plain = variation.apply(change, *disc, 32), variation.apply(variation.identity(4), *disc, 32)
    black = (rimmed[0] < -0.9).all(0)
    assert torch.equal(rimmed[0][:, disc[1][0] > 0], plain[0][:, disc[1][0] > 0])
    assert black[16].sum() == 6  # three on either side


def test_several_things_are_in_the_picture(disc: tuple[Tensor, Tensor]) -> None:
    change = variation.draw(64, torch.Generator().manual_seed(0), colored=0, moved=0, grounded=0, drawn=0, several=1.0)
    pixels, alpha = (part[:1].repeat(64, *[1] * (part.ndim - 1)) for part in disc)
    x = variation.apply(change, pixels, alpha, 32)
    third = change.things == 3
    red = (x[:, 1] < 0).float().mean((1, 2))
    assert third.any()
    assert red[third].mean() > 1.15 * red[~third].mean()


def test_rows_change_for_themselves_and_together_with_what_shares_their_numbers() -> None:
    drawn = load_pictures("drawn", size=64, transparency=True).select(list(range(12)))
    change = replace(
        variation.draw(12, torch.Generator().manual_seed(3), several=0), things=torch.ones(12, dtype=torch.long)
    )
    x = variation.apply(change, drawn.pixels, drawn.opacity(), 32)
    assert x.shape == (12, 3, 32, 32)
    assert x.min() >= -1
    assert x.max() <= 1
    rows = torch.tensor([5, 5, 2])
    again = variation.apply(change.select(rows), drawn.pixels[rows], drawn.opacity()[rows], 32)
    assert torch.allclose(again, x[rows], atol=1e-5)
    assert (x - F.avg_pool2d(drawn.pixels / 127.5 - 1, 2)).abs().flatten(1).mean(1).max() > 0.1
