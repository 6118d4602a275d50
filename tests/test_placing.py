"""A reference is brought to where a picture's thing is, on its ground."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bowerbird.core.ground import evened, ground_color
from bowerbird.systems.instruct.placing import Place, find_place, put

BLUE, RED, WHITE = (136, 170, 255), (200, 30, 30), (255, 255, 255)


def drawn(size: int, ground: tuple[int, int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """A red disc with a hole that shows the ground, in `box` of a picture."""
    picture = Image.new("RGB", (size * 4, size * 4), ground)
    pen = ImageDraw.Draw(picture)
    x0, y0, x1, y1 = (4 * edge for edge in box)
    pen.ellipse((x0, y0, x1 - 1, y1 - 1), fill=RED)
    wide, high = (x1 - x0) // 3, (y1 - y0) // 3
    pen.ellipse((x0 + wide, y0 + high, x1 - wide, y1 - high), fill=ground)
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


def photograph(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_where_something_is_drawn() -> None:
    picture = drawn(64, BLUE, (30, 8, 54, 40)).copy()
    assert find_place(picture) == Place((30, 8, 54, 40), BLUE)
    picture[60, 3] = 0  # a speck
    assert find_place(picture).box == (30, 8, 54, 40)
    assert Place.of(find_place(picture).numbers()) == find_place(picture)
    blank = np.full((64, 64, 3), 255, np.uint8)
    assert find_place(blank) == Place((0, 0, 64, 64), WHITE)
    assert find_place(photograph(64)) == Place((0, 0, 64, 64), None)
    assert Place.of(find_place(photograph(64)).numbers()).ground is None
    assert ground_color(photograph(64)) is None
    assert find_place(np.pad(photograph(62), ((1, 1), (1, 1), (0, 0)))).ground is None  # a frame is no ground
    wide = np.full((64, 64, 3), BLUE, np.uint8)
    wide[16:48] = photograph(64)[:32]
    assert find_place(wide) == Place((0, 16, 64, 48), BLUE)
    assert find_place(wide, (0, 16, 64, 48)) == Place((0, 16, 64, 48), None)  # its margins are no ground either
    wide[16:48] = drawn(64, WHITE, (10, 20, 30, 40))[16:48]
    assert find_place(wide, (0, 16, 64, 48)) == Place((10, 20, 30, 40), WHITE)
    bottom = blank.copy()
    bottom[40:] = RED  # a drawing that stands on the lower edge
    assert find_place(bottom) == Place((0, 40, 64, 64), WHITE)


def test_light_that_falls_unevenly_moves_nothing() -> None:
    y, x = np.mgrid[:64, :64] / 63
    picture = drawn(64, (230, 225, 215), (30, 8, 54, 40)).astype(float)
    for light in (1 - 0.3 * x * y, 0.8 + 0.2 * x, 1 - 0.25 * (1 - x) * y):
        found = find_place((picture * light[..., None]).astype(np.uint8))
        assert found.box == (30, 8, 54, 40)
        assert found.ground is not None
    reference = np.kron(drawn(64, WHITE, (2, 2, 62, 62)) * (1 - 0.3 * x * y)[..., None], np.ones((2, 2, 1)))
    made = put(reference.astype(np.uint8), Place((10, 20, 30, 40), BLUE), 64)
    assert (made[~inside((10, 20, 30, 40))] == BLUE).all()
    assert find_place(made).box == (10, 20, 30, 40)
    evenly = drawn(64, BLUE, (30, 8, 54, 40))
    assert evened(evenly) is evenly
    assert (evened(photograph(64)) == photograph(64)).all()
    for thin in (np.full((1, 64, 3), 240, np.uint8), np.full((64, 1, 3), 240, np.uint8)):
        assert (evened(thin) == 240).all()


@pytest.mark.parametrize("pale", [(220, 220, 220), (255, 250, 200), (230, 240, 255)])
def test_a_pale_thing_at_the_border_is_no_uneven_light(pale: tuple[int, int, int]) -> None:
    for rows, columns in ((slice(48, 64), slice(0, 64)), (slice(0, 64), slice(52, 64)), (slice(0, 20), slice(0, 20))):
        picture = np.full((64, 64, 3), 255, np.uint8)
        picture[rows, columns] = pale
        assert evened(picture) is picture


@pytest.mark.parametrize("box", [(30, 8, 54, 32), (2, 40, 22, 60), (8, 8, 56, 56)])
def test_a_reference_comes_to_the_place_on_its_ground(box: tuple[int, int, int, int]) -> None:
    reference = drawn(128, WHITE, (4, 4, 124, 124))
    made = put(reference, Place(box, BLUE), 64)
    assert find_place(made).ground == BLUE
    assert np.abs(np.array(find_place(made).box) - box).max() <= 1
    expected = drawn(64, BLUE, box).astype(int)
    ring = np.abs(expected - BLUE).max(-1) > 24
    assert np.abs(made - expected)[ring].mean() < 12
    assert np.abs(made.astype(int) - BLUE)[~inside(box)].max() <= 1
    middle = made[(box[1] + box[3]) // 2, (box[0] + box[2]) // 2]
    assert np.abs(middle.astype(int) - 255).max() <= 1  # white that the drawing encloses is its own


def inside(box: tuple[int, int, int, int]) -> np.ndarray:
    """Where in 64 px the box is, and a pixel about it."""
    there = np.zeros((64, 64), bool)
    there[box[1] - 1 : box[3] + 1, box[0] - 1 : box[2] + 1] = True
    return there


def test_a_reference_keeps_its_proportions_and_stays_in_the_picture() -> None:
    tall = drawn(128, WHITE, (50, 4, 80, 124))
    x0, y0, x1, y1 = find_place(put(tall, Place((34, 50, 64, 64), WHITE), 64)).box
    assert (y1 - y0) == pytest.approx(30, abs=1)
    assert (x1 - x0) == pytest.approx(30 / 4, abs=1)
    assert x1 <= 64
    assert y1 == 64  # moved up as far as it has to


def test_what_has_no_plain_ground_is_taken_whole() -> None:
    reference = drawn(128, WHITE, (4, 4, 124, 124))
    as_it_is = put(reference, find_place(photograph(64)), 64).astype(int)
    assert np.abs(as_it_is - drawn(64, WHITE, (2, 2, 62, 62))).mean() < 3
    made = put(photograph(128), Place((10, 20, 30, 40), BLUE), 64)
    assert (made[~inside((10, 20, 30, 40))] == BLUE).all()
    assert np.abs(made[20:40, 10:30].astype(int) - BLUE).max(-1).min() > 0


@pytest.mark.parametrize("reference", [(255, 255, 255), RED], ids=["like the ground", "of one color"])
def test_a_reference_that_is_all_ground_is_taken_whole(reference: tuple[int, int, int]) -> None:
    made = put(np.full((128, 128, 3), reference, np.uint8), Place((10, 20, 30, 40), BLUE), 64)
    assert (made[20:40, 10:30] == reference).all()
    speck = np.full((128, 128, 3), 250, np.uint8)
    speck[60:66, 60:66] = 0  # an eye, of what is as pale as its ground
    made = put(speck, Place((10, 20, 30, 40), BLUE), 64)
    assert (made[20, 10:30] == 250).all()
    assert (made[20:40, 10:30] < 200).all(-1).sum() <= 4
