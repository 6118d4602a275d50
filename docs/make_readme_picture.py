"""Make docs/retrieval.png, the picture of the README: one model, one seed, a row a prompt, two collections.

python docs/make_readme_picture.py --data drawings.parquet      # bowerbird datasets drawings
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import bowerbird as bb
from bowerbird.core.contact_sheet import labeled_grid

ENTITIES = ("snake", "honeybee", "shield", "avocado", "moose")
"""Things that no bundled model was trained on."""
STYLES = ("noto", "flat")
"""Collections whose licenses (Apache-2.0 and MIT) let their drawings stand in this repository."""


def main() -> None:
    """Build a knowledge base for each style, generate every entity without and with each, and write the sheet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="drawings.parquet")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "retrieval.png")
    parser.add_argument("--entities", nargs="+", default=ENTITIES)
    arguments = parser.parse_args()
    pipe = bb.ReImagenPipeline.from_pretrained("tiny-reimagen")
    pipe.set_progress_bar_config(disable=True)
    with TemporaryDirectory() as folder:
        collections = [
            bb.KnowledgeBase.build(Path(folder) / style, arguments.data, where=f"split = 'rare' AND style = '{style}'")[
                0
            ]
            for style in STYLES
        ]
        rows = []
        for name in arguments.entities:
            pictures = [pipe(prompt=name, knowledge_base=collections[0], k=0, seed=0).images[0]]
            notes = ["without retrieval"]
            for style, collection in zip(STYLES, collections, strict=True):
                out = pipe(prompt=name, knowledge_base=collection, k=1, seed=0)
                pictures += [out.neighbors.images()[0][0], out.images[0]]
                notes += [f"found in {style}", "generated from it"]
            rows.append((f'"{name}"', pictures, notes))
    labeled_grid(rows, divide=1).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
