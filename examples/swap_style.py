"""One prompt, one seed, two databases: python examples/swap_style.py"""

import argparse
from pathlib import Path

import bowerbird as bb
from bowerbird.core.contact_sheet import grid

PROMPTS = ("red apple", "orange cat", "blue fish", "pink flower")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    pipe = bb.RDMPipeline.from_pretrained("tiny-rdm")
    rows = []
    for style in ("flat", "ink"):
        path, where = Path(f"kb-{style}"), f"style = '{style}'"
        kb = bb.KnowledgeBase.open(path) if path.exists() else bb.KnowledgeBase.build(path, "drawn", where=where)[0]
        rows.append([pipe(prompt=prompt, knowledge_base=kb, k=2, seed=3).images[0] for prompt in PROMPTS])
    grid(rows, size=128).save("swap_style.png")
    print("swap_style.png: the same prompts and seeds from a flat and from an inked collection")


if __name__ == "__main__":
    main()
