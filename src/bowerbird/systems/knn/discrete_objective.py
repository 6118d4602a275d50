"""KNN-Diffusion's discrete backbone: the same conditions over the tokens of a picture, by mask and replace
(`diffusion.discrete`).

The network predicts what each token was at time 0; the loss is the variational bound, with the cross-entropy of x_0
beside it.
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
from torch import Tensor
from torch.nn import functional as F

from bowerbird import encoders
from bowerbird.core import seeds
from bowerbird.core.types import Encoder
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import discrete
from bowerbird.diffusion.conditions import Tokens
from bowerbird.diffusion.discrete import MaskAndReplace
from bowerbird.models.token_transformer import TokenTransformer
from bowerbird.models.vq import to_cache_tokens
from bowerbird.systems import common
from bowerbird.systems.knn.batches import (
    ConditionBatch,
    ConditionSampling,
    condition_of,
    own_embeddings,
    sample_condition,
    sample_items,
)
from bowerbird.systems.latent_cache import LatentCache, cached_latents, check_neighbors
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Count, Share, network
from bowerbird.systems.tokenizer import open_tokenizer, tokenizer_fingerprint


class TokenSizes(BaseModel):
    """Sizes of the token transformer; the defaults have 4.9M parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    patch_size: Count = 2
    channels: Count = 192
    layers: Count = 6
    head_channels: Count = 64
    times: Count = 100
    replaced: Share = 0.1


class KNNDiscreteConfig(ObjectiveConfig):
    """Everything that shapes the discrete model and its training data; stored in `recipe.json`.

    `tokenizer` None: the bundled autoencoder with a codebook of `symbols` fitted to the pictures.
    """

    kind: Literal["knn-discrete"] = "knn-discrete"
    tokenizer: str | None = network("vq-drawings")
    symbols: Count = 512
    transformer: TokenSizes = TokenSizes()
    encoder: str = network("small")
    k: Count = 4
    places: int = 96
    cross_entropy_weight: float = 1.0
    draws: ConditionSampling = ConditionSampling()


class KNNDiscreteBatch(ConditionBatch):
    """A condition, with `tokens` `(n, N)`, the same `corrupted` to the times `t` `(n,)` from 1, and the `places` `(n,
    P)` where the loss is measured."""

    tokens: Tensor
    corrupted: Tensor
    t: Tensor
    places: Tensor


class KNNDiscreteObjective(Objective[KNNDiscreteBatch]):
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

    def batch(self, step: int, size: int, rank: int = 0) -> KNNDiscreteBatch:
        """Tokens with a query and neighbors, and the same tokens at a random time."""
        cache = self.cache
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        sample, null = sample_items(self.config.draws, cache, rng, size)
        query = own_embeddings(cache, sample)
        embeddings, weights = sample_condition(
            self.config.draws, cache, sample, query, null, self.frozen[1].shared_dim, rng, generator
        )
        tokens = cache.latents[sample.view, sample.rows].long()
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

    def forward(self, batch: KNNDiscreteBatch) -> Tensor:
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


def build(config: KNNDiscreteConfig, pictures: Pictures, run: RunContext) -> KNNDiscreteObjective:
    """The objective over `pictures`, with the frozen networks that `config` names, or a tokenizer fitted here."""
    encoder, tokenizer = encoders.load(config.encoder), open_tokenizer(config.tokenizer, config.symbols, pictures, run)
    cache = cached_latents(config.draws, pictures, tokenizer, encoder, run, to_cache_tokens)
    check_neighbors(cache, config.draws, run)
    return KNNDiscreteObjective(config, cache, tokenizer, encoder, run.seed)


def frozen(config: KNNDiscreteConfig) -> dict[str, str]:
    """Fingerprints of the encoder and the tokenizer, or of what the tokenizer is fitted to."""
    return {"encoder": encoders.load(config.encoder).fingerprint, "tokenizer": tokenizer_fingerprint(config.tokenizer)}
