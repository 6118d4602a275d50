"""`instruct`: edits by instruction, on any Stable Diffusion and a table of edits; `tiny-instruct`: on `tiny-sd`, with
references from a knowledge base."""

from __future__ import annotations

from bowerbird.models.clip_text import TextConfig
from bowerbird.models.unet import UNetConfig
from bowerbird.systems.instruct.config import InstructConfig
from bowerbird.training.config import TrainConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.drawings import TRAINED_ON
from bowerbird.training.recipes.stable_diffusion import STYLES


def tiny_instruct(*, tiny: bool = False) -> Recipe:
    """InstructPix2Pix (arXiv 2211.09800) at 64 px on exact pairs. The text model learns too: that of `tiny-sd` never
    read an instruction.

    Command: bowerbird train tiny-instruct --data drawings.parquet --out runs/tiny-instruct
    """
    train = TrainConfig(
        steps=27000,
        batch_size=32,
        learning_rate=4e-4,
        warmup_steps=200,
        cooldown_fraction=0.2,
        ema_decay=0.999,
        save_every=200,
        sheet_every=1000,
    )
    if not tiny:
        system = InstructConfig(
            base="tiny-sd",
            references=True,
            train_text=True,
            styles=STYLES,
            own_colors=("people-body", "smileys-emotion"),
            grounds=0.4,
            placed=0.3,
            becoming=24_000,
            change_threshold=0.6,
        )
        return Recipe(name="tiny-instruct", system=system, train=train, size=128, where=TRAINED_ON, transparency=True)
    small = InstructConfig(
        references=True,
        unet=UNetConfig(block_out_channels=(32, 32, 32)),
        text=TextConfig(vocabulary=600, width=16, layers=1, heads=2),
        each=16,
        wholes=16,
        becoming=16,
        scenes=16,
        names=8,
        kind_key="class",
    )
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    return Recipe(name="tiny-instruct", system=small, train=shorter, size=64, limit=32, transparency=True)


def instruct(*, tiny: bool = False) -> Recipe:
    """InstructPix2Pix (arXiv 2211.09800) on pairs of pictures as `bowerbird datasets edits` makes them or others
    publish them, at 256 px, half the base's edge, as in the paper. Steps and rate are those of diffusers' script.

    Command: bowerbird train instruct --base sd15 --data pairs --out runs/my-instruct
    """
    train = TrainConfig(
        steps=15_000,
        batch_size=4,
        gradient_accumulation=4,
        learning_rate=5e-5,
        warmup_steps=0,
        ema_decay=0.9999,
        save_every=500,
        sheet_every=1000,
    )
    if not tiny:
        system = InstructConfig(
            base="tiny-sd",
            picture_size=256,
            composes=False,
            style_key=None,
            group_key=None,
            kind_key=None,
        )
        return Recipe(name="instruct", system=system, train=train, size=256)
    without = dict.fromkeys(("style_key", "group_key", "kind_key"))
    small = tiny_instruct(tiny=True).system.model_copy(update={**without, "references": False})
    shorter = train.model_copy(update={"steps": 2, "gradient_accumulation": 1})
    return Recipe(name="instruct", system=small, train=shorter, size=64)
