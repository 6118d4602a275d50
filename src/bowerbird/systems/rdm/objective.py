"""RDM, retrieval-augmented diffusion (arXiv 2204.11824): its configuration and its training objective.

p(x) = p_theta(x | {phi(y) : y in the k neighbors of x in D}). Only the U-Net trains; the autoencoder and the encoder
phi are frozen, so latents and embeddings are computed once, for several views of the data (`LatentCache`). The pipeline
is in `rdm_pipeline.py`.

Differs from the paper, and why:
- D is the training set itself under a leak guard (never the item, never a near-duplicate): our collections are small.
  With `database_share` above 0, that share of the pictures is D and the rest X, disjoint as in the paper.
- A share of the neighbor sets is kept within one metadata value (one drawing style; one entity in other styles). A
  database of one style at inference, or a pool of one class, is then like something seen in training; the paper gets
  this from size.
- Target and neighbors are changed together (mirror, quarter turn, shift, hue) in most draws, so that the network
  learns to generate what embeddings say rather than which training picture they mean. No change resamples: a blurred
  target teaches blur. Draws with the null condition are never changed so.
- v-prediction, and a *trained* null.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.core.types import ABSENT, Encoder
from bowerbird.diffusion import conditioning, schedulers
from bowerbird.diffusion.conditions import Tokens
from bowerbird.models.unet import UNetConfig, build_unet, with_short_attention
from bowerbird.systems import common
from bowerbird.systems.latent_cache import LatentCache, NeighborStrategy, draw


class RDMConfig(BaseModel):
    """Everything that shapes RDM and its training data; stored in `recipe.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["rdm"] = "rdm"
    unet: UNetConfig = UNetConfig()
    autoencoder: str = "tiny-autoencoder"
    encoder: str = "small"
    prediction_type: Literal["v_prediction", "epsilon"] = "v_prediction"
    k: int = 4
    vary_k: bool = True
    k_stored: int = 20
    pool: int = 8
    null_probability: float = 0.1
    neighbors: bool = True
    mix: tuple[NeighborStrategy, ...] = (NeighborStrategy(share=1.0),)
    max_similarity: float | None = 0.98
    exclude_key: str | None = None
    views: int = 16
    view_probability: float = 0.55
    database_share: float = 0.0


class RDMObjective(nn.Module):
    """The U-Net with RDM's loss over a `LatentCache`; `config.neighbors=False` is the same network without
    retrieval."""

    def __init__(self, config: RDMConfig, cache: LatentCache, autoencoder: Any, encoder: Encoder, seed: int) -> None:
        super().__init__()
        self.config, self.cache, self.seed = config, cache, seed
        self.frozen = (
            autoencoder,
            encoder,
        )  # a tuple hides them from nn.Module: they are not trained and not checkpointed
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.unet = with_short_attention(build_unet(config.unet, encoder.dim))
        self.noise_scheduler = schedulers.scheduler("ddim", prediction_type=config.prediction_type)

    def batch(self, step: int, size: int, rank: int = 0) -> dict[str, object]:
        """See `draw_batch`."""
        return draw_batch(self.config, self.cache, self.noise_scheduler, self.seed, step, size, rank)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """E || target - network(z_t, t, {phi(y)}) ||^2. Source: RDM, equation 4."""
        condition = conditioning.neighbor_tokens(batch["embeddings"], batch["weights"], normalize=True)
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

    def sheet(self, path: Path) -> None:
        """A row for each of eight items: the item, its four neighbors where X is D, three pictures generated from them
        at weight 1, 2 and 4."""
        asked = [{"guidance_scale": w, "num_inference_steps": 12} for w in (1.0, 2.0, 4.0)]
        show(
            self.pipeline(), self.cache, asked, path, neighbors=not self.config.database_share
        )  # the cache holds no latents of a D that is not X


def draw_batch(
    config: RDMConfig, cache: LatentCache, noise_scheduler: Any, seed: int, step: int, size: int, rank: int
) -> dict[str, object]:
    """Latents with neighbors: one k for the batch (1..`config.k`, or `config.k` without `vary_k`); a view, a mix and
    a dropout draw for each item."""
    rng = seeds.numpy_generator(seed, "batch", step, rank)
    rows = rng.integers(cache.latents.shape[1], size=size)
    k = int(rng.integers(1, config.k + 1)) if config.vary_k else config.k
    null = rng.random(size) < (config.null_probability if config.neighbors else 1.0)
    drawn = draw(config, cache, rng, rows, k, null)
    generator = seeds.torch_generator(seed, "noise", step, rank)
    clean = drawn.clean(cache)
    return {
        "clean": clean,
        "embeddings": drawn.embeddings(cache),
        "weights": (drawn.neighbors != ABSENT).float(),
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
        **usual,
    )
    pipe.proposal_counts = dict(zip(cache.ids.tolist(), cache.counts(k).tolist(), strict=True))
    return pipe


def show(pipe: Any, cache: LatentCache, asked: Sequence[dict[str, Any]], path: Path, *, neighbors: bool = True) -> None:
    """A row for each of eight items: the item, its four nearest where `neighbors`, and one picture generated from them
    for each way that is `asked`."""
    from bowerbird.core.contact_sheet import grid

    pipe.set_progress_bar_config(disable=True)
    rows = []
    for item, at in cache.examples(4):
        known = at if neighbors else at[:0]
        shown = torch.cat([cache.latents[0, [item]], cache.latents[0, known]]).float()
        hits = cache.neighbors(at)
        generated = [pipe(neighbors=hits, generator=seeds.picture_generators(0, 1), **each).images[0] for each in asked]
        rows.append([*tensors.to_pil(pipe.decode_latents(shown)), *[None] * (4 - len(known)), *generated])
    grid(rows).save(path)
