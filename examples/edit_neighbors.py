"""Retrieve, look, change the set by hand, generate: python examples/edit_neighbors.py"""

import argparse
from pathlib import Path

import bowerbird as bb
from bowerbird.core.contact_sheet import grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    path = Path("drawn-kb")
    kb = bb.KnowledgeBase.open(path) if path.exists() else bb.KnowledgeBase.build(path, "drawn")[0]
    pipe = bb.RDMPipeline.from_pretrained("tiny-rdm")

    hits = kb.search(text="red apple", k=4)
    print("retrieved:", ", ".join(hits.captions[0]))
    sets = (hits, hits.select([0]), hits.weighted([0.2, 0.2, 0.2, 3.0]))

    rows = [pipe(neighbors=n, num_inference_steps=steps, num_images_per_prompt=4, seed=1).images for n in sets]
    grid(rows, size=128).save("edit_neighbors.png")
    print("edit_neighbors.png: all four neighbors, the first alone, mostly the last")


if __name__ == "__main__":
    main()
