"""Sample sheets of a subject in training: the subject with what it may be a copy of, and its class now and before."""

from __future__ import annotations

from pathlib import Path

from bowerbird.core import contact_sheet
from bowerbird.core.tensors import to_pil
from bowerbird.encoders.copy_descriptor import CopyDescriptor
from bowerbird.models.weights import bundled
from bowerbird.systems.dreambooth.collapse import CHECKED, generate
from bowerbird.systems.dreambooth.objective import DreamBoothObjective

COUNT = 4


def sheet(objective: DreamBoothObjective, path: Path) -> None:
    """A row of the training pictures, one of the subject, each with its similarity to the training picture that is
    nearest, and one of the class, which is to stay as various as that of the base below."""
    config = objective.config
    given = to_pil(objective.pixels)
    subject = generate(objective.plain(), config.subject_prompt, COUNT, objective.guidance)
    state, now = objective.class_diversity()
    place = bundled("tiny-copies")
    assert place is not None
    descriptor = CopyDescriptor(place)
    near = descriptor.embed_images(subject) @ descriptor.embed_images(given).T
    copies = [f"{row.max():.2f} to {row.argmax() + 1}" for row in near]
    shown = [str(number + 1) for number in range(len(given))]
    rows = [
        ("training pictures", given[:CHECKED], shown[:CHECKED]),
        (f"{config.subject_prompt}; below: most similar to (1.00: a copy)", subject, copies),
        (config.class_prompt, now[:COUNT], [""] * COUNT),
        (f"{config.class_prompt}, by the base", objective.base_pictures()[:COUNT], [""] * COUNT),
    ]
    contact_sheet.labeled_grid(rows, title=state.line(objective.least_share(state.base))).save(path)
