"""Nothing that is made changes by accident: pictures, searches, training steps and a picture made again from its
record, to the last bit.

The expected values lie in `golden/`. They hold to the last bit on the kind of machine that made them; on another
processor, whose kernels round another way, pictures and losses are compared with a small tolerance. A deliberate
change makes them new: pytest tests/test_golden.py -k make --make-golden
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import threads

FOLDER = Path(__file__).parent / "golden"
FILE = FOLDER / "golden.json"
PICTURE_TOLERANCE = 2.0
"""Mean difference of a picture, in 1/255, that another processor may make."""

RECIPES = (
    "small",
    "tiny-autoencoder",
    "tiny-vq",
    "tiny-rdm",
    "tiny-rdm-fast",
    "tiny-rdm-no-neighbors",
    "tiny-knn",
    "tiny-knn-discrete",
    "tiny-reimagen-32",
    "tiny-reimagen",
    "tiny-reimagen-128",
    "reimagen-paper-64",
    "tiny-copies",
    "judge",
    "style-judge",
)


@cache
def machine() -> str:
    """What the last bit depends on: the processor's kernels and caches, by which oneDNN cuts its blocks, the threads
    that add up, and the library's version."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.is_file() else []
    first = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = first.get("flags", "").split()
    kernels = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in flags]
    caches = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return " ".join(
        [
            platform.machine(),
            torch.__version__,
            torch.backends.cpu.get_cpu_capability(),
            str(torch.get_num_threads()),
            *kernels,
            *(first.get(key, "") for key in ("vendor_id", "cpu family", "model")),
            *(size.read_text().strip() for size in caches),
        ]
    )


def digest(*arrays: Any) -> str:
    """A hash of arrays' bytes, dtypes and shapes."""
    found = hashlib.sha256()
    for array in arrays:
        plain = np.ascontiguousarray(array)
        found.update(f"{plain.dtype} {plain.shape}".encode() + plain.tobytes())
    return found.hexdigest()[:24]


# -- what is made ------------------------------------------------------------------------------------------------------


def searched(kb: Any, mode: str) -> Any:
    if mode == "image":
        return kb.search(images=[Image.new("RGB", (64, 64), "red")], k=4)
    return kb.search(text=["a red apple", "blue circle"], k=4, mode=mode)


def picture(kb: Any, model: str, random_models: dict[str, str]) -> Image.Image:
    """One picture of each pipeline, in few steps."""
    from bowerbird.systems import loading

    name, _, kind = model.partition(" ")
    pipe = loading.open_pipeline(random_models.get(name, name))
    pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 2 if name == "tiny-rdm-fast" else 3, "seed": 5}
    if kind == "edit":
        source = kb.search(text="a red apple", k=1, alpha="even").images()[0][0]  # of two the one it was made from
        options |= {"source": source}
    if kind == "ddim":
        pipe.set_sampler("ddim")
        options |= {"eta": 0.5}
    if kind == "unconditional":
        return pipe(unconditional=True, knowledge_base=kb, proposal=kb.proposal(4), k=2, **options).images[0]
    # what the search alone finds: neighbors of another color stay, as when these pictures were made
    return pipe("a green star", knowledge_base=kb, k=3, rerank=False, **options).images[0]


PICTURES = (
    "tiny-rdm",
    "tiny-rdm ddim",
    "tiny-rdm unconditional",
    "tiny-rdm-fast",
    "tiny-reimagen",
    "tiny-knn",
    "tiny-knn edit",
    "discrete",
    "random-reimagen",
)


def one_step(name: str, source: Path, out: Path) -> dict[str, Any]:
    """The batch, the loss and the weights of one step of a recipe's tiny form."""
    from bowerbird.training import recipes
    from bowerbird.training.loop import train
    from bowerbird.training.recipe import build_objective, read_pictures

    recipe = recipes.recipe(name, tiny=True)
    objective = build_objective(recipe, read_pictures(recipe, source), out)
    settings = recipe.train.model_copy(update={"precision": "bf16"})  # on every machine, whatever it is faster in
    report = next(iter(train(objective, settings, out, device="cpu")))
    state = objective.state_dict()
    weights = digest(*[state[key].float().numpy() for key in sorted(state)])
    return {
        "names": hashlib.sha256(" ".join(sorted(state)).encode()).hexdigest()[:24],
        "loss": report.loss,
        "weights": weights,
    }


# -- tests -------------------------------------------------------------------------------------------------------------


@cache
def expected() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def same_machine() -> bool:
    return bool(expected()["machine"] == machine())


@pytest.fixture(scope="module", autouse=True)
def as_many_threads_as_usual(usual_threads: int) -> Iterator[None]:
    with threads(usual_threads):
        yield


@pytest.fixture(scope="module")
def kb(kb_path: Path) -> Any:
    from bowerbird import KnowledgeBase

    return KnowledgeBase.open(kb_path)


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid", "image"])
def test_search(kb: Any, mode: str) -> None:
    hits, wanted = searched(kb, mode), expected()["searches"][mode]
    assert hits.ids.tolist() == wanted["ids"]
    np.testing.assert_allclose(hits.scores, wanted["scores"], rtol=0 if same_machine() else 1e-4)
    if same_machine():
        assert digest(hits.ids, hits.scores, hits.embeddings) == wanted["digest"]


@pytest.mark.parametrize("model", PICTURES)
def test_picture(kb: Any, model: str, tiny_tokens: Path, random_reimagen: Path) -> None:
    made = np.asarray(picture(kb, model, {"discrete": str(tiny_tokens), "random-reimagen": str(random_reimagen)}))
    wanted = np.asarray(Image.open(picture_file(model)).convert("RGB"))
    if same_machine():
        np.testing.assert_array_equal(made, wanted)
    elif model not in (
        "discrete",
        "random-reimagen",
    ):  # weights drawn or trained here differ in their last bits, and tokens jump
        assert np.abs(made.astype(float) - wanted).mean() <= PICTURE_TOLERANCE


@pytest.mark.parametrize("name", RECIPES)
def test_training_step(name: str, drawn_folder: Path, tmp_path: Path) -> None:
    made, wanted = one_step(name, drawn_folder, tmp_path), expected()["steps"][name]
    assert made["names"] == wanted["names"]
    assert made["loss"] == pytest.approx(wanted["loss"], rel=0 if same_machine() else 0.05)
    if same_machine():
        assert made["weights"] == wanted["weights"]


@pytest.mark.parametrize("file", ["record-rdm.png", "record-edit.png", "record-reimagen.png"])
def test_picture_made_again_from_a_record_of_before(file: str) -> None:
    """These PNGs were written by version 0.1.0; what it recorded still gives the same pixels."""
    made, wanted = np.asarray(again(FOLDER / file)), np.asarray(Image.open(FOLDER / file).convert("RGB"))
    if same_machine():
        np.testing.assert_array_equal(made, wanted)
    assert np.abs(made.astype(float) - wanted).mean() <= PICTURE_TOLERANCE


def again(path: Path) -> Image.Image:
    from bowerbird.core import provenance
    from bowerbird.systems import loading, regeneration

    record = provenance.read_png(path)
    return regeneration.regenerate(loading.open_pipeline(record["model"]["name"]), record)[0]


# -- making them new ---------------------------------------------------------------------------------------------------


def picture_file(model: str) -> Path:
    return FOLDER / f"{model.replace(' ', '-')}.png"


def write(make: Callable[[str], Path], kb: Any, drawn_folder: Path, models: dict[str, str]) -> None:
    """Write every expected value; the PNGs with records stay as they are."""
    for model in PICTURES:
        picture(kb, model, models).save(picture_file(model))
    searches = {}
    for mode in ("dense", "bm25", "hybrid", "image"):
        hits = searched(kb, mode)
        found = digest(hits.ids, hits.scores, hits.embeddings)
        searches[mode] = {"ids": hits.ids.tolist(), "scores": hits.scores.tolist(), "digest": found}
    steps = {name: one_step(name, drawn_folder, make(name)) for name in RECIPES}
    FILE.write_text(json.dumps({"machine": machine(), "searches": searches, "steps": steps}, indent=1) + "\n")


@pytest.mark.skipif("not config.getoption('--make-golden')", reason="writes the expected values again")
def test_make(kb: Any, drawn_folder: Path, tmp_path: Path, tiny_tokens: Path, random_reimagen: Path) -> None:
    write(
        lambda name: tmp_path / name,
        kb,
        drawn_folder,
        {"discrete": str(tiny_tokens), "random-reimagen": str(random_reimagen)},
    )
    assert FILE.is_file()
