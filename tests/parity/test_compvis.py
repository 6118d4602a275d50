"""Imported checkpoints compute what the published networks compute, and nothing else in a file is believed."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird import BowerbirdError, Neighbors, RDMPipeline
from bowerbird.core.torch_file import Stored
from bowerbird.systems import generation
from bowerbird.systems.queries import make_request
from bowerbird.systems.rdm.interop import compvis, compvis_schedule, compvis_state, compvis_unet, compvis_vae, dotless
from tests.faults import plain
from tests.parity import published


def small_256(context: int = 64) -> tuple[published.UNet, published.FirstStage]:
    """The layout of the 256 px models in miniature."""
    torch.manual_seed(0)
    return (
        published.UNet(32, (1, 2, 3, 5), (8, 4, 2), context, 3).eval(),
        published.FirstStage(32, (1, 2, 4), 3, codes=64).eval(),
    )


def small_768() -> tuple[published.UNet, published.FirstStage]:
    """The layout of the 768 px model in miniature."""
    torch.manual_seed(1)
    stage = published.FirstStage(32, (1, 1, 2, 2, 4), 16, codes=0, attends=(False, False, False, False, True))
    return published.UNet(32, (1, 2, 3, 4), (4, 2, 1), 48, 16).eval(), stage.eval()


def imported(path: Path, held: Any, **choices: Any) -> tuple[RDMPipeline, compvis.Plan]:
    torch.save(held, path / "model.ckpt")
    plan = compvis.plan(path / "model.ckpt", compvis.Choices(**choices))
    compvis.write(plan, path / "model")
    return RDMPipeline.from_pretrained(path / "model"), plan


@torch.no_grad()
@pytest.mark.parametrize(("make", "size"), [(small_256, 32), (small_768, 128)])
def test_networks_agree(tmp_path: Path, make: Any, size: int) -> None:
    unet, stage = make()
    pipe, plan = imported(tmp_path, published.checkpoint(unet, stage), size=size)
    latent = pipe.unet.config.in_channels
    x, t, context = (
        torch.randn(2, latent, 8, 8),
        torch.tensor([3, 801]),
        torch.randn(2, 5, pipe.unet.config.cross_attention_dim),
    )
    assert torch.allclose(pipe.unet(x, t, encoder_hidden_states=context).sample, unet(x, t, context), atol=1e-4)
    pixels = torch.randn(2, 3, size, size).clamp(-1, 1)
    encoded = pipe.vae.encode(pixels)
    assert torch.allclose(
        encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean, stage.encode(pixels), atol=1e-4
    )
    z = torch.randn(2, latent, 8, 8)
    assert torch.allclose(pipe.vae.decode(z).sample, stage.decode(z), atol=1e-4)
    assert plan.weights == "ema"
    assert plan.unet.parameters == sum(p.numel() for p in unet.parameters())
    assert plan.ignored["plain weights of the U-Net"] == len(unet.state_dict())
    assert plan.ignored["optimizer state and training settings"] == 2 * len(list(unet.parameters()))


@torch.no_grad()
@pytest.mark.parametrize("steps", [10, 7])
def test_sampling_agrees(tmp_path: Path, steps: int) -> None:
    """Whole pictures, also where the steps do not divide 1000: schedule, DDIM's times, guidance from zeros, raw
    embeddings, the codebook."""
    unet, stage = small_256()
    pipe, _ = imported(tmp_path, published.checkpoint(unet, stage, optimizer=False), size=32)
    rng = np.random.default_rng(0)
    embeddings = 3 * rng.normal(size=(2, 4, 64)).astype(np.float32)
    hits = Neighbors(
        ids=np.arange(8).reshape(2, 4),
        scores=np.ones((2, 4), np.float32),
        embeddings=embeddings,
        captions=(("",) * 4,) * 2,
    )
    seeds = [torch.Generator().manual_seed(i) for i in range(2)]
    noise = torch.stack([torch.randn(3, 8, 8, generator=g) for g in seeds])
    one_by_one = lambda x, t, null, asked: torch.cat([unet(x, t, null), unet(x, t, asked)])  # noqa: E731
    wanted = published.ddim(one_by_one, noise, steps, 2.0, torch.from_numpy(embeddings))
    seeds = [torch.Generator().manual_seed(i) for i in range(2)]
    with pipe.sampling_with(pipe.defaults.sampler):
        latents = pipe(
            neighbors=hits, num_inference_steps=steps, guidance_scale=2.0, generator=seeds, output_type="latent"
        ).images
    assert torch.allclose(latents, wanted, rtol=1e-5, atol=1e-4)
    assert torch.allclose(pipe.decode_latents(latents), stage.decode(wanted).clamp(-1, 1), atol=1e-3)
    assert not pipe.config.trained_null


def test_embeddings_at_length_one_for_the_kl_model(tmp_path: Path) -> None:
    pipe, _ = imported(tmp_path, published.checkpoint(*small_768(), optimizer=False), size=128)
    hits = Neighbors(
        ids=np.zeros((1, 1), np.int64),
        scores=np.ones((1, 1), np.float32),
        embeddings=np.full((1, 1, 48), 5, np.float32),
        captions=(("",),),
    )
    keys = pipe.condition(hits).neighbors.keys  # type: ignore[union-attr]
    assert keys.norm().item() == pytest.approx(1)
    assert pipe.vae.config.scaling_factor == compvis_state.KL_SCALE


FULL = {
    "imagenet": (192, (1, 2, 3, 5), (8, 4, 2), 512, 3, 400_920_579, (128, (1, 2, 4), 3, 8192)),
    "ffhq": (224, (1, 2, 3, 4), (8, 4, 2), 512, 3, 414_713_603, (128, (1, 2, 4), 3, 8192)),
    "rdm768": (448, (1, 2, 3, 4), (4, 2, 1), 768, 16, 1_335_480_400, (128, (1, 1, 2, 2, 4), 16, 0)),
}


@pytest.mark.parametrize("name", FULL)
def test_full_size_by_names_shapes_and_counts(name: str) -> None:
    """Every tensor of the published sizes has one place in diffusers' networks, and nothing is left over; no memory is
    used."""
    channels, mult, attention, context, latent, parameters, (ch, stage_mult, z, codes) = FULL[name]
    with torch.device("meta"):
        unet = published.UNet(channels, mult, attention, context, latent)
        attends = (False,) * (len(stage_mult) - 1) + (not codes,)
        stage = published.FirstStage(ch, stage_mult, z, codes, attends)
    state = {published.dotless(k): v for k, v in unet.state_dict().items()}
    state |= {f"first_stage_model.{k}": v for k, v in stage.state_dict().items()}
    tensors = {k: Stored(Path("nowhere"), 0, "float32", tuple(v.shape), v.stride()) for k, v in state.items()}
    plan = compvis._plan(Path("nowhere"), tensors, compvis.Choices(), Counter())
    assert plan.unet.parameters == parameters
    assert len(plan.unet.tensors) == len(plan.unet.shapes) == 688
    assert not plan.missing
    assert len(plan.vae.tensors) == len(plan.vae.shapes) == len(stage.state_dict())
    assert plan.pipeline["normalize_embeddings"] == (name == "rdm768")
    assert plan.unet.config["sample_size"] == (48 if name == "rdm768" else 64)
    assert plan.unet.config["attention_head_dim"] == tuple(channels * m // 32 for m in mult)


def test_renaming_is_that_of_diffusers() -> None:
    """The public mapping of latent diffusion checkpoints, as diffusers has it, says the same of every tensor."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    unet, stage = small_256()
    sizes, first = compvis_unet.layout(_stored(unet.state_dict())), compvis_vae.layout(_stored(stage.state_dict()))
    theirs = convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()},
        sizes.config(8, tuple(width // 32 for width in sizes.channels))
        | {
            "class_embed_type": None,
            "addition_embed_type": None,
        },
    )
    ours = {compvis_unet.diffusers_name(name, sizes): tensor for name, tensor in unet.state_dict().items()}
    assert theirs.keys() == ours.keys()
    assert all(theirs[name] is ours[name] or torch.equal(theirs[name], ours[name]) for name in ours if name)
    plain = {k: v for k, v in stage.state_dict().items() if not k.startswith("quantize")}
    theirs = convert_ldm_vae_checkpoint({f"first_stage_model.{k}": v for k, v in plain.items()}, first.config(32, 1.0))
    assert theirs.keys() == {compvis_vae.diffusers_name(name, first) for name in plain}


def _stored(state: dict[str, torch.Tensor]) -> dict[str, Stored]:
    return {k: Stored(Path("nowhere"), 0, "float32", tuple(v.shape), v.stride()) for k, v in state.items()}


def test_no_two_names_lose_their_dots_to_one() -> None:
    names = dotless._names()
    assert len(names) == 2 * len(set(dotless._stems()))
    long = "input_blocks.11.1.transformer_blocks.0.attn2.to_out.0.weight"
    assert dotless.dotted({published.dotless(long).removeprefix("model_ema."): 1}) == {long: 1}
    with pytest.raises(BowerbirdError, match="no-ema"):
        dotless.dotted({"diffusion_modelelsewhere": 1})


def test_plain_weights_where_there_are_no_averaged_ones_or_they_are_asked_for(tmp_path: Path) -> None:
    unet, stage = small_256()
    held: Any = published.checkpoint(unet, stage, optimizer=False)
    torch.save(held, tmp_path / "both.ckpt")
    assert compvis.plan(tmp_path / "both.ckpt", compvis.Choices(ema=False)).weights == "plain"
    averaged_only = {k: v for k, v in held["state_dict"].items() if not k.startswith("model.")}
    torch.save(averaged_only, tmp_path / "averaged.ckpt")  # and no wrapper around the state
    assert compvis.plan(tmp_path / "averaged.ckpt").weights == "ema"
    plain_only = {k: v for k, v in held["state_dict"].items() if not k.startswith("model_ema")}
    torch.save({"state_dict": plain_only}, tmp_path / "plain.ckpt")
    assert compvis.plan(tmp_path / "plain.ckpt").weights == "plain"
    from safetensors.torch import save_file

    save_file({k: v.clone() for k, v in held["state_dict"].items()}, tmp_path / "m.safetensors")
    plan = compvis.plan(tmp_path / "m.safetensors")
    name = "conv_in.weight"
    assert torch.equal(plan.unet.tensors[name].read(), unet.state_dict()["input_blocks.0.0.weight"])


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    held: Any = published.checkpoint(*small_256(), optimizer=False)
    held["callbacks"] = Evil(tmp_path / "ran")
    torch.save(held, tmp_path / "evil.ckpt")
    with pytest.raises(BowerbirdError, match=r"asks to run .*mkdir"):
        compvis.plan(tmp_path / "evil.ckpt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(BowerbirdError, match="neither a checkpoint of torch"):
        compvis.plan(tmp_path / "plain.pkl")
    assert not (tmp_path / "ran").exists()


def test_objects_of_training_programs_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning keeps its callbacks by class, and settings as objects; neither is imported."""
    module = types.ModuleType("pytorch_lightning.callbacks")
    kind = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    held: Any = published.checkpoint(*small_256(), optimizer=False)
    held["callbacks"] = {kind: {"best": np.float64(0.5), "at": kind()}}
    torch.save(held, tmp_path / "m.ckpt")
    monkeypatch.undo()
    assert compvis.plan(tmp_path / "m.ckpt").weights == "ema"
    assert "pytorch_lightning" not in sys.modules


def _without(held: Any, start: str) -> Any:
    state = held["state_dict"]
    return {"state_dict": {k: v for k, v in state.items() if not k.startswith(start)}}


def _with(held: Any, **tensors: torch.Tensor) -> Any:
    return {"state_dict": {**held["state_dict"], **{k.replace("__", "."): v for k, v in tensors.items()}}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: _with(h, cond_stage_model__transformer=torch.ones(1)), "text encoder"),
        (lambda h: _with(h, retrieval_encoder__weight=torch.ones(1)), "network between"),
        (lambda h: _with(h, something__else=torch.ones(1)), "something.else, which no published RDM has"),
        (lambda h: _without(h, "first_stage_model"), "no first stage"),
        (lambda h: _without(_without(h, "model."), "model_ema"), "no model.diffusion_model"),
        (
            lambda h: _with(_without(h, "model_ema"), model__diffusion_model__label_emb__weight=torch.ones(3, 3)),
            "class labels",
        ),
        (
            lambda h: {
                "transformer.transformer_blocks.0.attn1.to_q.weight": torch.ones(2, 2),
                "sos_token": torch.ones(1),
            },
            "no model.diffusion_model",
        ),
        (lambda h: {"transformer.tok_emb.weight": torch.ones(2, 2)}, "transformer over tokens that is not RARM's"),
        (lambda h: _with(h, scale_factor=torch.tensor(float("nan"))), "latent scale is nan"),
        (lambda h: _with(h, betas=torch.full((1,), 0.5).expand(1000)), "reaches beyond its bytes"),
        (lambda h: _with(h, model_ema__elsewhere=torch.ones(1)), "take the plain ones with --no-ema"),
        (lambda h: {"epoch": 3}, "no state_dict"),
        (
            lambda h: _with(
                _without(h, "model_ema"), **{"model__diffusion_model__out__2__weight": torch.ones(3, 32, 1, 1)}
            ),
            "not one of the published",
        ),
    ],
)
def test_refusals_say_why(tmp_path: Path, change: Any, said: str) -> None:
    torch.save(change(published.checkpoint(*small_256(), optimizer=False)), tmp_path / "m.ckpt")
    with pytest.raises(BowerbirdError, match=said):
        compvis.plan(tmp_path / "m.ckpt")


TRIALS = 300 if plain.FULL else 90


def test_damaged_files(tmp_path: Path) -> None:
    """Cut anywhere, or with flipped bytes in its description: a plan whose tensors can all be read, or a refusal;
    never a traceback."""
    unet, stage = published.UNet(32, (1, 2), (2,), 16, 3), published.FirstStage(32, (1, 2), 3, codes=8)
    whole = tmp_path / "m.ckpt"
    torch.save(_without(published.checkpoint(unet, stage, optimizer=False), "model_ema"), whole)
    data = whole.read_bytes()
    with zipfile.ZipFile(whole) as archive:
        spans = [
            (i.header_offset, i.header_offset + 100 + (i.file_size if i.filename.endswith("data.pkl") else 0))
            for i in archive.infolist()
        ]
    spans.append((len(data) - 4000, len(data)))  # the list of entries
    rng = np.random.default_rng(0)
    hurt, refusals = tmp_path / "hurt.ckpt", 0
    for trial in range(TRIALS):
        changed = bytearray(data)
        if trial % 6 == 0:
            changed = changed[: int(rng.integers(len(data)))]
        else:
            low, high = spans[-1] if trial % 6 == 1 else spans[int(rng.integers(len(spans)))]
            for at in rng.integers(low, min(high, len(data)), size=2):
                changed[at] = int(rng.integers(256))
        hurt.write_bytes(changed)
        try:
            plan = compvis.plan(hurt)
            plan.unet.tensors["conv_in.weight"].read()
        except BowerbirdError:
            refusals += 1
    assert refusals > TRIALS / 6


def zipped(path: Path, pickled: bytes) -> Path:
    """A checkpoint of one storage of four bytes and a made-up description."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", b"1234")
    return path


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\x00cpuK\x01tQ"


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02]q\0h\0a.",  # a list that holds itself
        b"\x80\x02cbuiltins\nstr\n]\x85R.",
        b"\x80\x02Nr\xff\xff\xff\x3f.",  # a memo of a billion entries
        b"\x80\x02}X\x01\0\0\0xctorch._utils\n_rebuild_tensor_v2\n("
        + STORAGE
        + b"K\0(J\0\0\0\x40t(K\0t\x89}tRs.",  # four bytes for a billion numbers
        # a tensor of no storage
        b"\x80\x02}X\x01\0\0\0xctorch._utils\n_rebuild_tensor_v2\n((K\0K\0K\0tK\0(K\x01t(K\x01t\x89}tRs.",
        b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.",
        b"\x80\x02cbuiltins\neval\nX\x01\0\0\x001\x85R.",
    ],
)
def test_made_up_descriptions_are_refused_at_once(tmp_path: Path, pickled: bytes) -> None:
    with pytest.raises(BowerbirdError):
        compvis.plan(zipped(tmp_path / "m.ckpt", pickled))


def test_one_file_does_not_change_how_the_next_is_read(tmp_path: Path) -> None:
    torch.save(published.checkpoint(*small_256(), optimizer=False), tmp_path / "honest.ckpt")
    zipped(tmp_path / "m.ckpt", b"\x80\x02ccollections\nOrderedDict\nN}X\x03\0\0\0getcbuiltins\nlist\ns\x86b.")
    with pytest.raises(BowerbirdError):
        compvis.plan(tmp_path / "m.ckpt")
    assert compvis.plan(tmp_path / "honest.ckpt").weights == "ema"


def test_averages_that_training_never_touched_are_not_taken(tmp_path: Path) -> None:
    """A model trained without averaging stores them all the same, as they were at the start."""
    held: Any = published.checkpoint(*small_256(), optimizer=False)
    for kind in ("weight", "bias"):
        held["state_dict"][published.dotless(f"out.2.{kind}")] *= 0
    torch.save(held, tmp_path / "m.ckpt")
    plan = compvis.plan(tmp_path / "m.ckpt")
    assert plan.weights == "plain"
    assert "never updated" in plan.report()["not in the file"]["weights"]


def test_generating_by_default_is_the_published_sampling(tmp_path: Path) -> None:
    pipe, _ = imported(tmp_path, published.checkpoint(*small_256(), optimizer=False), size=32)
    usual = generation.default_settings(pipe)
    assert (usual.steps, usual.guidance_scale, pipe.defaults.sampler) == (100, 2.0, "ddim-compvis")
    pipe.set_sampler("dpmsolver++")
    pipe.set_sampler("ddim")
    for steps, times in ((100, range(991, 0, -10)), (150, range(997, 0, -6)), (1000, range(999, 0, -1))):
        pipe.scheduler.set_timesteps(steps)
        assert pipe.scheduler.timesteps.tolist() == list(times)
    hits = Neighbors.from_embeddings(np.ones((1, 4, 64), np.float32), [["a"] * 4])
    for sampler in (pipe.defaults.sampler, "as-saved"):
        pipe.set_sampler(sampler)
        with pytest.raises(BowerbirdError, match="1 to 1000"):
            pipe(neighbors=hits, num_inference_steps=1001)
    with pytest.raises(BowerbirdError, match="beyond the last timestep"):
        pipe(neighbors=hits, num_inference_steps=1000)


def test_prompts_enter_as_in_the_published_scripts(tmp_path: Path) -> None:
    """256 px: the text's embedding and k - 1 neighbors; 768 px: the text's embedding alone."""
    for make, mode in ((small_256, "text+neighbors"), (small_768, "text")):
        (tmp_path / mode).mkdir()
        pipe, _ = imported(tmp_path / mode, published.checkpoint(*make(), optimizer=False), size=128)
        assert pipe.resolve(make_request("a bird")).text_mode == mode
        assert pipe.resolve(make_request("a bird", text_mode="neighbors")).text_mode == "neighbors"
        assert pipe.resolve(make_request(image=Image.new("RGB", (8, 8)))).text_mode is None


def test_published_schedule_where_the_file_has_none() -> None:
    assert compvis_schedule.schedule({}, kl=False)["beta_end"] == 0.0195
    assert compvis_schedule.schedule({}, kl=True)["beta_end"] == 0.015


def test_settings_of_training_programs_in_old_pickles_are_passed_over(tmp_path: Path) -> None:
    """OmegaConf's objects hold types; protocol 2 calls int, str and range long, unicode and xrange."""
    held: Any = published.checkpoint(*small_256(), optimizer=False)
    held["hyper_parameters"] = {"kinds": [int, str, range, bytes, chr, float], "seen": Counter("ab")}
    torch.save(held, tmp_path / "m.ckpt", pickle_protocol=2)
    assert compvis.plan(tmp_path / "m.ckpt").weights == "ema"


def test_a_tensor_of_no_account_is_left_out_where_asked(tmp_path: Path) -> None:
    held = _with(published.checkpoint(*small_256(), optimizer=False), something__else=torch.ones(1))
    torch.save(held, tmp_path / "m.ckpt")
    with pytest.raises(BowerbirdError, match=r"--ignore something\.else"):
        compvis.plan(tmp_path / "m.ckpt")
    plan = compvis.plan(tmp_path / "m.ckpt", compvis.Choices(ignore=("something.",)))
    assert plan.ignored["tensors below something. (--ignore)"] == 1
    with pytest.raises(BowerbirdError, match="no tensor's name begins with 'nothing'"):
        compvis.plan(tmp_path / "m.ckpt", compvis.Choices(ignore=("nothing",)))


def test_stable_diffusion_without_its_text_encoder_is_no_rdm(tmp_path: Path) -> None:
    unet = published.UNet(32, (1, 2, 4, 4), (4, 2, 1), 48, 4)
    stage = published.FirstStage(32, (1, 2, 4, 4), 4, codes=0)
    torch.save(published.checkpoint(unet, stage, optimizer=False), tmp_path / "m.ckpt")
    with pytest.raises(BowerbirdError, match="Stable Diffusion's is 8x with 4"):
        compvis.plan(tmp_path / "m.ckpt")
    assert compvis.plan(tmp_path / "m.ckpt", compvis.Choices(embeddings="unit")).pipeline["normalize_embeddings"]


def _hole(tensor: torch.Tensor) -> None:
    tensor.flatten()[1024:2048] = 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.view(-1)[5:6].fill_(float("nan")), "not finite"),
        (lambda t: t.zero_(), "zero throughout"),
        (_hole, "1024 zeros in a row"),
    ],
)
def test_damaged_numbers_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    held: Any = published.checkpoint(*small_256(), optimizer=False)
    name = published.dotless("middle_block.0.in_layers.2.weight")
    held["state_dict"][name] = held["state_dict"][name].clone()
    change(held["state_dict"][name])
    torch.save(held, tmp_path / "m.ckpt")
    with pytest.raises(BowerbirdError, match=said):
        compvis.write(compvis.plan(tmp_path / "m.ckpt"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_changed_bytes_of_a_tensor_are_found_by_their_checksum(tmp_path: Path) -> None:
    torch.save(published.checkpoint(*small_256(), optimizer=False), tmp_path / "m.ckpt")
    stored = compvis.plan(tmp_path / "m.ckpt").unet.tensors["mid_block.resnets.0.conv1.weight"]
    with (tmp_path / "m.ckpt").open("r+b") as file:
        file.seek(stored.start + 40)
        file.write(b"\x11\x22")
    with pytest.raises(BowerbirdError, match="checksum"):
        compvis.write(compvis.plan(tmp_path / "m.ckpt"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_heads_divide_only_where_there_is_attention(tmp_path: Path) -> None:
    unet, stage = (
        published.UNet(32, (1, 2), (2,), 16, 3, head=64).eval(),
        published.FirstStage(32, (1, 2, 4), 3, codes=64),
    )
    pipe, _ = imported(tmp_path, published.checkpoint(unet, stage, optimizer=False), size=32, head_channels=64)
    x, t, context = torch.randn(1, 3, 8, 8), torch.tensor([3]), torch.randn(1, 2, 16)
    with torch.no_grad():
        assert torch.allclose(pipe.unet(x, t, encoder_hidden_states=context).sample, unet(x, t, context), atol=1e-4)
    for wrong, said in (
        ({"head_channels": 48}, "do not divide"),
        ({"size": 1}, "multiple of 8"),
        ({"scale_factor": float("inf")}, "latent scale"),
    ):
        with pytest.raises(BowerbirdError, match=said):
            compvis.plan(tmp_path / "model.ckpt", compvis.Choices(**{"head_channels": 64, **wrong}))


def test_missing_tensors_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    held = _without(
        _without(published.checkpoint(*small_256(), optimizer=False), "model_ema"),
        "model.diffusion_model.middle_block.0.out_layers.3.bias",
    )
    torch.save(held, tmp_path / "m.ckpt")
    plan = compvis.plan(tmp_path / "m.ckpt")
    assert plan.report()["missing"] == ["unet: mid_block.resnets.0.conv2.bias"]
    with pytest.raises(BowerbirdError, match="1 tensors are missing"):
        compvis.write(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
