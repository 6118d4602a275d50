"""An IP-Adapter that is trained here: what is learned, from what, and that it opens in plain diffusers too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import doubles
import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird import encoders
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.scenes.grammar import SHAPE, Scene, Thing
from bowerbird.systems.from_rdm import load_start
from bowerbird.systems.grounded.adapter_training import preview
from bowerbird.systems.grounded.adapter_training.captions import named_captions, nameless_captions
from bowerbird.systems.grounded.adapter_training.objective import IPAdapterObjective
from bowerbird.systems.grounded.injectors.registry import inspect_adapter
from bowerbird.systems.grounded.picture_tokens import picture_tokens
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.training import recipes
from bowerbird.training.recipe import build_objective, read_pictures, with_settings
from bowerbird.training.run import train_recipe


@pytest.fixture(scope="module")
def networks(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny forms of the base and of an encoder that describes patches."""
    found = {"small": Path("small"), "clip": doubles.vision(tmp_path_factory.mktemp("clip") / "vision")}
    for name in ("tiny-sd", "small-patches"):
        recipe, out = recipes.recipe(name, tiny=True), tmp_path_factory.mktemp(name)
        list(train_recipe(recipe, read_pictures(recipe, drawn_folder), out, device="cpu", sheets=False))
        found[name] = out / "model"
    return found


def build(networks: dict[str, Path], encoder: str, source: Path, out: Path, *more: str) -> IPAdapterObjective:
    settings = [f"system.base={networks['tiny-sd']}", f"system.encoder={networks[encoder]}", *more]
    recipe = with_settings(recipes.recipe("tiny-ip-adapter", tiny=True), settings)
    made = build_objective(recipe, read_pictures(recipe, source), out)
    assert isinstance(made, IPAdapterObjective)
    return made


def test_it_starts_with_what_an_rdm_attends_to(
    networks: dict[str, Path], drawn_folder: Path, random_rdm: Path, tmp_path: Path
) -> None:
    start = f"system.start={random_rdm}"
    objective = build(networks, "small", drawn_folder, tmp_path, start)
    rdm, _ = load_start(str(random_rdm))
    raw = objective.data.embeddings[:20].float()
    with torch.no_grad():
        wanted = rdm.unet.encoder_hid_proj(torch.nn.functional.normalize(raw, dim=1) * raw.shape[1] ** 0.5)
        made = objective.unet.encoder_hid_proj([raw[:, None]])[0]
    alike = torch.nn.functional.cosine_similarity(made.reshape(20, -1, 16), wanted[:, None], dim=-1)
    assert float(alike.min()) > 0.9
    assert 0.7 < float(made.std() / wanted.std()) < 1.4
    assert not torch.equal(made[..., 0, :], made[..., 1, :])
    shorter = build(networks, "small", drawn_folder, tmp_path, start, "system.start_length=1")
    with torch.no_grad():
        said = shorter.unet.encoder_hid_proj([raw[:, None]])[0].mean(-2).squeeze()
    bias = rdm.unet.encoder_hid_proj.bias.detach()
    assert float((said - bias).square().mean()) < 0.1 * float((wanted - bias).square().mean())
    with pytest.raises(BowerbirdError, match="other tokens than the RDM to start from"):
        build(networks, "small-patches", drawn_folder, tmp_path / "patches", start)


@pytest.mark.parametrize("encoder", ["small", "small-patches", "clip"])
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


def test_batches_depend_on_the_step_alone_and_drop_words_and_references_apart(
    networks: dict[str, Path], drawn_folder: Path, tmp_path: Path
) -> None:
    first, second = (build(networks, "small-patches", drawn_folder, tmp_path) for _ in range(2))
    a, b, other = first.batch(7, 2000), second.batch(7, 2000), first.batch(8, 2000)
    assert all(torch.equal(a[key], b[key]) for key in a)  # type: ignore[literal-required]
    assert not torch.equal(a["clean"], other["clean"])
    wordless = (a["tokens"] == first.no_words).all(1)
    alone = (a["embeddings"] == 0).all(2).all(1)
    for found in (wordless & ~alone, alone & ~wordless, wordless & alone):
        assert 0.03 < float(found.float().mean()) < 0.07


def test_a_reference_is_the_thing_by_another_hand_and_where_there_is_none_another_form_of_it(
    networks: dict[str, Path], drawn_folder: Path, tmp_path: Path
) -> None:
    data = build(networks, "small", drawn_folder, tmp_path).data
    n, own = data.counts[0], 0
    for row in range(n):
        peers = [other for other in range(n) if other != row and data.names[other] == data.names[row]]
        shown = data.shows[row]
        assert row not in shown.tolist(), "a drawing as it is would be copied"
        assert set((shown % n).tolist()) <= {row, *peers}
        own += int((shown % n == row).sum()) if peers else 0
        assert {data.names[int(other)] for other in data.near[row]} - {data.names[row]}
    assert all(len(data.latents) == part for part in (sum(data.counts), len(data.shows), len(data.near)))


def test_captions_without_a_name_say_all_the_rest() -> None:
    rng = np.random.default_rng(0)
    things = (Thing("violin", 3), Thing("square", SHAPE, "blue"))
    scene = Scene(things, "left", "yellow", "noto")
    for text in nameless_captions(scene, 40, rng):
        assert "violin" not in text
        assert "zzz" not in text
        assert "blue square" in text
        assert "yellow" in text
    assert named_captions(scene, 3, rng)[0] == "a violin left of a blue square on yellow"


def test_stored_embeddings_are_read_and_another_encoder_is_refused(
    networks: dict[str, Path], drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bowerbird import KnowledgeBase
    from bowerbird.models import weights
    from bowerbird.systems import jobs

    (tmp_path / "shipped" / "some-adapter").mkdir(parents=True)
    build(networks, "small-patches", drawn_folder, tmp_path).export(tmp_path / "shipped" / "some-adapter")
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "shipped")
    monkeypatch.setitem(weights.DESCRIPTIONS, "some-adapter", "")
    pipe = ReferencePipeline.from_pretrained(networks["tiny-sd"], adapter="some-adapter")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.facts is not None
    assert (pipe.facts.tokens, pipe.facts.kind) == (17, "an IP-Adapter (patches)")
    kb, _ = KnowledgeBase.build(tmp_path / "kb", drawn_folder, encoder=str(networks["small-patches"]))
    options: dict[str, Any] = {"num_inference_steps": 1, "output_type": "np"}
    found = pipe("a heart", knowledge_base=kb, **options)
    said = pipe.record_facts(None, kb)["references"]
    assert (said["fit"], said["scale"]) == ("crop", 1.0), "the stored embeddings were read"
    settings = jobs.settings_of(pipe, jobs.Job(prompt="a heart"))
    assert settings.references is not None
    assert settings.references.scale == 1.0
    picture = kb.pictures(found.neighbors.ids)[0][0]
    assert picture is not None
    again = pipe(neighbors=pipe.own_references("a heart", [picture], [""]), **options)
    np.testing.assert_allclose(again.images, found.images, atol=1e-3)
    monkeypatch.undo()
    file = tmp_path / "shipped" / "some-adapter" / "ip-adapter.safetensors"
    with pytest.raises(BowerbirdError, match="and the adapter needs encoder 'model'"):
        ReferencePipeline.from_pretrained(networks["tiny-sd"], adapter=file, image_encoder="small")
    with pytest.raises(BowerbirdError, match="holds an adapter and no model"):
        ReferencePipeline.from_pretrained(file.parent)


def test_it_serves_a_fine_tune_of_its_base_with_a_warning(
    networks: dict[str, Path], drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(networks, "small", drawn_folder, tmp_path).export(tmp_path / "adapter")
    base = ReferencePipeline.from_pretrained(networks["tiny-sd"]).base
    ReferencePipeline(base, adapter=tmp_path / "adapter" / "ip-adapter.safetensors")
    assert not caplog.records
    with torch.no_grad():
        base.unet.conv_in.weight += 1e-3
    tuned = ReferencePipeline(base, adapter=tmp_path / "adapter" / "ip-adapter.safetensors")
    assert "was trained on the base" in caplog.text
    hits = tuned.own_references("a heart", [Image.new("RGB", (64, 64), "red")], ["a heart"])
    assert len(tuned(neighbors=hits, num_inference_steps=1).images) == 1


@pytest.mark.parametrize(
    "header",
    ["[]", "{", '{"name": 1}', '{"name": "x", "fingerprint": "f", "dim": 384, "layout": {"semantic": "9"}}'],
)
def test_a_header_that_anybody_wrote_is_refused_in_a_line(header: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"image_proj.proj.weight": torch.zeros(64, 384), "image_proj.norm.weight": torch.zeros(16)}
    tensors["ip_adapter.1.to_k_ip.weight"] = torch.zeros(32, 16)
    save_file(tensors, tmp_path / "a.safetensors", {"bowerbird.encoder": header})
    with pytest.raises(BowerbirdError, match=r"a\.safetensors: .*fetch it again|a\.safetensors: .*note on its encoder"):
        inspect_adapter(tmp_path / "a.safetensors")


def test_the_sheet_shows_the_adapter_of_the_moment(
    networks: dict[str, Path], drawn_folder: Path, tmp_path: Path
) -> None:
    objective = build(networks, "small-patches", drawn_folder, tmp_path)
    preview.sheet(objective.eval(), tmp_path / "sheet.png", rows=1)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.convert("L").getextrema()[0] < 255
    assert objective.unet.encoder_hid_proj is not None, "training goes on"
    objective(objective.batch(0, 2))


def test_a_base_that_takes_no_adapter_of_this_kind_is_refused(tmp_path: Path, drawn_folder: Path) -> None:
    doubles.sdxl().save_pretrained(tmp_path / "xl")
    recipe = with_settings(recipes.recipe("tiny-ip-adapter", tiny=True), [f"system.base={tmp_path / 'xl'}"])
    with pytest.raises(BowerbirdError, match="is a StableDiffusionXLPipeline; what is trained here is for"):
        build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path)
    with pytest.raises(BowerbirdError, match="is a StableDiffusionXLPipeline"):  # when called, before it is announced
        train_recipe(recipe, read_pictures(recipe, drawn_folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()
