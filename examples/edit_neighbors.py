"""Retrieve, look, change the set by hand, generate: python examples/edit_neighbors.py"""

from pathlib import Path

import bowerbird as bb
from bowerbird.core.contact_sheet import grid

path = Path("drawn-kb")
kb = bb.KnowledgeBase.open(path) if path.exists() else bb.KnowledgeBase.build(path, "drawn")[0]
pipe = bb.RDMPipeline.from_pretrained("tiny-rdm")

hits = kb.search(text="red apple", k=4)
print("retrieved:", ", ".join(hits.captions[0]))
first_only = hits.select([0])
mostly_last = hits.weighted([0.2, 0.2, 0.2, 3.0])

rows = [pipe(neighbors=n, num_images_per_prompt=4, seed=1).images for n in (hits, first_only, mostly_last)]
grid(rows, size=128).save("edit_neighbors.png")
print("edit_neighbors.png: all four neighbors, the first alone, mostly the last")
