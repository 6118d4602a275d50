"""Base models of diffusers that a knowledge base grounds: what an adapter's file says of itself, what references do and
do not change, and that a picture's record gives it again. The bases are tiny, of every family."""

from __future__ import annotations

import functools
import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import doubles
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bowerbird.cli.main import app
from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.systems.grounded.bases import BaseFacts, facts_of, facts_of_folder, facts_of_unet
from bowerbird.systems.grounded.injectors.registry import injector_for, inspect_adapter
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.grounded.references import Reference, square_picture

PROMPT = "a red fox"
NEAR = 5e-6
"""Of pictures in [0, 1] whose references stand in another order: attention adds them up in that order."""


@dataclass(frozen=True)
class Family:
    """A base with its adapter, made once for all tests, and its own call."""

    name: str
    base: Any
    adapter: Path | None
    edge: int
    call: dict[str, Any]

    def pipeline(self, **options: Any) -> ReferencePipeline:
        encoder = None if self.adapter is None else self.adapter.parents[self.name == "redux"] / "image_encoder"
        return ReferencePipeline(self.base, adapter=self.adapter, image_encoder=encoder, **options)

    def plain(self, seed: int = 1) -> np.ndarray:
        """What the base generates by itself."""
        own = {"generator": seeds.picture_generator(seed), "num_inference_steps": 2, "output_type": "np"}
        prompt = [PROMPT]
        return np.asarray(self.base(prompt=prompt, height=self.edge, width=self.edge, **own, **self.call).images)

    def generate(self, pipe: ReferencePipeline, hits: Neighbors, **options: Any) -> np.ndarray:
        how = {"num_inference_steps": 2, "output_type": "np", "seed": 1, "scale": 1.0} | self.call | options
        return np.asarray(pipe(neighbors=hits, height=self.edge, width=self.edge, **how).images)


def own(count: int, prompt: str = PROMPT, order: tuple[int, ...] | None = None) -> Neighbors:
    """Pictures of one's own as references."""
    pictures = doubles.pictures(5, (64, 64))
    chosen = [pictures[i] for i in order or range(count)]
    return Neighbors.from_images([prompt], chosen, [""] * len(chosen)) if chosen else Neighbors.empty([prompt])


FAMILIES = ("sd", "plus", "turbo", "lcm", "sdxl", "sd3", "flux", "redux", "klein", "kontext")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    made: dict[str, Family] = {}

    def family(name: str) -> Family:
        if name not in made:
            place, call = tmp_path_factory.mktemp(name), {}
            if name == "klein":
                call = {"text_encoder_out_layers": (1,), "max_sequence_length": 32, "guidance_scale": 1.0}
                made[name] = Family(name, doubles.klein(), None, 16, call)
            elif name == "kontext":
                call = {"max_area": 64, "_auto_resize": False}
                made[name] = Family(name, doubles.kontext(), None, 8, call)
            else:
                base = {"sdxl": doubles.sdxl, "sd3": doubles.sd3}.get(name, doubles.flux)
                base = doubles.sd() if name in ("sd", "plus", "turbo") else doubles.lcm() if name == "lcm" else base()
                adapter = {
                    "sd": lambda: doubles.ip_adapter(place, base),
                    "plus": lambda: doubles.ip_adapter_plus(place, base),
                    "turbo": lambda: doubles.ip_adapter(place, base),
                    "lcm": lambda: doubles.ip_adapter(place, base),
                    "sdxl": lambda: doubles.ip_adapter(place, base, 2 * doubles.CONTEXT),
                    "sd3": lambda: doubles.ip_adapter_sd3(place, base),
                    "flux": lambda: doubles.ip_adapter_flux(place, base),
                    "redux": lambda: doubles.redux(place),
                }[name]()
                call = {} if name in ("sd", "plus", "lcm", "sdxl", "sd3") else {"guidance_scale": 1.0}
                call = {"guidance_scale": 0.0} if name == "turbo" else call  # as few-step models are called
                made[name] = Family(name, base, adapter, 8 if name in ("sd3", "flux", "redux") else 16, call)
        return made[name]

    return family


@pytest.mark.parametrize("name", FAMILIES)
def test_references_are_a_set_and_nothing_is_left_of_them(name: str, families: Callable[[str], Family]) -> None:
    family = families(name)
    pipe, plain = family.pipeline(), family.plain()
    assert sum(p.numel() for p in pipe.networks[0].parameters()) < 400_000
    before = snapshot(family.base)
    one = family.generate(pipe, own(1))
    assert np.abs(one - plain).max() > 1e-4, "a reference changes nothing"
    can = pipe.injector.capabilities  # type: ignore[union-attr]
    if can.scale:
        assert np.array_equal(family.generate(pipe, own(1), scale=0.0), plain)
    assert np.array_equal(family.generate(pipe, own(0)), plain)
    if can.max_references != 1:
        two = family.generate(pipe, own(2))
        assert np.abs(two - one).max() > 1e-4
        swapped = family.generate(pipe, own(2, order=(1, 0)))
        # an editor numbers its references, so that their order is part of the question
        assert (np.abs(two - swapped).max() < NEAR) == (name != "klein")
    first = own(2).weighted([1, 0]) if can.max_references != 1 else own(1)
    assert np.array_equal(family.generate(pipe, first), one)
    assert snapshot(family.base) == before
    assert np.array_equal(family.plain(), plain)


def snapshot(base: Any) -> tuple[Any, ...]:
    """All of a pipeline that a reference could leave a mark on."""
    network = getattr(base, "unet", None) or base.transformer
    return (
        {name: id(each) for name, each in network.attn_processors.items()},
        {name: id(each) for name, each in base.__dict__.items() if not name.startswith("_") or name == "_callback"},
        set(network.__dict__),
        {name: id(each) for name, each in network._modules.items()},
        [name for name, _ in network.named_modules()],
        dict(network.config),
        vars(network.config).get("encoder_hid_dim_type"),
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exception_leaves_the_base_as_it_was(name: str, families: Callable[[str], Family]) -> None:
    family = families(name)
    pipe, before, plain = family.pipeline(), snapshot(family.base), family.plain()
    marks = snapshot(family.base)

    def stop(*arguments: Any) -> Any:
        raise KeyError("in the middle")

    with pytest.raises(KeyError):
        family.generate(pipe, own(1 if name == "kontext" else 2), callback_on_step_end=stop)
    assert snapshot(family.base)[0] == marks[0] == before[0]
    assert snapshot(family.base)[3:] == marks[3:]
    assert np.array_equal(family.plain(), plain)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_the_loop_over_its_pictures(name: str, families: Callable[[str], Family]) -> None:
    """diffusers gives every picture of a batch the first one's references (diffusers#9813)."""
    family = families(name)
    pipe = family.pipeline()
    rows = [own(1, order=(0,)), own(1, order=(1,)), own(1, order=(2,))]
    together = family.generate(pipe, Neighbors.stack(rows), generator=seeds.picture_generators(1, 3))
    for at, row in enumerate(rows):
        alone = family.generate(pipe, row, generator=[seeds.picture_generators(1, 3)[at]])
        assert np.abs(together[at] - alone[0]).max() < 2e-5, f"picture {at} of the batch is another"
    assert np.abs(together[0] - together[1]).max() > 1e-4


@pytest.mark.parametrize("name", ["sd", "plus", "sdxl", "flux"])
def test_embeddings_are_what_diffusers_makes_of_pictures(name: str, families: Callable[[str], Family]) -> None:
    """The same picture by diffusers' own loader, image encoder and call."""
    from safetensors.torch import load_file
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    family = families(name)
    ours = family.generate(family.pipeline(), own(2))
    theirs = {"flux": doubles.flux, "sdxl": doubles.sdxl}.get(name, doubles.sd)()
    assert family.adapter is not None
    state: dict[str, Any] = {"image_proj": {}, "ip_adapter": {}}
    for key, each in load_file(family.adapter).items():
        key = key.replace("ip_adapter_proj_model.", "image_proj.").replace("double_blocks.", "ip_adapter.")
        key = key.replace("processor.ip_adapter_double_stream_k_proj", "to_k_ip")
        part, _, rest = key.replace("processor.ip_adapter_double_stream_v_proj", "to_v_ip").partition(".")
        state[part][rest] = each
    encoder = CLIPVisionModelWithProjection.from_pretrained(family.adapter.parent / "image_encoder").eval()
    size = {"height": 32, "width": 32}
    theirs.register_modules(
        image_encoder=encoder, feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    )
    options = {} if name == "flux" else {"image_encoder_folder": None}
    theirs.load_ip_adapter(state, subfolder="", weight_name="", **options)
    theirs.set_ip_adapter_scale(1.0)
    pictures = [[square_picture(picture, 32, "pad") for picture in own(2).images()[0]]]
    call = {"prompt": [PROMPT], "num_inference_steps": 2, "output_type": "np", "height": family.edge} | family.call
    made = theirs(ip_adapter_image=pictures, width=family.edge, generator=seeds.picture_generator(1), **call).images
    assert np.abs(np.asarray(made) - ours).max() < 2e-6


def test_embeddings_of_sd3_are_what_diffusers_makes_of_a_picture(families: Callable[[str], Family]) -> None:
    """By diffusers' own loader and call, given the picture, and given what our reader makes of it."""
    from safetensors.torch import load_file
    from transformers import SiglipVisionModel

    family = families("sd3")
    assert family.adapter is not None
    pipe = family.pipeline()
    ours = family.generate(pipe, own(1))
    state: dict[str, Any] = {"image_proj": {}, "ip_adapter": {}}
    for key, each in load_file(family.adapter).items():
        part, _, rest = key.partition(".") if key.startswith("ip_adapter.") else ("image_proj", "", key)
        state[part][rest.removeprefix("image_proj.")] = each
    theirs = doubles.sd3()
    theirs.register_modules(
        image_encoder=SiglipVisionModel.from_pretrained(family.adapter.parent / "image_encoder").eval()
    )
    theirs.load_ip_adapter(state, weight_name="", subfolder="", image_encoder_folder=None, low_cpu_mem_usage=False)
    theirs.set_ip_adapter_scale(1.0)
    picture = own(1).images()[0][0]
    assert picture is not None
    assert pipe.reader is not None
    assert pipe.reader.encoder is not None
    square = np.asarray(square_picture(picture, 32, "pad"), np.float32)
    pixels = torch.from_numpy(square / 127.5 - 1).permute(2, 0, 1)[None]
    embeds = torch.from_numpy(pipe.reader.encoder.embed([picture], "pad", "cpu", torch.float32))
    call = {"prompt": [PROMPT], "num_inference_steps": 2, "output_type": "np", "height": family.edge}
    for given in (
        {"ip_adapter_image": pixels},
        {"ip_adapter_image_embeds": torch.cat([torch.zeros_like(embeds), embeds])},
    ):
        made = theirs(**given, **call, width=family.edge, generator=seeds.picture_generator(1)).images
        assert np.abs(np.asarray(made) - ours).max() < 1e-6, list(given)


def test_steps_layers_weights_and_regions(families: Callable[[str], Family]) -> None:
    family = families("sd")
    pipe, plain, one = family.pipeline(), family.plain(), family.generate(family.pipeline(), own(1))
    seen: dict[float, list[torch.Tensor]] = {}

    def watch(at: float) -> Callable[..., Any]:
        return lambda pipe, step, time, tensors: seen.setdefault(at, []).append(tensors["latents"].clone()) or tensors

    family.generate(pipe, own(1), steps_from=0.5, callback_on_step_end=watch(0.5))
    family.generate(pipe, own(1), scale=0.0, callback_on_step_end=watch(0.0))
    assert torch.equal(seen[0.5][0], seen[0.0][0])  # the first step is the base's own
    assert not torch.equal(seen[0.5][1], seen[0.0][1])
    # equal weights are one set; unequal ones share the scale
    two = family.generate(pipe, own(2))
    assert np.array_equal(family.generate(pipe, own(2).weighted([3, 3])), two)
    assert not np.array_equal(family.generate(pipe, own(2).weighted([3, 1])), two)
    nearly = family.generate(pipe, own(2).weighted([1, 1e-6]))
    assert np.abs(nearly - one).max() < 1e-4
    # a region of nothing is the base alone, of everything the whole picture
    nowhere = replace(own(1), regions=np.zeros((1, 1, 4), np.float32))
    assert np.abs(family.generate(pipe, nowhere) - plain).max() < 1e-6
    sides = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    left, right = (family.generate(pipe, replace(own(1), regions=np.asarray([[side]], np.float32))) for side in sides)
    assert min(np.abs(left - right).max(), np.abs(left - plain).max(), np.abs(left - one).max()) > 1e-4
    assert np.array_equal(Reference(item=-2, region=(0.5, 0, 1, 1)).mask(2, 4), [[0, 0, 1, 1]] * 2)
    with pytest.raises(BowerbirdError, match="`layers=style` is not known"):
        family.generate(pipe, own(1), layers="style")
    xl = families("sdxl")
    assert xl.pipeline().injector.capabilities.layers == ("all", "style", "content")  # type: ignore[union-attr]
    made = {layers: xl.generate(xl.pipeline(), own(1), layers=layers) for layers in ("all", "style", "content")}
    assert not np.array_equal(made["style"], made["content"])
    assert not np.array_equal(made["style"], made["all"])


def test_flux_gives_each_reference_a_weight(families: Callable[[str], Family]) -> None:
    family = families("flux")
    pipe = family.pipeline()
    one, other = (family.generate(pipe, own(1, order=(i,))) for i in (0, 1))
    three = family.generate(pipe, own(2).weighted([3, 1]))
    assert np.abs(three - one).max() < np.abs(three - other).max()
    assert np.abs(family.generate(pipe, own(2).weighted([1, 1e-7])) - one).max() < 1e-5


def test_what_a_base_cannot_take_is_one_line(families: Callable[[str], Family], tmp_path: Path) -> None:
    klein, sd3, flux, redux = (families(name) for name in ("klein", "sd3", "flux", "redux"))
    for family, hits, options, said in (
        (klein, own(5), {}, "takes at most 4"),
        (klein, own(2).weighted([2, 1]), {}, "leave weights out"),
        (sd3, own(2).weighted([2, 1]), {}, "same weight"),
        (flux, replace(own(1), regions=np.zeros((1, 1, 4), np.float32)), {}, "no regions"),
        (redux, own(1), {"steps_to": 0.5}, "in every step"),
        (klein, own(1), {"scale": 0.3}, "takes no `scale`"),
        (klein, own(1), {"layers": "style"}, "choose all"),
        (redux, own(1), {"pool": 3}, "does not divide"),
        (flux, own(1), {"pool": 3}, "averages no tokens"),
        (flux, own(1), {"negative_prompt": "x", "eta": 0.5}, "takes no eta"),
    ):
        before = snapshot(family.base)
        with pytest.raises(BowerbirdError, match=said) as error:
            family.generate(family.pipeline(), hits, **options)
        assert "\n" not in str(error.value)
        assert snapshot(family.base)[0] == before[0]
    alone = ReferencePipeline(families("sd").base)
    with pytest.raises(BowerbirdError, match=r"a multiple of 8 pixels for this base .* up to 4096; got 100000"):
        alone("a red fox", k=0, height=100_000)
    kb, _ = KnowledgeBase.build(tmp_path / "kb", collection(tmp_path / "pictures", 2))
    with pytest.raises(BowerbirdError, match="reads no pictures by itself"):
        alone("a red fox", neighbors=own(1))
    with pytest.raises(BowerbirdError, match="reads no pictures by itself"):
        alone("a red fox", knowledge_base=kb)
    assert alone("a red fox", knowledge_base=kb, k=0, num_inference_steps=1).neighbors.k == 0
    assert alone.capabilities.max_references == 0
    with pytest.raises(BowerbirdError, match="takes no references here"):
        ReferencePipeline(object())


def test_adapter_base_and_encoder_must_fit(families: Callable[[str], Family], tmp_path: Path) -> None:
    sd, sdxl, flux = (families(name) for name in ("sd", "sdxl", "flux"))
    assert sd.adapter is not None
    with pytest.raises(BowerbirdError, match="for an SD-family model \\(cross-attention 32, 17 layers\\)"):
        ReferencePipeline(sd.base, adapter=sdxl.adapter)
    with pytest.raises(BowerbirdError, match="FLUX"):
        ReferencePipeline(sd.base, adapter=flux.adapter)
    other = doubles.vision(tmp_path / "other", projection=28)
    with pytest.raises(BowerbirdError, match=r"of 28 dimensions .* needs an image encoder whose pooled output has 20"):
        ReferencePipeline(sd.base, adapter=sd.adapter, image_encoder=other)
    loaded = doubles.sd()
    loaded.load_ip_adapter(
        {"image_proj": {}, "ip_adapter": {}} | _state(sd.adapter),
        subfolder="",
        weight_name="",
        image_encoder_folder=None,
    )
    with pytest.raises(BowerbirdError, match="IPAdapterAttnProcessor2_0"):
        ReferencePipeline(loaded, adapter=sd.adapter)
    # a file that stands alone: the pictures cannot be encoded
    lonely = tmp_path / "lonely.safetensors"
    lonely.write_bytes(sd.adapter.read_bytes())
    with pytest.raises(BowerbirdError, match=r"give its folder \(`image_encoder=DIR`\)"):
        ReferencePipeline(sd.base, adapter=lonely)(neighbors=own(1), num_inference_steps=1)


def _state(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    from safetensors.torch import load_file

    state: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, each in load_file(path).items():
        part, _, rest = key.partition(".")
        state[part][rest] = each
    return state


# -- files -------------------------------------------------------------------------------------------------------------

SD1 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 768,
}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
}


def sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A safetensors file of these shapes, float16, that takes no room: what is read of it is its header."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return path


def layers(widths: tuple[int, ...], context: int) -> dict[str, tuple[int, ...]]:
    return {
        f"ip_adapter.{2 * i + 1}.to_{n}_ip.weight": (width, context) for i, width in enumerate(widths) for n in "kv"
    }


def plain_projection(context: int, dim: int, tokens: int = 4, prefix: str = "image_proj") -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.proj.weight": (tokens * context, dim),
        f"{prefix}.proj.bias": (tokens * context,),
        f"{prefix}.norm.weight": (context,),
        f"{prefix}.norm.bias": (context,),
    }


def plus_projection(context: int, inner: int, dim: int = 1280) -> dict[str, tuple[int, ...]]:
    return {
        "image_proj.latents": (1, 16, inner),
        "image_proj.proj_in.weight": (inner, dim),
        "image_proj.proj_out.weight": (context, inner),
        "image_proj.norm_out.weight": (context,),
    }


@pytest.fixture(scope="module")
def bases() -> dict[str, BaseFacts]:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        found = {name: UNet2DConditionModel(**config) for name, config in (("sd1", SD1), ("sdxl", SDXL))}
    made = {name: BaseFacts("", "sd", *facts_of_unet(unet)) for name, unet in found.items()}
    return (
        made
        | {"flux": BaseFacts("FluxPipeline", "flux", 4096, (3072,) * 19)}
        | {"sd3": BaseFacts("StableDiffusion3Pipeline", "sd3", 4096, (2432,) * 38)}
    )


def published(bases: dict[str, BaseFacts]) -> dict[str, tuple[dict[str, tuple[int, ...]], str, str, int, int]]:
    """The shapes of the published files, by what they are: base, encoder, dimension it reads, tokens."""
    sd1, sdxl = layers(bases["sd1"].widths, 768), layers(bases["sdxl"].widths, 2048)
    full = {"image_proj.proj.0.weight": (1280, 1280), "image_proj.proj.2.weight": (768, 1280)}
    full |= {"image_proj.proj.3.weight": (768,), "image_proj.proj.3.bias": (768,)}
    place = "double_blocks.{}.processor.ip_adapter_double_stream_{}_proj.{}"
    xlabs = {place.format(i, n, "weight"): (3072, 4096) for i in range(19) for n in "kv"}
    xlabs |= {place.format(i, n, "bias"): (3072,) for i in range(19) for n in "kv"}
    sd3: dict[str, tuple[int, ...]] = {"image_proj.latents": (1, 64, 1280), "image_proj.proj_in.weight": (1280, 1152)}
    for i in range(38):
        sd3[f"ip_adapter.{i}.to_k_ip.weight"] = sd3[f"ip_adapter.{i}.to_v_ip.weight"] = (2432, 2432)
        sd3[f"ip_adapter.{i}.norm_ip.linear.weight"] = (4864, 1280)
    return {
        "ip-adapter_sd15": ({**plain_projection(768, 1024), **sd1}, "sd1", "ViT-H/14", 1024, 4),
        "ip-adapter_sd15_vit-G": ({**plain_projection(768, 1280), **sd1}, "sd1", "ViT-bigG/14", 1280, 4),
        "ip-adapter-plus_sd15": ({**plus_projection(768, 768), **sd1}, "sd1", "ViT-H/14", 1280, 16),
        "ip-adapter-full-face_sd15": ({**full, **sd1}, "sd1", "ViT-H/14", 1280, 257),
        "ip-adapter_sdxl": ({**plain_projection(2048, 1280), **sdxl}, "sdxl", "ViT-bigG/14", 1280, 4),
        "ip-adapter_sdxl_vit-h": ({**plain_projection(2048, 1024), **sdxl}, "sdxl", "ViT-H/14", 1024, 4),
        "ip-adapter-plus_sdxl_vit-h": ({**plus_projection(2048, 1280), **sdxl}, "sdxl", "ViT-H/14", 1280, 16),
        "flux-ip-adapter": (
            {**plain_projection(4096, 768, 4, "ip_adapter_proj_model"), **xlabs},
            "flux",
            "ViT-L/14",
            768,
            4,
        ),
        "flux-ip-adapter-v2": (
            {**plain_projection(4096, 768, 16, "ip_adapter_proj_model"), **xlabs},
            "flux",
            "ViT-L/14",
            768,
            16,
        ),
        "InstantX SD3.5": (sd3, "sd3", "SigLIP so400m", 1152, 64),
        "redux": (
            {"redux_up.weight": (12288, 1152), "redux_down.weight": (4096, 12288)},
            "flux",
            "SigLIP so400m",
            1152,
            729,
        ),
    }


def test_a_published_file_is_known_by_its_shapes(bases: dict[str, BaseFacts], tmp_path: Path) -> None:
    assert (len(bases["sd1"].widths), len(bases["sdxl"].widths)) == (16, 70)
    for name, (shapes, base, encoder, dim, tokens) in published(bases).items():
        facts = inspect_adapter(sparse(tmp_path / "weights.safetensors", shapes))
        assert encoder in facts.encoder.title, name
        assert (facts.encoder.dim, facts.tokens) == (dim, tokens), name
        for each, there in bases.items():
            if each == base:
                assert injector_for(there, facts) is not None, name
            else:
                with pytest.raises(BowerbirdError, match="this base is"):
                    injector_for(there, facts)


def test_what_no_adapter_is_refused(bases: dict[str, BaseFacts], tmp_path: Path) -> None:
    face = {"image_proj.proj.0.weight": (1024, 512), "image_proj.proj.2.weight": (3072, 1024)}
    face |= {"image_proj.norm.weight": (768,), **layers(bases["sd1"].widths, 768)}
    lora = {**plain_projection(768, 1024), "ip_adapter.0.to_q_lora.down.weight": (128, 320)}
    instant = {"image_proj.latents": (1, 16, 1280), "image_proj.proj_in.weight": (1280, 512)}
    instant |= {"image_proj.proj_out.weight": (2048, 1280), **layers(bases["sdxl"].widths, 2048)}
    instantx = {"image_proj.proj.0.weight": (2304, 1152), "image_proj.norm.weight": (4096,)}
    instantx |= {f"ip_adapter.{i}.to_k_ip.weight": (3072, 4096) for i in range(57)}
    for shapes, said in (
        (face, "FaceID.*non-commercial"),
        (instant, "InstantID.*non-commercial"),
        (lora, "FaceID.*non-commercial"),
        (instantx, "InstantX.*no attention"),
        ({"conv_in.weight": (320, 4, 3, 3)}, "no adapter that bowerbird knows"),
    ):
        with pytest.raises(BowerbirdError, match=said) as error:
            inspect_adapter(sparse(tmp_path / "weights.safetensors", shapes))
        assert "\n" not in str(error.value)
    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"image_proj": print}))
    with pytest.raises(BowerbirdError, match=r"evil\.bin"):
        inspect_adapter(tmp_path / "evil.bin")


def test_pickles_and_files_of_a_training_hold_the_same(families: Callable[[str], Family], tmp_path: Path) -> None:
    family = families("sd")
    assert family.adapter is not None
    state, pipe = _state(family.adapter), family.pipeline()
    wanted = family.generate(pipe, own(1))
    torch.save(state, tmp_path / "adapter.bin")
    names = [n.removesuffix(".processor") for n in family.base.unet.attn_processors if "attn2" in n]
    trained = {f"image_proj_model.{name}": each for name, each in state["image_proj"].items()}
    for at, layer in reversed(list(enumerate(names))):
        for key in ("to_k_ip.weight", "to_v_ip.weight"):
            trained[f"unet.{layer}.processor.{key}"] = state["ip_adapter"][f"{2 * at + 1}.{key}"]
    doubles.write(tmp_path / "model.safetensors", trained)
    for path in (tmp_path / "adapter.bin", tmp_path / "model.safetensors"):
        other = ReferencePipeline(family.base, adapter=path, image_encoder=family.adapter.parent / "image_encoder")
        assert np.array_equal(family.generate(other, own(1)), wanted)


# -- with a knowledge base ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, families: Callable[[str], Family]) -> Path:
    """A base in a directory, its adapter, and a knowledge base built with the adapter's encoder."""
    folder = tmp_path_factory.mktemp("place")
    family = families("sd")
    family.base.save_pretrained(folder / "base")
    doubles.ip_adapter(folder / "adapter", family.base)
    return folder


def collection(path: Path, count: int = 6) -> Path:
    path.mkdir()
    for at, picture in enumerate(doubles.pictures(count, (48, 32))):
        picture.save(path / f"fox {at}.png")
        (path / f"fox {at}.txt").write_text(f"a red fox number {at}")
    return path


def test_stored_embeddings_are_the_input(
    place: Path, tmp_path: Path, families: Callable[[str], Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bowerbird.systems.grounded.picture_encoder import PictureEncoder

    source = collection(tmp_path / "pictures")
    encoder = place / "adapter" / "image_encoder"
    kb, _ = KnowledgeBase.build(tmp_path / "kb", source, encoder=str(encoder))
    small, _ = KnowledgeBase.build(tmp_path / "small", source)
    family = families("sd")
    pipe = family.pipeline()
    by_pictures = ReferencePipeline(family.base, adapter=family.adapter, image_encoder=encoder, fit="pad")
    own_fit = family.generate(by_pictures, by_pictures.retrieve(_request(), kb))
    cropped = ReferencePipeline(family.base, adapter=family.adapter, image_encoder=encoder, fit="crop")
    hits = small.search(text=PROMPT, k=2)
    encoded = cropped.reader.read(hits)  # type: ignore[union-attr]

    def fail(*arguments: Any) -> Any:
        raise AssertionError("a picture was encoded")

    monkeypatch.setattr(PictureEncoder, "embed", fail)
    monkeypatch.setattr(KnowledgeBase, "pictures", fail)
    stored = pipe.retrieve(_request(), kb)
    made = family.generate(pipe, stored)
    assert pipe.record_facts(None, kb)["references"]["fit"] == "crop"
    assert not np.array_equal(made, own_fit)  # the pictures are no squares
    # the knowledge base of another encoder gives the same, by its pictures
    same = {int(i): e for i, e in zip(encoded.ids[0], encoded.embeddings[0], strict=True)}
    for number, embedding in zip(stored.ids[0], stored.embeddings[0], strict=True):
        if int(number) in same:
            assert np.abs(same[int(number)] - embedding).max() < 1e-4
    # hits of a search are known by the encoder they are of
    assert np.array_equal(family.generate(pipe, replace(kb.get(stored.ids[0].tolist()), queries=(PROMPT,))), made)


def _request(k: int = 2) -> Any:
    from bowerbird.systems.queries import make_request

    return make_request(PROMPT, k=k, search_mode="bm25")


@pytest.mark.parametrize("name", ["sd", "plus", "sdxl", "sd3", "flux", "redux"])
def test_the_record_of_every_family_gives_its_picture_again(
    name: str, families: Callable[[str], Family], tmp_path: Path
) -> None:
    """By embeddings or by pictures, with phrases and regions where the base has them, from JSON alone."""
    from bowerbird.systems import generation, jobs, records, regeneration

    family, files = families(name), []
    for at, picture in enumerate(doubles.pictures(2, (48, 40))):
        picture.save(tmp_path / f"{at}.png")
        files.append(tmp_path / f"{at}.png")
    pipe = family.pipeline()
    edge = {"height": family.edge, "width": family.edge}
    job = jobs.Job(
        prompt=PROMPT, references=tuple(files), steps=(2,), guidance_scale=2.0, n=2, seed=5, scale=0.9, **edge
    )
    prepared = jobs.prepare(pipe, None, job)
    hits = replace(prepared.hits, phrases=(("fox", ""),) * 2)
    if pipe.injector.capabilities.regions:  # type: ignore[union-attr]
        hits = replace(hits, regions=np.asarray([[[0, 0, 0.5, 1], [0.5, 0, 1, 1]]] * 2, np.float32))
    before = snapshot(family.base)
    made = generation.generate(pipe, hits, prepared.settings)
    said = records.generation_records(pipe, "mine", None, hits, made, prepared.settings, prepared.request)[1]
    again, kept = regeneration.regenerate(pipe, json.loads(json.dumps(said)))
    assert np.array_equal(np.asarray(again), np.asarray(made[1]))
    assert kept.phrases == (("fox", ""),)
    assert [near["name"] for near in said["neighbors"]] == ["0.png", "1.png"]
    assert snapshot(family.base)[0] == before[0]
    with pytest.raises(BowerbirdError, match="none is given"):
        regeneration.regenerate(ReferencePipeline(family.base), said)


@pytest.mark.parametrize(("name", "count"), [("klein", 2), ("kontext", 1)])
def test_the_png_of_an_editor_gives_its_picture_again(
    name: str, count: int, families: Callable[[str], Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures that it read are in the file: neither theirs nor a knowledge base is needed."""
    from bowerbird.core import provenance
    from bowerbird.systems import generation, jobs, output, records, regeneration

    family = families(name)
    kind, call = type(family.base), type(family.base).__call__
    own_call = {key: value for key, value in family.call.items() if key != "guidance_scale"}

    @functools.wraps(call)
    def small(self: Any, **options: Any) -> Any:  # the double's own numbers, which are no setting of a person's
        return call(self, **{**own_call, **options})

    monkeypatch.setattr(kind, "__call__", small)
    files = [tmp_path / f"{at}.png" for at in range(count)]
    for path, picture in zip(files, doubles.pictures(count, (80, 64)), strict=True):
        picture.save(path)
    pipe, edge = family.pipeline(), {"height": family.edge, "width": family.edge}
    job = jobs.Job(prompt=PROMPT, references=tuple(files), steps=(2,), guidance_scale=1.0, n=2, seed=5, **edge)
    prepared = jobs.prepare(pipe, None, job)
    made = generation.generate(pipe, prepared.hits, prepared.settings)
    said = records.generation_records(pipe, "mine", None, prepared.hits, made, prepared.settings, prepared.request)
    written = output.write(made, said, prepared.hits, tmp_path / "out")
    for path in files:
        path.unlink()
    record = provenance.read_png(written[1])
    assert record["references"]["injector"] == "in-context"
    assert len(record["neighbors"]) == count
    again, _ = regeneration.regenerate(family.pipeline(), record)
    assert np.array_equal(np.asarray(again), np.asarray(made[1]))
    assert not np.array_equal(np.asarray(made[0]), np.asarray(made[1]))


def test_a_whole_clip_holds_its_vision_half(tmp_path: Path, families: Callable[[str], Family]) -> None:
    """A knowledge base that is searched by text, built with the CLIP whose vision half the adapter reads."""
    whole, half = doubles.clip(tmp_path / "whole"), tmp_path / "half"
    doubles.vision_half(whole, half)
    kb, _ = KnowledgeBase.build(tmp_path / "kb", collection(tmp_path / "pictures", 2), encoder=str(whole))
    family = families("sd")
    others = doubles.vision(tmp_path / "others", seed=7)
    for folder, same in ((whole, True), (half, True), (others, False)):
        pipe = ReferencePipeline(family.base, adapter=family.adapter, image_encoder=folder)
        assert pipe.reader.reads_stored(kb) == same  # type: ignore[union-attr]
        encoder = pipe.reader.encoder  # type: ignore[union-attr]
        made = encoder.embed(doubles.pictures(1, (48, 32)), "crop", "cpu", torch.float32)  # type: ignore[union-attr]
        stored = [np.abs(row - made).max() < 1e-4 for row in kb.get(kb.ids().tolist()).embeddings[0]]
        assert any(stored) == same


def test_foreign_and_normalized_embeddings_are_refused(place: Path, tmp_path: Path) -> None:
    from bowerbird.systems.grounded.picture_encoder import check_raw

    source = collection(tmp_path / "pictures", 2)
    small, _ = KnowledgeBase.build(tmp_path / "kb", source)
    lonely = tmp_path / "adapter.safetensors"
    lonely.write_bytes(next((place / "adapter").glob("*.safetensors")).read_bytes())
    pipe = ReferencePipeline.from_pretrained(place / "base", adapter=lonely)
    with pytest.raises(BowerbirdError, match=r"of encoder 'small' .* bowerbird kb build NEW SOURCE --encoder DIR"):
        pipe(PROMPT, knowledge_base=small, k=1, num_inference_steps=1)
    unit = np.eye(4, dtype=np.float32)
    with pytest.raises(BowerbirdError, match=r"normalized, .* from the pictures"):
        check_raw(unit, "kb")
    row = np.eye(1, doubles.PROJECTION, dtype=np.float32)[None]
    with pytest.raises(BowerbirdError, match="these neighbors: the embeddings are normalized"):
        pipe(neighbors=replace(own(1), embeddings=row, encoder=""), num_inference_steps=1)
    check_raw(9 * unit, "kb")


def run(*arguments: str | Path) -> None:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output


def test_the_command_line_and_the_record(place: Path, tmp_path: Path) -> None:
    from bowerbird.core.provenance import read_png

    source, adapter = collection(tmp_path / "pictures"), next((place / "adapter").glob("*.safetensors"))
    kb = tmp_path / "kb"
    run("kb", "build", kb, source)
    how = ["--adapter", adapter, "--kb", kb, "--steps", 2, "--prompt", PROMPT, "-k", 2, "--weights", "2,1"]
    out = tmp_path / "out"
    run("generate", place / "base", *how, "-n", 2, "--scale", 0.8, "--steps-to", 0.5, "--seed", 3, "--out", out)
    record = read_png(out / "001.png")
    said = record["references"]
    assert (said["adapter"]["name"], len(said["adapter"]["hash"])) == (adapter.name, 16)
    assert (said["injector"], said["scale"], said["steps_to"], said["fit"]) == ("ip-adapter", 0.8, 0.5, "pad")
    assert said["base"]["pipeline"] == "StableDiffusionPipeline"
    assert said["encoder"]["fingerprint"]
    assert [near["weight"] for near in record["neighbors"]] == [2.0, 1.0]
    assert (out / "sheet.png").is_file()
    # the record alone gives the same pixels, without the knowledge base
    again = tmp_path / "again"
    run("generate", place / "base", "--adapter", adapter, "--from", out / "001.png", "--out", again)
    assert (again / "000.png").read_bytes() == (out / "001.png").read_bytes()
    without = CliRunner().invoke(app, ["generate", str(place / "base"), "--from", str(out / "001.png"), "--out", "no"])
    assert "give that file" in str(without.exception)
    # a list of prompts, mixed in one batch, gives each as if it were alone
    lines = [{"prompt": f"{PROMPT} number {i}", "seed": 4, "k": 1} for i in range(3)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    how = ["--adapter", adapter, "--kb", kb, "--steps", 2, "--search-mode", "bm25"]
    run("generate", place / "base", *how, "--prompts", tmp_path / "prompts.jsonl", "--out", tmp_path / "many")
    last = ["--prompt", lines[2]["prompt"], "--seed", 4, "-k", 1, "-n", 1]
    run("generate", place / "base", *how, *last, "--out", tmp_path / "one")
    pixels = [_pixels(tmp_path / "many" / "002.png"), _pixels(tmp_path / "one" / "000.png")]
    assert np.array_equal(*pixels)
    run("check-copies", tmp_path / "many", "--against", kb)
    run("inspect", out / "001.png")


def _pixels(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["BASE", "--prompt", "x", "--reference", "PICTURE"], "reads no pictures by itself"),
        (["BASE", "--prompt", "x", "--reference", "NONE", "--adapter", "ADAPTER"], "cannot be read"),
        (["BASE", "--prompt", "x", "--reference", "BROKEN", "--adapter", "ADAPTER"], "broken.png"),
        (["BASE", "--prompt", "x", "-k", "0", "--adapter", "BROKEN"], "neither a checkpoint"),
        (["BASE", "--prompt", "x", "-k", "0", "--adapter", "ADAPTER", "--layers", "style"], "--layers"),
        (["BASE", "--prompt", "x", "-k", "0", "--adapter", "ADAPTER", "--scale", "-1"], "--scale"),
        (
            ["BASE", "--prompt", "x", "-k", "0", "--adapter", "ADAPTER", "--steps-from", "0.9", "--steps-to", "0.1"],
            "--st",
        ),
        (["BASE", "--prompt", "x", "-k", "0", "--adapter", "ADAPTER", "--image-encoder", "BASE"], "no folder with"),
        (["BASE", "--prompt", "x", "-k", "0", "--offload", "model"], "--offload"),
        (["BASE", "--prompt", "x", "-k", "0", "--adapter", "ADAPTER", "--fit", "tile"], "--fit"),
        (["tiny-rdm", "--prompt", "x", "-k", "0", "--adapter", "ADAPTER"], "--adapter"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, place: Path, tmp_path: Path) -> None:
    doubles.pictures(1)[0].save(tmp_path / "picture.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = {"BASE": place / "base", "ADAPTER": next((place / "adapter").glob("*.safetensors"))}
    files |= {"PICTURE": tmp_path / "picture.png", "BROKEN": tmp_path / "broken.png", "NONE": tmp_path / "none.png"}
    given = [files.get(each, each) for each in arguments]
    done = CliRunner().invoke(app, ["generate", *map(str, given), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, BowerbirdError | SystemExit)
    from bowerbird.cli.common import with_flags

    text = with_flags(str(done.exception)) if isinstance(done.exception, BowerbirdError) else done.output
    assert said in text
    assert "\n" not in text.strip()
    assert not (tmp_path / "out").exists()


def test_a_picture_becomes_a_square_as_asked() -> None:
    wide = doubles.pictures(1, (40, 20))[0]
    padded = np.asarray(square_picture(wide, 20, "pad"))
    assert (padded[:4] == 255).all()
    assert not (padded[6:14] == 255).all()
    assert np.array_equal(np.asarray(square_picture(wide, 20, "crop")), np.asarray(wide)[:, 10:30])
    assert square_picture(wide, 20, "squash").size == (20, 20)


def test_an_editor_is_told_what_each_picture_is() -> None:
    from bowerbird.systems.grounded.injectors.in_context import FAMILIES as EDITORS
    from bowerbird.systems.grounded.injectors.in_context import InContext

    pair = [Reference(item=-2, caption="a fox"), Reference(item=-3, caption="", phrase="red hat")]
    words = {name: each.template(each.noun, "a fox in a hat", pair[: each.most]) for name, each in EDITORS.items()}
    assert words["Flux2KleinPipeline"] == "Image 1 shows a fox. Image 2 shows red hat. a fox in a hat"
    assert words["QwenImageEditPlusPipeline"] == "Picture 1 shows a fox. Picture 2 shows red hat. a fox in a hat"
    assert words["FluxKontextPipeline"] == "The image shows a fox. a fox in a hat"
    assert "<img><|image_2|></img>" in words["OmniGenPipeline"]
    import inspect

    import diffusers

    for name, each in EDITORS.items():  # the argument is one of the pipeline's own
        assert each.argument in inspect.signature(getattr(diffusers, name).__call__).parameters
    strip = InContext(doubles.kontext()).prepare_picture(doubles.pictures(1, (1, 3000))[0], "pad")
    assert strip.size == (384, 2704)  # FLUX.2 refuses what is more than eight times as long as wide
    assert np.array_equal(InContext(doubles.kontext()).prepare_picture(strip, "pad"), strip)
    prepared = InContext(doubles.kontext()).prepare_picture(doubles.pictures(1, (40, 20))[0], "pad")
    assert prepared.size == (128, 64)


def test_facts_of_a_folder_are_those_of_the_open_base(place: Path, families: Callable[[str], Family]) -> None:
    assert facts_of_folder("StableDiffusionPipeline", place / "base") == facts_of(families("sd").base)
