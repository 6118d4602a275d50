"""RDM, retrieval-augmented diffusion (arXiv 2204.11824): its configuration and its training objective.

p(x) = p_theta(x | {phi(y) : y in the k neighbours of x in D}). Only the U-Net trains; the autoencoder and the encoder phi are
frozen, so latents and embeddings are computed once, for several views of the data (`LatentBank`). The pipeline is in
`rdm_pipeline.py`.

Differs from the paper, and why:
- D is the training set itself under a leak guard (never the item, never a near-duplicate): our collections are small. With
  `database_share` above 0, that share of the pictures is D and the rest X, disjoint as in the paper.
- A share of the neighbour sets is kept within one metadata value (one drawing style; one entity in other styles). A database
  of one style at inference, or a pool of one class, is then like something seen in training; the paper gets this from size.
- Target and neighbours are changed together (mirror, quarter turn, shift, hue) in most draws, so that the network learns to paint
  what embeddings say rather than which training picture they mean. No change resamples: a blurred target teaches blur. Draws with
  the null condition are never changed so.
- v-prediction, and a *trained* null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird import augment, conditioning, gaussian, seeds, tensors
from bowerbird.data import Pictures
from bowerbird.errors import BowerbirdError
from bowerbird.knowledge.graph import knn_graph, neighbor_counts
from bowerbird.models.unet import UNetConfig, build_unet
from bowerbird.types import ABSENT, Encoder
from bowerbird.types_torch import Tokens


class NeighborMix(BaseModel):
    """A share of the training draws whose neighbours all have the target's value of the metadata key `within` (None: any)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    share: float
    within: str | None = None


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
    mix: tuple[NeighborMix, ...] = (NeighborMix(share=1.0),)
    max_similarity: float | None = 0.98
    exclude_key: str | None = None
    views: int = 16
    view_probability: float = 0.55
    database_share: float = 0.0


@dataclass(frozen=True)
class LatentBank:
    """Frozen inputs of a training: latents `(V, n, C, h, w)` of X and embeddings `(V, m, d)` of D under V views (view 0 unchanged), both
    float16; one table `(n, k_stored)` of rows of D a mix; `ids` (m,) of D. X and D are the same n = m pictures
    unless `database_share` parts them. `nearest` `(n, k_stored)`: the guarded neighbours that p_D counts."""

    latents: Tensor
    embeddings: Tensor
    tables: tuple[Tensor, ...]
    nearest: Tensor
    ids: np.ndarray

    def counts(self, k: int) -> np.ndarray:
        """How often each row of D is among the k neighbours of X: the numerator of p_D, `(m,)`."""
        return neighbor_counts(self.nearest.numpy(), len(self.ids), k)


def views_of(config: RDMConfig, size: int, seed: int) -> list[augment.View]:
    """The views of a run on pictures of edge `size`: unchanged, mirrored, then random exact ones."""
    rng = seeds.numpy_generator(seed, "views")
    return [augment.IDENTITY, augment.View(symmetry=4), *(augment.exact_view(rng, size) for _ in range(config.views))][: config.views]


def part_rows(config: RDMConfig, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of X and of D among n pictures: the same, or disjoint with `database_share` of them in D."""
    if not config.database_share:
        return np.arange(n), np.arange(n)
    order = seeds.numpy_generator(seed, "database").permutation(n)
    size = round(n * config.database_share)
    return np.sort(order[size:]), np.sort(order[:size])


@torch.no_grad()
def build_bank(config: RDMConfig, pictures: Pictures, ids: Sequence[int], autoencoder: Any, encoder: Encoder, seed: int, device: str = "cpu") -> LatentBank:
    """Encode X and embed D under every view, and find the neighbours of the unchanged X in the unchanged D, guarded."""
    x_rows, d_rows = part_rows(config, len(pictures), seed)
    shift, scale = float(autoencoder.config.shift_factor or 0.0), float(autoencoder.config.scaling_factor)

    def encode(view: augment.View) -> Tensor:
        parts = []
        for pixels in torch.split(pictures.pixels[x_rows], 64):
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                mean = autoencoder.encode(view(tensors.to_float(pixels)).to(device)).latent_dist.mean
            parts.append(((mean.float() - shift) * scale).half().cpu())
        return torch.cat(parts)

    def embed(view: augment.View, rows: np.ndarray) -> Tensor:
        parts = [encoder.embed_images(tensors.to_pil(view(tensors.to_float(pixels)))) for pixels in torch.split(pictures.pixels[rows], 64)]
        return torch.from_numpy(np.concatenate(parts)).half()

    views = views_of(config, pictures.size, seed)
    latents, embeddings = [encode(view) for view in views], [embed(view, d_rows) for view in views]
    database = F.normalize(embeddings[0].float(), dim=1).numpy()
    queries = F.normalize(embed(augment.IDENTITY, x_rows).float(), dim=1).numpy() if config.database_share else database
    item_ids = np.asarray(ids, np.int64)
    guard: dict[str, Any] = {"query_ids": item_ids[x_rows], "database_ids": item_ids[d_rows], "max_similarity": config.max_similarity}
    if config.exclude_key is not None:
        guard["exclude"] = _columns(pictures, config.exclude_key, x_rows, d_rows)
    tables = []
    for part in config.mix:
        within = _columns(pictures, part.within, x_rows, d_rows) if part.within else None
        if within is not None and not any(within[0]):
            raise BowerbirdError(f"the recipe mixes neighbours within {part.within!r}, but the data has no such column")
        table, _ = knn_graph(queries, database, config.k_stored, within=within, **guard)
        tables.append(torch.from_numpy(table))
    nearest, _ = knn_graph(queries, database, config.k_stored, **guard)
    return LatentBank(torch.stack(latents), torch.stack(embeddings), tuple(tables), torch.from_numpy(nearest), item_ids[d_rows])


def _columns(pictures: Pictures, key: str, x_rows: np.ndarray, d_rows: np.ndarray) -> tuple[list[str], list[str]]:
    column = pictures.column(key)
    return [column[i] for i in x_rows], [column[i] for i in d_rows]


class RDMObjective(nn.Module):
    """The U-Net with RDM's loss over a `LatentBank`; `config.neighbors=False` is the same network without retrieval."""

    def __init__(self, config: RDMConfig, bank: LatentBank, autoencoder: Any, encoder: Encoder, seed: int) -> None:
        super().__init__()
        self.config, self.bank, self.seed = config, bank, seed
        self.frozen = (autoencoder, encoder)  # a tuple hides them from nn.Module: they are not trained and not checkpointed
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.unet = build_unet(config.unet, encoder.dim)
        self.noise_scheduler = gaussian.scheduler("ddim", prediction_type=config.prediction_type)

    def batch(self, step: int, size: int, rank: int = 0) -> dict[str, object]:
        """Latents with neighbours: one k for the batch (1..`config.k`, or `config.k` without `vary_k`); a view, a mix and a dropout draw for each item."""
        config, bank = self.config, self.bank
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        rows = rng.integers(bank.latents.shape[1], size=size)
        k = int(rng.integers(1, config.k + 1)) if config.vary_k else config.k
        null = rng.random(size) < (config.null_probability if config.neighbors else 1.0)
        view = np.where(rng.random(size) < config.view_probability, rng.integers(len(bank.latents), size=size), 0)
        view[null] = 0
        shares = np.array([part.share for part in config.mix])
        table = rng.choice(len(shares), size=size, p=shares / shares.sum())
        chosen = np.full((size, k), ABSENT, np.int64)
        for i in range(size):
            row = bank.tables[table[i]][rows[i]].numpy()
            row = row[row != ABSENT][: max(k, config.pool)]
            if rng.random() < 0.5:
                row = rng.permutation(row)
            chosen[i, : min(k, len(row))] = row[:k]
        at = torch.from_numpy(chosen)
        v, r = torch.from_numpy(view), torch.from_numpy(rows)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        clean = bank.latents[v, r].float()
        return {
            "clean": clean,
            "embeddings": bank.embeddings[v[:, None], at.clamp(min=0)].float(),
            "weights": (at != ABSENT).float(),
            "null": torch.from_numpy(null),
            "eps": torch.randn(clean.shape, generator=generator),
            "timestep": torch.randint(self.noise_scheduler.config.num_train_timesteps, (size,), generator=generator),
        }

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """E || target - network(z_t, t, {phi(y)}) ||^2. Source: RDM, equation 4."""
        condition = conditioning.neighbor_tokens(batch["embeddings"], batch["weights"], normalize=True)
        tokens = condition.without("neighbors", rows=batch["null"]).neighbors
        assert isinstance(tokens, Tokens)
        noisy = self.noise_scheduler.add_noise(batch["clean"], batch["eps"], batch["timestep"])
        mask = conditioning.attention_mask(tokens)
        predicted = self.unet(noisy, batch["timestep"], encoder_hidden_states=tokens.keys, encoder_attention_mask=mask).sample
        return F.mse_loss(predicted.float(), gaussian.training_target(self.noise_scheduler, batch["clean"], batch["eps"], batch["timestep"]))

    def pipeline(self) -> Any:
        """The current weights as an `RDMPipeline`."""
        from bowerbird.systems.rdm_pipeline import RDMPipeline

        autoencoder, encoder = self.frozen
        pipe = RDMPipeline(
            unet=self.unet,
            vae=autoencoder,
            scheduler=gaussian.scheduler("dpmsolver++", config=self.noise_scheduler.config),
            k=self.config.k,
            normalize_embeddings=True,
            encoder_name=encoder.name,
            encoder_fingerprint=encoder.fingerprint,
        )
        pipe.proposal_counts = dict(zip(self.bank.ids.tolist(), self.bank.counts(self.config.k).tolist(), strict=True))
        return pipe

    def export(self, out: Path) -> None:
        """Write the pipeline in diffusers layout, the U-Net in half precision."""
        pipe = self.pipeline()
        self.unet.half()
        pipe.save_pretrained(out)
        self.unet.float()

    def sheet(self, path: Path) -> None:
        """A row for each of eight items: the item, its four neighbours where X is D, three pictures painted from them at weight 1, 2 and 4."""
        from bowerbird.sheets import grid
        from bowerbird.types import Neighbors

        pipe, bank, rows = self.pipeline(), self.bank, []
        pipe.set_progress_bar_config(disable=True)
        for item in np.linspace(0, bank.latents.shape[1] - 1, 8).astype(int):
            at = bank.tables[0][item, :4]
            at = at[at != ABSENT]
            known = at if not self.config.database_share else at[:0]  # the bank holds no latents of a D that is not X
            shown = torch.cat([bank.latents[0, [item]], bank.latents[0, known]]).float()
            hits = Neighbors(bank.ids[at.numpy()][None], np.ones((1, len(at)), np.float32), bank.embeddings[0, at].float().numpy()[None], (("",) * len(at),))
            painted = [
                pipe(neighbors=hits, guidance_scale=w, num_inference_steps=12, generator=seeds.picture_generators(0, 1)).images[0] for w in (1.0, 2.0, 4.0)
            ]
            rows.append([*tensors.to_pil(pipe.decode_latents(shown)), *[None] * (4 - len(known)), *painted])
        grid(rows).save(path)
