"""What a base model is called with: references in every step of any sampler, the size and the guidance asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import doubles
import numpy as np
import pytest

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.systems.grounded.pipeline import ReferencePipeline

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
