"""The released RDM checkpoints (`bowerbird import compvis`): what is in a file, whether all of it has a place, and the
same in diffusers layout.

`plan` reads the description of a file and decides everything; `write` copies the tensors one by one, so that a file of
6 GB with optimizer state needs little memory. Averaged weights (EMA) are preferred; their names lost all dots when
they were saved, and get them back here.

What no tensor tells is taken from the published configurations and can be said otherwise: attention heads of 32
channels, pictures of 256 px (768 for a 16x first stage), the prediction of noise, and what the network wants of
embeddings: raw CLIP ViT-B/32 in the VQ models, those of ViT-L/14 at length 1 in the KL model. None of them saw a null
in training. Source: arXiv 2204.11824, 2207.13038 and the released configurations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.torch_file import DAMAGE, Stored, read_torch_file
from bowerbird.systems.rdm.interop import compvis_card, compvis_schedule, compvis_state, compvis_unet, compvis_vae
from bowerbird.systems.rdm.interop.compvis_state import FIRST_STAGE

if TYPE_CHECKING:
    import torch

WEIGHTS = "diffusion_pytorch_model.safetensors"
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Choices:
    """What the file does not tell; None is what the published model of that shape has. `heads`: the same number of
    heads at every level instead.
    `ignore`: tensors whose names begin with one of these are left out. `tokenizer`: of a text model."""

    head_channels: int | None = None
    heads: int | None = None
    size: int | None = None
    scale_factor: float | None = None
    embeddings: str | None = None
    encoder: str | None = None
    k: int | None = None
    ema: bool = True
    dtype: str = "float32"
    ignore: tuple[str, ...] = ()
    tokenizer: str | None = None


@dataclass(frozen=True)
class Part:
    """One network of the result: its class and arguments, where each of its tensors comes from, and the file they go
    to."""

    class_name: str
    config: dict[str, Any]
    tensors: dict[str, Stored]
    shapes: dict[str, tuple[int, ...]]
    file: str = WEIGHTS

    @property
    def parameters(self) -> int:
        """Numbers in all of its tensors."""
        return sum(stored.numel for stored in self.tensors.values())


@dataclass(frozen=True)
class Plan:
    """Everything about an import before a tensor is read; `ignored` counts tensors by what they are."""

    file: Path
    unet: Part
    vae: Part
    schedule: dict[str, Any]
    pipeline: dict[str, Any]
    weights: str
    assumed: dict[str, str]
    dtype: str
    ignored: dict[str, int]
    missing: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """What goes where, as plain values."""
        return {
            "file": str(self.file),
            "unet": {
                "class": self.unet.class_name,
                "parameters": self.unet.parameters,
                "weights": self.weights,
                **self.unet.config,
            },
            "vae": {"class": self.vae.class_name, "parameters": self.vae.parameters, **self.vae.config},
            "scheduler": self.schedule,
            "pipeline": self.pipeline,
            "not in the file": self.assumed,
            "matched": len(self.unet.tensors) + len(self.vae.tensors),
            "missing": list(self.missing),
            "ignored": self.ignored,
        }


def plan(path: str | Path, choices: Choices | None = None) -> Plan:
    """What is in the checkpoint of an RDM at `path` and where all of it goes.

    Raises: BowerbirdError, saying why, for a file that cannot be read, is of another model, or has a tensor that no
    published layout has.
    """
    path, choices = Path(path), choices or Choices()
    tensors, ignored = read_state(path, choices)
    with naming(path):
        return _plan(path, tensors, choices, ignored)


def read_state(path: Path, choices: Choices) -> tuple[dict[str, Stored], Counter[str]]:
    """The description of each tensor of the checkpoint at `path` but for those that `choices` leave out, and what was
    left out.

    Raises: BowerbirdError for a file that holds no state, and for choices that are none.
    """
    if choices.dtype not in DTYPES or choices.embeddings not in (None, "raw", "unit"):
        raise BowerbirdError(
            f"weights are written as {', '.join(DTYPES)} (got {choices.dtype}), and embeddings are raw or unit (got"
            f" {choices.embeddings})"
        )
    held = read_torch_file(path)
    state = held.get("state_dict", held) if isinstance(held, Mapping) else None
    if not isinstance(state, Mapping) or not any(isinstance(value, Stored) for value in state.values()):
        raise BowerbirdError(
            f"{path}: holds no state_dict of tensors; give a checkpoint as RDM's authors published them"
        )
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Stored)}
    ignored: Counter[str] = Counter()
    if state is not held:
        beside = compvis_state.count_tensors([value for key, value in held.items() if key != "state_dict"])
        ignored |= Counter({"optimizer state and training settings": beside} if beside else {})
    with naming(path):
        for prefix in choices.ignore:
            left = [name for name in tensors if name.startswith(prefix)]
            if not prefix or not left:
                raise BowerbirdError(
                    f"no tensor's name begins with {prefix!r} (--ignore); --dry-run shows what is in it"
                )
            tensors = {name: stored for name, stored in tensors.items() if name not in left}
            ignored[f"tensors below {prefix} (--ignore)"] += len(left)
    return tensors, ignored


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A block that decides about the file at `path`: what it raises names the file, in one line. Raises:
    BowerbirdError."""
    try:
        yield
    except BowerbirdError as error:
        raise BowerbirdError(f"{path}: {error}") from error
    except DAMAGE as error:  # a tensor that sizes are read from is not there, or has another form
        raise BowerbirdError(
            f"{path}: its sizes cannot be determined ({type(error).__name__}: {error}); it is incomplete, or another"
            " model"
        ) from error


def _plan(path: Path, tensors: dict[str, Stored], choices: Choices, ignored: Counter[str]) -> Plan:
    import diffusers

    compvis_state.refuse_other_models(tensors)
    source, weights, why = compvis_state.unet_weights(tensors, ema=choices.ema)
    first_stage = compvis_state.first_stage(tensors)
    unet, vae = compvis_unet.layout(source), compvis_vae.layout(first_stage)
    if not unet.in_channels == unet.out_channels == vae.embed_dim:
        raise BowerbirdError(
            f"its U-Net reads {unet.in_channels} channels and gives {unet.out_channels}, its first stage makes"
            f" {vae.embed_dim}; an RDM has one number for all three"
        )
    if not vae.codes and (vae.factor, vae.latent_channels) != (16, 16) and choices.embeddings is None:
        raise BowerbirdError(
            f"its first stage is KL, {vae.factor}x with {vae.latent_channels} channels, as no published RDM's (Stable"
            " Diffusion's is 8x with 4, and its U-Net reads text, not neighbors); if this one was trained on neighbors,"
            " say how it takes their embeddings: --embeddings raw or unit"
        )
    heads = _heads(unet, choices)
    size = compvis_state.picture_size(choices.size, 768 if vae.factor == 16 else 256, unet, vae)
    scale, whence = compvis_state.latent_scale(tensors, vae, choices.scale_factor)
    compvis_state.count_left_out(tensors, ignored, weights, parts=(FIRST_STAGE,), model="RDM")
    parts = (
        part_of(
            diffusers.UNet2DConditionModel,
            unet.config(size // vae.factor, heads),
            source,
            lambda n: compvis_unet.diffusers_name(n, unet),
        ),
        vae_part(first_stage, vae, size, scale),
    )
    missing = missing_tensors({"unet": parts[0], "vae": parts[1]})
    assumed = {
        "weights": f"{weights} ({why})",
        "heads": (
            f"{', '.join(map(str, heads))} by level"
            f" ({'said' if choices.heads else f'{choices.head_channels or compvis_unet.HEAD_CHANNELS} channels each'})"
        ),
        "picture size": f"{size} px ({'said' if choices.size else 'as published'})",
        "latent scale": f"{scale:g} ({whence})",
        "prediction": "noise (as published)",
    }
    if "betas" not in tensors:
        assumed["schedule"] = "as published"
    pipeline = _pipeline(unet, vae, choices)
    return Plan(
        path,
        *parts,
        compvis_schedule.schedule(tensors, kl=not vae.codes),
        pipeline,
        weights,
        assumed,
        choices.dtype,
        dict(ignored),
        missing,
    )


def _heads(unet: compvis_unet.UNetLayout, choices: Choices) -> tuple[int, ...]:
    """Attention heads by level. Raises: BowerbirdError when they do not divide a width that attends."""
    attends = [width for width, a in zip(unet.channels, unet.attention, strict=True) if a] + [unet.channels[-1]]
    width_each = choices.head_channels or compvis_unet.HEAD_CHANNELS
    each = choices.heads or width_each
    if any(width % each for width in attends):
        said = f"{each} heads" if choices.heads else f"heads of {each} channels"
        raise BowerbirdError(f"{said} do not divide the widths {sorted(set(attends))}; say --head-channels, or --heads")
    return tuple(choices.heads or max(1, width // width_each) for width in unet.channels)


def vae_part(source: Mapping[str, Stored], sizes: compvis_vae.FirstStageLayout, size: int, scale: float) -> Part:
    """The first stage of pictures of `size` px."""
    import diffusers

    network = getattr(diffusers, sizes.class_name)
    return part_of(network, sizes.config(size, scale), source, lambda name: compvis_vae.diffusers_name(name, sizes))


def missing_tensors(parts: Mapping[str, Part]) -> tuple[str, ...]:
    """What the networks have and the file has not, by folder."""
    return tuple(
        f"{folder}: {name}" for folder, part in parts.items() for name in part.shapes if name not in part.tensors
    )


def part_of(
    network: Any, config: dict[str, Any], source: Mapping[str, Stored], rename: Any, *, file: str = WEIGHTS
) -> Part:
    """A network of `source`'s tensors, checked against the class `network` by name and shape; they go to `file`.
    Raises: BowerbirdError for a tensor that does not fit."""
    import torch

    class_name = network.__name__
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in network(**config).state_dict().items()}
    tensors: dict[str, Stored] = {}
    for name, stored in source.items():
        new = rename(name)
        if new is None or new not in shapes or new in tensors:
            raise BowerbirdError(
                f"its {name} has no place in a {class_name} of that shape; the layout is not one of the published ones"
            )
        fits = stored.shape == shapes[new] or (compvis_vae.is_matrix(new) and stored.shape == (*shapes[new], 1, 1))
        if not fits:
            raise BowerbirdError(
                f"its {name} is {stored.shape}, where {class_name} of that shape has {shapes[new]}; the layout is not"
                " one of the published ones"
            )
        tensors[new] = stored
    return Part(class_name, config, tensors, shapes, file)


def encoder_name(choices: Choices, dim: int) -> str:
    """The encoder of the neighbors: said, else the published one of that width, else ""."""
    given = choices.encoder or ""
    given = files.last_part(given) if Path(given).is_dir() and given else files.portable(given)
    return given or {512: "openai/clip-vit-base-patch32", 768: "openai/clip-vit-large-patch14"}.get(dim, "")


def _pipeline(unet: compvis_unet.UNetLayout, vae: compvis_vae.FirstStageLayout, choices: Choices) -> dict[str, Any]:
    """The conventions that a checkpoint does not hold and that generate wrongly when they are mixed up."""
    unit = choices.embeddings == "unit" if choices.embeddings is not None else not vae.codes
    return {
        "k": choices.k or (4 if vae.codes else 20),
        "normalize_embeddings": unit,
        "embedding_length": 1.0 if unit else None,
        "encoder_name": encoder_name(choices, unet.context_dim),
        "encoder_fingerprint": "",
        "trained_null": False,
        # as the authors' scripts sample
        "num_inference_steps": 100 if vae.codes else 50,
        "guidance_scale": 2.0 if vae.codes else 5.0,
        "sampler": "ddim-compvis",
        "text_mode": "text+neighbors" if vae.codes else "text",
    }


def write(made: Plan, out: str | Path, *, progress: Any = None) -> None:
    """Write `made` to the directory `out`, which `RDMPipeline.from_pretrained` opens, and diffusers part by part.

    `progress(done, total)` counts tensors. Raises: BowerbirdError when tensors are missing or damaged; nothing is left
    then.
    """
    import diffusers
    import torch

    from bowerbird.systems.rdm.pipeline import RDMPipeline

    check_complete(made.file, made.missing)
    with torch.device("meta"):
        unet, vae = (getattr(diffusers, part.class_name)(**part.config) for part in (made.unet, made.vae))
    scheduler = diffusers.DDIMScheduler(**made.schedule)
    with files.atomic_directory(out) as folder:
        parts = {"unet": (made.unet, unet), "vae": (made.vae, vae)}
        write_parts(made.file, parts, folder, dtype=made.dtype, progress=progress)
        scheduler.save_config(folder / "scheduler")
        RDMPipeline(unet=unet, vae=vae, scheduler=scheduler, **made.pipeline).save_config(folder)
        (folder / "README.md").write_text(compvis_card.card(made.report()), encoding="utf-8")


def check_complete(file: Path, missing: Sequence[str]) -> None:
    """Raises: BowerbirdError when tensors are `missing`."""
    if missing:
        raise BowerbirdError(
            f"{file}: {len(missing)} tensors are missing ({missing[0]} first); the file is incomplete; fetch it again"
        )


def write_parts(
    file: Path, parts: Mapping[str, tuple[Part, Any]], folder: Path, *, dtype: str, progress: Any = None
) -> None:
    """Write each network, by the name of its folder, with the tensors of its part, one by one.

    Raises: BowerbirdError for a tensor that is damaged.
    """
    import torch

    total, done = sum(len(part.tensors) for part, _ in parts.values()), 0
    for name, (part, network) in parts.items():
        save = getattr(network, "save_config", None) or network.config.save_pretrained  # transformers has the latter
        save(folder / name)

        def read(key: str, part: Part = part, name: str = name) -> torch.Tensor:
            nonlocal done
            tensor = part.tensors[key].read()
            if damage := _damage(tensor):
                raise BowerbirdError(
                    f"{file}: {name}: {key} {damage}; the file is damaged, fetch it again. Nothing was written"
                )
            tensor = tensor.reshape(part.shapes[key]).to(getattr(torch, dtype))
            done += 1
            if progress is not None:
                progress(done, total)
            return tensor

        files.stream_tensors(folder / name / part.file, {key: (dtype, part.shapes[key]) for key in part.tensors}, read)


HOLE = 1024
"""So many zeros in a row, from a multiple of it, are no weights: a file system's page of zeros is 1024 numbers."""


def _damage(tensor: torch.Tensor) -> str | None:
    """What no trained tensor is, and a broken download can be; None for a sound one."""
    if not tensor.isfinite().all():
        return "holds numbers that are not finite"
    if tensor.ndim < 2:  # biases, and norms, may be zero
        return None
    flat = tensor.flatten()
    whole = flat[: len(flat) // HOLE * HOLE].view(-1, HOLE)
    if not flat.any():
        return "is zero throughout"
    return None if whole.any(1).all() else f"has {HOLE} zeros in a row"
