"""`Neighbors` put together: which picture belongs to which row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.systems.queries import make_prompt_request, with_prompts


def of_color(prompt: str, *colors: str) -> Neighbors:
    pictures = [Image.new("RGB", (4, 4), color) for color in colors]
    return Neighbors.from_images([prompt], pictures, [""] * len(pictures))


def colors(hits: Neighbors) -> list[list[tuple[int, ...] | None]]:
    return [[None if picture is None else picture.getpixel((0, 0)) for picture in row] for row in hits.images()]


RED, BLUE, LIME, WHITE = (255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 255)


def test_stacked_rows_keep_their_own_pictures() -> None:
    stacked = Neighbors.stack(
        [of_color("a", "red", "blue"), of_color("b", "lime", "white"), of_color("c", "red", "lime")]
    )
    assert colors(stacked) == [[RED, BLUE], [LIME, WHITE], [RED, LIME]]
    assert colors(stacked.rows([2, 1]).select([1])) == [[LIME], [WHITE]]
    assert colors(Neighbors.stack([stacked, of_color("d", "blue", "white")]))[3] == [BLUE, WHITE]
    assert colors(stacked.reading_once()) == colors(stacked)


def test_stacked_rows_of_a_collection_stand_beside_own_pictures_and_none() -> None:
    found = replace(
        of_color("a", "red", "blue"),
        ids=np.asarray([[7, -1]]),
        load_images=lambda ids: [[Image.new("RGB", (4, 4), "lime") if i == 7 else None for i in row] for row in ids],
    )
    none = replace(of_color("b", "red", "blue"), ids=np.full((1, 2), -1), load_images=None)
    stacked = Neighbors.stack([none, found, of_color("c", "red", "white")])
    assert colors(stacked) == [[None, None], [LIME, None], [RED, WHITE]]
    assert stacked.ids[:2].tolist() == [[-1, -1], [7, -1]]
    same = Neighbors.stack([found, found])
    assert same.load_images == found.load_images


def test_prompts_beside_given_neighbors() -> None:
    given = Neighbors.stack([of_color("a", "red"), of_color("b", "blue")])
    assert with_prompts(given, None).queries == ("a", "b")
    assert with_prompts(given, "x").queries == ("x", "x")
    assert with_prompts(given, ["x", "y"]).queries == ("x", "y")
    with pytest.raises(BowerbirdError, match="3 prompts for 2 sets of neighbors"):
        with_prompts(given, ["x", "y", "z"])
    for wrong in ([], ()):
        with pytest.raises(BowerbirdError, match="no prompt in the list"):
            with_prompts(given, wrong)
        with pytest.raises(BowerbirdError, match="no prompt in the list"):
            make_prompt_request(wrong)
    with pytest.raises(BowerbirdError, match="give a prompt"):
        make_prompt_request(None)
