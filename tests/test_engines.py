"""An encoder's network for pictures in another program: the same numbers, a fingerprint of its own, exported once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird import BowerbirdError, KnowledgeBase, encoders
from bowerbird.core import cache
from bowerbird.encoders import engines
from bowerbird.encoders.clip import ClipEncoder
from bowerbird.encoders.load import place_of
from tests import doubles
from tests.faults.plain import PlainEncoder
from tests.test_cli import bowerbird


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))


def drawings(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (72, 60, 3), np.uint8)) for _ in range(count)]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("engine", "close", "name"),
    [
        ("onnx", 1e-3, "small"),
        ("openvino", 1e-3, "small"),
        ("bfloat16", 2e-2, "small"),
        ("openvino", 1e-3, "clip"),
        ("bfloat16", 2e-2, "clip"),
        ("onnx", 1e-3, "clip"),
    ],
)
def test_the_same_numbers(engine: str, close: float, name: str, tmp_path: Path) -> None:
    for module in engines.ENGINES[engine].modules:
        pytest.importorskip(module)
    given = name if name == "small" else str(doubles.clip(tmp_path / "clip"))
    plain, made = encoders.load(given), encoders.load(f"{given}@{engine}")
    pictures = drawings(engines.BATCH + 3)
    found = made.embed_images(pictures)
    np.testing.assert_allclose(unit(found), unit(plain.embed_images(pictures)), atol=close)
    np.testing.assert_array_equal(made.embed_images(pictures[-2:]), found[-2:])  # whatever the company
    np.testing.assert_array_equal(made.embed_text(["a fox"]), plain.embed_text(["a fox"]))
    assert made.embed_images([]).shape == (0, plain.dim)
    assert made.name == f"{plain.name}@{engine}"
    assert made.fingerprint != plain.fingerprint
    again = encoders.load_recorded(made.name, made.fingerprint)
    assert again.fingerprint == encoders.load(place_of(made)).fingerprint == made.fingerprint
    np.testing.assert_array_equal(again.embed_images(pictures), found)


def test_siglip_with_its_pooling_head() -> None:
    pytest.importorskip("onnxruntime")
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**sizes, "vocab_size": 99}, vision_config={**sizes, "image_size": 32, "patch_size": 8}
    )
    square = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    plain = ClipEncoder(SiglipModel(config), None, square, "siglip", "0123456789abcdef", "cpu")
    found = engines.with_engine(plain, "onnx").embed_images(drawings(3))
    np.testing.assert_allclose(unit(found), unit(plain.embed_images(drawings(3))), atol=1e-3)


def test_a_network_is_exported_once_and_a_damaged_file_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    made, export = [], engines._export
    monkeypatch.setattr(engines, "_export", lambda *given: (made.append(1), export(*given)))
    picture = drawings(1)
    first = encoders.load("small@onnx").embed_images(picture)
    encoders.load("small@onnx")
    assert len(made) == 1
    next(cache.directory("engines").glob("*.onnx")).write_bytes(b"nothing")
    np.testing.assert_array_equal(encoders.load("small@onnx").embed_images(picture), first)
    assert len(made) == 2


SIGNALED = """
import gc, os, signal
from bowerbird import encoders
held = [encoders.load("small@openvino") for _ in range(3)]
while held:
    held.pop(0)
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("signal handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_process_lives_through_signals_after_its_engines_are_gone() -> None:
    """OpenVINO's plugin changes the signal stack of the thread that starts it."""
    pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SIGNALED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "signal handled\n"), done.stderr


def test_a_knowledge_base_keeps_its_engine(tmp_path: Path) -> None:
    for number, picture in enumerate(drawings(3)):
        picture.save(tmp_path / f"{number}.png")
    bowerbird("kb", "build", tmp_path / "kb", tmp_path, "--engine", "bfloat16", cwd=tmp_path)
    kb = KnowledgeBase.open(tmp_path / "kb")
    assert kb.encoder_name == "small@bfloat16"
    assert kb.search(images=drawings(2), k=1).scores.min() > 0.999
    with pytest.raises(BowerbirdError, match="made with encoder"):
        KnowledgeBase.open(tmp_path / "kb", encoder="small")
    parts = bowerbird("kb", "embed", tmp_path / "0.png", "--out", "parts", "--engine", "bfloat16", cwd=tmp_path)
    assert "kb build KB parts --encoder small@bfloat16" in parts.stderr  # another would embed all of them again
    wrong = ("kb", "build", tmp_path / "no", tmp_path, "--engine", "tpu")
    assert "--engine 'tpu': choose one of torch, onnx" in bowerbird(*wrong, cwd=tmp_path, expect=2).stderr
    assert not (tmp_path / "no").exists()


def test_what_cannot_be_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = engines.Engine(("no_such_module",), "onnx", engines.ENGINES["onnx"].start)
    monkeypatch.setattr(engines, "ENGINES", {**engines.ENGINES, "onnx": absent})
    with pytest.raises(BowerbirdError, match=r"pip install 'bowerbird\[onnx\]'"):
        encoders.load("small@onnx")
    with pytest.raises(BowerbirdError, match="no network for pictures"):
        engines.with_engine(PlainEncoder(), "bfloat16")
