"""The contract of systems: one joins by a file and a registration, and a prompt reaches the network in few calls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bowerbird import KnowledgeBase, RDMPipeline
from bowerbird.core import provenance
from bowerbird.core.errors import BowerbirdError
from bowerbird.systems import base, generation, loading, queries, registry
from tests.test_cli import bowerbird

AVERAGE = '''\
"""A system of its own: denoises towards the average of its neighbors' pictures."""
import torch
from bowerbird.core import images, seeds, tensors
from bowerbird.diffusion import schedulers
from bowerbird.diffusion.conditions import Conditioning, FeatureMaps
from bowerbird.core.errors import BowerbirdError
from bowerbird.systems import base, common, queries, registry

class AveragePipeline(base.System):
    generating = ()
    capabilities = base.Capabilities(sizes=(32,), needs_images=True)

    def __init__(self, scheduler, k: int = 2):
        super().__init__()
        self.register_modules(scheduler=scheduler)
        self.register_to_config(k=k)

    def retrieve(self, request, kb, count=1, *, seed=0, proposal=None):
        return queries.retrieve(kb, self.resolve(request), count, seed=seed, counts=proposal or {})

    def condition(self, hits):
        rows = [tensors.to_float(tensors.stack([images.square(p, 32) for p in row])).mean(0) for row in hits.images()]
        return Conditioning(FeatureMaps((torch.stack(rows),), torch.from_numpy(hits.effective_weights)))

    def predict(self, sample, timestep, condition):
        return schedulers.from_clean(self.scheduler, condition.neighbors.maps[0], sample, timestep)

    def __call__(self, *, neighbors, num_inference_steps=10, generator=None, eta=0.0, output_type="pil", **ignored):
        condition, generators = self.condition(neighbors), common.generators_for(generator, 0, len(neighbors))
        timesteps, options = common.schedule(self.scheduler, num_inference_steps, eta, generators, "cpu")
        step = common.step_scheduler(self.scheduler, options)
        run = base.Denoising(self, seeds.noise((3, 32, 32), generators), timesteps, step)
        for _, t in run:
            run.advance(self.predict(run.sample, t, condition))
        return base.SystemOutput(images=common.as_output(run.sample.clamp(-1, 1), output_type), neighbors=neighbors)

REGISTRATION = registry.Registration(pipelines={"AveragePipeline": "average:AveragePipeline"})
'''


@pytest.fixture
def average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of a system that bowerbird does not know, on disk; the system joins for this test."""
    (tmp_path / "average.py").write_text(AVERAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_JOINED", [])
    import average as system  # type: ignore[import-not-found]

    from bowerbird.diffusion import schedulers

    registry.register(system.REGISTRATION)
    system.AveragePipeline(schedulers.scheduler("ddim")).save_pretrained(tmp_path / "model")
    yield tmp_path / "model"
    sys.modules.pop("average")


def test_a_system_is_one_file_and_one_registration(average: Path, kb_path: Path, tmp_path: Path) -> None:
    """Opened by its folder, generated with from the command line, guarded, recorded, and made again from its PNG."""
    from PIL import Image

    from bowerbird.cli.main import app

    out = tmp_path / "out"
    call = ["generate", str(average), "--kb", str(kb_path), "--prompt", "red apple", "-n", "2", "--out", str(out)]
    app([*call, "--sampler", "ddim", "--json"], standalone_mode=False)
    app(
        ["generate", str(average), "--from", str(out / "001.png"), "--out", str(tmp_path / "again")],
        standalone_mode=False,
    )
    made = [np.asarray(Image.open(path)) for path in (out / "001.png", tmp_path / "again" / "000.png")]
    np.testing.assert_array_equal(*made)
    near = loading.load_pipeline(average).retrieve(base.Request(prompts=("red apple",)), KnowledgeBase.open(kb_path))
    mean = np.mean([np.asarray(p.resize((32, 32)), float) for p in near.images()[0] if p is not None], 0)
    assert np.abs(made[0] - mean).mean() < 4  # the last step leaves no noise


def test_a_model_of_no_known_class_is_refused_in_one_line(average: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_JOINED", [])
    with pytest.raises(base.BowerbirdError, match="AveragePipeline"):
        loading.load_pipeline(average)


def test_a_prompt_reaches_the_network_in_five_calls(
    random_rdm: Path, kb_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the verb to the network's forward pass; what lies between is one function each, none calls upward."""
    from diffusers import UNet2DConditionModel

    from bowerbird.cli.main import app

    ours: list[list[str]] = []
    package = str(Path(generation.__file__).parents[1])

    def watch(module: object, arguments: object) -> None:
        frame, names = sys._getframe(1), []
        while frame is not None:
            path = frame.f_code.co_filename
            if path.startswith(package) and not path.endswith("cli/main.py"):
                names.append(f"{Path(path).parent.name}/{Path(path).name}:{frame.f_code.co_name}")
            frame = frame.f_back  # type: ignore[assignment]
        ours.append(names)

    opened = UNet2DConditionModel.from_pretrained

    def from_pretrained(*arguments: object, **options: object) -> object:
        made = opened(*arguments, **options)
        network = made[0] if isinstance(made, tuple) else made  # with what loading it met
        network.register_forward_pre_hook(watch)
        return made

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", from_pretrained)
    call = ["generate", str(random_rdm), "--kb", str(kb_path), "--prompt", "red apple", "-n", "1", "--steps", "1"]
    app([*call, "--out", str(tmp_path / "out"), "--json"], standalone_mode=False)
    assert ours
    assert max(map(len, ours)) <= 5, ours[0]


def test_generating_leaves_the_pipeline_as_it_was(random_rdm: Path, kb_path: Path) -> None:
    pipe = RDMPipeline.from_pretrained(random_rdm)
    pipe.set_sampler("unipc")
    before, config = dict(vars(pipe)), dict(pipe.config)
    before.pop("_internal_dict")
    hits = KnowledgeBase.open(kb_path).search(text="red apple", k=2)
    generation.generate(pipe, hits, generation.Settings(steps=1, sampler="dpmsolver++"))
    after = dict(vars(pipe))
    after.pop("_internal_dict")
    assert after == before
    assert dict(pipe.config) == config
    pipe.set_sampler("ddim")
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"


@pytest.mark.parametrize("name", [*loading.bundled_pipelines()])
def test_bundled_models_say_what_they_can_do(name: str) -> None:
    can = loading.load_pipeline(name).capabilities
    assert can.sizes[-1] == (128 if name == "reimagen-drawings" else 64)
    assert can.reads_text == ("reimagen" in name or name == "tiny-racm3")
    assert can.needs_images == ("reimagen" in name or name in ("tiny-instruct", "tiny-racm3"))
    assert can.takes_references == (name == "tiny-sd")
    assert can.edits == (name in ("tiny-knn", "tiny-instruct"))
    assert can.instructs == (name == "tiny-instruct")


def test_a_search_that_finds_nothing_generates_nothing(kb_path: Path, random_rdm: Path, tiny_knn: Path) -> None:
    """Every way of asking, in every system: one line that names what was asked, and the picture where it is allowed."""
    kb, none = KnowledgeBase.open(kb_path), "style = 'none of them'"
    picture = Image.new("RGB", (64, 64), "red")
    for pipe, asked in (
        (loading.load_pipeline(random_rdm), {"prompt": "red apple"}),
        (loading.load_pipeline(random_rdm), {"prompt": "red apple", "text_mode": "text+neighbors"}),
        (loading.load_pipeline(random_rdm), {"image": picture}),
        (loading.load_pipeline(tiny_knn), {"prompt": "red apple"}),
        (loading.load_pipeline("tiny-reimagen"), {"prompt": "red apple"}),
    ):
        how: dict[str, Any] = {**asked, "knowledge_base": kb, "where": none, "num_inference_steps": 1}
        with pytest.raises(BowerbirdError, match="none of them"):
            pipe(**how)
        assert len(pipe(**how, allow_no_neighbors=True).images) == 1
    with pytest.raises(BowerbirdError, match="qwertyuiop"):  # no condition, no word in common
        loading.load_pipeline("tiny-reimagen")("qwertyuiop", knowledge_base=kb, search_mode="bm25")


def test_a_small_knowledge_base_gives_as_many_neighbors_as_it_holds(tmp_path: Path, random_rdm: Path) -> None:
    for i, color in enumerate(("red", "green", "blue")):
        Image.new("RGB", (32, 32), color).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(color)
    kb, _ = KnowledgeBase.build(tmp_path / "kb", [tmp_path / f"{i}.png" for i in range(3)])
    pipe = loading.load_pipeline(random_rdm)
    assert pipe.defaults.k > 3
    assert pipe("red", knowledge_base=kb, rerank=False, num_inference_steps=1).neighbors.k == 3
    assert kb.search(text="red").k == 3
    with pytest.raises(BowerbirdError, match="choose k from 1 to 3"):
        pipe("red", knowledge_base=kb, k=4)
    kb.remove(where="true")
    with pytest.raises(BowerbirdError, match="holds no items; add pictures: bowerbird kb add"):
        pipe("red", knowledge_base=kb)


def test_neighbors_below_a_score_are_left_out(kb_path: Path, random_rdm: Path, tmp_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    found = kb.search(text="red apple", k=4, mode="dense")
    cut = float(np.sort(found.scores[0])[::-1][:3].mean())  # between the first and the third
    kept = int((found.scores[0] >= cut).sum())
    assert 0 < kept < 4
    call = ("generate", random_rdm, "--kb", kb_path, "--prompt", "red apple", "-n", "1", "--steps", "1", "-k", "4")
    call = (*call, "--search-mode", "dense", "--out", "out", "--min-score")
    bowerbird(*call, cut, cwd=tmp_path)
    record = provenance.read_png(tmp_path / "out" / "000.png")
    assert [row["id"] for row in record["neighbors"]] == found.ids[0, :kept].tolist()
    assert record["request"]["min_score"] == cut
    said = bowerbird(*call, 0.99, cwd=tmp_path, expect=2).stderr
    assert "--min-score 0.99" in said
    assert "--allow-no-neighbors" in said
    bowerbird(*call, 0.99, "--allow-no-neighbors", cwd=tmp_path)
    with pytest.raises(BowerbirdError, match="min_score"):
        queries.make_request(unconditional=True, min_score=0.5)
