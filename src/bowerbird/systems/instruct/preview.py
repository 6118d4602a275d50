"""What a model in training makes of edits that are held out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bowerbird.core import seeds, tensors
from bowerbird.core.contact_sheet import labeled_grid
from bowerbird.diffusion import guidance, schedulers
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.models import clip_text
from bowerbird.systems import common
from bowerbird.systems.instruct.network import predict
from bowerbird.systems.instruct.objective import InstructObjective

STEPS, TEXT_SCALE, IMAGE_SCALE = 12, 4.0, 1.5


@torch.no_grad()
def held_out_edits(objective: InstructObjective, rows: list[int], *, references: bool) -> Tensor:
    """The held-out edits at `rows` as the weights make them now, `(n, 3, S, S)` in [-1, 1]; with the references that
    they have, or without any."""
    held, (autoencoder, text_encoder) = objective.data.held_out, objective.frozen
    device, n = objective.unet.device, len(rows)

    def text(texts: list[str]) -> Tokens:
        keys = text_encoder(clip_text.token_ids(objective.tokenizer, texts).to(device)).last_hidden_state
        return Tokens(keys, torch.ones(keys.shape[:2], device=device))

    image = torch.cat(
        [autoencoder.encode(x.to(device)).latent_dist.mode() for x in torch.split(held.source[rows], 64)]
    ).float()
    keys = text([held.instructions[row] for row in rows])
    if objective.references is None:
        near = Tokens(keys.keys[:, :0], keys.weights[:, :0])
    else:
        weights = held.weights[rows][:, None] * float(references)
        near = objective.references(held.embeddings[rows][:, None].to(device), weights.to(device))
    whole = Conditioning(near, text=keys, image=image)
    null = Conditioning(near.absent(), text=text([""] * n), image=image)
    neither = Conditioning(near.absent(), text=null.text, image=torch.zeros_like(image))
    guided = guidance.instruct(
        lambda x, t, condition: predict(objective.unet, x, t, condition), whole, null, neither, TEXT_SCALE, IMAGE_SCALE
    )
    scheduler = schedulers.scheduler("dpmsolver++", config=objective.noise_scheduler.config)
    scheduler.set_timesteps(STEPS)
    x = seeds.noise(image.shape[1:], seeds.picture_generators(0, n)).to(device) * scheduler.init_noise_sigma
    for number, t in enumerate(scheduler.timesteps):
        x = scheduler.step(guided(scheduler.scale_model_input(x, t), t, number).float(), t, x).prev_sample
    return common.decode_latents(autoencoder, x).cpu()


def sheet(objective: InstructObjective, path: Path, *, rows: int = 24) -> None:
    """A row an edit with a name and a wording that are not trained on: the picture, what is made of it with and without
    a reference, and what is wanted."""
    held = objective.data.held_out
    chosen = list(range(min(rows, len(held.instructions))))
    if not chosen:
        labeled_grid([("no edit is held out", [None], [])]).save(path)
        return
    made = [held_out_edits(objective, chosen, references=given) for given in (True, False)]
    columns = [tensors.to_pil(x) for x in (held.source[chosen], *made, held.wanted[chosen])]
    words = ["picture", "made", "without reference", "wanted"]
    labels = [held.instructions[row] for row in chosen]
    labeled_grid([(label, list(images), words) for label, *images in zip(labels, *columns, strict=True)], size=64).save(
        path
    )
