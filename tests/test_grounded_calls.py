"""What a base model is called with: references in every step of any sampler, the size and the guidance asked for."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import doubles
import editor_doubles
import numpy as np
import pytest
import torch

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.models import network_files
from bowerbird.systems.grounded.bases import CALL
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.loading import open_pipeline

PROMPT = "a red fox"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def own(count: int = 1, size: tuple[int, int] = (64, 64)) -> Neighbors:
    """Pictures of one's own as references."""
    return Neighbors.from_images([PROMPT], doubles.pictures(count, size), [""] * count)


@pytest.mark.parametrize(
    ("sampler", "options", "window", "wanted"),
    [
        ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}, (0, 1), [1, 1, 1, 1, 1]),  # Stable Diffusion's
        ("HeunDiscreteScheduler", {}, (0, 1), [1, 1, 1, 1, 1, 1, 1]),
        ("HeunDiscreteScheduler", {}, (0, 0.5), [1, 1, 1, 1, 0, 0, 0]),
        ("HeunDiscreteScheduler", {}, (0.5, 1), [0, 0, 0, 0, 1, 1, 1]),
        ("DDIMScheduler", {"clip_sample": False}, (0.25, 0.75), [0, 1, 1, 0]),
    ],
)
def test_references_are_read_in_the_steps_that_were_asked_for(
    sampler: str, options: dict[str, Any], window: tuple[float, float], wanted: list[int], tmp_path: Path
) -> None:
    """Some samplers call the network more often than there are steps."""
    import diffusers

    base = doubles.sd()
    base.scheduler = getattr(diffusers, sampler)(**BETAS, **options)
    pipe = ReferencePipeline(base, adapter=doubles.ip_adapter(tmp_path, base))
    processor = next(iter(pipe.injector.processors.values()))  # type: ignore[union-attr]
    seen: list[float] = []
    base.unet.register_forward_pre_hook(lambda *given: seen.append(processor.scale[0]))
    how: dict[str, Any] = {"height": 16, "width": 16, "scale": 1.0, "num_inference_steps": 4}
    pipe(neighbors=own(), steps_from=window[0], steps_to=window[1], **how)
    assert seen == wanted


def test_kontext_generates_the_size_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    base = doubles.kontext()
    asked: dict[str, Any] = {}
    monkeypatch.setattr(base, "prepare_latents", lambda *given: asked.update(height=given[3], width=given[4]) or 1 / 0)
    pipe = ReferencePipeline(base)
    with pytest.raises(ZeroDivisionError):
        pipe(neighbors=own(), num_inference_steps=1, height=16, width=8, _auto_resize=False)
    assert asked == {"height": 16, "width": 8}
    monkeypatch.undo()
    made = pipe(neighbors=own(), num_inference_steps=1, height=16, width=8, _auto_resize=False)
    assert made.images[0].size == (8, 16)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("sd", {"guidance_scale": 1.0}, r"`guidance_scale=1` is none; raise that"),
        ("sd", {"guidance_scale": 0.0}, r"`guidance_scale=0` is none; raise that"),
        ("flux", {}, "has its guidance distilled into it"),
        ("kontext", {}, "has its guidance distilled into it"),
        ("lcm", {}, "takes no negative_prompt"),
        ("klein", {}, "takes no negative_prompt"),
    ],
)
def test_a_negative_prompt_that_would_be_passed_over_is_refused(kind: str, options: dict[str, Any], said: str) -> None:
    pipe = ReferencePipeline(getattr(doubles, kind)())
    with pytest.raises(BowerbirdError, match=said):
        pipe(PROMPT, k=0, num_inference_steps=1, height=16, width=16, negative_prompt="snow", **options)


@pytest.mark.parametrize(("kind", "options"), [("sd", {"guidance_scale": 3.0}), ("flux", {"true_cfg_scale": 3.0})])
def test_a_negative_prompt_acts_where_the_base_is_guided(kind: str, options: dict[str, Any]) -> None:
    pipe = ReferencePipeline(getattr(doubles, kind)())
    how: dict[str, Any] = {"k": 0, "num_inference_steps": 1, "height": 16, "width": 16, "output_type": "np"} | options
    plain, other = (pipe(PROMPT, negative_prompt=words, **how).images for words in ("", "snow"))
    assert np.abs(plain - other).max() > 1e-5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    doubles.sd().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_copy_in_one_precision_alone_is_opened(folder: Path) -> None:
    """As `variant="fp16"` downloads it, also in shards; beside other weights its files are passed over."""
    how: dict[str, Any] = {"k": 0, "num_inference_steps": 1, "height": 16, "width": 16, "output_type": "np"}
    wanted = ReferencePipeline.from_pretrained(folder)(PROMPT, **how).images
    for path in sorted(folder.glob("*/*.safetensors")):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert np.array_equal(ReferencePipeline.from_pretrained(folder)(PROMPT, **how).images, wanted)
    for name, variant in {
        "model.fp16-00001-of-00002": "fp16",
        "model-00001-of-00002.bf16": "bf16",
        "model": None,
    }.items():
        other = folder.parent / name
        other.mkdir()
        (other / f"{name}.safetensors").touch()
        assert network_files.only_variant(other) == variant
    (folder / "unet" / "diffusion_pytorch_model.safetensors").touch()
    assert network_files.only_variant(folder / "unet") is None


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_single_file_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"anything")
    for open_it in (ReferencePipeline.from_pretrained, open_pipeline):
        with pytest.raises(BowerbirdError, match=r"is a single file, and bowerbird opens directories .*your-model\.md"):
            open_it(tmp_path / name)


def test_pictures_that_a_safety_checker_made_black_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    class Checker(torch.nn.Module):
        device, dtype = torch.device("cpu"), torch.float32

        def forward(self, images: Any, clip_input: Any) -> tuple[Any, list[bool]]:
            return images, [True, *[False] * (len(images) - 1)]

    base = doubles.sd()
    base.register_modules(safety_checker=Checker(), feature_extractor=lambda images, return_tensors: _Pixels())
    pipe = ReferencePipeline(base)
    pipe([PROMPT] * 3, k=0, num_inference_steps=1, height=16, width=16)
    assert [record.getMessage() for record in caplog.records if record.name == "bowerbird"] == [
        "the base's safety checker made 1 of 3 pictures black; take another seed or prompt"
    ]


class _Pixels:
    pixel_values = torch.zeros(1)

    def to(self, device: Any) -> _Pixels:
        return self


@pytest.fixture(params=["qwen_edit", "omnigen", "z_image_omni"])
def editor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """An editor, and what its double is called with."""
    name = request.param
    made = getattr(editor_doubles, name)(*([] if name == "z_image_omni" else [monkeypatch]))
    made.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"num_inference_steps": 1, "height": 32, "width": 32, "output_type": "np", "seed": 1}
    return made, call | ({"max_sequence_length": 32} if name == "z_image_omni" else {})


def test_an_editor_reads_its_list_of_pictures(editor: tuple[Any, dict[str, Any]]) -> None:
    base, call = editor
    pipe, encode = ReferencePipeline(base), base.vae.encode
    one, two = (pipe(neighbors=own(count), **call).images for count in (1, 2))
    assert one.shape == two.shape == (1, 32, 32, 3)
    assert np.abs(one - two).max() > 1e-5, "the second picture changes nothing"
    alone = Neighbors.empty([PROMPT])
    if pipe.capabilities.without_neighbors:
        assert np.abs(pipe(neighbors=alone, **call).images - one).max() > 1e-5
    else:
        for hits, scale in ((alone, None), (own(1), 0.0)):
            with pytest.raises(BowerbirdError, match="edits pictures: give it a reference"):
                pipe(neighbors=hits, scale=scale, **call)
    other = replace(own(1), queries=("a wolf",))
    both = pipe(neighbors=Neighbors.stack([own(1), other]), **call | {"generator": seeds.picture_generators(1, 2)})
    assert np.abs(both.images[0] - one[0]).max() < 1e-5
    assert np.abs(both.images[1] - one[0]).max() > 1e-5

    def stop(*given: Any) -> Any:
        raise KeyError("in the middle")

    with pytest.raises(KeyError):
        pipe(neighbors=own(2), callback_on_step_end=stop, **call)
    assert base.vae.encode == encode
    assert np.array_equal(pipe(neighbors=own(2), **call).images, two)


def test_qwen_is_guided_where_its_scale_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers guides it only where there is a negative prompt."""
    base = editor_doubles.qwen_edit(monkeypatch)
    pipe = ReferencePipeline(base)
    call: dict[str, Any] = {"num_inference_steps": 1, "height": 32, "width": 32, "output_type": "np"}
    usual, strong, none = (pipe(neighbors=own(), guidance_scale=s, **call).images for s in (None, 8.0, 1.0))
    assert min(np.abs(usual - strong).max(), np.abs(usual - none).max()) > 1e-5
    assert [text.count("<|image_pad|>") for text in base.asked] == [1] * 5  # twice, twice, once
    with pytest.raises(BowerbirdError, match=r"`guidance_scale=1` is none"):
        pipe(neighbors=own(), guidance_scale=1.0, negative_prompt="snow", **call)


@pytest.mark.parametrize("name", ["OmniGenPipeline", "QwenImageEditPlusPipeline"])
def test_a_library_that_is_not_installed_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda library: None)
    with pytest.raises(BowerbirdError, match=r"by the library torchvision, which is not installed; pip install"):
        ReferencePipeline.from_pretrained(tmp_path)


def test_attention_in_slices_stays_as_it_was(tmp_path: Path) -> None:
    """People with little memory turn it on, before or after they give the pipeline away."""
    base = doubles.sd()
    adapter = doubles.ip_adapter(tmp_path, base)
    call: dict[str, Any] = {"num_inference_steps": 1, "height": 16, "width": 16, "output_type": "np", "seed": 1}
    whole = ReferencePipeline(base, adapter=adapter)(neighbors=own(), **call).images
    base.enable_attention_slicing()
    before = dict(base.unet.attn_processors)
    pipe = ReferencePipeline(base, adapter=adapter)
    assert base.unet.attn_processors == before
    assert np.abs(pipe(neighbors=own(), **call).images - whole).max() < 1e-5
    assert base.unet.attn_processors == before
    assert {type(each).__name__ for each in before.values()} == {"SlicedAttnProcessor"}


def test_what_a_base_does_not_know_is_no_argument(tmp_path: Path) -> None:
    """Stable Diffusion's call takes anything, and passes over what it does not know."""
    with pytest.raises(BowerbirdError, match="a StableDiffusionPipeline takes no step_from"):
        ReferencePipeline(doubles.sd())(PROMPT, k=0, num_inference_steps=1, step_from=0.5)


def test_references_go_into_a_pipeline_that_starts_from_a_picture(tmp_path: Path) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

    parts = doubles.sd()
    adapter = doubles.ip_adapter(tmp_path, parts)
    base = StableDiffusionImg2ImgPipeline(**parts.components, requires_safety_checker=False)
    base.set_progress_bar_config(disable=True)
    pipe, (picture,) = ReferencePipeline(base, adapter=adapter), doubles.pictures(1, (32, 32))
    call: dict[str, Any] = {"image": picture, "strength": 0.5, "num_inference_steps": 4, "output_type": "np"}
    plain = base(PROMPT, generator=seeds.picture_generators(1, 1), **call).images
    how = {"neighbors": own(2), "generator": seeds.picture_generators(1, 1)}
    assert np.array_equal(pipe(scale=0.0, **how, **call).images, plain)
    how = {"neighbors": own(2), "generator": seeds.picture_generators(1, 1)}
    assert np.abs(pipe(scale=1.0, **how, **call).images - plain).max() > 1e-4
    inpaint = StableDiffusionInpaintPipeline(**parts.components, requires_safety_checker=False)
    with pytest.raises(BowerbirdError, match="give image= and mask_image= in its call"):
        ReferencePipeline(inpaint, adapter=adapter)(neighbors=own(1))


@pytest.mark.parametrize("name", ["image_proj.proj.weight", "image_proj.norm.weight", "ip_adapter.1.to_k_ip.weight"])
def test_an_adapter_of_broken_shapes_is_one_line(name: str, tmp_path: Path) -> None:
    base = doubles.sd()
    tensors = doubles.ip_adapter_tensors([16] * 4)
    assert name in tensors
    broken = doubles.write(tmp_path / "broken.safetensors", tensors | {name: torch.zeros(0)})
    with pytest.raises(BowerbirdError) as error:
        ReferencePipeline(base, adapter=broken)
    assert "broken.safetensors" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(BowerbirdError, match="no such file"):
        ReferencePipeline(base, adapter="h94/IP-Adapter")


def test_an_adapter_of_other_widths_says_which(tmp_path: Path) -> None:
    base = doubles.sd()
    wide = doubles.write(tmp_path / "wide.safetensors", doubles.ip_adapter_tensors([64] * 4))
    with pytest.raises(BowerbirdError, match=r"of other widths \(16 where the adapter has 64\); give an adapter"):
        ReferencePipeline(base, adapter=wide)


def test_a_base_says_how_it_generates_unless_asked_otherwise(tmp_path: Path) -> None:
    base = doubles.sd()
    base.save_pretrained(tmp_path / "base")
    plain = ReferencePipeline.from_pretrained(tmp_path / "base")
    assert (plain.defaults.num_inference_steps, plain.defaults.guidance_scale) == (50, 7.5)
    (tmp_path / "base" / CALL).write_text('{"guidance_scale": 3, "num_inference_steps": 2}')
    pipe = ReferencePipeline.from_pretrained(tmp_path / "base")
    assert (pipe.defaults.num_inference_steps, pipe.defaults.guidance_scale) == (2, 3.0)
    how = {"k": 0, "seed": 1, "height": 16, "width": 16, "output_type": "np"}
    said = plain("a red fox", **how, num_inference_steps=2, guidance_scale=3.0).images
    assert np.array_equal(pipe("a red fox", **how).images, said)
    assert not np.array_equal(pipe("a red fox", **how, guidance_scale=7.5).images, said)
    (tmp_path / "base" / CALL).write_text('{"guidance_scale": null, "transformers_version": "5.0"}')
    assert pipe.defaults == plain.defaults
    (tmp_path / "base" / CALL).write_text('{"guidance_scale": "three"}')
    with pytest.raises(BowerbirdError, match="guidance_scale one from 0 to 100"):
        _ = pipe.defaults
