"""The first weights of a text-to-image model, from an RDM that draws already.

Both are the same U-Net; they differ in what they attend to. So the U-Net is taken over as it is, and the text model
first learns to say what the RDM's encoder says of each drawing: a text then stands where a neighbor stood. After that
both learn together, from a network that knows how things look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bowerbird import encoders
from bowerbird.core import tensors
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import Encoder
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import conditioning
from bowerbird.diffusion.conditions import Tokens
from bowerbird.systems.components import load_base
from bowerbird.systems.rdm.pipeline import RDMPipeline

PROJECTION = "encoder_hid_proj."
"""The layer of an RDM through which embeddings become what its U-Net attends to."""
STEPS, BATCH, RATE = 1000, 32, 1e-3
"""Of the text model, alone."""


def load_start(name: str) -> tuple[Any, Encoder]:
    """The RDM called `name`, bundled or a directory, and the encoder of its neighbors. Raises: BowerbirdError when it
    is not there, or reads neighbors as more than one token each."""
    rdm = load_base(name, RDMPipeline, "tiny-rdm")
    if rdm.layout is not None or rdm.unet.encoder_hid_proj is None:
        raise BowerbirdError(f"{name!r} takes neighbors apart into tokens; start from an RDM of one token a neighbor")
    encoder = encoders.load(rdm.config.encoder_name)
    if encoder.fingerprint != rdm.config.encoder_fingerprint:
        raise MismatchError(f"{name!r} was trained with another {rdm.config.encoder_name!r} than the one here")
    return rdm, encoder


def read_length(rdm: Any, dim: int, length: float | None) -> float:
    """How long an embedding of `dim` numbers is where it becomes tokens: `length`, or as the RDM reads it (None)."""
    return float((rdm.config.embedding_length or dim**0.5) if length is None else length)


def start_unet(unet: nn.Module, rdm: Any) -> None:
    """Give `unet` the weights of the RDM's. Raises: BowerbirdError when they have different sizes."""
    own = {name: tensor for name, tensor in rdm.unet.state_dict().items() if not name.startswith(PROJECTION)}
    here = unet.state_dict()
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in here.items()}:
        raise BowerbirdError(
            "the U-Net to start from has other sizes: set system.unet as in its unet/config.json, and system.text.width"
            f" to {rdm.unet.config.cross_attention_dim}"
        )
    unet.load_state_dict(own)


@torch.no_grad()
def neighbor_tokens(rdm: Any, encoder: Encoder, pictures: Pictures, rows: list[int]) -> Tensor:
    """What the RDM's U-Net would attend to for each picture as its neighbor `(n, D)`, and in the last row for none."""
    embeddings = torch.from_numpy(encoder.embed_images(tensors.to_pil(pictures.pixels[rows]))).float()
    shown = torch.cat([embeddings, torch.zeros(1, embeddings.shape[1])])[:, None]
    there = torch.ones(len(shown), 1)
    there[-1] = 0
    config = rdm.config
    read = conditioning.neighbor_tokens(
        shown, there, normalize=config.normalize_embeddings, length=config.embedding_length
    ).neighbors
    assert isinstance(read, Tokens)
    tokens: Tensor = rdm.unet.encoder_hid_proj(read.keys)[:, 0]
    return tokens


def teach_text(
    text_encoder: Any, texts: Callable[[np.ndarray], Tensor], targets: Tensor, rng: np.random.Generator
) -> None:
    """Train `text_encoder` until every token of a text is the target of its row: `texts(rows)` are the tokens `(n, L)`
    of fresh captions, `targets` `(m, D)`."""
    [last] = [layer for name, layer in text_encoder.named_modules() if name.endswith("final_layer_norm")]
    with torch.no_grad():
        last.weight.copy_(targets.std(0))
        last.bias.copy_(targets.mean(0))
    optimizer = torch.optim.AdamW(text_encoder.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    text_encoder.train()
    for _ in range(STEPS):
        rows = rng.integers(len(targets), size=min(BATCH, 2 * len(targets)))
        said = text_encoder(texts(rows)).last_hidden_state
        loss = (said - targets[torch.from_numpy(rows)][:, None]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
