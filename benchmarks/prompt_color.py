"""Is a color that the prompt names kept? "red apple" from a knowledge base of red, yellow and green apples.

Ten emoji (red and green apples of five sets) and six that code draws, all called "apple", or each by its color. A
picture's color is that of red, yellow and green whose hue is nearest to the mean hue of its pixels without the ground,
each weighted by its chroma.

    python benchmarks/prompt_color.py tiny-rdm tiny-reimagen --data ../shared/data/emoji.parquet
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from bowerbird.core import images
from bowerbird.data.drawn import read_drawn
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.systems import generation, loading
from bowerbird.systems.queries import Request

HUES = {"red": 0.0, "yellow": 48.0, "green": 100.0}
EMOJI = {"1f34e": "red", "1f34f": "green"}


def apples(data: Path) -> list[tuple[str, Image.Image]]:
    """Color and picture of each."""
    import pyarrow.parquet as pq

    found = [
        (EMOJI[row["hexcode"]], images.decode(row["image"]["bytes"], row["id"]))
        for row in pq.read_table(data, filters=[("hexcode", "in", list(EMOJI))]).to_pylist()
    ]
    for item in read_drawn():
        if item.caption.endswith(" apple"):
            found.append((item.caption.split()[-2], images.decode(item.data, item.name)))
    return found


def color(picture: Image.Image) -> str:
    """Which of `HUES` is nearest to the mean hue of what is not ground (white, or nearly)."""
    rgb = np.asarray(picture.convert("RGB"), float).reshape(-1, 3)
    own = rgb[(255 - rgb).max(1) > 40]
    # the mean direction around the gray axis is the mean hue, weighted by chroma
    angle = np.arctan2(3**0.5 * (own[:, 1] - own[:, 2]).mean(), (2 * own[:, 0] - own[:, 1] - own[:, 2]).mean())
    degrees = np.degrees(angle)
    return min(HUES, key=lambda name: abs((degrees - HUES[name] + 180) % 360 - 180))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prompt", default="red apple")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-n", type=int, default=30)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--captions", choices=("color", "plain"), nargs="+", default=["color", "plain"])
    parser.add_argument("--rerank", choices=("off", "on"), nargs="+", default=["off", "on"])
    args = parser.parse_args()
    asked = args.prompt.split()[0]
    for captions in args.captions:
        with tempfile.TemporaryDirectory() as folder:
            lines = []
            for i, (name, picture) in enumerate(apples(args.data)):
                picture.save(Path(folder) / f"{i:02d}.png")
                lines.append({"file_name": f"{i:02d}.png", "text": f"{name} apple" if captions == "color" else "apple"})
            (Path(folder) / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
            kb = KnowledgeBase.build(Path(folder) / "kb", folder)[0]
            for model in args.models:
                pipe = loading.open_pipeline(model)
                for rerank in (mode == "on" for mode in args.rerank):
                    hits = pipe.retrieve(Request(prompts=(args.prompt,), rerank=rerank), kb, args.n)
                    near = [color(picture) for picture in hits.images()[0] if picture is not None]
                    shares = []
                    for seed in range(args.seeds):
                        settings = generation.default_settings(pipe)
                        settings = generation.Settings(
                            steps=args.steps or settings.steps,
                            guidance_scale=settings.guidance_scale,
                            seed=1000 * seed,
                        )
                        made = generation.generate(pipe, hits, settings, batch=args.n)
                        shares.append(float(np.mean([color(picture) == asked for picture in made])))
                    print(
                        f"{model}, captions {captions}, {'with' if rerank else 'without'} re-ranking: {asked}"
                        f" {np.mean(shares):.1%} ({', '.join(f'{share:.0%}' for share in shares)});"
                        f" neighbors {', '.join(near)}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
