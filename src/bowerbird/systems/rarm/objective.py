"""RARM: a transformer over a picture's tokens, conditioned on the embeddings of the picture's neighbors.

Source: arXiv 2204.11824, section 3.2 with the autoregressive likelihood; released config
`configs/rarm/imagenet/dogs/dogs_in-domain.yaml`: cross-entropy of every token, k = 4.

Differs from the paper, and why:
- A tenth of the samples has no neighbors, so that guidance and "without neighbors" are trained states; the release
  guides against zeros it never saw.
- Neighbors are sampled as our RDM's: under several views, of a mix of kinds, k from 1, in a share of samples the
  picture itself.
- An encoder that describes patches gives a token a patch, as in our RDM.
- Embeddings have unit variance; the release reads them raw.
- A share of the tokens that are read is masked in training, as a few thousand pictures are soon known by heart; that
  also leaves more to the neighbors. The release has the mask and never uses it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from bowerbird import encoders
from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT, Encoder
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import conditioning
from bowerbird.diffusion.conditions import Tokens
from bowerbird.models.rarm_transformer import RARMTransformer, for_embeddings
from bowerbird.models.symbol_losses import symbol_losses
from bowerbird.models.vq import codebook_of, sample_codebook, to_cache_tokens
from bowerbird.systems import common
from bowerbird.systems.components import load_base, weights_hash
from bowerbird.systems.latent_cache import LatentCache, cached_latents, check_neighbors
from bowerbird.systems.neighbor_sampling import NeighborSampling, sample_items
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Count, Share, network
from bowerbird.systems.tokenizer import open_tokenizer, tokenizer_fingerprint


class RARMSizes(BaseModel):
    """Sizes of the transformer; the defaults have 9.6M parameters with 512 symbols and patch tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    channels: Count = 256
    layers: Count = 7
    head_channels: Count = 64


class RARMConfig(ObjectiveConfig):
    """Everything that shapes RARM and its training data; stored in `recipe.json`.

    `base`: a trained RARM whose weights training begins with, at its sizes and on its tokenizer; what reads embeddings
    is untrained where `encoder` is another than its. `tokenizer` None: the bundled autoencoder with a codebook of
    `symbols` fitted to the pictures. `draws`: whose neighbors it sees, and of what size (`draws.picture_size`) the
    pictures are that are made tokens. `masked`: the share of the tokens read that training hides.
    """

    kind: Literal["rarm"] = "rarm"
    base: str | None = network(None)
    tokenizer: str | None = network("vq-drawings")
    symbols: Count = 512
    transformer: RARMSizes = RARMSizes()
    encoder: str = network("small")
    masked: Share = 0.0
    draws: NeighborSampling = NeighborSampling()


class RARMBatch(TypedDict):
    """n items: `tokens` `(n, N)`; the neighbors' `embeddings` `(n, k, d)` with `weights` `(n, k)`, 0 where absent;
    `null` `(n,)`: the rows without a condition; `masked` `(n, N)`: the places whose token training hides from those
    behind."""

    tokens: Tensor
    masked: Tensor
    embeddings: Tensor
    weights: Tensor
    null: Tensor


class RARMObjective(Objective[RARMBatch]):
    """The transformer with its loss over a cache whose latents are tokens, int16 `(V, n, N)`."""

    def __init__(
        self,
        config: RARMConfig,
        cache: LatentCache,
        tokenizer: Any,
        encoder: Encoder,
        seed: int,
        *,
        base: Any = None,
    ) -> None:
        """`base`: the pipeline whose weights training begins with."""
        super().__init__()
        self.config, self.cache, self.seed = config, cache, seed
        self.frozen = (
            tokenizer,
            encoder,
        )  # a tuple hides them from nn.Module: they are not trained and not checkpointed
        self.layout = getattr(encoder, "layout", None)
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            width = conditioning.condition_width(encoder)
            if base is None:
                self.transformer = RARMTransformer(
                    symbols=int(tokenizer.config.num_vq_embeddings),
                    positions=cache.latents.shape[2],
                    embed_dim=width,
                    **config.transformer.model_dump(),
                )
            elif base.config.encoder_fingerprint == encoder.fingerprint:
                self.transformer = base.transformer
            else:
                self.transformer = for_embeddings(base.transformer, width)

    def batch(self, step: int, size: int, rank: int = 0) -> RARMBatch:
        """Tokens with neighbors; see `neighbor_sampling.sample_items`."""
        draws, cache = self.config.draws, self.cache
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        sample, null = sample_items(draws, cache, rng, size, draws.null_probability)
        tokens = cache.latents[sample.view, sample.rows].long()
        return {
            "tokens": tokens,
            "masked": torch.from_numpy(rng.random(tokens.shape, np.float32) < self.config.masked),
            "embeddings": sample.embeddings(cache),
            "weights": (sample.neighbors != ABSENT).float(),
            "null": torch.from_numpy(null),
        }

    def forward(self, batch: RARMBatch) -> Tensor:
        """The mean over tokens of -log p(token | those before it, neighbors), in nats."""
        return self.likelihoods(batch).mean()

    def likelihoods(self, batch: RARMBatch) -> Tensor:
        """-log p of each token, in nats `(n, N)`."""
        condition = conditioning.condition_tokens(batch["embeddings"], batch["weights"], self.layout)
        tokens = condition.without("neighbors", rows=batch["null"]).neighbors
        assert isinstance(tokens, Tokens)
        seen = batch["tokens"]
        if self.training:
            seen = seen.masked_fill(batch["masked"], self.transformer.config.symbols)
        features = self.transformer.features(self.transformer.shifted(seen), tokens)
        wanted = batch["tokens"]
        return symbol_losses(self.transformer.logits, features.flatten(0, 1), wanted.flatten()).view_as(wanted)

    def pipeline(self) -> Any:
        """The current weights as a `RARMPipeline`, with the p_D counts of the cache."""
        from bowerbird.systems.rarm.pipeline import RARMPipeline

        (tokenizer, encoder), k = self.frozen, self.config.draws.k
        pipe = RARMPipeline(
            transformer=self.transformer,
            vae=tokenizer,
            k=k,
            encoder_name=encoder.name,
            encoder_fingerprint=encoder.fingerprint,
            token_layout=None if self.layout is None else asdict(self.layout),
            codebook=sample_codebook(codebook_of(tokenizer)),
        )
        pipe.proposal_counts = dict(zip(self.cache.ids.tolist(), self.cache.counts(k).tolist(), strict=True))
        return pipe

    def export(self, out: Path) -> None:
        """Write the pipeline in diffusers layout, the transformer in half precision."""
        common.save_half(self.pipeline(), self.transformer, out)


def build(config: RARMConfig, pictures: Pictures, run: RunContext) -> RARMObjective:
    """The objective over `pictures`, with the frozen networks that `config` names, or a tokenizer fitted here."""
    encoder = encoders.load(config.encoder, device=run.device)
    tokenizer = open_tokenizer(config.tokenizer, config.symbols, pictures, run, config.draws.picture_size)
    base = None if config.base is None else _load_base(config.base, tokenizer)
    cache = cached_latents(config.draws, pictures, tokenizer, encoder, run, to_cache_tokens)
    if base is not None and base.transformer.config.positions != cache.latents.shape[2]:
        raise BowerbirdError(
            f"base {config.base!r} generates {base.transformer.config.positions} tokens, these pictures have"
            f" {cache.latents.shape[2]}; set size, or system.draws.picture_size, to that of the base"
        )
    if config.draws.null_probability < 1:
        check_neighbors(cache, config.draws, run)
    return RARMObjective(config, cache, tokenizer, encoder, run.seed, base=base)


def _load_base(name: str, tokenizer: Any) -> Any:
    """The pipeline that training begins with. Raises: BowerbirdError when it is not there, or has another tokenizer."""
    from bowerbird.systems.rarm.pipeline import RARMPipeline

    pipe = load_base(name, RARMPipeline, "tiny-rarm")
    if weights_hash(pipe.vae) != weights_hash(tokenizer):
        raise BowerbirdError(f"base {name!r} has another tokenizer; set system.tokenizer to its own")
    return pipe


def frozen(config: RARMConfig) -> dict[str, str]:
    """Fingerprints of the encoder, the tokenizer or what it is fitted to, and the model that training begins with."""
    found = {"encoder": encoders.load(config.encoder).fingerprint, "tokenizer": tokenizer_fingerprint(config.tokenizer)}
    if config.base is not None:
        from bowerbird.systems.rarm.pipeline import RARMPipeline

        found["base"] = str(load_base(config.base, RARMPipeline, "tiny-rarm").fingerprint())
    return found
