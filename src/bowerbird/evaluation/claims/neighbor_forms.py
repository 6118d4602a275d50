"""Four forms in which one network is given its neighbors, with the same target, data and training around them.

- embedding: one token a neighbor, cross-attended to (RDM).
- patches: the same token and one a patch of the neighbor.
- pixels: the neighbor's pixels through the network's own down-stack, its features attended to (Re-Imagen).
- latents: the autoencoder's latents of the neighbors as channels beside the noisy ones.

The network is `NeighborUNet` on the latents of `tiny-autoencoder`; what a form needs of it is used, and the width of
the time embedding evens out how many parameters that is.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core import cache, files, seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.half_precision import has_fast_bfloat16
from bowerbird.core.progress import Progress
from bowerbird.core.types import ABSENT, Encoder
from bowerbird.data import augment
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import conditioning, schedulers
from bowerbird.diffusion.conditions import FeatureMaps, Tokens
from bowerbird.evaluation.features import load_or_make
from bowerbird.knowledge.neighbors.graph import knn_graph
from bowerbird.models.neighbor_unet import NeighborUNet
from bowerbird.systems.common import decode_latents
from bowerbird.systems.components import load_autoencoder, weights_hash
from bowerbird.systems.latent_cache import embed_tensors, encode_latents
from bowerbird.systems.objective import Objective
from bowerbird.training.checkpoint import CHECKPOINT
from bowerbird.training.config import TrainConfig
from bowerbird.training.loop import train

if TYPE_CHECKING:
    from PIL import Image

FORMS = ("embedding", "patches", "pixels", "latents")
AUTOENCODER = "tiny-autoencoder"
WIDTHS, HEAD, TIME = (32, 64, 96), 32, 128
"""Of the levels, of an attention head, and of the time embedding of the form that uses most."""
K, POOL, FORMS_KEPT = 2, 4, 4
"""Neighbors a picture; of how many nearest they are; and forms of each picture, the first as it is."""
ITSELF, NULL, MOST_ALIKE = 0.4, 0.1, 0.98
"""Shares of the samples whose first neighbor is the target in another form, and that have none; and the similarity
beyond which a picture is no neighbor."""
WEIGHTS = "network.safetensors"


@dataclass(frozen=True)
class Sources:
    """What all forms are taken from, of n pictures in `FORMS_KEPT` forms: `latents` `(F, n, C, h, w)`, `embeddings`
    `(F, n, d)`, both float16, and `pixels` uint8 `(F, n, 3, S, S)`; and the nearest others of each, `table` `(n,
    POOL)`. `key`: of all that they are made from."""

    latents: Tensor
    embeddings: Tensor
    pixels: Tensor
    table: Tensor
    key: str


def sources_of(pictures: Pictures, encoder: Encoder) -> Sources:
    """The sources of a training on `pictures`; from the cache where the same were made before."""
    autoencoder = load_autoencoder(AUTOENCODER)
    made_from = f"{pictures.fingerprint()} {encoder.fingerprint} {weights_hash(autoencoder)} {FORMS_KEPT} {POOL}"
    key = hashlib.sha256(made_from.encode()).hexdigest()

    def make() -> dict[str, Tensor]:
        clean = tensors.to_float(pictures.pixels)
        every = torch.stack([clean, *(_other(clean, number) for number in range(1, FORMS_KEPT))])
        latents = torch.stack([encode_latents(autoencoder, x, "cpu") for x in every])
        parts = [torch.cat([embed_tensors(encoder, part) for part in torch.split(x, 64)]) for x in every]
        vectors = F.normalize(parts[0].float(), dim=1).numpy()
        ids = np.arange(len(vectors))
        table, _ = knn_graph(vectors, vectors, POOL, query_ids=ids, database_ids=ids, max_similarity=MOST_ALIKE)
        pixels = torch.stack([tensors.to_uint8(x) for x in every])
        made = {"latents": latents, "embeddings": torch.stack(parts), "pixels": pixels}
        return {**made, "table": torch.from_numpy(table)}

    kept = load_or_make("latents", f"forms-{key[:24]}", make)
    return Sources(kept["latents"], kept["embeddings"], kept["pixels"], kept["table"], key)


def _other(x: Tensor, number: int) -> Tensor:
    """Each picture turned, scaled and moved a little, a quarter of them mirrored."""
    drawn = torch.rand(5, len(x), generator=seeds.torch_generator(0, "forms", number))
    x = torch.where((drawn[0] < 0.25)[:, None, None, None], x.flip(3), x)
    return augment.affine(x, (drawn[1] * 2 - 1) * 0.175, 0.9 + 0.2 * drawn[2], (drawn[3:].T * 2 - 1) * 0.05)


class FormNetwork(nn.Module):
    """The network that is given its neighbors in one `form`.

    Neighbors come as what the form reads, `(B, k, …)`, at most `K`, with `weights` `(B, k)`, 0 where absent:
    embeddings, pixels in [-1, 1], or latents.
    """

    def __init__(self, form: str, encoder: Encoder, latents: Sequence[int], time: int) -> None:
        super().__init__()
        self.form, self.layout, self.channels = form, getattr(encoder, "layout", None), latents[0]
        if form == "patches" and self.layout is None:
            raise BowerbirdError(f"encoder {encoder.name!r} gives no patches; name one that does, as small-patches")
        beside = {"pixels": 3 * (_fold(latents)) ** 2, "latents": K * (self.channels + 1)}.get(form, 0)
        self.fold = _fold(latents)
        reads_tokens = form in ("embedding", "patches")
        self.unet = NeighborUNet(
            sample_size=latents[1],
            in_channels=self.channels + beside,
            patch_size=1,
            block_out_channels=WIDTHS,
            itself=(False, True, True),
            head_channels=HEAD,
            text_dim=conditioning.condition_width(encoder) if reads_tokens else 1,
            time_dim=time,
        )

    def used(self) -> int:
        """How many parameters take part: not those of the attention that this form leaves without anything to attend
        to, nor of channels that are never read."""
        idle = {"pixels": (".text.",), "latents": (".text.", ".neighbors.")}.get(self.form, (".neighbors.",))
        named = self.unet.named_parameters()
        there = sum(p.numel() for name, p in named if not any(part in name for part in idle))
        unread = int(self.unet.config.in_channels) - self.channels
        return there - unread * (self.unet.conv_out.weight[0].numel() + 1)

    def condition(self, neighbors: Tensor, weights: Tensor) -> Any:
        """What every step needs of the neighbors, made once a picture."""
        if self.form in ("embedding", "patches"):
            made = conditioning.condition_tokens(neighbors, weights, self.layout).neighbors
            assert isinstance(made, Tokens)
            if self.layout is not None and self.form == "embedding":
                places = self.layout.tokens + 1
                made = Tokens(made.keys[:, ::places], made.weights[:, ::places])
            there = (weights > 0).any(1, keepdim=True)
            return Tokens(made.keys, made.weights * there)
        if self.form == "latents":
            spare = K - neighbors.shape[1]
            neighbors, weights = F.pad(neighbors, (0, 0, 0, 0, 0, 0, 0, spare)), F.pad(weights, (0, spare))
            there = weights.to(neighbors.dtype)[..., None, None, None]
            plane = there.expand(*neighbors.shape[:2], 1, *neighbors.shape[3:])
            return torch.cat([neighbors * there, plane], 2).flatten(1, 2)
        folded = F.pixel_unshuffle(neighbors, self.fold)
        empty = folded.new_zeros(*folded.shape[:2], self.channels, *folded.shape[3:])
        no_words = Tokens(folded.new_zeros(weights.numel(), 1, 1), folded.new_zeros(weights.numel(), 1))
        return self.unet.encode_neighbors(torch.cat([empty, folded], 2), no_words, weights)

    def forward(self, noisy: Tensor, timestep: Tensor, given: Any) -> Tensor:
        """Noisy latents `(B, C, h, w)` -> the velocity; `given`: see `condition`, or `without` of it."""
        if isinstance(given, Tokens):
            made = self.unet(noisy, timestep, text=given)
        elif isinstance(given, FeatureMaps):
            beside = noisy.new_zeros(len(noisy), self.unet.config.in_channels - self.channels, *noisy.shape[2:])
            made = self.unet(torch.cat([noisy, beside], 1), timestep, neighbors=given)
        else:
            made = self.unet(torch.cat([noisy, given.to(noisy.dtype)], 1), timestep)
        return torch.narrow(made, 1, 0, self.channels)


def without(given: Any) -> Any:
    """The same without any neighbor."""
    return torch.zeros_like(given) if isinstance(given, Tensor) else given.absent()


def _fold(latents: Sequence[int]) -> int:
    """Pixels a side of a place of the latents, `(C, h, w)` of 64 px pictures."""
    return 64 // latents[1]


def time_width(form: str, encoder: Encoder, latents: Sequence[int]) -> int:
    """The width of the time embedding with which a form uses as many parameters as the form that uses most."""

    def count(form: str, time: int) -> int:
        with torch.device("meta"):
            return FormNetwork(form, encoder, latents, time).used()

    forms = [each for each in FORMS if each != "patches" or getattr(encoder, "layout", None) is not None]
    most = max(count(each, TIME) for each in forms)
    return bisect_left(range(4 * TIME), most, lo=TIME, key=partial(count, form))


class FormObjective(Objective[dict[str, Tensor]]):
    """The velocity's loss of one form over `Sources`."""

    def __init__(self, form: str, sources: Sources, encoder: Encoder, seed: int) -> None:
        super().__init__()
        self.form, self.sources, self.seed = form, sources, seed
        shape = tuple(sources.latents.shape[2:])
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.network = FormNetwork(form, encoder, shape, time_width(form, encoder, shape))
        self.noise_scheduler = schedulers.scheduler("ddim")

    def batch(self, step: int, size: int, rank: int = 0) -> dict[str, Tensor]:
        """Targets and neighbors, the same for every form: one to `K` of the nearest, in a share of the samples the
        target in another form first."""
        rng, sources = seeds.numpy_generator(self.seed, "batch", step, rank), self.sources
        rows = rng.integers(sources.latents.shape[1], size=size)
        near = np.stack([rng.permutation(sources.table[row].numpy())[:K] for row in rows])
        forms = np.zeros_like(near)
        own = rng.random(size) < ITSELF
        near[own, 0], forms[own, 0] = rows[own], rng.integers(1, FORMS_KEPT, size=int(own.sum()))
        there = (near != ABSENT) & (np.arange(K) < rng.integers(1, K + 1, size=size)[:, None])
        there &= rng.random(size)[:, None] >= NULL
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        clean = sources.latents[0, rows].float()
        kind = {"pixels": sources.pixels, "latents": sources.latents}.get(self.form, sources.embeddings)
        shown = kind[forms, np.maximum(near, 0)]
        return {
            "clean": clean,
            "neighbors": tensors.to_float(shown) if self.form == "pixels" else shown.float(),
            "weights": torch.from_numpy(there.astype(np.float32)),
            "eps": torch.randn(clean.shape, generator=generator),
            "timestep": torch.randint(schedulers.TIMESTEPS, (size,), generator=generator),
        }

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """|| v - network(z_t, t, neighbors) ||^2."""
        noisy = self.noise_scheduler.add_noise(batch["clean"], batch["eps"], batch["timestep"])
        given = self.network.condition(batch["neighbors"], batch["weights"])
        wanted = schedulers.training_target(self.noise_scheduler, batch["clean"], batch["eps"], batch["timestep"])
        return F.mse_loss(self.network(noisy, batch["timestep"], given).float(), wanted)

    def export(self, out: Path) -> None:
        """The weights alone."""
        out.mkdir(parents=True, exist_ok=True)
        files.save_tensors(out / WEIGHTS, {n: p.detach().clone() for n, p in self.network.state_dict().items()})


def train_form(
    form: str, sources: Sources, encoder: Encoder, config: TrainConfig, progress: Progress | None = None
) -> FormNetwork:
    """The trained network of a form, from the cache where it was trained before; a training that was cut goes on."""
    objective = FormObjective(form, sources, encoder, config.seed)
    shaped = f"{sources.key} {config.model_dump_json()} {objective.network.unet.config}"
    out = cache.directory("trainings") / f"form-{form}-{hashlib.sha256(shaped.encode()).hexdigest()[:16]}"
    if not (out / "model").is_dir():
        out.mkdir(parents=True, exist_ok=True)
        for report in train(objective, config, out, device="cpu"):
            if progress is not None:
                progress(report.step, config.steps, f"{form}, seed {config.seed}")
        (out / CHECKPOINT).unlink(missing_ok=True)
    objective.network.load_state_dict(files.load_tensors(out / "model" / WEIGHTS))
    return objective.network.eval().requires_grad_(False)


@torch.no_grad()
def sample(
    network: FormNetwork, neighbors: Tensor, weights: Tensor, *, seed: int, steps: int, guidance: float
) -> list[Image.Image]:
    """One picture for each row of neighbors, as the form reads them."""
    autoencoder = load_autoencoder(AUTOENCODER)
    scheduler = schedulers.scheduler("dpmsolver++")
    scheduler.set_timesteps(steps)
    edge = int(network.unet.config.sample_size)
    noise = [seeds.picture_generator(seed + i) for i in range(len(neighbors))]
    x = torch.stack([torch.randn(network.channels, edge, edge, generator=generator) for generator in noise])
    with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16("cpu")):
        given = network.condition(neighbors, weights)
        for timestep in scheduler.timesteps:
            time = timestep.expand(len(x))
            with_them, none = (network(x, time, each).float() for each in (given, without(given)))
            x = scheduler.step(none + guidance * (with_them - none), timestep, x).prev_sample
    return tensors.to_pil(decode_latents(autoencoder, x))


def read_as(form: str, pictures: Tensor, encoder: Encoder) -> Tensor:
    """Pictures uint8 `(n, 3, S, S)` as a form reads them."""
    x = tensors.to_float(pictures)
    if form == "pixels":
        return x
    made = encode_latents(load_autoencoder(AUTOENCODER), x, "cpu") if form == "latents" else embed_tensors(encoder, x)
    return made.float()
