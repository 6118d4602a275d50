"""A diffusers pipeline of somebody else's as a `System`: where it computes, its weights' hash, its samplers, its
files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from bowerbird.core import cache, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article
from bowerbird.diffusion import schedulers
from bowerbird.models import network_files
from bowerbird.systems import common, model_index
from bowerbird.systems.base import System
from bowerbird.systems.grounded import bases

if TYPE_CHECKING:
    from PIL import Image

OWN_SAMPLER = "base"
"""The sampler of the base itself, as it was opened."""
NOT_GENERATING = ("safety_checker", "image_encoder", "feature_extractor")


class WrappedPipeline(System):
    """A `System` around `base`, which stays as it is. `folder`: where it was read from, None for one that was given."""

    generating: ClassVar[tuple[str, ...]] = ()
    loads_in_dtype: ClassVar[bool] = True
    folder: Path | None = None

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.register_to_config()
        self.base = base
        self._base_fingerprint: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the base computes."""
        found: torch.device = self.base._execution_device
        return found

    @property
    def dtype(self) -> torch.dtype:
        """What the base computes in."""
        return next(self.networks[0].parameters()).dtype

    @property
    def components(self) -> dict[str, Any]:
        """The base's."""
        found: dict[str, Any] = self.base.components
        return found

    @property
    def networks(self) -> list[torch.nn.Module]:
        """The base's U-Net or transformer."""
        unet = getattr(self.base, "unet", None)
        return [self.base.transformer if unet is None else unet]

    @property
    def scheduler(self) -> Any:
        """The base's."""
        return self.base.scheduler

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the base, or change its number format."""
        self.base.to(*args, **kwargs)
        self._base_fingerprint = None
        return self

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the base; an adapter is a file of its own."""
        self.base.save_pretrained(save_directory, **kwargs)

    def export(self, out: Path) -> None:
        """Write the base into the folder `out` for diffusers, in half precision, with how it generates; the pipeline
        is in half precision from then on."""
        self.to(torch.float16).save_pretrained(out)
        if self.folder is not None and (self.folder / bases.CALL).is_file():
            shutil.copy(self.folder / bases.CALL, out)

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """That of the base."""
        self.base.set_progress_bar_config(**kwargs)

    def offload(self, how: str) -> None:
        """Keep weights in main memory and move them to the accelerator when they are needed: `model` a network at a
        time, `sequential` a layer at a time, `none`. Raises: BowerbirdError without an accelerator."""
        if how not in ("none", "model", "sequential"):
            raise BowerbirdError(f"`offload` {how!r} is not known; choose none, model or sequential")
        if how == "none":
            return
        if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
            raise BowerbirdError(f"`offload={how}` needs an accelerator, and torch finds none here; leave it out")
        self.base_fingerprint()  # of the weights while they are all at hand
        (self.base.enable_model_cpu_offload if how == "model" else self.base.enable_sequential_cpu_offload)()

    def condition(self, hits: Any, *args: Any, **kwargs: Any) -> Any:
        """Raises: BowerbirdError: a base makes its conditions itself, inside its call."""
        raise BowerbirdError(f"{with_article(type(self.base).__name__)} makes its conditions itself; call the pipeline")

    def predict(self, sample: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """Raises: BowerbirdError: a base guides itself, inside its call."""
        raise BowerbirdError(f"{with_article(type(self.base).__name__)} guides itself; call the pipeline")

    def preview(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of what a step leaves; none of a base whose latents are packed, or overflow in half precision."""
        vae = getattr(self.base, "vae", None)
        half = self.dtype == torch.float16 and getattr(getattr(vae, "config", None), "force_upcast", False)
        if vae is None or latents.ndim != 4 or half:
            return []
        scale, shift = vae.config.scaling_factor, getattr(vae.config, "shift_factor", None) or 0.0
        with torch.no_grad():
            return tensors.to_pil(vae.decode(latents.to(vae.dtype) / scale + shift, return_dict=False)[0].float())

    # -- samplers ------------------------------------------------------------------------------------------------------

    @property
    def samplers(self) -> tuple[str, ...]:
        """The base's own, and for a U-Net, which predicts noise or velocity, ours."""
        return (OWN_SAMPLER, *schedulers.SAMPLERS) if getattr(self.base, "unet", None) is not None else (OWN_SAMPLER,)

    def set_sampler(self, name: str) -> None:
        """Sample with `name` from now on; `base` is the base's own sampler, begun afresh."""
        config, kind = self.base.scheduler.config, type(self.base.scheduler)
        if name != OWN_SAMPLER and len(self.samplers) == 1:
            raise BowerbirdError(
                f"{with_article(type(self.base).__name__)} samples with its own sampler; leave `sampler` out"
            )
        made = kind.from_config(config) if name == OWN_SAMPLER else schedulers.scheduler(name, config=config)
        self.base.scheduler = made

    @contextmanager
    def sampling_with(self, name: str) -> Iterator[None]:
        """A block that samples with `name`, without a progress bar; afterwards the base is as it was."""
        before, bar = self.base.scheduler, self.base.__dict__.get("_progress_bar_config")
        self.set_sampler(name)
        self.base.set_progress_bar_config(disable=True)
        try:
            yield
        finally:
            self.base.scheduler = before
            self.base.__dict__.pop("_progress_bar_config", None)
            if bar is not None:
                self.base._progress_bar_config = bar

    # -- weights -------------------------------------------------------------------------------------------------------

    def base_fingerprint(self) -> str:
        """A hash of the base's weights. Of a folder it is kept, as reading gigabytes takes a minute."""
        if self._base_fingerprint is None:
            self._base_fingerprint = self._hash_weights()
        return self._base_fingerprint

    def _hash_weights(self) -> str:
        parts = [
            part
            for name, part in sorted(self.base.components.items())
            if isinstance(part, torch.nn.Module) and name not in NOT_GENERATING
        ]
        if self.folder is None:
            return common.fingerprint(parts)
        files = [(path, path.stat()) for path in sorted(self.folder.resolve().glob("*/*.safetensors"))]
        facts = [f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in files]
        key = cache.key("base weights", str(self.dtype), *facts)
        place = cache.directory("fingerprints") / f"{key[:32]}.safetensors"
        made = cache.memoize(
            place, key, lambda: {"digest": torch.tensor(list(common.fingerprint(parts).encode()), dtype=torch.uint8)}
        )
        return bytes(made["digest"].tolist()).decode()

    @classmethod
    def hub_patterns(cls, index: dict[str, Any]) -> tuple[str, ...]:
        """The files of the pipeline's components; a base's repository holds the same weights in other forms too."""
        parts = [name for name, value in index.items() if isinstance(value, list) and any(value)]
        endings = ("json", "safetensors", "txt", "model", "jinja")
        return ("model_index.json", bases.CALL, *(f"{part}/*.{ending}" for part in parts for ending in endings))


def open_base(place: Path, dtype: torch.dtype, options: dict[str, Any]) -> Any:
    """The diffusers pipeline in the folder `place`, its networks checked. Raises: BowerbirdError."""
    import diffusers

    name = model_index.read_index(place)["_class_name"]
    bases.family_of(name)
    bases.check_libraries(name)
    kind: type[DiffusionPipeline] = getattr(diffusers, name)
    networks: dict[str, Any] = {}
    if network_files.is_bundled(place):
        networks = model_index.load_quantized(kind, place, set(options), dtype)
    elif "device_map" not in options:
        variant = {"variant": options["variant"]} if options.get("variant") else {}
        networks = model_index.load_networks(model_index.check(kind, place), place, set(options), dtype, variant)
    return kind.from_pretrained(
        str(place), dtype=dtype, **{"local_files_only": True, "use_safetensors": True, **options, **networks}
    )
