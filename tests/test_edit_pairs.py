"""Pairs by Prompt-to-Prompt on a tiny Stable Diffusion with random weights: what is shared, what is kept, what is
written, and that it trains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import doubles
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.sources import registry
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.instruct.prompt_pairs import dataset
from bowerbird.systems.instruct.prompt_pairs import pairs as making
from bowerbird.systems.instruct.prompt_pairs.pairs import PairSettings, make_pair
from bowerbird.systems.instruct.prompt_pairs.prompts import PromptPair, read_prompts
from bowerbird.systems.instruct.prompt_pairs.scores import PairJudge, Thresholds
from bowerbird.systems.instruct.prompt_pairs.shared_attention import same_words, shared_attention

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
    from bowerbird.training.recipe import read_pictures, with_settings
    from bowerbird.training.recipes import recipe
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
    with pytest.raises(BowerbirdError, match=r"system\.encoder=null"):
        list(train_recipe(with_settings(chosen, ["system.encoder=small"]), pictures, tmp_path / "no", device="cpu"))
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
