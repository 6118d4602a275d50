"""An IP-Adapter that is trained here: what is learned, from what, and that it opens in plain diffusers too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bowerbird import encoders
from bowerbird.systems.grounded.adapter_training import preview
from bowerbird.systems.grounded.adapter_training.objective import IPAdapterObjective
from bowerbird.systems.grounded.picture_tokens import picture_tokens
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.training import recipes
from bowerbird.training.recipe import build_objective, read_pictures, with_settings
from bowerbird.training.run import train_recipe


@pytest.fixture(scope="module")
def networks(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny forms of the base and of an encoder that describes patches."""
    found = {"small": Path("small")}
    for name in ("tiny-sd", "small-patches"):
        recipe, out = recipes.recipe(name, tiny=True), tmp_path_factory.mktemp(name)
        list(train_recipe(recipe, read_pictures(recipe, drawn_folder), out, device="cpu", sheets=False))
        found[name] = out / "model"
    return found


def build(networks: dict[str, Path], encoder: str, source: Path, out: Path) -> IPAdapterObjective:
    settings = [f"system.base={networks['tiny-sd']}", f"system.encoder={networks[encoder]}"]
    recipe = with_settings(recipes.recipe("tiny-ip-adapter", tiny=True), settings)
    made = build_objective(recipe, read_pictures(recipe, source), out)
    assert isinstance(made, IPAdapterObjective)
    return made


@pytest.mark.parametrize("encoder", ["small", "small-patches"])
def test_it_learns_and_opens_here_and_in_plain_diffusers_with_the_same_pictures(
    encoder: str, networks: dict[str, Path], drawn_folder: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    objective = build(networks, encoder, drawn_folder, tmp_path)
    before = {name: p.clone() for name, p in objective.named_parameters()}
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert trained == {name for name in before if "_ip." in name or "encoder_hid_proj" in name}
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    batch, losses = objective.batch(0, 16), []
    for _ in range(12):
        loss = objective(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    changed = {name for name, p in objective.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained

    objective.eval().export(tmp_path)
    read = encoders.load(networks[encoder])
    prompt, embeddings = ["a red heart"], objective.data.embeddings[3:4].float().numpy()
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}
    plain = StableDiffusionPipeline.from_pretrained(networks["tiny-sd"])
    plain.set_progress_bar_config(disable=True)

    def draw(**call: Any) -> np.ndarray:
        found: np.ndarray = plain(prompt, generator=[torch.Generator().manual_seed(0)], **options, **call).images
        return found

    alone = draw()
    ours = ReferencePipeline.from_pretrained(networks["tiny-sd"], adapter=tmp_path / "ip-adapter.safetensors")
    ours.set_progress_bar_config(disable=True)
    hits = preview.references(prompt, embeddings)
    seeded = [torch.Generator().manual_seed(0)]
    with_reference = ours(neighbors=hits, generator=seeded, scale=1.0, **options).images
    without = ours(neighbors=hits, generator=[torch.Generator().manual_seed(0)], scale=0.0, **options).images
    assert np.array_equal(without, alone)
    assert np.abs(with_reference - alone).max() > 1e-3

    plain.load_ip_adapter(str(tmp_path), subfolder="", weight_name="ip-adapter.safetensors", image_encoder_folder=None)
    layout = getattr(read, "layout", None)
    embeds = torch.from_numpy(embeddings)[None]
    embeds = embeds if layout is None else picture_tokens(embeds, layout)
    theirs = draw(ip_adapter_image_embeds=[torch.cat([torch.zeros_like(embeds), embeds])])
    np.testing.assert_allclose(theirs, with_reference, atol=2e-5)
