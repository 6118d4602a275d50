"""IP-Adapter for Stable Diffusion 3 and 3.5 (InstantX): a resampler that knows the time step, and a second attention in
every block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bowerbird.core.torch_file import Stored
from bowerbird.systems.grounded.adapter_file import PENULTIMATE, AdapterFacts, EncoderNeed, layer_shapes
from bowerbird.systems.grounded.bases import SD3, BaseFacts
from bowerbird.systems.grounded.injectors.ip_adapter import batch_embeddings, install
from bowerbird.systems.grounded.injectors.protocol import Injection, Injector, InjectorCapabilities, Task, restoring


class EachPicture(nn.Module):
    """Reads several pictures with a projection that was made for one: their tokens stand one after the other, as the
    SD family's do, and attention makes a set of them."""

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, embeds: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states `(B, K, patches, dim)` -> tokens `(B, K * tokens, width)`, and the time's embedding."""
        batch, count = embeds.shape[:2]
        tokens, time = self.projection(embeds.flatten(0, 1), timestep.repeat_interleave(count))
        return tokens.reshape(batch, -1, tokens.shape[-1]), time[::count]


class IPAdapterSD3(Injector):
    """The adapter that diffusers' SD3IPAdapterMixin loads; one scale for all references."""

    kind: ClassVar[str] = "ip-adapter-sd3"

    def __init__(self, base: Any, facts: AdapterFacts | None = None) -> None:
        super().__init__(base, facts)
        assert facts is not None
        network = base.transformer
        with torch.random.fork_rng(devices=[]):  # modules draw their first weights from torch's own generator
            made = network._convert_ip_adapter_attn_to_diffusers(facts.read("ip_adapter."), low_cpu_mem_usage=False)
            projection = network._convert_ip_adapter_image_proj_to_diffusers(
                facts.read("image_proj."), low_cpu_mem_usage=False
            )
        self.processors = {name: each.eval().requires_grad_(False) for name, each in made.items()}
        self.projection = EachPicture(projection).eval().requires_grad_(False)

    @staticmethod
    def recognize(tensors: Mapping[str, Stored]) -> AdapterFacts | None:
        """Layers that norm the pictures' tokens by the time step."""
        shapes = layer_shapes(tensors)
        if not shapes or "ip_adapter.0.norm_ip.linear.weight" not in tensors or "image_proj.latents" not in tensors:
            return None
        need = EncoderNeed(PENULTIMATE, tensors["image_proj.proj_in.weight"].shape[1])
        # what it agrees with is the blocks' width; text tokens pass it by
        base = BaseFacts("", SD3, 0, tuple(shape[0] for shape in shapes))
        path = next(iter(tensors.values())).file
        return AdapterFacts(
            path, IPAdapterSD3.kind, "an IP-Adapter", base, tensors["image_proj.latents"].shape[1], need, tensors
        )

    @property
    def capabilities(self) -> InjectorCapabilities:
        """References as a set, for a part of the steps if asked for."""
        return InjectorCapabilities(takes="tokens", weights=False, step_window=True, mixed_batches=True)

    @contextmanager
    def inject(self, task: Task) -> Iterator[Injection]:
        """A block in which every block of the transformer reads the references' tokens."""
        network, device = self.base.transformer, self.base._execution_device
        embeds = batch_embeddings(task.references).to(device, network.dtype)
        without = torch.zeros_like(embeds)

        def prepare(image: Any, given: Any, device: Any, count: int, guidance: bool) -> Tensor:
            return torch.cat([without, embeds]) if guidance else embeds

        def switch(on: bool) -> None:
            for processor in self.processors.values():
                processor.scale = task.settings.scale if on else 0.0

        with restoring() as changes:
            install(changes, network, self.processors, device, network.dtype)
            changes.set(network, "image_proj", self.projection.to(device, network.dtype))
            changes.set(self.base, "prepare_ip_adapter_image_embeds", prepare)
            yield Injection({"ip_adapter_image_embeds": embeds}, switch)
