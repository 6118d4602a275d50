"""Which drawings the models of the next generation learn from, and the recipes of their autoencoder.

The data are the emoji and the icons of `bowerbird datasets drawings`, as one table. Besides the rare entities and
openmoji, two icon styles are left out of every training, one of filled discs and one of thin lines: they stand for a
stranger's drawings whenever a setting has to be chosen, so that openmoji is never chosen by.
"""

from __future__ import annotations

from bowerbird.models.patch_encoder import PatchEncoderConfig
from bowerbird.models.unet import UNetConfig
from bowerbird.systems.rdm.objective import RDMConfig
from bowerbird.systems.reimagen.config import NeighborKind, ReImagenConfig, TowerSizes, UNetSizes
from bowerbird.training.config import TrainConfig
from bowerbird.training.objectives.autoencoder import AutoencoderConfig
from bowerbird.training.objectives.locked_image import LockedImageConfig
from bowerbird.training.objectives.patch_encoder import PatchEncoderTraining
from bowerbird.training.objectives.vq import VQConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.rdm import MIX
from bowerbird.training.recipes.reimagen import small_unet
from bowerbird.training.recipes.small import NEVER_TRAINED_ON

HELD_OUT_STYLES = ("streamline-kameleon-color", "streamline-cyber-color")
"""Icon styles no model learns from, by which settings are chosen."""

TRAINED_ON = f"{NEVER_TRAINED_ON} and style not in {HELD_OUT_STYLES}"
HELD_OUT = f"split != 'rare' and style in {HELD_OUT_STYLES}"


def autoencoder_8(*, tiny: bool = False) -> Recipe:
    """An autoencoder with 8 channels a place for any drawing: colors, grounds, lines, sizes, several things; latents of
    unit variance in each channel, by the weights themselves.

    Command: bowerbird train autoencoder-8 --data drawings.parquet --out runs/autoencoder-8
    """
    train = TrainConfig(
        steps=5500,
        batch_size=32,
        learning_rate=1e-3,
        warmup_steps=100,
        cooldown_fraction=0.4,
        ema_decay=0.998,
        save_every=200,
        sheet_every=500,
    )
    system = AutoencoderConfig(
        block_out_channels=(24, 64, 96),
        latent_channels=8,
        varied=0.5,
        coarse_weight=0.25,
        equivariance=0.2,
        unit_channels=True,
    )
    if not tiny:
        return Recipe(name="autoencoder-8", system=system, train=train, size=128, where=TRAINED_ON, transparency=True)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    small = system.model_copy(update={"block_out_channels": (8, 8, 8), "equivariance": 1.0})
    return Recipe(name="autoencoder-8", system=small, train=shorter, size=128, limit=32, transparency=True)


def tiny_decoder(*, tiny: bool = False) -> Recipe:
    """The decoder of `tiny-autoencoder` for any drawing, on any ground: the emoji of its own training are on white, and
    it decoded pale grounds to white. The encoder is kept, and with it every model of its latents.

    Command: bowerbird train tiny-decoder --data drawings.parquet --out runs/tiny-decoder
    """
    train = TrainConfig(
        steps=3000,
        batch_size=32,
        learning_rate=5e-4,
        warmup_steps=100,
        cooldown_fraction=0.5,
        ema_decay=0.998,
        weight_decay=0.0,
        save_every=200,
        sheet_every=500,
    )
    system = AutoencoderConfig(base="tiny-autoencoder", varied=0.5, coarse_weight=0.25, kl_weight=0.0)
    if not tiny:
        return Recipe(name="tiny-decoder", system=system, train=train, size=128, where=TRAINED_ON, transparency=True)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    return Recipe(name="tiny-decoder", system=system, train=shorter, size=128, limit=32, transparency=True)


def vq_drawings(*, tiny: bool = False) -> Recipe:
    """A tokenizer of any drawing: 64 px to 16 x 16 of 2,048 symbols, from the weights of an autoencoder.

    Command: bowerbird train vq-drawings --data drawings.parquet --out runs/vq-drawings
    """
    train = TrainConfig(
        steps=4000,
        batch_size=32,
        learning_rate=6e-4,
        warmup_steps=100,
        cooldown_fraction=0.4,
        weight_decay=0.0,
        ema_decay=0.998,
        save_every=200,
        sheet_every=500,
    )
    system = VQConfig(symbols=2048, varied=0.5, coarse_weight=0.25, reach=0.1)
    if not tiny:
        return Recipe(name="vq-drawings", system=system, train=train, size=128, where=TRAINED_ON, transparency=True)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    small = system.model_copy(update={"symbols": 16})
    return Recipe(name="vq-drawings", system=small, train=shorter, size=128, limit=32, transparency=True)


def small_patches(*, tiny: bool = False) -> Recipe:
    """An encoder of a picture as a whole and in 4 x 4 places, for any drawing: what is shown, how it looks where, how
    it is drawn; with text.

    Command: bowerbird train small-patches --data drawings.parquet --out runs/small-patches
    """
    train = TrainConfig(
        steps=4500,
        batch_size=96,
        learning_rate=1.5e-3,
        warmup_steps=100,
        cooldown_fraction=0.4,
        weight_decay=0.05,
        ema_decay=0.998,
        save_every=100,
        sheet_every=250,
    )
    if not tiny:
        return Recipe(
            name="small-patches",
            system=PatchEncoderTraining(),
            train=train,
            size=128,
            where=TRAINED_ON,
            transparency=True,
        )
    encoder = PatchEncoderConfig(
        channels=(8, 8, 8, 8), meaning_dim=16, token_dim=4, style_dim=8, buckets=64, text_dim=8
    )
    shorter = train.model_copy(update={"steps": 2, "batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 1})
    return Recipe(
        name="small-patches",
        system=PatchEncoderTraining(encoder=encoder, style_key="class"),
        train=shorter,
        size=64,
        limit=64,
        transparency=True,
    )


def small_patches_text(*, tiny: bool = False) -> Recipe:
    """The words of `small-patches`, with its picture side locked but for the last layer.

    Command: bowerbird train small-patches-text --set system.base=runs/small-patches/model --data drawings.parquet --out
    runs/small-patches-text
    """
    train = TrainConfig(
        steps=3000,
        batch_size=1024,
        learning_rate=2e-3,
        warmup_steps=50,
        cooldown_fraction=0.5,
        weight_decay=0.05,
        ema_decay=0.99,
        save_every=200,
        sheet_every=1000,
    )
    system = LockedImageConfig()
    if not tiny:
        return Recipe(
            name="small-patches-text", system=system, train=train, size=128, where=TRAINED_ON, transparency=True
        )
    shorter = train.model_copy(update={"steps": 2, "batch_size": 8, "warmup_steps": 1})
    tried = system.model_copy(update={"views": 2})
    return Recipe(name="small-patches-text", system=tried, train=shorter, size=64, limit=64, transparency=True)


def rdm_drawings(*, tiny: bool = False) -> Recipe:
    """RDM for any drawing: each neighbor is one token for the whole and sixteen for its places; in 40% of the samples
    the first neighbor is the picture itself, most of those under colors, grounds and lines of their own. It begins with
    the weights of `tiny-rdm`.

    Command: bowerbird train rdm-drawings --data drawings.parquet --out runs/rdm-drawings
    """
    train = TrainConfig(
        steps=10000,
        batch_size=64,
        learning_rate=4e-4,
        warmup_steps=300,
        cooldown_fraction=0.4,
        ema_decay=0.999,
        save_every=200,
        sheet_every=1000,
    )
    system = RDMConfig(
        base="tiny-rdm",
        encoder="small-patches",
        mix=MIX,
        views=8,
        itself=0.4,
        varied_views=6,
        picture_size=64,
    )
    if not tiny:
        return Recipe(name="rdm-drawings", system=system, train=train, size=128, where=TRAINED_ON, transparency=True)
    small = RDMConfig(
        unet=UNetConfig(block_out_channels=(32, 32, 32), cross_attention_dim=16),
        views=2,
        k_stored=4,
        itself=0.5,
        varied_views=1,
        picture_size=64,
    )
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    return Recipe(name="rdm-drawings", system=small, train=shorter, size=128, limit=32, transparency=True)


DRAWS = (
    NeighborKind(kind="retrieved", share=0.4, style_named=0.7),
    NeighborKind(kind="itself", share=0.42, style_named=0.0),
    NeighborKind(kind="others", share=0.18, style_named=0.5),
)


def reimagen_drawings_32(*, tiny: bool = False) -> Recipe:
    """Re-Imagen's first stage for any drawing, with a text tower. A neighbor that is the target itself is under a
    variation most of the time, and as it is in 40%: so a look is kept, and where it is.

    Command: bowerbird train reimagen-drawings-32 --data drawings.parquet --out runs/reimagen-drawings-32
    """
    unet = UNetSizes(block_out_channels=(64, 112, 144))
    return _stage("reimagen-drawings-32", unet, None, 10000, 8e-4, tiny)


def reimagen_drawings_64(*, tiny: bool = False) -> Recipe:
    """Its second stage, 32 to 64 px.

    Command: bowerbird train reimagen-drawings-64 --set system.base=runs/reimagen-drawings-32/model --data
    drawings.parquet --out runs/reimagen-drawings-64
    """
    unet = UNetSizes(
        sample_size=64,
        low_size=32,
        block_out_channels=(48, 64, 96),
        attention=(False, True, True),
        itself=(False, False, True),
        prediction_type="sample",
    )
    return _stage("reimagen-drawings-64", unet, "runs/reimagen-drawings-32/model", 5000, 6e-4, tiny)


def reimagen_drawings_128(*, tiny: bool = False) -> Recipe:
    """Its third stage, 64 to 128 px, in patches of 4.

    Command: bowerbird train reimagen-drawings-128 --set system.base=runs/reimagen-drawings-64/model --data
    drawings.parquet --out runs/reimagen-drawings-128
    """
    unet = UNetSizes(
        sample_size=128,
        low_size=64,
        patch_size=4,
        block_out_channels=(64, 80, 96),
        attention=(False, True, True),
        itself=(False, False, True),
        prediction_type="sample",
    )
    return _stage("reimagen-drawings-128", unet, "runs/reimagen-drawings-64/model", 4500, 6e-4, tiny)


def _stage(name: str, unet: UNetSizes, base: str | None, steps: int, rate: float, tiny: bool) -> Recipe:
    train = TrainConfig(
        steps=steps,
        batch_size=32,
        learning_rate=rate,
        warmup_steps=200,
        cooldown_fraction=0.35,
        ema_decay=0.999,
        save_every=150,
        sheet_every=1000,
    )
    system = ReImagenConfig(unet=unet, base=base, draws=DRAWS, varied=0.6, itself_exact=0.4, itself_change=0.5)
    if not tiny:
        return Recipe(name=name, system=system, train=train, size=128, where=TRAINED_ON, transparency=True)
    # the third stage stands on the bundled two, the others alone
    third = unet.sample_size == 128
    size, low_size = (128, 64) if third else (unet.sample_size // 2, unet.low_size // 2)
    smaller = small_unet(size, low_size, text_dim=96 if third else 16)
    tower = TowerSizes(buckets=64, dim=16, heads=2)
    changed = {"unet": smaller, "tower": tower, "base": "tiny-reimagen" if third else None, "style_key": None}
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    tried = system.model_copy(update=changed)
    return Recipe(name=name, system=tried, train=shorter, size=128, limit=32, transparency=True)
