"""Sample sheets of a subject in training: the subject, and its class before and now."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from bowerbird.core import contact_sheet, seeds
from bowerbird.systems.dreambooth.objective import DreamBoothObjective

STEPS, COUNT = 20, 4


def sheet(objective: DreamBoothObjective, path: Path) -> None:
    """A row of the subject, and one of its class, which is to stay as various as that of the base below."""
    config = objective.config
    rows = [
        (config.subject_prompt, generate(objective.plain(), config.subject_prompt)),
        (config.class_prompt, generate(objective.plain(), config.class_prompt)),
        (f"{config.class_prompt}, by the base", generate(objective.frozen[0], config.class_prompt)),
    ]
    lines = [(label, pictures, [""] * len(pictures)) for label, pictures in rows]
    contact_sheet.labeled_grid(lines).save(path)


def generate(plain: object, prompt: str) -> list[Image.Image]:
    """Four pictures of a prompt, the same noise each time."""
    from bowerbird.systems.grounded.pipeline import ReferencePipeline

    pipe = ReferencePipeline(plain)
    pipe.set_progress_bar_config(disable=True)
    made: list[Image.Image] = pipe(
        prompt,
        num_images_per_prompt=COUNT,
        generator=[seeds.picture_generator(i) for i in range(COUNT)],
        num_inference_steps=STEPS,
    ).images
    return made
