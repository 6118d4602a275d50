"""RDM, retrieval-augmented diffusion (arXiv 2204.11824): its configuration and its training objective.

p(x) = p_theta(x | {phi(y) : y in the k neighbors of x in D}). Only the U-Net trains; the autoencoder and the encoder
phi are frozen, so latents and embeddings are computed once, for several views of the data (`LatentCache`).

Differs from the paper, and why:
- D is the training set itself under a leak guard (never the item, never a near-duplicate): our collections are small.
  With `database_share` above 0, that share of the pictures is D and the rest X, disjoint as in the paper.
- A share of the neighbor sets is kept within one metadata value (one drawing style; one entity in other styles). A
  database of one style at inference, or a pool of one class, is then like something seen in training; the paper gets
  this from size.
- Target and neighbors are changed together (mirror, quarter turn, shift, hue) in most samples, so that the network
  learns to generate what embeddings say rather than which training picture they mean. No change resamples: a blurred
  target teaches blur. Samples with the null condition are never changed so.
- v-prediction, and a *trained* null.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional as F

from bowerbird import encoders
from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT, Encoder
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import conditioning, schedulers
from bowerbird.diffusion.conditions import Tokens
from bowerbird.models.unet import UNetConfig, build_unet, for_embeddings, with_short_attention
from bowerbird.systems import common
from bowerbird.systems.components import load_autoencoder, load_base, weights_hash
from bowerbird.systems.latent_cache import (
    LatentCache,
    NeighborStrategy,
    cached_latents,
    check_edge,
    check_neighbors,
)
from bowerbird.systems.neighbor_sampling import sample_items
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Count, Share, column, network, shares


class RDMConfig(ObjectiveConfig):
    """Everything that shapes RDM and its training data; stored in `recipe.json`.

    `base`: a trained RDM whose weights training begins with, at its sizes and on its autoencoder; what reads embeddings
    is untrained where `encoder` is another than its. `itself`: the share of samples whose first neighbor is the target
    itself, so that a look can be kept; of those, the share `varied` is under one of `varied_views` random variations of
    each picture, and then nothing else is a neighbor. `picture_size`: the edge at which pictures are learned, where the
    data come larger, which keeps variations sharp.
    """

    kind: Literal["rdm"] = "rdm"
    base: str | None = network(None)
    unet: UNetConfig = UNetConfig()
    autoencoder: str = network("tiny-autoencoder")
    encoder: str = network("small")
    prediction_type: Literal["v_prediction", "epsilon"] = "v_prediction"
    k: Count = 4
    vary_k: bool = True
    k_stored: Count = 20
    pool: Count = 8
    null_probability: Share = 0.1
    neighbors: bool = True
    mix: Annotated[tuple[NeighborStrategy, ...], AfterValidator(shares)] = (NeighborStrategy(share=1.0),)
    max_similarity: float | None = 0.98
    exclude_key: str | None = column(None)
    views: Count = 16
    view_probability: Share = 0.55
    database_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    itself: Share = 0.0
    varied: Share = 0.6
    varied_views: Annotated[int, Field(ge=0)] = 0
    picture_size: Annotated[int, Field(ge=8, le=4096)] | None = None


class RDMBatch(TypedDict):
    """n items: latents `clean` and noise `eps` `(n, C, h, w)`, `timestep` `(n,)`; the neighbors' `embeddings` `(n, k,
    d)` with `weights` `(n, k)`, 0 where absent; `null` `(n,)`: the rows without a condition."""

    clean: Tensor
    embeddings: Tensor
    weights: Tensor
    null: Tensor
    eps: Tensor
    timestep: Tensor


class RDMObjective(Objective[RDMBatch]):
    """The U-Net with RDM's loss over a `LatentCache`; `config.neighbors=False` is the same network without
    retrieval."""

    def __init__(
        self,
        config: RDMConfig,
        cache: LatentCache,
        autoencoder: Any,
        encoder: Encoder,
        seed: int,
        *,
        base: Any = None,
    ) -> None:
        """`base`: the pipeline whose weights training begins with."""
        super().__init__()
        self.config, self.cache, self.seed = config, cache, seed
        self.frozen = (
            autoencoder,
            encoder,
        )  # a tuple hides them from nn.Module: they are not trained and not checkpointed
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.layout = getattr(encoder, "layout", None)
            width = conditioning.condition_width(encoder)
            if base is None:
                unet = build_unet(config.unet, width)
            elif base.config.encoder_fingerprint == encoder.fingerprint:
                unet = base.unet
            else:
                unet = for_embeddings(base.unet, width)
            self.unet = with_short_attention(unet)
        self.noise_scheduler = schedulers.scheduler("ddim", prediction_type=config.prediction_type)

    def batch(self, step: int, size: int, rank: int = 0) -> RDMBatch:
        """See `sample_batch`."""
        return sample_batch(self.config, self.cache, self.noise_scheduler, self.seed, step, size, rank)

    def forward(self, batch: RDMBatch) -> Tensor:
        """E || target - network(z_t, t, {phi(y)}) ||^2. Source: RDM, equation 4."""
        condition = conditioning.condition_tokens(batch["embeddings"], batch["weights"], self.layout)
        tokens = condition.without("neighbors", rows=batch["null"]).neighbors
        assert isinstance(tokens, Tokens)
        noisy = self.noise_scheduler.add_noise(batch["clean"], batch["eps"], batch["timestep"])
        mask = conditioning.attention_mask(tokens)
        predicted = self.unet(
            noisy, batch["timestep"], encoder_hidden_states=tokens.keys, encoder_attention_mask=mask
        ).sample
        return F.mse_loss(
            predicted.float(),
            schedulers.training_target(self.noise_scheduler, batch["clean"], batch["eps"], batch["timestep"]),
        )

    def pipeline(self) -> Any:
        """The current weights as an `RDMPipeline`."""
        scheduler = schedulers.scheduler("dpmsolver++", config=self.noise_scheduler.config)
        return pipeline_of(self.unet, *self.frozen, self.cache, self.config.k, scheduler)

    def export(self, out: Path) -> None:
        """Write the pipeline in diffusers layout, the U-Net in half precision."""
        common.save_half(self.pipeline(), self.unet, out)


def sample_batch(
    config: RDMConfig, cache: LatentCache, noise_scheduler: Any, seed: int, step: int, size: int, rank: int
) -> RDMBatch:
    """Latents with neighbors: one k for the batch (1..`config.k`, or `config.k` without `vary_k`); a view, a mix and
    a dropout for each item."""
    rng = seeds.numpy_generator(seed, "batch", step, rank)
    sample, null = sample_items(config, cache, rng, size, config.null_probability if config.neighbors else 1.0)
    generator = seeds.torch_generator(seed, "noise", step, rank)
    clean = sample.clean(cache)
    return {
        "clean": clean,
        "embeddings": sample.embeddings(cache),
        "weights": (sample.neighbors != ABSENT).float(),
        "null": torch.from_numpy(null),
        "eps": torch.randn(clean.shape, generator=generator),
        "timestep": torch.randint(noise_scheduler.config.num_train_timesteps, (size,), generator=generator),
    }


def pipeline_of(
    unet: Any, autoencoder: Any, encoder: Encoder, cache: LatentCache, k: int, scheduler: Any, **usual: Any
) -> Any:
    """An `RDMPipeline` of these parts with the p_D counts of the cache; `usual`: how it generates unless asked
    otherwise."""
    from bowerbird.systems.rdm.pipeline import RDMPipeline

    pipe = RDMPipeline(
        unet=unet,
        vae=autoencoder,
        scheduler=scheduler,
        k=k,
        normalize_embeddings=True,
        encoder_name=encoder.name,
        encoder_fingerprint=encoder.fingerprint,
        token_layout=None if getattr(encoder, "layout", None) is None else asdict(encoder.layout),  # type: ignore[attr-defined]
        **usual,
    )
    pipe.proposal_counts = dict(zip(cache.ids.tolist(), cache.counts(k).tolist(), strict=True))
    return pipe


def build(config: RDMConfig, pictures: Pictures, run: RunContext) -> RDMObjective:
    """The objective over `pictures`, with the frozen networks that `config` names."""
    encoder, autoencoder = encoders.load(config.encoder, device=run.device), load_autoencoder(config.autoencoder)
    base = None if config.base is None else _load_base(config, autoencoder)
    cache = cached_latents(config, pictures, autoencoder, encoder, run)
    sizes = config.unet if base is None else base.unet.config
    check_edge(cache, pictures, int(sizes.sample_size))
    if cache.latents.shape[2] != sizes.in_channels:
        raise BowerbirdError(
            f"autoencoder {config.autoencoder!r} has {cache.latents.shape[2]} channels, and the network"
            f" {sizes.in_channels}; set system.unet.in_channels, or name another base"
        )
    if config.neighbors:
        check_neighbors(cache, config, run)
    return RDMObjective(config, cache, autoencoder, encoder, run.seed, base=base)


def frozen(config: RDMConfig) -> dict[str, str]:
    """Fingerprints of the encoder, the autoencoder, and the model that training begins with."""
    found = {
        "encoder": encoders.load(config.encoder).fingerprint,
        "autoencoder": weights_hash(load_autoencoder(config.autoencoder)),
    }
    return found if config.base is None else {**found, "base": teacher_fingerprint(config.base)}


def _load_base(config: RDMConfig, autoencoder: Any) -> Any:
    """The pipeline that training begins with. Raises: BowerbirdError when it is not there, predicts something else, or
    generates through another autoencoder."""
    from bowerbird.systems.rdm.pipeline import RDMPipeline

    assert config.base is not None
    pipe, wanted = load_base(config.base, RDMPipeline, "tiny-rdm"), config.prediction_type
    if pipe.scheduler.config.prediction_type != wanted:
        raise BowerbirdError(
            f"base {config.base!r} does not predict {wanted!r}; set"
            f" system.prediction_type={pipe.scheduler.config.prediction_type}"
        )
    if weights_hash(pipe.vae) != weights_hash(autoencoder):
        raise BowerbirdError(
            f"base {config.base!r} generates through another autoencoder than {config.autoencoder!r}; set"
            " system.autoencoder to its own"
        )
    return pipe


def load_teacher(name: str, autoencoder: Any, encoder: Encoder) -> Any:
    """The U-Net of the trained RDM called `name`, which another training goes on from.

    Raises: BowerbirdError when it is not there, does not predict velocities, or generates through another autoencoder
    or from another encoder.
    """
    from bowerbird.systems.rdm.pipeline import RDMPipeline

    pipe = load_base(name, RDMPipeline, "tiny-rdm")
    if pipe.scheduler.config.prediction_type != "v_prediction":
        raise BowerbirdError(f"base {name!r} predicts no velocities; name an RDM that does: --set system.base=…")
    if pipe.config.encoder_fingerprint != encoder.fingerprint or weights_hash(pipe.vae) != weights_hash(autoencoder):
        raise BowerbirdError(
            f"base {name!r} was trained with encoder {pipe.config.encoder_name!r} and an autoencoder of its own; set"
            " system.encoder and system.autoencoder to those, or name another base"
        )
    return pipe.unet


def teacher_fingerprint(name: str) -> str:
    """The fingerprint of the trained RDM called `name`. Raises: BowerbirdError when it is not there."""
    from bowerbird.systems.rdm.pipeline import RDMPipeline

    return str(load_base(name, RDMPipeline, "tiny-rdm").fingerprint())
