"""Sample sheets of RA-CM3 in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bowerbird.core import seeds, tensors
from bowerbird.core.contact_sheet import grid
from bowerbird.core.types import ABSENT
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.models.vq import to_pictures
from bowerbird.systems.racm3 import layout as lay
from bowerbird.systems.racm3.decoding import Prompt
from bowerbird.systems.racm3.objective import RACM3Objective
from bowerbird.systems.racm3.sampling import fill

NOTHING = np.zeros(0, np.int64)


def sheet(objective: RACM3Objective, path: Path, *, rows: int = 4) -> None:
    """A row a picture, as its codes are decoded: it, the two documents its caption retrieves, then generated from
    caption and documents, from documents alone, from the caption alone, and with its middle filled in."""
    layout, codes, texts = objective.layout, objective.codes[0].astype(np.int64), objective.plain
    hole = np.zeros((layout.side, layout.side), bool)
    hole[layout.side // 4 : -layout.side // 4, layout.side // 4 : -layout.side // 4] = True
    inside = hole.ravel()

    def generate(prompts: list[Prompt]) -> np.ndarray:
        how = TokenSampling(temperature=0.9, top_p=0.95)
        generators = seeds.picture_generators(0, len(prompts))
        return fill(objective.decoder, layout, prompts, generators, how).cpu().numpy()

    items = np.linspace(0, len(codes) - 1, rows).astype(int).tolist()
    near = [[int(r) for r in objective.tables[2, item] if r != ABSENT][:2] for item in items]
    shown = [
        tuple(
            lay.retrieved(layout, codes[r], texts[r], number)
            for r, number in zip(row, lay.document_numbers(len(row), objective.config.documents), strict=True)
        )
        for row in near
    ]
    both = generate([Prompt(documents, texts[item]) for documents, item in zip(shown, items, strict=True)])
    alone = generate([Prompt(documents, NOTHING) for documents in shown])
    worded = generate([Prompt((), texts[item]) for item in items])
    filled = codes[items]
    filled[:, inside] = generate(
        [Prompt(seen, texts[item], codes[item], inside) for seen, item in zip(shown, items, strict=True)]
    )
    cells: list[list[Any]] = []
    for row, item in enumerate(items):
        kept = [codes[r] for r in (item, *near[row])]
        made = torch.from_numpy(np.stack([*kept, both[row], alone[row], worded[row], filled[row]]))
        pictures: list[Any] = list(tensors.to_pil(to_pictures(objective.frozen[0], made).cpu()))
        cells.append([*pictures[: len(kept)], *[None] * (3 - len(kept)), *pictures[len(kept) :]])
    grid(cells).save(path)
