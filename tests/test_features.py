"""Frozen networks as measures see them: shapes, pinned preprocessing, the cache; copies that are planted and found.

Inception and SSCD are tested with random weights: there are none to be had here, so these are no figures of theirs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from bowerbird import features, replication, views
from bowerbird.encoders.gradients import GradientEncoder
from bowerbird.encoders.inception import InceptionV3, prepare
from bowerbird.errors import BowerbirdError
from bowerbird.knowledge.drawn import read_drawn
from bowerbird.metrics.replication import calibrated, recall_at, summarize


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    from bowerbird import images

    return [images.decode(item.data, item.name) for item in read_drawn()]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))


def test_inception_has_the_published_size_and_reads_what_was_saved(tmp_path: Path, drawn: list[Image.Image]) -> None:
    from bowerbird.checkpoint import save_tensors

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = InceptionV3().eval()
    assert sum(p.numel() for p in model.parameters()) == 21_785_568
    save_tensors(tmp_path / "inception.safetensors", model.state_dict())
    torch.save(model.state_dict(), tmp_path / "inception.pth")
    pictures = drawn[:2]
    from_safe, from_torch = (features.load(f"inception:{tmp_path / name}").embed_images(pictures) for name in ("inception.safetensors", "inception.pth"))
    assert from_safe.shape == (2, 2048)
    with torch.inference_mode():
        expected = model(torch.from_numpy(np.stack([prepare(p) for p in pictures]))).numpy()
    assert np.allclose(from_safe, expected, atol=1e-5)
    assert np.array_equal(from_safe, from_torch)
    del model.Mixed_7c
    torch.save(model.state_dict(), tmp_path / "cut.pth")
    with pytest.raises(BowerbirdError, match="Mixed_7c"):
        features.load(f"inception:{tmp_path / 'cut.pth'}")


def test_inception_preprocessing_is_float_bicubic_without_rounding() -> None:
    grey = Image.new("RGB", (50, 40), (128, 0, 255))
    made = prepare(grey)
    assert made.shape == (3, 299, 299)
    assert [float(made[c].mean()) for c in range(3)] == pytest.approx([0.0, -1.0, 127 / 128])
    ramp = prepare(Image.linear_gradient("L").convert("RGB"))
    assert len(np.unique(ramp[0])) > 290  # rounding to 8 bits would leave 256 at most


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_sscd_is_fed_imagenet_pixels_at_its_sizes(tmp_path: Path) -> None:
    torch.jit.script(Mean()).save(str(tmp_path / "sscd.pt"))
    picture = Image.new("RGB", (100, 50), (255, 0, 128))
    expected = (np.array([1.0, 0.0, 128 / 255]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for kind in ("sscd", "sscd-288"):
        extractor = features.load(f"{kind}:{tmp_path / 'sscd.pt'}")
        assert extractor.dim == 3
        assert np.allclose(extractor.embed_images([picture]), expected, atol=1e-5)
    from bowerbird.encoders.sscd import prepare as prepare_sscd

    assert prepare_sscd(picture, square=True).shape == (3, 320, 320)
    assert prepare_sscd(picture, square=False).shape == (3, 288, 576)
    (tmp_path / "bad.pt").write_text("x")
    with pytest.raises(BowerbirdError, match="TorchScript"):
        features.load(f"sscd:{tmp_path / 'bad.pt'}")


def test_hostile_weights_are_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(BowerbirdError, match="plain weights"):
        features.load(f"inception:{tmp_path / 'bomb.pth'}")
    assert not (tmp_path / "ran").exists()


def test_features_are_computed_once_a_picture(drawn: list[Image.Image]) -> None:
    class Counting(GradientEncoder):
        seen = 0

        def embed_images(self, pictures: list[Image.Image]) -> np.ndarray:  # type: ignore[override]
            Counting.seen += len(pictures)
            return super().embed_images(pictures)

    extractor = Counting()
    first = features.extract(extractor, [drawn[0], drawn[1], drawn[0]])
    again = features.extract(extractor, [drawn[1], drawn[2].copy(), drawn[0].copy()])
    assert Counting.seen == 3
    assert np.array_equal(again[[2, 0]], first[[0, 1]])
    assert np.array_equal(features.extract(extractor, drawn[:3], cached=False), again[[2, 0, 1]])


@pytest.mark.parametrize("spec", ["nothing", "evaluator:", "gradients:x", "psychic:file"])
def test_unknown_features_are_refused(spec: str) -> None:
    with pytest.raises(BowerbirdError, match=r"KIND:PATH"):
        features.load(spec)


def test_windows_are_the_whole_and_a_grid() -> None:
    picture = Image.new("RGB", (60, 40))
    made = views.windows(picture)
    assert len(made) == views.PER_PICTURE == 19
    assert [w.size for w in made[:2]] == [(40, 40), (28, 28)]
    assert made[-1].size == (20, 20)


def test_planted_copies_are_found(drawn: list[Image.Image]) -> None:
    """A copy, a mirror image, a crop, a tinted copy and a pasted part of one training picture, each told from honest others."""
    training = drawn[:100]
    host, source = drawn[150], training[40]
    tinted = Image.fromarray(np.asarray(source.convert("HSV")) + np.array([90, 0, 0], np.uint8), "HSV").convert("RGB")
    pasted = host.copy()
    pasted.paste(source.crop((32, 32, 96, 96)), (0, 64))
    planted = {
        "copy": source,
        "mirrored": ImageOps.mirror(source),
        "crop": source.crop((20, 10, 110, 100)).resize((128, 128)),
        "tinted": tinted,
        "pasted": pasted,
    }
    found = replication.nearest(GradientEncoder(), list(planted.values()), training)
    assert found.whole[:2] == pytest.approx(1, abs=1e-4)
    thing = list(read_drawn())
    wanted = thing[40].metadata["thing"]
    for i, name in enumerate(planted):
        at = found.split_at[i] if name == "pasted" else found.whole_at[i]
        assert thing[at].metadata["thing"] == wanted, name
    assert found.split[4] > 0.9


def test_check_reports_both_sides_and_leaves_self_out(drawn: list[Image.Image]) -> None:
    training = drawn[:60]
    found = replication.check(GradientEncoder(), [training[3], drawn[200]], training, neighbors=[[training[3], training[4]], []], baseline=30, seed=1)
    assert found.training.whole[0] == pytest.approx(1, abs=1e-4)
    assert (found.training.whole_at[0], found.neighbors and found.neighbors.whole_at[0]) == (3, 0)
    assert (found.baseline.whole_at != found.baseline_rows).all()
    assert found.neighbors is not None
    assert found.neighbors.whole[1] == -1
    report = found.report()
    assert set(report["whole"]) == {"generated to training", "training to training", "generated to used neighbours"}
    over = report["whole"]["training to training"]["over"]
    assert over["99% quantile of the baseline"] <= 0.04


def test_replication_sums() -> None:
    values = np.arange(101) / 100
    found = summarize(values, {"half": 0.5})
    assert (found.mean, found.p75, found.p90, found.p95) == pytest.approx((0.5, 0.75, 0.9, 0.95))
    assert found.over["half"] == pytest.approx(50 / 101)
    assert calibrated(values)["99% quantile of the baseline"] == pytest.approx(0.99)
    assert recall_at(np.array([0.5, 0.995, 1.0, 2.0]), values) == 0.75
