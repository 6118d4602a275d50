"""RA-CM3 as a diffusers pipeline: a prompt, retrieved documents of picture and caption before it, and the codes that
follow."""

from __future__ import annotations

from typing import Any

from bowerbird.models import document_transformer as _loadable  # noqa: F401 (diffusers opens what is imported)
from bowerbird.systems.base import Capabilities, System

SAMPLER = "raster"


class RACM3Pipeline(System):
    """Generates a picture code by code, and captions word by word, after documents that show and name things.

    `encoder_name` and `encoder_fingerprint`: of the encoder whose mixed vectors found the documents in training.
    `guidance_scale`, `temperature`, `top_k` (0: all), `top_p` and `min_p` are how it generates unless asked otherwise.
    """

    model_cpu_offload_seq = "decoder->vae"
    generating = ("decoder", "vae")
    sampler_state = ()

    def __init__(
        self,
        decoder: Any,
        vae: Any,
        tokenizer: Any,
        k: int = 2,
        encoder_name: str = "small",
        encoder_fingerprint: str = "",
        search_mode: str = "hybrid",
        guidance_scale: float = 2.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.95,
        min_p: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_modules(decoder=decoder, vae=vae, tokenizer=tokenizer)
        self.register_to_config(
            k=k,
            encoder_name=encoder_name,
            encoder_fingerprint=encoder_fingerprint,
            search_mode=search_mode,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        )

    @property
    def networks(self) -> list[Any]:
        """The decoder."""
        return [self.decoder]

    @property
    def capabilities(self) -> Capabilities:
        """A text beside the neighbors' pictures and captions; from the text alone too."""
        edge = int(self.decoder.config.side) * 2 ** (len(self.vae.config.block_out_channels) - 1)
        return Capabilities((edge,), reads_text=True, needs_images=True, without_neighbors=True, samplers=(SAMPLER,))

    def retrieve(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def condition(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError
