"""Scenes that code composes: where things are, what the caption says, and what drawings they are made of."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bowerbird.core import seeds
from bowerbird.data.filters import filter_rows
from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.grammar import GRID, SHAPE, Scene, Thing, caption, draw_scene, whole_drawing
from bowerbird.data.scenes.render import pixel_box, render
from bowerbird.data.scenes.vocabulary import Vocabulary, build_vocabulary, choose_names
from bowerbird.data.scenes.words import COLORS, SHAPES, are_distinct, nearest_color, plain_name, with_article
from bowerbird.training.recipes.drawings import HELD_OUT_STYLES, TRAINED_ON
from bowerbird.training.recipes.stable_diffusion import STYLES, tiny_sd

SHARED = Path(__file__).resolve().parents[1].parent / "shared/data"
NONE = Vocabulary((), (), (), (), ())


def drawings(*, style: bool = True) -> Pictures:
    """A green disc off the middle of its square, a tall bar of two colors, and a square without transparency."""
    pixels, alpha = torch.full((3, 3, 64, 64), 255, dtype=torch.uint8), torch.zeros(3, 64, 64, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = (x - 20) ** 2 + (y - 40) ** 2 <= 15**2
    alpha[0], alpha[1, 8:56, 24:36], alpha[2] = disc * 255, 255, 255
    pixels[0][:, disc] = torch.tensor([0, 160, 0], dtype=torch.uint8)[:, None]
    pixels[1, :, 8:32, 24:36] = torch.tensor([200, 0, 0], dtype=torch.uint8)[:, None, None]
    pixels[1, :, 32:56, 24:36] = torch.tensor([0, 0, 200], dtype=torch.uint8)[:, None, None]
    pixels[2] = torch.tensor([10, 10, 10], dtype=torch.uint8)[:, None, None]
    names = ("a pea", "flag pole", "wall")
    return Pictures(pixels, names, tuple({"style": "plain"} if style else {} for _ in names), (1, 2, 3), alpha=alpha)


def scenes(vocabulary: Vocabulary, count: int, seed: int = 0) -> list[Scene]:
    rng = seeds.numpy_generator(seed, "test")
    return [draw_scene(vocabulary, rng) for _ in range(count)]


def test_a_seed_gives_the_same_scenes_and_captions() -> None:
    vocabulary = build_vocabulary(drawings(), 5, style_key="style")
    first, second = scenes(vocabulary, 50), scenes(vocabulary, 50)
    assert first == second != scenes(vocabulary, 50, seed=1)
    said = [[caption(s, seeds.numpy_generator(3, "c", i)) for i, s in enumerate(part)] for part in (first, second)]
    assert said[0] == said[1]


def test_things_lie_apart_in_their_colors_where_the_relation_says() -> None:
    made = scenes(NONE, 300)
    assert {s.relation for s in made} == {"", "left", "above", "and", "row", "between"}
    pictures = render(made, NONE, drawings(), 64)
    for scene, picture in zip(made, pictures, strict=True):
        outside = torch.ones(64, 64, dtype=torch.bool)
        ground = torch.tensor(COLORS[scene.ground]) / 127.5 - 1
        for thing in scene.things:
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= GRID
            assert 0 <= y0 < y1 <= GRID
            assert outside[y0:y1, x0:x1].all()  # no two share a place
            outside[y0:y1, x0:x1] = False
            middle = picture[:, (y0 + y1) // 2, (x0 + x1) // 2]
            assert nearest_color(tuple(((middle + 1) * 127.5).round().int().tolist())) == thing.color
            assert are_distinct(str(thing.color), scene.ground)
        assert (picture[:, outside] - ground[:, None]).abs().max() < 1e-5
        boxes = [thing.box for thing in scene.things]
        for a, b in pairwise(boxes):
            assert a[2] <= b[0] or (scene.relation in ("above", "and") and a[3] <= b[1])
            assert scene.relation != "above" or a[3] <= b[1]


def test_a_caption_says_what_is_there_and_every_wording_means_the_same() -> None:
    def heart(color: str) -> Thing:
        return Thing("heart", SHAPE, color)

    pair = (heart("red"), Thing("square", SHAPE, "blue", "big"))
    assert caption(Scene(pair, "left", "yellow")) == "a red heart left of a big blue square on yellow"
    assert caption(Scene((heart("red"), heart("gray"), heart("orange")), "between")) == (
        "a gray heart between a red heart and an orange heart"
    )
    pattern = re.compile(
        r"(?:a (?:drawing|picture) of )?(.+?) (?:to the )?(left of|right of|above|over|below|under) (.+)"
    )
    turned = {"right of", "below", "under"}
    found = set()
    for number, scene in enumerate(scenes(NONE, 400, seed=2)):
        if scene.relation not in ("left", "above"):
            continue
        text = caption(scene, seeds.numpy_generator(number, "wording"))
        said = pattern.fullmatch(re.sub(r" on (a |an )?[a-z ]+?( background)?$", "", text))
        assert said is not None, text
        expected = [with_article(" ".join(filter(None, (t.size, t.color, t.name)))) for t in scene.things]
        assert [said[1], said[3]] == (expected[::-1] if said[2] in turned else expected)
        found.add(said[2])
    assert len(found) == 6


def test_drawings_are_cut_out_and_only_those_of_one_color_are_given_another() -> None:
    pictures = drawings()
    vocabulary = build_vocabulary(pictures, 5, style_key="style")
    at = {name: row for row, name in enumerate(vocabulary.names)}
    assert vocabulary.boxes[at["pea"]] == (5, 25, 36, 56)
    assert {n: vocabulary.recolorable[i] for n, i in at.items()} == {"pea": True, "flag pole": False, "wall": False}
    box = (10, 20, 42, 52)
    scene = Scene((Thing("pea", at["pea"], "red", box=box),), ground="light blue")
    picture = (render([scene], vocabulary, pictures, 128)[0] + 1) * 127.5
    x0, y0, x1, y1 = pixel_box(box, 128)
    red = (picture - torch.tensor(COLORS["red"])[:, None, None]).abs().amax(0) < 3
    rows, columns = red.any(1).nonzero()[:, 0], red.any(0).nonzero()[:, 0]
    assert abs(int(columns[0]) - x0) <= 4
    assert abs(int(columns[-1]) + 1 - x1) <= 4
    assert abs(int(rows[0]) - y0) <= 4
    assert abs(int(rows[-1]) + 1 - y1) <= 4
    whole = render([whole_drawing(vocabulary, at["flag pole"])], vocabulary, pictures, 64)[0]
    assert ((whole + 1) * 127.5 - pictures.pixels[1]).abs().max() < 1  # as it is
    kept = [{"style": "plain", "group": "people"}, {"style": "plain"}, {"style": "plain"}]
    people = Pictures(pictures.pixels, pictures.captions, tuple(kept), pictures.ids, alpha=pictures.alpha)
    none = build_vocabulary(people, 5, style_key="style", group_key="group", own_colors=("people",))
    assert not any(none.recolorable)


def test_names_are_short_plain_and_of_no_word_that_scenes_use() -> None:
    assert plain_name("A Fox") == "fox"
    assert plain_name("thumbs up") == "thumbs up"
    for name in ("red apple", "keycap: #", "man in tuxedo", "left arrow", "big top", "ok", "light bulb"):
        assert plain_name(name) is None, name
    assert not [shape for shape in SHAPES if plain_name(shape) is None]
    assert choose_names(["owl", "cat", "mole", "cat", None], ["x", "x", "x", "y", "x"], 2) == ["cat", "owl"]
    assert [with_article(name) for name in ("owl", "glasses", "cactus", "red socks")] == [
        "an owl",
        "glasses",
        "a cactus",
        "red socks",
    ]


def test_without_styles_and_transparency_scenes_are_of_whatever_is_there() -> None:
    plain = drawings(style=False)
    opaque = Pictures(plain.pixels, plain.captions, plain.metadata, plain.ids)
    vocabulary = build_vocabulary(opaque, 5, style_key="style")
    made = scenes(vocabulary, 20)
    assert render(made, vocabulary, opaque, 32).shape == (20, 3, 32, 32)
    assert not any("style" in caption(scene, seeds.numpy_generator(0, "s")) for scene in made)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_nothing_rare_and_no_held_out_style_is_ever_shown() -> None:
    import pyarrow.parquet as pq

    columns = ["name", "style", "split", "hexcode"]
    rows = [r for f in ("emoji", "icons") for r in pq.read_table(SHARED / f"{f}.parquet", columns=columns).to_pylist()]
    kept = [rows[i] for i in filter_rows(rows, TRAINED_ON)]
    # of the icons more are rare, whatever shares a word with a rare thing
    rare = {row["name"].lower() for row in rows if row["split"] == "rare" and row["style"] == "openmoji"}
    assert len(rare) == 100
    assert not [row for row in kept if row["split"] == "rare"]
    assert not {row["style"] for row in kept} & {"openmoji", *HELD_OUT_STYLES}
    assert not {"openmoji", *HELD_OUT_STYLES} & set(STYLES)
    shown = [row for row in kept if row["style"] in STYLES]
    count = tiny_sd().system.names  # type: ignore[attr-defined]
    names = choose_names([plain_name(r["name"]) for r in shown], [r["style"] for r in shown], count)
    assert len(names) == 300
    assert not rare & set(names)
