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
from bowerbird.systems.racm3.objective import RACM3Objective
from bowerbird.systems.racm3.sampling import fill


def sheet(objective: RACM3Objective, path: Path, *, rows: int = 4) -> None:
    """A row a picture, in codes: it, the two documents its caption retrieves, then generated from caption and
    documents, from documents alone, from the caption alone, and with its middle filled in."""
    layout, codes = objective.layout, objective.codes[0]
    hole = np.zeros((layout.side, layout.side), bool)
    hole[layout.side // 4 : -layout.side // 4, layout.side // 4 : -layout.side // 4] = True
    every = [layout.grid + cell for cell in range(layout.cells)]
    inside = [layout.grid + int(cell) for cell in np.flatnonzero(hole)]

    def generate(prompt: lay.Passage, places: list[int]) -> torch.Tensor:
        how = TokenSampling(temperature=0.9, top_p=0.95)
        generators = seeds.picture_generators(0, 1)
        return fill(objective.decoder, layout, [(prompt, 1.0)], places, generators, how)[0].cpu()

    made: list[Any] = []
    cells: list[list[int | None]] = []
    for item in np.linspace(0, len(codes) - 1, rows).astype(int).tolist():
        found = objective.tables[2, item]
        near = [int(r) for r in found[found != ABSENT][:2]]
        text = objective.plain[item]
        shown = [lay.retrieved(layout, codes[r], objective.plain[r], number) for number, r in enumerate(near, start=1)]
        prompts = [lay.opening(layout, text), lay.opening(layout, None)]
        both, alone = (lay.join([*shown, prompt]) for prompt in prompts)
        filled = torch.from_numpy(codes[item].astype(np.int64))
        filled[torch.from_numpy(hole.ravel())] = generate(
            lay.join([*shown, lay.before_hole(layout, codes[item], text, hole.ravel())]), inside
        )
        pictures: list[Any] = [torch.from_numpy(codes[r].astype(np.int64)) for r in (item, *near)]
        pictures += [None] * (2 - len(near))
        pictures += [generate(both, every), generate(alone, every), generate(prompts[0], every), filled]
        cells.append([None if each is None else len(made) + i for i, each in enumerate(pictures)])
        made += [codes[item] * 0 if each is None else each for each in pictures]
    stacked = torch.stack([torch.as_tensor(np.asarray(each), dtype=torch.long) for each in made])
    decoded = tensors.to_pil(to_pictures(objective.frozen[0], stacked).cpu())
    grid([[None if at is None else decoded[at] for at in row] for row in cells]).save(path)
