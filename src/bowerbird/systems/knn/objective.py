"""KNN-Diffusion (arXiv 2204.02849) on continuous latents: its configuration and its training objective, which sees
pictures and no text.

What it is conditioned on, and how that differs from the paper, is in `batches.py`. With editing (`edit_data.py`) the
network reads the latents of a picture to change beside the noise, zeros where there is none.

Differs from the paper: training can go on from an RDM's network (`base`), which reads neighbors already, with only
the tensors named by `trained` changing; views, mixes of neighbors and the leak guard are RDM's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NotRequired

import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird import encoders
from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Encoder
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import schedulers
from bowerbird.models.unet import UNetConfig, build_unet, widen, with_short_attention
from bowerbird.systems import common
from bowerbird.systems.components import load_autoencoder, weights_hash
from bowerbird.systems.knn.batches import (
    ConditionBatch,
    ConditionSampling,
    condition_of,
    own_embeddings,
    sample_condition,
    sample_items,
)
from bowerbird.systems.knn.edit_data import EditCache, EditSettings, cached_edits
from bowerbird.systems.knn.network import apply
from bowerbird.systems.latent_cache import LatentCache, cached_latents, check_edge, check_neighbors
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.rdm.objective import load_teacher, teacher_fingerprint
from bowerbird.systems.settings import Count, network


class KNNConfig(ObjectiveConfig):
    """Everything that shapes KNN-Diffusion and its training data; stored in `recipe.json`. `k` is how many neighbors
    it is generated from unless asked otherwise; `edits` None: a network that does not edit. With a `base`, its sizes
    hold, not those in `unet`."""

    kind: Literal["knn"] = "knn"
    base: str | None = network(None)
    trained: tuple[str, ...] = ()
    unet: UNetConfig = UNetConfig()
    autoencoder: str = network("tiny-autoencoder")
    encoder: str = network("small")
    k: Count = 4
    edits: EditSettings | None = EditSettings()
    draws: ConditionSampling = ConditionSampling()


class KNNBatch(ConditionBatch):
    """A condition, with latents `clean` and noise `eps` `(n, C, h, w)`, `timestep` `(n,)`, and where the network edits
    the latents `image` `(n, C, h, w)` of a picture to edit, zeros where there is none."""

    clean: Tensor
    eps: Tensor
    timestep: Tensor
    image: NotRequired[Tensor]


class KNNObjective(Objective[KNNBatch]):
    """The U-Net with KNN-Diffusion's loss over a `LatentCache`, and an `EditCache` where it learns to edit."""

    def __init__(
        self,
        config: KNNConfig,
        cache: LatentCache,
        edits: EditCache | None,
        autoencoder: Any,
        encoder: Encoder,
        seed: int,
        *,
        base: Any = None,
    ) -> None:
        super().__init__()
        self.config, self.cache, self.edits, self.seed = config, cache, edits, seed
        self.frozen = (
            autoencoder,
            encoder,
        )  # a tuple hides them from nn.Module: they are not trained and not checkpointed
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            unet = base if base is not None else build_unet(config.unet, encoder.dim)
        self.channels = int(unet.config.in_channels)
        self.unet = with_short_attention(widen(unet, self.channels * (1 if edits is None else 2), encoder.dim + 1))
        if config.trained:
            for name, parameter in self.unet.named_parameters():
                parameter.requires_grad_(any(part in name for part in config.trained))
            if not any(p.requires_grad for p in self.unet.parameters()):
                raise BowerbirdError(
                    f"system.trained {', '.join(config.trained)}: no tensor of the network has this name"
                )
        self.noise_scheduler = schedulers.scheduler("ddim")

    def batch(self, step: int, size: int, rank: int = 0) -> KNNBatch:
        """Latents with a query, neighbors (one k for the batch, from 1 to `most_k`) and, in a share of the rows, a
        picture to edit."""
        cache, edits = self.cache, self.edits
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        share = self.config.edits.share if self.config.edits is not None else 0.0
        sample, null = sample_items(self.config.draws, cache, rng, size)
        query = own_embeddings(cache, sample)
        image: Tensor | None = None
        if edits is not None:
            edit = torch.from_numpy(rng.random(size) < share)
            number = torch.from_numpy(rng.integers(edits.latents.shape[1], size=size))
            sample = replace(sample, view=torch.where(edit, edits.view[sample.rows, number], sample.view))
            image = edits.latents[sample.rows, number].float() * edit[:, None, None, None]
            # half of the edits are asked for by what stood in the region, half by the picture they lead to
            inner = edit & torch.from_numpy(rng.random(size) < 0.5)
            query = torch.where(
                inner[:, None], edits.regions[sample.rows, number].float(), own_embeddings(cache, sample)
            )
        embeddings, weights = sample_condition(
            self.config.draws, cache, sample, query, null, self.frozen[1].shared_dim, rng, generator
        )
        clean = sample.clean(cache)
        batch: KNNBatch = {
            "clean": clean,
            "embeddings": embeddings,
            "weights": weights,
            "eps": torch.randn(clean.shape, generator=generator),
            "timestep": torch.randint(self.noise_scheduler.config.num_train_timesteps, (size,), generator=generator),
        }
        if image is not None:
            batch["image"] = image
        return batch

    def forward(self, batch: KNNBatch) -> Tensor:
        """E || target - network(z_t, t, {f(x), f(neighbors)}) ||^2; z_t with I_manip beside it where the network
        edits."""
        condition = condition_of(batch, self.frozen[1].shared_dim)
        noisy = self.noise_scheduler.add_noise(batch["clean"], batch["eps"], batch["timestep"])
        predicted = apply(
            self.unet, self.noise_scheduler, noisy, batch["timestep"], replace(condition, image=batch.get("image"))
        )
        return F.mse_loss(
            predicted.float(),
            schedulers.training_target(self.noise_scheduler, batch["clean"], batch["eps"], batch["timestep"]),
        )

    def pipeline(self) -> Any:
        """The current weights as a `KNNDiffusionPipeline`."""
        from bowerbird.systems.knn.pipeline import KNNDiffusionPipeline

        autoencoder, encoder = self.frozen
        return KNNDiffusionPipeline(
            unet=self.unet,
            vae=autoencoder,
            scheduler=schedulers.scheduler("dpmsolver++", config=self.noise_scheduler.config),
            k=self.config.k,
            shared_dim=encoder.shared_dim,
            encoder_name=encoder.name,
            encoder_fingerprint=encoder.fingerprint,
        )

    def export(self, out: Path) -> None:
        """Write the pipeline in diffusers layout, the U-Net in half precision."""
        common.save_half(self.pipeline(), self.unet, out)


def build(config: KNNConfig, pictures: Pictures, run: RunContext) -> KNNObjective:
    """The objective over `pictures`, with the frozen networks that `config` names and the network it starts from."""
    encoder, autoencoder = encoders.load(config.encoder), load_autoencoder(config.autoencoder)
    cache = check_neighbors(cached_latents(config.draws, pictures, autoencoder, encoder, run), config.draws, run)
    if config.base is None:
        check_edge(cache, pictures, config.unet.sample_size)
    edits = None
    if config.edits is not None:
        edits = cached_edits(config.edits, config.draws, cache, pictures, autoencoder, encoder, run)
    base = None if config.base is None else load_teacher(config.base, autoencoder, encoder)
    return KNNObjective(config, cache, edits, autoencoder, encoder, run.seed, base=base)


def frozen(config: KNNConfig) -> dict[str, str]:
    """Fingerprints of the encoder, the autoencoder, and the network it starts from."""
    found = {
        "encoder": encoders.load(config.encoder).fingerprint,
        "autoencoder": weights_hash(load_autoencoder(config.autoencoder)),
    }
    return found if config.base is None else {**found, "base": teacher_fingerprint(config.base)}
