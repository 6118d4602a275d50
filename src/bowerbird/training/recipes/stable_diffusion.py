"""`tiny-sd`, a small text-to-image model of the standard form, and `tiny-ip-adapter`, by which it reads references from
a knowledge base."""

from __future__ import annotations

from bowerbird.models.clip_text import TextConfig
from bowerbird.models.unet import UNetConfig
from bowerbird.systems.grounded.adapter_training.config import IPAdapterConfig
from bowerbird.systems.stable_diffusion.objective import StableDiffusionConfig
from bowerbird.training.config import TrainConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.drawings import TRAINED_ON

STYLES = ("noto", "twemoji", "fluent", "flat", "icon-park", "streamline-color", "fluent-color")
"""The four emoji styles that may be learned from, and the icon styles that draw most of the same things."""


def tiny_sd(*, tiny: bool = False) -> Recipe:
    """Stable Diffusion's layout at 64 px: 300 things by name and style, and scenes composed of them. What is outside
    is unknown to it by name; a part of what it sees is any drawing, so that it can draw more than it can name, and be
    asked for it by pictures.

    Command: bowerbird train tiny-sd --data drawings.parquet --out runs/tiny-sd
    """
    train = TrainConfig(
        steps=30000,
        batch_size=32,
        learning_rate=4e-4,
        warmup_steps=150,
        cooldown_fraction=0.35,
        ema_decay=0.999,
        save_every=200,
        sheet_every=1000,
        keep_steps=(4000,),
    )
    if not tiny:
        system = StableDiffusionConfig(
            unet=UNetConfig(),
            text=TextConfig(width=256, heads=8),
            start="tiny-rdm",
            styles=STYLES,
            own_colors=("people-body", "smileys-emotion"),
            whole=0.25,
            unnamed=0.12,
            invented=0.2,
            pictured=0.35,
        )
        return Recipe(name="tiny-sd", system=system, train=train, size=128, where=TRAINED_ON, transparency=True)
    small = StableDiffusionConfig(
        unet=UNetConfig(block_out_channels=(32, 32, 32)),
        text=TextConfig(vocabulary=600, width=16, layers=1, heads=2),
        names=8,
        scenes=32,
    )
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1, "keep_steps": ()})
    return Recipe(name="tiny-sd", system=small, train=shorter, size=64, limit=32, transparency=True)


def tiny_ip_adapter(*, tiny: bool = False) -> Recipe:
    """An IP-Adapter for `tiny-sd`: references are the same thing by another hand, so that what it never saw by name can
    be shown to it. For another base: system.base and system.encoder, and no system.start.

    Command: bowerbird train tiny-ip-adapter --set system.start=tiny-rdm --set system.start_length=1
    --data drawings.parquet --out runs/tiny-ip-adapter
    """
    train = TrainConfig(
        steps=9600,
        batch_size=32,
        learning_rate=1e-3,
        warmup_steps=50,
        cooldown_fraction=0.35,
        ema_decay=0.999,
        save_every=200,
        sheet_every=1000,
    )
    system = IPAdapterConfig(varied_views=1, scenes=8000, nameless=0.5, other=0.12)
    if not tiny:
        return Recipe(name="tiny-ip-adapter", system=system, train=train, size=128, where=TRAINED_ON, transparency=True)
    small = IPAdapterConfig(style_key=None, varied_views=1, forms=1, scenes=16)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    return Recipe(name="tiny-ip-adapter", system=small, train=shorter, size=64, limit=32, transparency=True)
