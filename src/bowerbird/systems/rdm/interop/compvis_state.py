"""What is in the state of a released checkpoint: which tensors are the U-Net's, which are known and left out, and
which mean another model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.torch_file import Stored
from bowerbird.systems.rdm.interop import compvis_schedule, compvis_unet, compvis_vae, dotless

UNET, EMA, FIRST_STAGE = "model.diffusion_model.", "model_ema.", "first_stage_model."
IGNORED = {
    "model_ema.decay": "EMA counters",
    "model_ema.num_updates": "EMA counters",
    "first_stage_model.loss.": "training loss of the first stage",
    "first_stage_model.model_ema.": "EMA of the first stage",
    "unconditional_guidance_vex": "random vector (the published null is zero)",
    "loss.": "training loss",
    "logvar": "loss weights",
    "lvlb_weights": "loss weights",
    "scale_factor": "latent scale (read)",
}
REFUSED = {
    "cond_stage_model.": (
        "a text encoder of its own: it is conditioned on text, as Stable Diffusion is, not on neighbors"
    ),
    "retrieval_encoder.": "a network between neighbors and U-Net, which no published RDM has",
    "nn_encoder.": "an encoder of neighbors, which no published RDM has",
}
KL_SCALE = 0.22765929
"""The latents' scale of the 768 px model, which its configuration holds and its tensors do not."""


def refuse_other_models(tensors: Mapping[str, Stored]) -> None:
    """Raises: BowerbirdError, saying which, when the tensors are of a model that is no RDM."""
    for prefix, reason in REFUSED.items():
        if any(name.startswith(prefix) for name in tensors):
            raise BowerbirdError(f"holds {prefix[:-1]}, {reason}; bowerbird imports RDM's checkpoints")
    if not any(name.startswith((UNET, EMA)) for name in tensors):
        tokens = any("tok_emb" in name for name in tensors)
        what = "a transformer over tokens that is not RARM's" if tokens else f"no {UNET}* and no {EMA}*"
        raise BowerbirdError(f"holds {what}; bowerbird imports RDM's and RARM's checkpoints")
    if not any(name.startswith(FIRST_STAGE) for name in tensors):
        raise BowerbirdError(
            "holds a U-Net but no first stage (first_stage_model.*); pictures cannot be made from its latents"
        )


def below(tensors: Mapping[str, Stored], prefix: str) -> dict[str, Stored]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): stored for name, stored in tensors.items() if name.startswith(prefix)}


def first_stage(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The first stage's tensors by name within it, without what only its training needed."""
    found = below(tensors, FIRST_STAGE)
    return {name: stored for name, stored in found.items() if not name.startswith(("loss.", "model_ema."))}


def left_out(name: str) -> str | None:
    """What a tensor that is left out is; None for one that is not known."""
    found = [
        reason for start, reason in IGNORED.items() if name == start or (start.endswith(".") and name.startswith(start))
    ]
    return found[0] if found else "schedule" if name in compvis_schedule.BUFFERS else None


def count_left_out(
    tensors: Mapping[str, Stored], ignored: Counter[str], weights: str, *, parts: tuple[str, ...], model: str
) -> None:
    """Count in `ignored`, by what they are, the tensors that no network is made of: known ones, and those of the U-Net
    that are not the `weights` ("ema" or "plain") taken. `parts`: how names of the other networks begin.

    Raises: BowerbirdError for a tensor that no `model` has.
    """
    other = "EMA" if weights == "plain" else "plain"
    for name in tensors:
        reason = left_out(name)
        if reason is not None:
            ignored[reason] += 1
        elif name.startswith((UNET, EMA)):
            if name.startswith(UNET) is not (weights == "plain"):
                ignored[f"{other} weights of the U-Net"] += 1
        elif not name.startswith(parts):
            raise foreign_tensor(name, model)


def foreign_tensor(name: str, model: str) -> BowerbirdError:
    """The error of a tensor that no `model` has."""
    return BowerbirdError(
        f"holds {name}, which no published {model} has; it may be another model. Nothing was written. If it is of no"
        f" account, leave it out with --ignore {name}"
    )


def picture_size(
    asked: int | None, usual: int, unet: compvis_unet.UNetLayout, vae: compvis_vae.FirstStageLayout
) -> int:
    """The edge in pixels of its pictures: asked for, else as published. Raises: BowerbirdError where it does not fit
    the networks."""
    size, step = asked or usual, vae.factor * 2 ** (len(unet.channels) - 1)
    if size < step or size % step:
        raise BowerbirdError(f"pictures of {size} px do not fit it; --size is a multiple of {step}")
    return size


def count_tensors(value: Any) -> int:
    """How many tensors there are inside nested containers, each container counted once."""
    waiting, seen, found = [value], set(), 0
    while waiting:
        each = waiting.pop()
        if isinstance(each, Stored):
            found += 1
        elif isinstance(each, Mapping | list | tuple) and id(each) not in seen:
            seen.add(id(each))
            waiting += each.values() if isinstance(each, Mapping) else each
    return found


def latent_scale(
    tensors: Mapping[str, Stored], vae: compvis_vae.FirstStageLayout, asked: float | None
) -> tuple[float, str]:
    """What latents are multiplied by, and who says so: asked for, else stored, else as published, else 1. Raises:
    BowerbirdError for a scale that is not a number above 0."""
    if asked is not None:
        scale, whence = asked, "said"
    elif "scale_factor" in tensors and tensors["scale_factor"].numel == 1:
        scale, whence = float(tensors["scale_factor"].read()), "stored"
    else:
        kl = not vae.codes and vae.factor == 16 and vae.latent_channels == 16
        scale, whence = (KL_SCALE if kl else 1.0), "as published" if kl or vae.codes else "assumed; say --scale-factor"
    if not (math.isfinite(scale) and scale > 0):
        raise BowerbirdError(f"its latent scale is {scale}; it is a number above 0 (--scale-factor)")
    return scale, whence


def unet_weights(tensors: Mapping[str, Stored], *, ema: bool) -> tuple[dict[str, Stored], str, str]:
    """The U-Net's tensors that are taken, by name within it; "ema" or "plain"; and why. Raises: BowerbirdError where
    averaged and plain weights have different names."""
    plain = below(tensors, UNET)
    stored = {name: t for name, t in below(tensors, EMA).items() if name not in ("decay", "num_updates")}
    if plain and (not stored or not ema):
        return plain, "plain", "asked for" if stored else "no averaged ones in the file"
    if not plain:
        return dotless.dotted(stored), "ema", "no plain ones in the file"
    compvis_unet.layout(plain)  # of another kind of network: says so before names are compared
    known = {dotless.without_dots(name): name for name in plain}
    if set(known) != set(stored):
        apart = sorted(set(known) ^ set(stored))
        raise BowerbirdError(
            f"averaged and plain weights of its U-Net differ in {len(apart)} names ({apart[0]} first); take the plain"
            " ones with --no-ema"
        )
    averaged = {known[name]: t for name, t in stored.items()}
    # a model trained without averaging still stores the averages, as they were before training: the last layer starts
    # at zero
    last = "out.2.weight"
    if not averaged[last].read().any() and plain[last].read().any():
        return plain, "plain", "the averaged ones were never updated"
    return averaged, "ema", "preferred"
