"""KNN-Diffusion (arXiv 2204.02849) on continuous latents: its configuration and its training objective, which sees
pictures and no text.

What it is conditioned on, and how that differs from the paper, is in `knn_draws.py`. With editing (`knn_edits.py`) the
network reads the latents of a picture to change beside the noise, zeros where there is none. The pipeline is in
`knn_pipeline.py`.

Differs from the paper: training can go on from an RDM's network (`base`), which reads neighbors already, with only
the tensors named by `trained` changing; views, mixes of neighbors and the leak guard are RDM's (`rdm.py`,
`latents.py`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Encoder, Neighbors
from bowerbird.diffusion import schedulers
from bowerbird.models.unet import UNetConfig, build_unet, widened, with_short_attention
from bowerbird.systems import common
from bowerbird.systems.knn.batches import (
    ConditionDraws,
    asked_by_itself,
    condition_of,
    draw_condition,
    draw_items,
    own_embeddings,
)
from bowerbird.systems.knn.edit_data import EditCache, EditSettings
from bowerbird.systems.knn.network import apply
from bowerbird.systems.latent_cache import LatentCache


class KNNConfig(BaseModel):
    """Everything that shapes KNN-Diffusion and its training data; stored in `recipe.json`. `k` is how many neighbors
    it is generated from unless asked otherwise; `edits` None: a network that does not edit. With a `base`, its sizes
    hold, not those in `unet`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["knn"] = "knn"
    base: str | None = None
    trained: tuple[str, ...] = ()
    unet: UNetConfig = UNetConfig()
    autoencoder: str = "tiny-autoencoder"
    encoder: str = "small"
    k: int = 4
    edits: EditSettings | None = EditSettings()
    draws: ConditionDraws = ConditionDraws()


class KNNObjective(nn.Module):
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
        self.unet = with_short_attention(widened(unet, self.channels * (1 if edits is None else 2), encoder.dim + 1))
        if config.trained:
            for name, parameter in self.unet.named_parameters():
                parameter.requires_grad_(any(part in name for part in config.trained))
            if not any(p.requires_grad for p in self.unet.parameters()):
                raise BowerbirdError(
                    f"system.trained {', '.join(config.trained)}: no tensor of the network is called so"
                )
        self.noise_scheduler = schedulers.scheduler("ddim")

    def batch(self, step: int, size: int, rank: int = 0) -> dict[str, object]:
        """Latents with a query, neighbors (one k for the batch, from 1 to `most_k`) and, in a share of the rows, a
        picture to edit."""
        cache, edits = self.cache, self.edits
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        share = self.config.edits.share if self.config.edits is not None else 0.0
        drawn, null = draw_items(self.config.draws, cache, rng, size)
        query = own_embeddings(cache, drawn)
        image: Tensor | None = None
        if edits is not None:
            edit = torch.from_numpy(rng.random(size) < share)
            number = torch.from_numpy(rng.integers(edits.latents.shape[1], size=size))
            drawn = replace(drawn, view=torch.where(edit, edits.view[drawn.rows, number], drawn.view))
            image = edits.latents[drawn.rows, number].float() * edit[:, None, None, None]
            # half of the edits are asked for by what stood in the region, half by the picture they lead to
            inner = edit & torch.from_numpy(rng.random(size) < 0.5)
            query = torch.where(inner[:, None], edits.regions[drawn.rows, number].float(), own_embeddings(cache, drawn))
        embeddings, weights = draw_condition(
            self.config.draws, cache, drawn, query, null, self.frozen[1].shared_dim, rng, generator
        )
        clean = drawn.clean(cache)
        return {
            "clean": clean,
            "embeddings": embeddings,
            "weights": weights,
            "eps": torch.randn(clean.shape, generator=generator),
            "timestep": torch.randint(self.noise_scheduler.config.num_train_timesteps, (size,), generator=generator),
            **({} if image is None else {"image": image}),
        }

    def forward(self, batch: dict[str, Any]) -> Tensor:
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

    def sheet(self, path: Path) -> None:
        """A row for each of eight items: the item and three neighbors; generated from both, the neighbors, its own
        query; then an edit and its result."""
        from bowerbird.core.contact_sheet import grid

        pipe, cache, rows = self.pipeline(), self.cache, []
        pipe.set_progress_bar_config(disable=True)
        for item, at in cache.examples(3):
            own, near = asked_by_itself(cache, item), cache.neighbors(at)
            both = Neighbors.concat(own, near)
            asked: list[tuple[Any, dict[str, Any]]] = [(both, {}), (near, {}), (own, {})]
            shown = [cache.latents[0, item], *cache.latents[0, at]]
            if self.edits is not None:
                number = int(self.edits.view[item].eq(0).int().argmax())
                shown.append(self.edits.latents[item, number])
                source = tensors.to_pil(pipe.decode_latents(shown[-1][None].float()))[0]
                asked.append((both, {"source": source}))
            known = tensors.to_pil(pipe.decode_latents(torch.stack(shown).float()))
            with torch.no_grad():
                made = [
                    pipe(
                        neighbors=hits,
                        guidance_scale=2.0,
                        num_inference_steps=12,
                        generator=seeds.picture_generators(0, 1),
                        **extra,
                    ).images[0]
                    for hits, extra in asked
                ]
            rows.append([*known[: 1 + len(at)], *[None] * (3 - len(at)), *made[:3], *known[1 + len(at) :], *made[3:]])
        grid(rows).save(path)
