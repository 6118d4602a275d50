"""Distillation to few steps: its algebra exactly, its low-rank changes, and what is stored of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bowerbird import MismatchError, RDMPipeline, recipes
from bowerbird.models import low_rank
from bowerbird.recipe import build_objective, read_pictures
from bowerbird.recipes.rdm import tiny_rdm_fast
from bowerbird.systems.few_steps import FewStepObjective


def objective(folder: Path, out: Path, **changes: Any) -> FewStepObjective:
    recipe = tiny_rdm_fast(tiny=True)
    recipe = recipe.model_copy(update={"system": recipe.system.model_copy(update=changes)})
    made: FewStepObjective = build_objective(recipe, read_pictures(recipe, folder), out)
    return made


def test_a_student_with_as_many_segments_as_the_teacher_has_steps_learns_the_guided_teacher(drawn_folder: Path, tmp_path: Path) -> None:
    """Every jump is then one step of the teacher: without guidance the student is right before it has learnt anything, with guidance it is not."""
    same = objective(drawn_folder, tmp_path, segments=8, teacher_steps=8, guidance_scale=1.0)
    batch = same.batch(0, 4)
    assert same(batch).item() < 1e-8
    assert objective(drawn_folder, tmp_path, segments=8, teacher_steps=8, guidance_scale=3.0)(batch).item() > 1e-4
    assert objective(drawn_folder, tmp_path, segments=2, teacher_steps=8, guidance_scale=1.0)(batch).item() > 1e-6


def test_jumps_come_back_and_the_clean_end_is_clean(drawn_folder: Path, tmp_path: Path) -> None:
    made = objective(drawn_folder, tmp_path)
    g = torch.Generator().manual_seed(0)
    clean, eps = torch.randn(6, 4, 16, 16, generator=g), torch.randn(6, 4, 16, 16, generator=g)
    at, to = torch.tensor([32, 31, 17, 16, 2, 1]), torch.tensor([16, 30, 16, 0, 0, 0])
    noisy = made._mix(clean, eps, at)
    landed = made._jump(clean, noisy, at, to)
    assert torch.allclose(landed, made._mix(clean, eps, to), atol=1e-4)
    assert torch.allclose(made._from_jump(noisy, landed, at, to), clean, atol=1e-3)
    assert torch.allclose(made._clean(noisy, made._velocity_of(noisy, clean, at), at), clean, atol=1e-4)
    assert torch.allclose(made._jump(clean, noisy, at, torch.zeros_like(at)), clean, atol=1e-5)
    scheduler = made.noise_scheduler  # the sampler visits just the segments' starts
    scheduler.set_timesteps(made.config.segments)
    assert scheduler.timesteps.tolist() == made.grid[16::16].flip(0).tolist()


def test_low_rank_changes_start_at_nothing_and_merge_to_the_same(drawn_folder: Path, tmp_path: Path) -> None:
    made = objective(drawn_folder, tmp_path)
    base = RDMPipeline.from_pretrained("tiny-rdm").unet
    x, t, c = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 2, 384)
    with torch.no_grad():
        assert torch.equal(made.unet(x, t, encoder_hidden_states=c).sample, base(x, t, encoder_hidden_states=c).sample)
        trained = {name for name, p in made.unet.named_parameters() if p.requires_grad}
        assert trained == {name for name, _ in made.unet.named_parameters() if name.endswith((".0.up", ".0.down"))}
        for name, p in made.unet.named_parameters():
            if name.endswith(".0.up"):
                p.normal_(std=0.02)
        wanted = made.unet(x, t, encoder_hidden_states=c).sample
        assert not torch.allclose(wanted, base(x, t, encoder_hidden_states=c).sample, atol=1e-2)
        low_rank.save_factors(made.unet, tmp_path, "these weights")
        with pytest.raises(MismatchError, match="those weights"):
            low_rank.merged(base, tmp_path, "those weights")
        assert torch.allclose(low_rank.merged(base, tmp_path, "these weights")(x, t, encoder_hidden_states=c).sample, wanted, atol=1e-2)
        base.load_state_dict(low_rank.plain_state(made.unet))
        assert torch.allclose(base(x, t, encoder_hidden_states=c).sample, wanted, atol=1e-5)


def test_what_is_written_paints_in_its_own_steps_without_guidance(drawn_folder: Path, tmp_path: Path) -> None:
    made = objective(drawn_folder, tmp_path)
    made.export(tmp_path / "model")
    pipe = RDMPipeline.from_pretrained(tmp_path / "model")
    assert (pipe.config.num_inference_steps, pipe.config.guidance_scale, pipe.config.sampler) == (2, 1.0, "ddim")
    assert (tmp_path / "model" / "factors" / low_rank.FILE).is_file()
    seen: list[int] = []
    pipe.unet.register_forward_hook(lambda *rest: seen.append(len(rest[2].sample)))
    pipe.set_progress_bar_config(disable=True)
    pipe(neighbors=made.bank.neighbors(torch.tensor([0, 1])))
    assert seen == [1, 1]
    assert recipes.recipe("tiny-rdm-fast").system.segments == 2  # type: ignore[union-attr]
