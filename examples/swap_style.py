"""One prompt, one seed, two databases: python examples/swap_style.py"""

from pathlib import Path

import bowerbird as bb
from bowerbird.core.contact_sheet import grid

pipe = bb.RDMPipeline.from_pretrained("tiny-rdm")
rows = []
for style in ("flat", "ink"):
    path = Path(f"kb-{style}")
    kb = (
        bb.KnowledgeBase.open(path)
        if path.exists()
        else bb.KnowledgeBase.build(path, "drawn", where=f"style = '{style}'")[0]
    )
    rows.append(
        [
            pipe(prompt=p, knowledge_base=kb, k=2, seed=3).images[0]
            for p in ("red apple", "orange cat", "blue fish", "pink flower")
        ]
    )
grid(rows, size=128).save("swap_style.png")
print("swap_style.png: the same prompts and seeds from a flat and from an inked collection")
