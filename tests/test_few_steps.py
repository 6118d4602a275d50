"""Distillation to few steps: its algebra exactly, its low-rank changes, and what is stored of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bowerbird import BowerbirdError, MismatchError, RDMPipeline
from bowerbird.models import low_rank, network_files, weights
from bowerbird.systems.rdm.distillation import FewStepObjective
from bowerbird.training import recipes
from bowerbird.training.recipe import build_objective, read_pictures
from bowerbird.training.recipes.rdm import tiny_rdm_fast


def objective(folder: Path, out: Path, **changes: Any) -> FewStepObjective:
    recipe = tiny_rdm_fast(tiny=True)
    recipe = recipe.model_copy(update={"system": recipe.system.model_copy(update=changes)})
    made: FewStepObjective = build_objective(recipe, read_pictures(recipe, folder), out)
    return made


def test_a_student_with_as_many_segments_as_the_teacher_has_steps_learns_the_guided_teacher(
    drawn_folder: Path, tmp_path: Path
) -> None:
    """Every jump is then one step of the teacher: without guidance the student is right before it has learned anything,
    with guidance it is not."""
    for segment in range(4):
        same = objective(drawn_folder, tmp_path, segments=4, teacher_steps=4, guidance_scale=1.0)
        batch = {**same.batch(0, 4), "segment": segment}
        assert same(batch).item() < 1e-7
    guided = objective(drawn_folder, tmp_path, segments=4, teacher_steps=4, guidance_scale=3.0)
    assert guided({**batch, "segment": 1}).item() > 1e-4
    assert guided({**batch, "segment": 0}).item() < 1e-7  # at 999, outside the interval
    assert (
        objective(drawn_folder, tmp_path, segments=2, teacher_steps=4, guidance_scale=1.0)(
            batch | {"segment": 0}
        ).item()
        > 1e-6
    )


def test_a_student_that_says_its_target_generates_as_the_teacher(drawn_folder: Path, tmp_path: Path) -> None:
    """From the same noise, two steps of DDIM over the targets are ten guided steps of the teacher's solver."""
    made = objective(drawn_folder, tmp_path)
    pipe = RDMPipeline.from_pretrained("tiny-rdm")
    pipe.set_progress_bar_config(disable=True)
    hits = made.cache.neighbors(torch.tensor([0, 1, 2]))
    options: dict[str, Any] = {"guidance_scale": 3.0, "guidance_interval": (0.2, 0.8)}
    wanted = pipe(
        neighbors=hits,
        num_inference_steps=10,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **options,
    ).images
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    asked = pipe.condition(hits)
    made.noise_scheduler.set_timesteps(made.config.segments)
    with torch.no_grad():
        for segment, t in enumerate(made.noise_scheduler.timesteps):
            first = segment * made._per_segment
            assert int(t) == int(made.times[first])
            (a, s), (b, r) = made._bar(first), made._bar(first + made._per_segment)
            landed = made._teach(z, asked, first, made._per_segment)
            clean = (landed - r / s * z) / (b - a * r / s)
            z = made.noise_scheduler.step((a * z - clean) / s, t, z).prev_sample
            assert torch.allclose(z, landed, atol=1e-4)
    # the solver forgets what was before a segment, so its first step there is of first order: near, not equal
    assert (z - wanted).square().mean().sqrt() < 0.15 * wanted.square().mean().sqrt()


def test_low_rank_changes_start_at_nothing_and_merge_to_the_same(drawn_folder: Path, tmp_path: Path) -> None:
    made = objective(drawn_folder, tmp_path)
    base = RDMPipeline.from_pretrained("tiny-rdm").unet
    x, t, c = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 2, 384)
    with torch.no_grad():
        assert torch.allclose(
            made.unet(x, t, encoder_hidden_states=c).sample, base(x, t, encoder_hidden_states=c).sample, atol=1e-5
        )
        trained = {name for name, p in made.unet.named_parameters() if p.requires_grad}
        assert trained == {name for name, _ in made.unet.named_parameters() if name.endswith((".0.up", ".0.down"))}
        for name, p in made.unet.named_parameters():
            if name.endswith(".0.up"):
                p.normal_(std=0.02)
        wanted = made.unet(x, t, encoder_hidden_states=c).sample
        assert not torch.allclose(wanted, base(x, t, encoder_hidden_states=c).sample, atol=1e-2)
        low_rank.save_factors(made.unet, tmp_path, "these weights")
        with pytest.raises(MismatchError, match="those weights"):
            low_rank.merge(base, tmp_path, "those weights")
        assert torch.allclose(
            low_rank.merge(base, tmp_path, "these weights")(x, t, encoder_hidden_states=c).sample, wanted, atol=1e-2
        )
        base.load_state_dict(low_rank.plain_state(made.unet))
        assert torch.allclose(base(x, t, encoder_hidden_states=c).sample, wanted, atol=1e-5)


def test_what_is_written_generates_in_its_own_steps_without_guidance(drawn_folder: Path, tmp_path: Path) -> None:
    made = objective(drawn_folder, tmp_path)
    made.export(tmp_path / "model")
    pipe = RDMPipeline.from_pretrained(tmp_path / "model")
    assert (pipe.config.num_inference_steps, pipe.config.guidance_scale, pipe.config.sampler) == (2, 1.0, "ddim")
    assert (tmp_path / "model" / "factors" / low_rank.FILE).is_file()
    seen: list[int] = []
    pipe.unet.register_forward_hook(lambda *rest: seen.append(len(rest[2].sample)))
    pipe.set_progress_bar_config(disable=True)
    pipe(neighbors=made.cache.neighbors(torch.tensor([0, 1])))
    assert seen == [1, 1]
    assert recipes.recipe("tiny-rdm-fast").system.segments == 2  # type: ignore[union-attr]


def test_every_change_has_a_gradient_in_half_precision(drawn_folder: Path, tmp_path: Path) -> None:
    """Under autocast, and in every change."""
    made = objective(drawn_folder, tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        made(made.batch(0, 2)).backward()
    assert all(p.grad is not None for p in made.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "wrong",
    [{"teacher_steps": 0}, {"segments": 3, "teacher_steps": 9}, {"teacher_steps": 2000}, {"changed": ("nothing",)}],
)
def test_settings_that_cannot_be_are_refused(drawn_folder: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(BowerbirdError, match=r"system\.(segments|changed)"):
        objective(drawn_folder, tmp_path, **wrong)


def test_a_bundle_of_factors_opens_over_the_bundled_network(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = objective(drawn_folder, tmp_path)
    with torch.no_grad():
        for name, p in made.unet.named_parameters():
            if name.endswith(".0.up"):
                p.normal_(std=0.02)
    made.export(tmp_path / "whole")
    shutil.copytree(weights.FOLDER, tmp_path / "bundled")
    for part in ("model_index.json", "scheduler", low_rank.FOLDER):
        copy = shutil.copytree if (tmp_path / "whole" / part).is_dir() else shutil.copyfile
        (tmp_path / "bundled" / "some-rdm").mkdir(exist_ok=True)
        copy(tmp_path / "whole" / part, tmp_path / "bundled" / "some-rdm" / part)
    for where in (weights, network_files):
        monkeypatch.setattr(where, "FOLDER", tmp_path / "bundled")
    monkeypatch.setitem(weights.DESCRIPTIONS, "some-rdm", "")
    monkeypatch.setitem(weights.SHARED, "some-rdm", {"vae": "tiny-autoencoder"})
    small, whole = RDMPipeline.from_pretrained("some-rdm"), RDMPipeline.from_pretrained(tmp_path / "whole")
    for ours, theirs in zip(small.unet.parameters(), whole.unet.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-3)  # both in half precision, rounded before or after the sum
    assert small.config.sampler == "ddim"
    assert small.proposal_counts
