"""IP-Adapter (arXiv 2308.06721): a frozen text-to-image base learns to read references.

Each cross-attention gets a second key and value, for tokens that a projection makes of a picture's embedding; those
are trained, and nothing else. The modules are diffusers' own, and the file is in the layout of h94/IP-Adapter.

Differs from the paper, and why:
- The reference is a neighbor of the target (see `data.py`), and a share of the captions does not name the thing, so
  that the picture says what it is and the words what is asked of it.
- With an encoder of ours that describes patches, the tokens are its own, through the projection of the adapters called
  full; else four are made of the one embedding, as in the paper.
- Several references are one set, as in use.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird import encoders
from bowerbird.core import files, seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article
from bowerbird.core.types import Encoder
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import schedulers
from bowerbird.encoders.load import place_of
from bowerbird.encoders.small import SmallEncoder
from bowerbird.models import clip_text
from bowerbird.models.unet import with_short_attention
from bowerbird.models.weights import bundled
from bowerbird.systems import hub, model_index
from bowerbird.systems.components import base_parts
from bowerbird.systems.from_rdm import load_start, read_length
from bowerbird.systems.grounded import bases
from bowerbird.systems.grounded.adapter_file import ADAPTER, ENCODER, HEADER
from bowerbird.systems.grounded.adapter_training.config import IPAdapterConfig
from bowerbird.systems.grounded.adapter_training.data import AdapterData, build_data, sample
from bowerbird.systems.grounded.bases import cross_attentions, trained_edge
from bowerbird.systems.grounded.picture_tokens import picture_tokens, tokens_shape
from bowerbird.systems.grounded.recorded_base import base_header
from bowerbird.systems.objective import Objective, RunContext

if TYPE_CHECKING:
    from bowerbird.systems.grounded.pipeline import ReferencePipeline

TOKENS = 4
"""Of the one embedding of an encoder without patches; diffusers knows no other number."""
LAYER_NAMES = {"ff.net.0.proj": "proj.0", "ff.net.2": "proj.2", "image_embeds": "proj"}
"""Layers of diffusers' projections, and their names in the file."""


class IPAdapterBatch(TypedDict):
    """n items: latents `clean` and noise `eps` `(n, C, h, w)`, `timestep` `(n,)`, the captions' `tokens` `(n, L)`, and
    the references' `embeddings` `(n, K, d)`."""

    clean: Tensor
    tokens: Tensor
    embeddings: Tensor
    eps: Tensor
    timestep: Tensor


class IPAdapterObjective(Objective[IPAdapterBatch]):
    """The base's U-Net with an adapter in it, of which the adapter alone is trained."""

    def __init__(self, config: IPAdapterConfig, base: Any, data: AdapterData, encoder: Encoder, seed: int) -> None:
        super().__init__()
        self.config, self.data, self.seed = config, data, seed
        self.layout = getattr(encoder, "layout", None)
        self.frozen = (base, encoder)  # a tuple hides them from nn.Module
        self.no_words = clip_text.token_ids(base.tokenizer, [""])[0]
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.unet = with_adapter(copy.deepcopy(base.unet), encoder)
            if config.start is not None:
                start_projection(self.unet, load_start(config.start)[0], data.embeddings, config.start_length)
        self.text_encoder = base.text_encoder.eval().requires_grad_(False)
        self.noise_scheduler = schedulers.scheduler("ddim", config=base.scheduler.config)

    def batch(self, step: int, size: int, rank: int = 0) -> IPAdapterBatch:
        """`size` targets with captions and references, a share of them without."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        found = sample(self.config, self.data, self.no_words, rng, size)
        times = self.noise_scheduler.config.num_train_timesteps
        return {
            "clean": found.clean,
            "tokens": found.tokens,
            "embeddings": found.embeddings,
            "eps": torch.randn(found.clean.shape, generator=generator),
            "timestep": torch.randint(times, (size,), generator=generator),
        }

    def forward(self, batch: IPAdapterBatch) -> Tensor:
        """E || target - network(z_t, t, text, references) ||^2. Source: IP-Adapter, equation 6."""
        with torch.no_grad():
            text = self.text_encoder(batch["tokens"]).last_hidden_state
            read = batch["embeddings"] if self.layout is None else picture_tokens(batch["embeddings"], self.layout)
        noisy = self.noise_scheduler.add_noise(batch["clean"], batch["eps"], batch["timestep"])
        predicted = self.unet(
            noisy, batch["timestep"], encoder_hidden_states=text, added_cond_kwargs={"image_embeds": [read]}
        ).sample
        return F.mse_loss(
            predicted.float(),
            schedulers.training_target(self.noise_scheduler, batch["clean"], batch["eps"], batch["timestep"]),
        )

    def pipeline(self) -> Any:
        """The base with the current adapter, as bowerbird opens it from a file."""
        from diffusers.models.attention_processor import AttnProcessor2_0

        from bowerbird.systems.grounded.pipeline import ReferencePipeline

        base = self.frozen[0]
        unet = copy.deepcopy(self.unet)
        unet.set_attn_processor(AttnProcessor2_0())
        unet.encoder_hid_proj, unet.config.encoder_hid_dim_type = None, None
        parts = {**base.components, "unet": unet, "text_encoder": self.text_encoder}
        plain = type(base)(**parts, requires_safety_checker=False)
        with tempfile.TemporaryDirectory() as folder:
            self.save_adapter(Path(folder) / ADAPTER)
            return ReferencePipeline(plain, adapter=Path(folder) / ADAPTER)

    def save_adapter(self, path: Path) -> None:
        """Write the adapter, in half precision: `image_proj.*`, `ip_adapter.{1, 3, …}.to_k_ip.weight` and
        `to_v_ip.weight`; its header says which encoder it reads."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.unet.encoder_hid_proj.image_projection_layers[0].state_dict().items():
            layer, _, kind = name.rpartition(".")
            norm = "norm" if self.layout is None else "proj.3"
            tensors[f"image_proj.{norm if layer == 'norm' else LAYER_NAMES[layer]}.{kind}"] = tensor
        processors = self.unet.attn_processors
        for at, name in enumerate(cross_attentions(self.unet)):
            tensors[f"ip_adapter.{2 * at + 1}.to_k_ip.weight"] = processors[name].to_k_ip[0].weight
            tensors[f"ip_adapter.{2 * at + 1}.to_v_ip.weight"] = processors[name].to_v_ip[0].weight
        encoder = self.frozen[1]
        read = {"name": files.portable(encoder.name), "fingerprint": encoder.fingerprint, "dim": encoder.dim}
        if self.layout is not None:
            read["layout"] = asdict(self.layout)
        half = {name: tensor.detach().half().cpu().contiguous() for name, tensor in tensors.items()}
        of = base_header(self.config.base, {"unet": self.frozen[0].unet})
        files.save_tensors(path, half, {"format": "pt", HEADER: json.dumps(read)} | of)

    def export(self, out: Path) -> None:
        """Write the adapter's file, and beside it the encoder that it reads, where that is one of ours and is not
        bundled."""
        self.save_adapter(out / ADAPTER)
        encoder = self.frozen[1]
        if isinstance(encoder, SmallEncoder) and bundled(encoder.name) is None:
            (out / ENCODER).mkdir()
            for name in ("config.json", "model.safetensors"):
                shutil.copyfile(Path(place_of(encoder)) / name, out / ENCODER / name)


def with_adapter(unet: Any, encoder: Encoder) -> Any:
    """`unet` itself, frozen, with a new adapter for `encoder` in it that is not. Keys and values begin as those for the
    text. Source: the release's tutorial_train.py."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import (
        ImageProjection,
        IPAdapterFullImageProjection,
        MultiIPAdapterImageProjection,
    )

    unet = with_short_attention(unet).requires_grad_(False)
    context, widths = bases.facts_of_unet(unet)
    layout, state = getattr(encoder, "layout", None), unet.state_dict()
    tokens, projection = TOKENS, nn.Module()
    if layout is None:
        projection = ImageProjection(encoder.dim, context, TOKENS)
    else:
        tokens, width = tokens_shape(layout)
        projection = IPAdapterFullImageProjection(width, context)
    processors = dict(unet.attn_processors)
    for name, width in zip(cross_attentions(unet), widths, strict=True):
        made = IPAdapterAttnProcessor2_0(width, context, num_tokens=(tokens,))
        place = name.removesuffix(".processor")
        made.to_k_ip[0].weight.data.copy_(state[f"{place}.to_k.weight"])
        made.to_v_ip[0].weight.data.copy_(state[f"{place}.to_v.weight"])
        processors[name] = made
    unet.set_attn_processor(processors)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    unet.config.encoder_hid_dim_type = "ip_image_proj"
    return unet


@torch.no_grad()
def start_projection(unet: Any, rdm: Any, embeddings: Tensor, length: float | None) -> None:
    """The first projection of an adapter for one embedding: each of its tokens is what the RDM's U-Net attends to for
    such a neighbor, but for a little noise by which they come apart. `embeddings` `(n, d)` say how long and how far
    apart they are; as tokens they are as long as `length` (None: as the RDM reads them). Raises: BowerbirdError where
    either has other tokens."""
    own, projection = unet.encoder_hid_proj.image_projection_layers[0], rdm.unet.encoder_hid_proj
    tokens = getattr(own, "num_image_text_embeds", None)
    if tokens is None or own.image_embeds.weight.shape != (tokens * projection.out_features, projection.in_features):
        raise BowerbirdError("the adapter has other tokens than the RDM to start from; set system.start=null")
    lengths = embeddings.float().norm(dim=1)
    lengths = lengths[lengths > 0]
    reach = read_length(rdm, projection.in_features, length)
    scale = reach * (1 / lengths).mean() if rdm.config.normalize_embeddings else 1.0
    weight = projection.weight * scale
    said = F.linear(embeddings.float(), weight, projection.bias)
    own.image_embeds.weight.copy_(weight.repeat(tokens, 1))
    own.image_embeds.weight.add_(torch.randn_like(own.image_embeds.weight), alpha=0.1 * float(weight.std()))
    own.image_embeds.bias.copy_(projection.bias.repeat(tokens))
    own.norm.weight.fill_(float(said.std(1).mean()))  # what the layer norm after it takes away
    own.norm.bias.fill_(float(said.mean()))


def build(config: IPAdapterConfig, pictures: Pictures, run: RunContext) -> IPAdapterObjective:
    """The objective over `pictures`, with the base and the encoder that `config` names."""
    base, encoder = load_base(config.base), encoders.load(config.encoder, device=run.device)
    data = build_data(config, pictures, base.vae, encoder, base.tokenizer, trained_edge(base), run)
    return IPAdapterObjective(config, base, data, encoder, run.seed)


def frozen(config: IPAdapterConfig) -> dict[str, str]:
    """Fingerprints of the encoder and the base."""
    base = load_base(config.base)
    parts = base_parts(base.unet, base.text_encoder, base.vae, base.scheduler)
    return {"encoder": encoders.load(config.encoder).fingerprint, **parts}


def load_base(name: str, kinds: Sequence[str] = ("StableDiffusionPipeline",)) -> Any:
    """The Stable Diffusion called `name`, bundled, a directory or a hub id. Raises: BowerbirdError when it is not there
    or is none of diffusers' `kinds`."""
    return load_pipeline(name, kinds).base


def load_pipeline(name: str, kinds: Sequence[str]) -> ReferencePipeline:
    """The same, with how it generates. Raises: BowerbirdError before a weight is fetched or read."""
    from bowerbird.systems.grounded.pipeline import ReferencePipeline

    place = bundled(name) or Path(name)
    kind = (model_index.read_index(place) if place.is_dir() else hub.fetch_index(name, {}))["_class_name"]
    if kind not in kinds:
        raise BowerbirdError(
            f"base {name!r} is {with_article(kind)}; what is trained here is for a {' or '.join(kinds)},"
            " whose U-Net reads a text: --base …"
        )
    pipe = ReferencePipeline.from_pretrained(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe
