"""What a text-to-image model knows by itself, before anything is looked up for it: things it was shown, things it was
not, and whether what a caption says of two things is where it says it.

    python benchmarks/grounded.py tiny-sd --data ../shared/data/emoji.parquet --judge runs/judge/model

Without --judge only the colors of shapes in their places are measured, which needs no other network.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from bowerbird.data.scenes.grammar import Scene

BATCH = 32
PLACED = ("left", "above")
"""Relations that say where each of two things is."""


def shape_scenes(count: int, seed: int) -> list[Scene]:
    """`count` scenes of two plain shapes whose captions say where each is."""
    from bowerbird.core import seeds
    from bowerbird.data.scenes.grammar import draw_scene
    from bowerbird.data.scenes.vocabulary import Vocabulary

    rng, none = seeds.numpy_generator(seed, "shape scenes"), Vocabulary((), (), (), (), ())
    found: list[Scene] = []
    while len(found) < count:
        scene = draw_scene(none, rng)
        if scene.relation in PLACED:
            found.append(scene)
    return found


def pictures_of(pipe: Any, prompts: Sequence[str], *, scale: float, steps: int, seed: int) -> list[Image.Image]:
    """A picture for each prompt, from its text alone."""
    from bowerbird.core.types import Neighbors
    from bowerbird.systems.generation import Settings, generate

    settings = Settings(steps=steps, guidance_scale=scale, seed=seed)
    return generate(pipe, Neighbors.empty(list(prompts)), settings, batch=BATCH)


def middle_colors(scene: Scene, image: Image.Image) -> list[str]:
    """The color's name in the middle of each thing's box, by the median of its pixels."""
    import numpy as np

    from bowerbird.data.scenes.render import pixel_box
    from bowerbird.data.scenes.words import nearest_color

    pixels, found = np.asarray(image), []
    for thing in scene.things:
        x0, y0, x1, y1 = pixel_box(thing.box, image.width)
        third = (x1 - x0) // 3, (y1 - y0) // 3
        middle = pixels[y0 + third[1] : y1 - third[1], x0 + third[0] : x1 - third[0]].reshape(-1, 3)
        red, green, blue = np.median(middle, 0).astype(int).tolist()
        found.append(nearest_color((red, green, blue)))
    return found


def colors_in_place(pipe: Any, *, count: int = 64, scale: float = 3.0, steps: int = 20, seed: int = 0) -> str:
    """Shapes whose color is right where the caption puts them, pictures in which both are, and those in which the two
    are exchanged."""
    from bowerbird.data.scenes.grammar import caption

    scenes = shape_scenes(count, seed)
    images = pictures_of(pipe, [caption(scene) for scene in scenes], scale=scale, steps=steps, seed=seed)
    one = both = swapped = 0
    for scene, image in zip(scenes, images, strict=True):
        wanted, seen = [thing.color for thing in scene.things], middle_colors(scene, image)
        right = sum(a == b for a, b in zip(wanted, seen, strict=True))
        one, both = one + right, both + (right == 2)
        swapped += wanted[0] != wanted[1] and wanted == seen[::-1]
    n = len(scenes)
    return f"colors in place {one / (2 * n):.1%}, both {both / n:.1%}, exchanged {swapped / n:.1%}"


def named(pipe: Any, judge: Any, things: dict[str, str], *, scale: float, steps: int, seed: int) -> np.ndarray:
    """Whether the judge sees each of `things`, codes by name, in a picture of its name alone: booleans."""
    import numpy as np

    from bowerbird.data.scenes.words import with_article

    images = pictures_of(pipe, [with_article(name) for name in things], scale=scale, steps=steps, seed=seed)
    seen = judge(judge.prepare(images))[1].argmax(1).tolist()
    return np.array([judge.entities[at] == code for at, code in zip(seen, things.values(), strict=True)])


def codes_by_name(data: str, *, rare: bool) -> dict[str, str]:
    """The code of every name in the data, of the rare things or of the others."""
    import pyarrow.parquet as pq

    rows = pq.read_table(data, columns=["name", "hexcode", "split"]).to_pylist()
    return {row["name"].lower(): row["hexcode"] for row in rows if (row["split"] == "rare") == rare}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", help="a table of drawings with name, hexcode and split")
    parser.add_argument("--judge", type=Path, help="the directory of a trained judge")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 3.0, 6.0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    import numpy as np

    from bowerbird.core import files
    from bowerbird.data.scenes.words import KNOWN
    from bowerbird.evaluation.judge import Judge
    from bowerbird.models.weights import bundled
    from bowerbird.systems.loading import load_pipeline

    pipe = load_pipeline(arguments.model)
    shown = set(
        files.read_json((bundled(arguments.model) or Path(arguments.model)) / KNOWN, "list of what a model knows")[
            "names"
        ]
    )
    judge = Judge(arguments.judge) if arguments.judge and arguments.data else None
    for scale in arguments.scales:
        print(f"scale {scale:g}: {colors_in_place(pipe, scale=scale, steps=arguments.steps)}", flush=True)
        if judge is None:
            continue
        every = codes_by_name(arguments.data, rare=False)
        groups = {
            "known": {name: code for name, code in every.items() if name in shown},
            "not shown": {name: code for name, code in sorted(every.items())[::5] if name not in shown},
            "rare": codes_by_name(arguments.data, rare=True),
        }
        for group, things in groups.items():
            how = {"scale": scale, "steps": arguments.steps}
            hit = np.concatenate(
                [named(pipe, judge, things, **how, seed=1000 * seed) for seed in range(arguments.seeds)]
            )
            print(f"scale {scale:g}: {group}: {hit.mean():.1%} of {len(hit)} named by the judge", flush=True)


if __name__ == "__main__":
    main()
