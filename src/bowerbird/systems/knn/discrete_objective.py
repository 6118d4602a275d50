"""KNN-Diffusion's discrete backbone: the same conditions over the tokens of a picture, by mask and replace
(`discrete.py`).

The network says what each token was at time 0; the loss is the variational bound, with the cross-entropy of x_0 beside
it.
Source: KNN-Diffusion, arXiv 2204.02849, section 3.2; VQ-Diffusion, arXiv 2111.14822, equations 7 and 10.

Differs from the paper: the bound is measured at a random share of the places of each picture (`places`), which costs
less and is as true on average; the weight of the cross-entropy is 1, not 0.0005, as ours are few steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.core.types import Encoder, Neighbors
from bowerbird.diffusion import discrete
from bowerbird.diffusion.conditions import Tokens
from bowerbird.diffusion.discrete import MaskAndReplace
from bowerbird.models.token_transformer import TokenTransformer
from bowerbird.models.vq import to_pictures
from bowerbird.systems import common
from bowerbird.systems.knn.batches import (
    ConditionDraws,
    asked_by_itself,
    condition_of,
    draw_condition,
    draw_items,
    own_embeddings,
)
from bowerbird.systems.latent_cache import LatentCache


class TokenSizes(BaseModel):
    """Sizes of the token transformer; the defaults have 4.9M parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    patch_size: int = 2
    channels: int = 192
    layers: int = 6
    head_channels: int = 64
    times: int = 100
    replaced: float = 0.1


class KNNDiscreteConfig(BaseModel):
    """Everything that shapes the discrete model and its training data; stored in `recipe.json`.

    `tokenizer` None: the bundled autoencoder with a codebook of `symbols` fitted to the pictures, without the training
    of `tiny-vq`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["knn-discrete"] = "knn-discrete"
    tokenizer: str | None = "runs/tiny-vq/model"
    symbols: int = 512
    transformer: TokenSizes = TokenSizes()
    encoder: str = "small"
    k: int = 4
    places: int = 96
    cross_entropy_weight: float = 1.0
    draws: ConditionDraws = ConditionDraws()


class KNNDiscreteObjective(nn.Module):
    """The token transformer with its loss over a cache whose latents are tokens, int16 `(V, n, N)`."""

    def __init__(
        self, config: KNNDiscreteConfig, cache: LatentCache, tokenizer: Any, encoder: Encoder, seed: int
    ) -> None:
        super().__init__()
        self.config, self.cache, self.seed = config, cache, seed
        self.frozen = (
            tokenizer,
            encoder,
        )  # a tuple hides them from nn.Module: they are not trained and not checkpointed
        symbols = int(tokenizer.config.num_vq_embeddings)
        side = round(cache.latents.shape[2] ** 0.5)
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.transformer = TokenTransformer(
                symbols=symbols, sample_size=side, embed_dim=encoder.dim + 1, **config.transformer.model_dump()
            )
        self.schedule = MaskAndReplace(symbols, config.transformer.times, config.transformer.replaced)

    def batch(self, step: int, size: int, rank: int = 0) -> dict[str, object]:
        """Tokens with a query and neighbors, and the same tokens at a random time."""
        cache = self.cache
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        drawn, null = draw_items(self.config.draws, cache, rng, size)
        query = own_embeddings(cache, drawn)
        embeddings, weights = draw_condition(
            self.config.draws, cache, drawn, query, null, self.frozen[1].shared_dim, rng, generator
        )
        tokens = cache.latents[drawn.view, drawn.rows].long()
        t = torch.randint(1, self.schedule.times + 1, (size,), generator=generator)
        places = torch.from_numpy(np.argsort(rng.random(tokens.shape), 1)[:, : self.config.places])
        corrupted = discrete.corrupt(self.schedule, tokens, t, generator)
        return {
            "tokens": tokens,
            "corrupted": corrupted,
            "t": t,
            "embeddings": embeddings,
            "weights": weights,
            "places": places,
        }

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """T times a term of the bound, in nats a token, plus the weighted cross-entropy of x_0."""
        condition = condition_of(batch, self.frozen[1].shared_dim)
        assert isinstance(condition.neighbors, Tokens)
        logits = self.transformer(batch["corrupted"], batch["t"], condition.neighbors)
        places = batch["places"]
        tokens, seen = batch["tokens"].gather(1, places), batch["corrupted"].gather(1, places)
        said = discrete.informed(
            self.schedule, logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1])), seen, batch["t"]
        )
        bound = discrete.divergence(self.schedule, said, tokens, seen, batch["t"]).mean() * self.schedule.times
        return bound + self.config.cross_entropy_weight * F.nll_loss(said.transpose(1, 2), tokens)

    def pipeline(self) -> Any:
        """The current weights as a `KNNDiscretePipeline`."""
        from bowerbird.systems.knn.discrete_pipeline import KNNDiscretePipeline

        tokenizer, encoder = self.frozen
        return KNNDiscretePipeline(
            transformer=self.transformer,
            vae=tokenizer,
            k=self.config.k,
            shared_dim=encoder.shared_dim,
            encoder_name=encoder.name,
            encoder_fingerprint=encoder.fingerprint,
        )

    def export(self, out: Path) -> None:
        """Write the pipeline in diffusers layout, the transformer in half precision."""
        common.save_half(self.pipeline(), self.transformer, out)

    def sheet(self, path: Path) -> None:
        """A row for each of eight items: the item, its query and neighbors generated at weight 1, 2 and 4, and its
        query alone."""
        from bowerbird.core.contact_sheet import grid

        pipe, cache, rows = self.pipeline(), self.cache, []
        pipe.set_progress_bar_config(disable=True)
        for item, at in cache.examples(3):
            own = asked_by_itself(cache, item)
            both = Neighbors.concat(own, cache.neighbors(at))
            known = tensors.to_pil(
                to_pictures(self.frozen[0], cache.latents[0, torch.cat([torch.tensor([item]), at])].long())
            )
            made = [
                pipe(
                    neighbors=hits, guidance_scale=w, num_inference_steps=25, generator=seeds.picture_generators(0, 1)
                ).images[0]
                for hits, w in ((both, 1.0), (both, 2.0), (both, 4.0), (own, 2.0))
            ]
            rows.append([*known, *[None] * (3 - len(at)), *made])
        grid(rows).save(path)
