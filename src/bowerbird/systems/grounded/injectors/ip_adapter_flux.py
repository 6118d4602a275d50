"""IP-Adapter for FLUX.1 (XLabs, versions 1 and 2): a second key and value in the double-stream blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.torch_file import Stored
from bowerbird.systems.grounded.adapter_file import POOLED, AdapterFacts, EncoderNeed, layer_shapes
from bowerbird.systems.grounded.bases import FLUX, BaseFacts
from bowerbird.systems.grounded.injectors.ip_adapter import batch_embeddings, install, set_config
from bowerbird.systems.grounded.injectors.protocol import Injection, Injector, InjectorCapabilities, Task, restoring
from bowerbird.systems.grounded.references import relative_weights

KEYS = ("to_k_ip", "to_v_ip")


class IPAdapterFlux(Injector):
    """The adapter that diffusers' FluxIPAdapterMixin loads. A weight for each reference without a copy of the weights:
    the same layers stand K times in the processors."""

    kind: ClassVar[str] = "ip-adapter-flux"

    def __init__(self, base: Any, facts: AdapterFacts | None = None) -> None:
        super().__init__(base, facts)
        assert facts is not None
        network = base.transformer
        state = {"image_proj": facts.read("image_proj."), "ip_adapter": facts.read("ip_adapter.")}
        with torch.random.fork_rng(devices=[]):  # modules draw their first weights from torch's own generator
            made = network._convert_ip_adapter_attn_to_diffusers([state], low_cpu_mem_usage=False)
            projection = network._convert_ip_adapter_image_proj_to_diffusers(
                state["image_proj"], low_cpu_mem_usage=False
            )
        self.processors = {
            name: each.eval().requires_grad_(False) for name, each in made.items() if hasattr(each, "to_k_ip")
        }
        self.layers = {name: {key: getattr(each, key)[0] for key in KEYS} for name, each in self.processors.items()}
        self.projection = projection.eval().requires_grad_(False)

    @staticmethod
    def recognize(tensors: Mapping[str, Stored]) -> AdapterFacts | None:
        """Layers with a bias, one a double-stream block."""
        shapes, path = layer_shapes(tensors), next(iter(tensors.values())).file
        first = tensors.get("image_proj.proj.0.weight")
        if shapes and first is not None and first.shape[1] == 1152:
            raise BowerbirdError(
                f"{path}: InstantX's IP-Adapter for FLUX.1 ({len(shapes)} layers, single-stream blocks too), for which"
                " diffusers has no attention; take XLabs-AI/flux-ip-adapter-v2, or FLUX.1 Redux"
            )
        if not shapes or "image_proj.proj.weight" not in tensors or "ip_adapter.0.to_k_ip.bias" not in tensors:
            return None
        rows, dim = tensors["image_proj.proj.weight"].shape
        base = BaseFacts("", FLUX, shapes[0][1], tuple(shape[0] for shape in shapes))
        need = EncoderNeed(POOLED, dim)
        return AdapterFacts(path, IPAdapterFlux.kind, "an IP-Adapter", base, rows // shapes[0][1], need, tensors)

    @property
    def capabilities(self) -> InjectorCapabilities:
        """Any number of references, each with its weight; no regions, as the blocks take no masks."""
        return InjectorCapabilities(takes="embeds", step_window=True, mixed_batches=True)

    @contextmanager
    def inject(self, task: Task) -> Iterator[Injection]:
        """A block in which the double-stream blocks read the references' tokens."""
        from diffusers.models.embeddings import MultiIPAdapterImageProjection

        network, device = self.base.transformer, self.base._execution_device
        shares = relative_weights(task.references[0])
        whole = batch_embeddings(task.references).to(device, network.dtype)
        parts = [whole] if shares is None else list(torch.split(whole, 1, dim=1))
        blank = [torch.zeros_like(part) for part in parts]

        def prepare(image: Any, given: list[Tensor], device: Any, count: int) -> list[Tensor]:
            return given

        def switch(on: bool) -> None:
            for processor in self.processors.values():
                scale = task.settings.scale if on else 0.0
                processor.scale = [scale * share for share in shares or [1.0]]

        with restoring() as changes:
            for name, processor in self.processors.items():
                for key, layer in self.layers[name].items():
                    changes.set(processor, key, nn.ModuleList([layer] * len(parts)))
            install(changes, network, self.processors, device, network.dtype)
            projections = MultiIPAdapterImageProjection([self.projection] * len(parts))
            changes.set(network, "encoder_hid_proj", projections.to(device, network.dtype))
            set_config(changes, network, "encoder_hid_dim_type", "ip_image_proj")
            changes.set(self.base, "prepare_ip_adapter_image_embeds", prepare)
            yield Injection({"ip_adapter_image_embeds": parts, "negative_ip_adapter_image_embeds": blank}, switch)
