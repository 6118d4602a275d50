"""What a model in training makes of edits that are held out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bowerbird.core import seeds, tensors
from bowerbird.core.contact_sheet import labeled_grid
from bowerbird.core.types import Neighbors
from bowerbird.systems.instruct.objective import InstructObjective

STEPS = 12


@torch.no_grad()
def held_out_edits(objective: InstructObjective, rows: list[int], *, references: bool) -> Tensor:
    """The held-out edits at `rows` as the weights make them now, `(n, 3, S, S)` in [-1, 1]; with the references that
    they have, or without any."""
    held, pipe = objective.data.held_out, objective.pipeline()
    pipe.set_progress_bar_config(disable=True)
    instructions = [held.instructions[row] for row in rows]
    hits = Neighbors.empty(instructions)
    if references and objective.references is not None:
        shown = tensors.to_pil(held.references[rows])
        each = [
            Neighbors.from_images([text], [picture], ["reference"])
            for text, picture in zip(instructions, shown, strict=True)
        ]
        hits = Neighbors.stack(each).weighted(held.weights[rows][:, None].numpy())
    made: Tensor = pipe(
        neighbors=hits,
        source=tensors.to_pil(held.source[rows]),
        num_inference_steps=STEPS,
        generator=seeds.picture_generators(0, len(rows)),
        output_type="pt",
    ).images
    return made.cpu() * 2 - 1


def sheet(objective: InstructObjective, path: Path, *, rows: int = 24) -> None:
    """A row an edit with a name and a wording that are not trained on: the picture, what is made of it with and without
    a reference, and what is wanted."""
    held = objective.data.held_out
    chosen = list(range(min(rows, len(held.instructions))))
    if not chosen:
        labeled_grid([("no edit is held out", [None], [])]).save(path)
        return
    made = [held_out_edits(objective, chosen, references=given) for given in (True, False)]
    columns = [tensors.to_pil(x) for x in (held.source[chosen], *made, held.wanted[chosen])]
    words = ["picture", "made", "without reference", "wanted"]
    labels = [held.instructions[row] for row in chosen]
    labeled_grid([(label, list(images), words) for label, *images in zip(labels, *columns, strict=True)], size=64).save(
        path
    )
