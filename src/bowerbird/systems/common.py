"""What every pipeline does the same way: one generator a picture, a scheduler's steps, a model's fingerprint, the form
of the result."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors

OUTPUT_TYPES = ("pil", "pt", "np", "latent")


def generators_for(
    generator: torch.Generator | Sequence[torch.Generator] | None, seed: int, count: int
) -> list[torch.Generator]:
    """One generator a picture: those given, the one given for all in turn, or seeds `seed`, `seed + 1`, … Raises:
    BowerbirdError for another number of generators than pictures."""
    if generator is None:
        return seeds.picture_generators(seed, count)
    if isinstance(generator, torch.Generator):
        return [generator] * count
    if len(generator) != count:
        raise BowerbirdError(f"{len(generator)} generators for {count} pictures; give one, or one a picture")
    return list(generator)


def picture_seeds(
    generator: torch.Generator | Sequence[torch.Generator] | None, generators: Sequence[torch.Generator]
) -> list[int]:
    """The seed of what is drawn for each picture beside its noise: its generator's; where one `generator` serves all
    `generators`, that one's and those after it."""
    shared = isinstance(generator, torch.Generator)
    return [each.initial_seed() + (i if shared else 0) for i, each in enumerate(generators)]


def initial_noise(scheduler: Any, shape: Sequence[int], generators: Sequence[torch.Generator], device: Any) -> Tensor:
    """The noise `(n, *shape)` that sampling starts from, as large as `scheduler` wants it, row i from generator i."""
    noise: Tensor = seeds.noise(shape, generators).to(device) * scheduler.init_noise_sigma
    return noise


def schedule(
    scheduler: Any, num_inference_steps: int, eta: float, generators: list[torch.Generator], device: Any
) -> tuple[Tensor, dict[str, Any]]:
    """Set the scheduler's steps; the timesteps, and what its `step` takes beyond the usual. Raises: BowerbirdError for
    steps outside the training schedule, or an eta that the scheduler does not have."""
    total = int(scheduler.config.num_train_timesteps)
    if not 1 <= num_inference_steps <= total:
        raise BowerbirdError(f"num_inference_steps is 1 to {total}, the steps of training; got {num_inference_steps}")
    accepted = inspect.signature(scheduler.step).parameters
    extra: dict[str, Any] = {}
    if "eta" in accepted:
        extra["eta"] = eta
    elif eta:
        raise BowerbirdError(f"eta is an option of the ddim sampler; {type(scheduler).__name__} has none")
    if "generator" in accepted:
        extra["generator"] = generators
    scheduler.set_timesteps(num_inference_steps, device=device)
    if int(scheduler.timesteps.max()) >= total:  # an offset of one, as Stable Diffusion's, and a step for every time
        raise BowerbirdError(f"{num_inference_steps} steps begin beyond the last timestep, {total - 1}; choose fewer")
    return scheduler.timesteps, extra


def timestep_interval(scheduler: Any, shares: tuple[float, float] | None) -> tuple[float, float] | None:
    """Shares of the noise, 0 to 1, as timesteps of the scheduler. Raises: BowerbirdError when they are not two rising
    shares."""
    if shares is None:
        return None
    low, high = shares
    if not 0 <= low < high <= 1:
        raise BowerbirdError(
            f"guidance_interval is two shares of the noise from 0 to 1, the lower first; got {low:g} and {high:g}"
        )
    total = int(scheduler.config.num_train_timesteps)
    return low * total, high * total


def step_scheduler(scheduler: Any, options: dict[str, Any]) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """A diffusers scheduler's step as a transition: (prediction, sample, timestep) -> the next sample."""
    return lambda predicted, sample, t: scheduler.step(predicted, t, sample, **options).prev_sample


def save_half(pipe: Any, network: torch.nn.Module, out: Path) -> None:
    """Write `pipe` in diffusers layout with its `network`, which is training on, in half precision."""
    network.half()
    pipe.save_pretrained(out)
    network.float()


def partway(
    scheduler: Any, timesteps: Tensor, noise: Tensor, started: Tensor, strength: float
) -> tuple[Tensor, Tensor]:
    """The steps left of `timesteps` when the share `strength` of them is taken, and the latents there: `started` under
    that much noise.

    Raises: BowerbirdError when strength is not in (0, 1].
    """
    if not 0 < strength <= 1:
        raise BowerbirdError(
            f"strength is above 0 and at most 1, the share of the steps that are taken; got {strength}"
        )
    first = len(timesteps) - max(1, round(len(timesteps) * strength))
    if first == 0:
        return timesteps, noise
    if hasattr(scheduler, "set_begin_index"):  # DDIM counts no steps
        scheduler.set_begin_index(first)
    return timesteps[first:], scheduler.add_noise(
        started, noise / scheduler.init_noise_sigma, timesteps[first : first + 1].expand(len(noise))
    )


def weights_of(hits: Neighbors, dtype: torch.dtype) -> np.ndarray:
    """How much each neighbor counts, 0 where absent, float32 `(Q, K)`.

    Raises: BowerbirdError for weights other than 0 and 1 where a network in `dtype` would round them away.
    """
    weights = hits.effective_weights
    if dtype != torch.float32 and not np.isin(weights, (0.0, 1.0)).all():
        raise BowerbirdError(
            f"weights other than 0 and 1 need a float32 model (this one is {dtype}); call pipe.to(torch.float32), or"
            " leave --dtype out"
        )
    return weights


def vae_scale_factor(vae: Any) -> int:
    """Edge in pixels of what one latent (or token) of the autoencoder stands for."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def trained_size(unet: Any, vae: Any) -> int:
    """Edge in pixels of the pictures that a latent model was trained on."""
    return int(unet.config.sample_size) * vae_scale_factor(vae)


MOST_EDGE = 4096
"""Largest edge of a picture that is generated, in pixels: beyond, one layer's features fill the memory of a machine."""


def edge_step(unet: Any, vae: Any) -> int:
    """What height and width of a latent model's pictures are multiples of, in pixels."""
    return vae_scale_factor(vae) * int(2 ** (len(unet.config.block_out_channels) - 1))


def latent_shape(unet: Any, vae: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """Rows and columns of the latents for pictures of `height` x `width` pixels (None: as the model was trained).

    Raises: BowerbirdError when they do not fit the network.
    """
    factor, step, trained = vae_scale_factor(vae), edge_step(unet, vae), trained_size(unet, vae)
    edges = {"height": trained if height is None else height, "width": trained if width is None else width}
    for name, edge in edges.items():
        if not step <= edge <= MOST_EDGE or edge % step:
            raise BowerbirdError(
                f"{name} is a multiple of {step} pixels for this model (trained at {trained}), up to {MOST_EDGE}; got"
                f" {edge}"
            )
    return edges["height"] // factor, edges["width"] // factor


def one_edge(height: int | None, width: int | None) -> int | None:
    """The edge of a square picture, None where neither is given. Raises: BowerbirdError when they differ."""
    edges = {edge for edge in (height, width) if edge is not None}
    if len(edges) > 1:
        raise BowerbirdError(f"these pictures are square: give one height and width; got {height} x {width}")
    return edges.pop() if edges else None


def check_token_form(
    tokens: int, edge: int, *, steps: int | None, eta: float, height: int | None, width: int | None
) -> None:
    """Raises: BowerbirdError for what a model does not have that generates so many `tokens`, one a step, of a picture
    of `edge` pixels."""
    size = one_edge(height, width)
    wrong = [] if size in (None, edge) else [f"height and width {edge}, got {size}"]
    wrong += ["no eta"] if eta else []
    wrong += [] if steps in (None, tokens) else [f"num_inference_steps {tokens}, got {steps}"]
    if wrong:
        raise BowerbirdError(f"this model generates {tokens} tokens, one a step: {'; '.join(wrong)}; leave that out")


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Scaled latents `(n, C, h, w)` -> pictures `(n, 3, H, W)` in [-1, 1]."""
    z = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + (
        getattr(vae.config, "shift_factor", None) or 0.0
    )  # VQModel has no shift
    decoded: Tensor = vae.decode(z).sample.float().clamp(-1, 1)
    return decoded


def fingerprint(modules: Sequence[torch.nn.Module]) -> str:
    """A hash of the modules' weights, the same wherever the model lies."""
    return fingerprint_of(*(module.state_dict() for module in modules))


def fingerprint_of(*states: Mapping[str, Tensor]) -> str:
    """`fingerprint` of modules by their tensors."""
    digest = hashlib.sha256()
    for state in states:
        for name, tensor in sorted(state.items()):
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_call(output_type: str, num_images_per_prompt: int, *, neighbors: Any, knowledge_base: Any) -> None:
    """Raises: BowerbirdError for what a pipeline is called with: a form of result that is not known, no pictures, or
    the path of a knowledge base, or pictures, in place of what they are opened as."""
    if not (knowledge_base is None or hasattr(knowledge_base, "search")):
        raise BowerbirdError(
            f"knowledge_base= takes an opened knowledge base, and got {type(knowledge_base).__name__}; open it:"
            " knowledge_base=KnowledgeBase.open(path)"
        )
    if not (neighbors is None or isinstance(neighbors, Neighbors)):
        raise BowerbirdError(
            f"neighbors= takes Neighbors, as a search returns them, and got {type(neighbors).__name__}; of pictures of"
            " your own: Neighbors.from_images(prompt, pictures, captions)"
        )
    if num_images_per_prompt < 1:
        raise BowerbirdError(f"num_images_per_prompt is 1 or more; got {num_images_per_prompt}")
    if output_type not in OUTPUT_TYPES:
        raise BowerbirdError(f"output_type {output_type!r} is not known; choose one of {', '.join(OUTPUT_TYPES)}")


def no_picture(item: int) -> BowerbirdError:
    """The error for the neighbor `item`, of which there is no picture where a network reads it."""
    return BowerbirdError(
        f"neighbor {item} has no picture, and this model generates from pictures; search a knowledge base, or give"
        " references by hand"
    )


def as_output(sample: Tensor, output_type: str) -> Any:
    """Pictures `(n, 3, H, W)` in [-1, 1] as diffusers gives them: PIL, `pt` `(n, 3, H, W)` or `np` `(n, H, W, 3)` in
    [0, 1]. Raises: BowerbirdError for a sample that is not finite."""
    from diffusers.image_processor import VaeImageProcessor

    if not sample.isfinite().all():
        raise BowerbirdError(tensors.NOT_FINITE)
    if output_type == "pil":
        return tensors.to_pil(sample)  # our own rounding, which every recorded picture was made with
    return VaeImageProcessor().postprocess(sample, output_type)
