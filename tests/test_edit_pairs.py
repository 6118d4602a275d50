"""Pairs by Prompt-to-Prompt on a tiny Stable Diffusion with random weights: what is shared, what is kept, what is
written, and that it trains."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import doubles
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.edits.said import said_edits
from bowerbird.data.pictures import load_pictures
from bowerbird.data.sources import registry
from bowerbird.models.latent_scale import without_shift
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.instruct.prompt_pairs import dataset
from bowerbird.systems.instruct.prompt_pairs import pairs as making
from bowerbird.systems.instruct.prompt_pairs.pairs import PairSettings, make_pair
from bowerbird.systems.instruct.prompt_pairs.prompts import PromptPair, read_prompts
from bowerbird.systems.instruct.prompt_pairs.scores import PairJudge, Thresholds
from bowerbird.systems.instruct.prompt_pairs.shared_attention import same_words, shared_attention
from bowerbird.training.data import held_out_rows
from bowerbird.training.recipe import build_objective, read_pictures, with_settings
from bowerbird.training.recipes import recipe

PROMPTS = [PromptPair("a red fox", "a blue fox", "make it blue"), PromptPair("a red heart", "a wolf", "a wolf instead")]
ALL = PairSettings(tries=2, keep=1, thresholds=Thresholds(-1, -1, -1), steps=3, seed=5)


class Encoder:
    """The mean color of a picture, and of a text its letters: enough to be scored."""

    name, dim, shared_dim, fingerprint = "colors", 3, 3, "0"

    def embed_text(self, texts: Any) -> np.ndarray:
        return np.array([[len(text), text.count("b"), 1] for text in texts], np.float32)

    def embed_images(self, pictures: Any) -> np.ndarray:
        return np.array([np.asarray(each, np.float32).mean((0, 1)) for each in pictures])


@pytest.fixture
def pipe() -> ReferencePipeline:
    return ReferencePipeline(doubles.sd())


def made(pipe: ReferencePipeline, share: float, **changes: Any) -> np.ndarray:
    pair = make_pair(pipe, PROMPTS[0], replace(ALL, **changes), seed=7, share=share, guidance=4.0)
    return np.stack([np.asarray(each, int) for each in pair])


@pytest.mark.parametrize("sampler", ["base", "diffusers:EulerAncestralDiscreteScheduler"])
def test_nothing_shared_is_two_pictures_of_one_noise(pipe: ReferencePipeline, sampler: str) -> None:
    pair = made(pipe, 0.0, sampler=sampler)
    for prompt, picture in zip((PROMPTS[0].original, PROMPTS[0].edited), pair, strict=True):
        with pipe.sampling_with(sampler):
            alone = pipe.base(
                prompt, num_inference_steps=3, guidance_scale=4.0, generator=torch.Generator().manual_seed(7)
            ).images[0]
        assert np.abs(picture - np.asarray(alone, int)).max() <= 1
    assert np.abs(pair[0] - pair[1]).max() > 1


@pytest.mark.parametrize("base", [doubles.sd, doubles.sdxl])
def test_shared_attention_is_the_first_ones(base: Any) -> None:
    """With the map of the first row the second row's output is that map over its own values, in every step."""
    from diffusers.models.attention_processor import Attention

    pipe = ReferencePipeline(base())
    layer = next(m for m in pipe.base.unet.modules() if isinstance(m, Attention) and not m.is_cross_attention)
    seen: list[torch.Tensor] = []
    inputs: list[torch.Tensor] = []
    layer.to_v.register_forward_hook(lambda module, args, output: inputs.append(output))
    layer.to_out[0].register_forward_hook(lambda module, args, output: seen.append(args[0]))
    layer.to_q.register_forward_hook(lambda module, args, output: inputs.append(output))
    layer.to_k.register_forward_hook(lambda module, args, output: inputs.append(output))
    full, none = made(pipe, 1.0), made(pipe, 0.0)
    assert np.array_equal(full[0], none[0])  # the first picture is what it is without its edit
    assert not np.array_equal(full[1], none[1])
    heads = layer.heads
    # hooks of the test stand before those of the block, so the maps are computed here from the first row's own
    for step, mixed in enumerate(seen[:3]):
        query, key, value = inputs[3 * step : 3 * step + 3]
        split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
        maps = (split[0] @ split[1].transpose(-1, -2) * layer.scale).softmax(-1)
        maps[1::2] = maps[0::2]
        wanted = (maps @ split[2]).transpose(1, 2).flatten(2)
        assert torch.allclose(mixed, wanted, atol=1e-5)


def test_words_that_both_prompts_have_are_attended_to_alike(pipe: ReferencePipeline) -> None:
    columns = same_words(pipe.base.tokenizer, *(PROMPTS[0].original, PROMPTS[0].edited))
    assert columns == [(0, 0), (1, 1), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7)]
    same = PromptPair(PROMPTS[0].original, PROMPTS[0].original, "nothing")
    pair = make_pair(pipe, same, replace(ALL, attention="both"), seed=7, share=1.0, guidance=4.0)
    assert np.array_equal(*(np.asarray(each) for each in pair))
    shared, none = made(pipe, 1.0, attention="cross"), made(pipe, 0.0)
    assert np.abs(shared[0] - none[0]).max() <= 1
    assert not np.array_equal(shared[1], none[1])
    before = {name: type(each) for name, each in pipe.base.unet.attn_processors.items()}
    with pytest.raises(ZeroDivisionError), shared_attention(pipe.base.unet, "both", columns):
        raise ZeroDivisionError
    assert {name: type(each) for name, each in pipe.base.unet.attn_processors.items()} == before
    assert not any(module._forward_hooks for module in pipe.base.unet.modules())


def test_directional_similarity_is_of_the_changes() -> None:
    from PIL import Image

    encoder = Encoder()
    judge = PairJudge(encoder, PROMPTS[0])
    texts = judge.texts
    colors = [tuple(int(x) for x in 255 * text) for text in texts]
    pictures = [Image.new("RGB", (4, 4), color) for color in colors]
    there, back = judge.score((pictures[0], pictures[1])), judge.score((pictures[1], pictures[0]))
    assert there.direction == pytest.approx(1, abs=0.05)
    assert back.direction == pytest.approx(-1, abs=0.05)
    assert there.original == pytest.approx(1, abs=1e-3)
    assert judge.score((pictures[0], pictures[0])).direction == 0
    assert Thresholds(0.2, 0.2, 1.1).failed(there) == "image"
    assert Thresholds(0.2, 0.2, 0.7).failed(back) == "direction"


def test_a_run_that_was_cut_gives_the_same_files(
    pipe: ReferencePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "GROUP", 2)
    wanted = [*PROMPTS, *PROMPTS[:1]]

    def build(out: str, settings: PairSettings = ALL) -> Any:
        return dataset.build_dataset(pipe, Encoder(), wanted, settings, tmp_path / out, base="base")

    report = build("whole")
    assert (report["kept"], report["tries"], report["passed"]) == (3, 6, 6)
    make, calls = making.make_pair, []

    def dies(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["seed"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return make(*args, **kwargs)

    monkeypatch.setattr(making, "make_pair", dies)
    with pytest.raises(KeyboardInterrupt):
        build("cut")
    assert not list((tmp_path / "cut").glob("data/*"))
    build("cut")
    assert len(calls) == 4 + 4  # the first edit was not made again
    files = [{p.name: p.read_bytes() for p in (tmp_path / each).rglob("*") if p.is_file()} for each in ("whole", "cut")]
    assert files[0] == files[1]
    assert {"train-00000.parquet", "train-00001.parquet", "README.md", ".edits.json", ".lock"} >= set(files[0])
    with pytest.raises(BowerbirdError, match="another seed"):
        build("cut", replace(ALL, seed=6))
    pipe.base.unet.conv_in.weight.data.add_(0.1)
    pipe._base_fingerprint = None
    with pytest.raises(BowerbirdError, match="another base_fingerprint"):
        build("cut")


def test_what_is_written_is_read_by_others_and_trains(
    pipe: ReferencePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bowerbird.systems.instruct.pipeline import InstructPipeline
    from bowerbird.training.run import train_recipe

    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))
    dataset.build_dataset(pipe, Encoder(), PROMPTS, ALL, tmp_path / "pairs", base="/home/me/base")
    (file,) = (tmp_path / "pairs" / "data").glob("*.parquet")
    table = pq.read_table(file)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["edited_image"] == {"_type": "Image"}
    assert set(features) == set(table.schema.names)
    assert table["edit_prompt"].to_pylist() == [each.instruction for each in PROMPTS]
    assert "/home/me" not in (tmp_path / "pairs" / "README.md").read_text()
    items = list(registry.read(tmp_path / "pairs"))
    assert [item.caption for item in items] == ["a red fox", "a blue fox", "a red heart", "a wolf"]
    pipe.base.save_pretrained(tmp_path / "base")
    own = [f"system.base={tmp_path / 'base'}", "size=16", "system.picture_size=16", "train.precision=no"]
    chosen = with_settings(recipe("instruct", tiny=True), own)
    pictures = read_pictures(chosen, tmp_path / "pairs")
    list(train_recipe(chosen, pictures, tmp_path / "run", device="cpu"))
    assert InstructPipeline.from_pretrained(tmp_path / "run" / "model").unet.config.in_channels == 8
    with pytest.raises(BowerbirdError, match=r"system\.references=false"):
        list(train_recipe(with_settings(chosen, ["system.references=true"]), pictures, tmp_path / "no", device="cpu"))
    assert not (tmp_path / "no").exists()


def test_bases_and_prompts_that_make_no_pairs_are_refused(tmp_path: Path) -> None:
    doubles.sd3().save_pretrained(tmp_path / "sd3")
    with pytest.raises(BowerbirdError, match="Stable Diffusion"):
        making.open_pair_base(str(tmp_path / "sd3"), "cpu")
    rows = [{"input": "a fox", "edit": "make it blue", "output": "a blue fox"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_prompts(tmp_path / "a.jsonl") == [PromptPair("a fox", "a blue fox", "make it blue")]
    (tmp_path / "b.jsonl").write_text(json.dumps({**rows[0], "edit": " "}))
    with pytest.raises(BowerbirdError, match="row 1"):
        read_prompts(tmp_path / "b.jsonl")
    with pytest.raises(BowerbirdError, match="not a table of prompts"):
        read_prompts(tmp_path / "c.jsonl")


def _written(folder: Path, color: str) -> bytes:
    """The bytes of a picture of one color, which lies at `folder`/COLOR.png too."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), color).save(folder / f"{color}.png")
    return (folder / f"{color}.png").read_bytes()


def _as_csv(place: Path) -> Path:
    for folder, color in (("before", "red"), ("after", "blue"), ("before", "green"), ("after", "black")):
        _written(place / folder, color)
    rows = ["before,after,instruction", "before/red.png,after/blue.png,make it blue"]
    (place / "edits.csv").write_text("\n".join([*rows, "before/green.png,after/black.png,make it black"]))
    return place


def _as_image_folder(place: Path) -> Path:
    """As the hub's `imagefolder` has two pictures a row."""
    for split, one, other in (("train", "red", "blue"), ("test", "green", "black")):
        for color in (one, other):
            _written(place / split, color)
        row = {"original_image_file_name": f"{one}.png", "edited_image_file_name": f"{other}.png"}
        (place / split / "metadata.jsonl").write_text(json.dumps({**row, "edit_prompt": f"make it {other}"}))
    return place


def _as_the_paper(place: Path) -> Path:
    for number, one, other in ((1, "red", "blue"), (2, "green", "black")):
        folder = place / "shard-00" / f"{number:07d}"
        for which, color in enumerate((one, other)):
            data = _written(place / "elsewhere", color)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number * 77}_{which}.jpg").write_bytes(data)
        texts = {"input": one, "edit": f"make it {other}", "output": other}
        (folder / "prompt.json").write_text(json.dumps(texts))
    pairs = [[f"shard-00/{number:07d}", [str(number * 77)]] for number in (1, 2)]
    (place / "seeds.json").write_text(json.dumps([*pairs, ["../..", ["0"]]]))
    return place


@pytest.mark.parametrize("written", [_as_csv, _as_image_folder, _as_the_paper])
def test_pairs_as_others_lay_them_out(written: Any, tmp_path: Path) -> None:
    place = written(tmp_path / "data")
    pictures = load_pictures(place, size=8)
    found = said_edits(pictures)
    assert found is not None
    edits = [edit for part in found for edit in part.edits]
    shown = {
        edit.words[0]: tuple(tuple(pictures.pixels[row, :, 4, 4].tolist()) for row in (edit.source, edit.target))
        for edit in edits
    }
    assert shown == {
        "make it blue": ((255, 0, 0), (0, 0, 255)),
        "make it black": ((0, 128, 0), (0, 0, 0)),
    }
    assert not pictures.left_out
    if written is _as_csv:
        assert said_edits(load_pictures(place / "edits.csv", size=8)) is not None


def test_pairs_of_several_tables_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of one name in two folders, and a data set that comes in parts, whose rows begin at 0 each time."""
    rows = [
        {"original_image": {"bytes": _written(tmp_path, one), "path": None}, "edit_prompt": f"make it {other}",
         "edited_image": {"bytes": _written(tmp_path, other), "path": None}}
        for one, other in (("red", "blue"), ("green", "black"))
    ]  # fmt: skip
    tables = [pa.Table.from_pylist([row]) for row in rows]
    for name, table in zip(("a", "b"), tables, strict=True):
        (tmp_path / "data" / name).mkdir(parents=True)
        pq.write_table(table, tmp_path / "data" / name / "0000.parquet")
    stream = SimpleNamespace(features=None, with_format=lambda _: SimpleNamespace(iter=lambda batch_size: iter(tables)))
    hub = SimpleNamespace(load_dataset=lambda *_, **__: stream, Image=int)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    for place in (tmp_path / "data", "hf:them/edits"):
        found = said_edits(load_pictures(place, size=8))
        assert found is not None
        assert sorted(edit.words[0] for part in found for edit in part.edits) == ["make it black", "make it blue"]


def test_pairs_are_held_out_whole_and_their_words_count(tmp_path: Path) -> None:
    rows = ["before,after,instruction"]
    for i in range(40):
        for which in ("before", "after"):
            _written(tmp_path / f"{i}-{which}", "red")
            Image.new("RGB", (16, 16), (i, 0, 9 * (which == "after"))).save(tmp_path / f"{i}-{which}" / "red.png")
        rows.append(f"{i}-before/red.png,{i}-after/red.png,make it {i}")
    (tmp_path / "edits.csv").write_text("\n".join(rows))
    pictures = load_pictures(tmp_path, size=8)
    left, held = held_out_rows(with_settings(recipe("instruct"), ["held_out=0.25"]), pictures)
    pairs = pictures.column("edit_pair")
    assert {pairs[row] for row in left}.isdisjoint(pairs[row] for row in held)
    assert len(left) + len(held) == 80
    assert 8 <= len(held) <= 40
    (tmp_path / "edits.csv").write_text("\n".join(rows).replace("make it 7", "make it 8"))
    assert load_pictures(tmp_path, size=8).fingerprint() != pictures.fingerprint()


def test_pictures_without_edits_are_refused_where_nothing_is_composed(drawn_folder: Path, tmp_path: Path) -> None:
    chosen = with_settings(recipe("instruct"), ["size=64", "system.picture_size=64"])
    with pytest.raises(BowerbirdError, match="no edit: each row of a table has two pictures and an instruction"):
        build_objective(
            with_settings(chosen, [f"system.base={_saved(tmp_path)}"]), read_pictures(chosen, drawn_folder), tmp_path
        )


def _saved(place: Path) -> Path:
    doubles.sd().save_pretrained(place / "base")
    return place / "base"


def test_an_autoencoder_without_convolutions_beside_its_latents_loses_its_shift() -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    whole = {**doubles.latent_vae().config, "use_quant_conv": False, "use_post_quant_conv": False}
    whole["_use_default_values"] = []
    theirs = AutoencoderKL.from_config({**whole, "shift_factor": 0.3, "scaling_factor": 0.5}).eval()
    ours, x = without_shift(theirs), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        wanted, latents = theirs.encode(x).latent_dist.mode(), ours.encode(x).latent_dist.mode()
        assert torch.allclose(latents, (wanted - 0.3) * 0.5, atol=1e-5)
        assert torch.allclose(ours.decode(latents).sample, theirs.decode(wanted).sample, atol=1e-5)
    AutoencoderKL.from_config(ours.config).load_state_dict(ours.state_dict())
