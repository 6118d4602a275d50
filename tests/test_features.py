"""Frozen networks as measures see them: shapes, pinned preprocessing, the cache; copies that are planted and found.

Inception and SSCD are tested with random weights: there are none to be had here, so these are no figures of theirs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import nn

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.drawn import read_drawn
from bowerbird.encoders.gradients import GradientEncoder
from bowerbird.encoders.inception import InceptionV3, prepare
from bowerbird.evaluation import features, reports
from bowerbird.evaluation.copies import calibration, detect, nearest, synthetic, windows
from bowerbird.evaluation.copies.thresholds import alarm, quantiles, ranks, summarize
from bowerbird.models import weights


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    from bowerbird.core import images

    return [images.decode(item.data, item.name) for item in read_drawn()]


def test_inception_has_the_published_size_and_reads_what_was_saved(tmp_path: Path, drawn: list[Image.Image]) -> None:
    from bowerbird.core.files import save_tensors

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = InceptionV3().eval()
    assert sum(p.numel() for p in model.parameters()) == 21_785_568
    save_tensors(tmp_path / "inception.safetensors", model.state_dict())
    torch.save(model.state_dict(), tmp_path / "inception.pth")
    pictures = drawn[:2]
    from_safe, from_torch = (
        features.load(f"inception:{tmp_path / name}").embed_images(pictures)
        for name in ("inception.safetensors", "inception.pth")
    )
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
    gray = Image.new("RGB", (50, 40), (128, 0, 255))
    made = prepare(gray)
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


@pytest.mark.parametrize("spec", ["nothing", "judge:", "gradients:x", "psychic:file"])
def test_unknown_features_are_refused(spec: str) -> None:
    with pytest.raises(BowerbirdError, match=r"KIND:PATH"):
        features.load(spec)


def test_a_directory_of_something_else_is_no_copy_descriptor() -> None:
    with pytest.raises(BowerbirdError, match="no copy descriptor"):
        features.load(f"copies:{weights.FOLDER / 'small'}")


def test_windows_are_the_whole_and_a_grid() -> None:
    picture = Image.new("RGB", (60, 40))
    made = windows.windows(picture)
    assert len(made) == windows.PER_PICTURE == 19
    assert [w.size for w in made[:2]] == [(40, 40), (28, 28)]
    assert made[-1].size == (20, 20)


def scene(number: int) -> Image.Image:
    """A picture like no other: twelve shapes at random on a random ground."""
    rng = np.random.default_rng(number)
    picture = Image.new("RGB", (64, 64), tuple(rng.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y, w, h = rng.integers(0, 64, 4)
        (pen.ellipse if rng.random() < 0.5 else pen.rectangle)(
            (x - w // 4, y - h // 4, x + w // 4, y + h // 4), fill=tuple(rng.integers(0, 256, 3).tolist())
        )
    return picture


def test_synthetic_copies_are_found() -> None:
    """Every kind of copy, among pictures unlike anything the descriptor was trained on, by its source's similarity at
    1% false alarms."""
    training = [scene(i) for i in range(110)]
    descriptor = features.Remembering(features.load(detect.DESCRIPTOR), 100_000)
    found = detect.check_copies(
        descriptor, [scene(1000), training[7]], training, baseline=100, copies_per_kind=6, seed=1
    )
    assert found.training.whole_at[1] == found.training.split_at[1] == 7
    assert found.training.whole[1] == pytest.approx(1, abs=1e-3)
    least = {"copy": 1.0, "mirrored": 0.9, "crop": 0.6, "tinted": 0.6, "pasted part": 0.4, "shrunk and pasted": 0.4}
    assert found.recall is not None
    shares = found.recall.found
    assert set(shares) == set(synthetic.KINDS) == set(least)
    assert {name: share for name, share in least.items() if shares[name]["any"] < share} == {}
    others = [scene(i) for i in range(1000, 1015)]
    honest = detect.check_copies(descriptor, others, training, baseline=100, copies_per_kind=6, seed=1)
    assert honest.report()["whole"]["generated to training"]["over"]["99% quantile of the baseline"] < 0.1


def test_pictures_held_twice_are_left_out_of_the_baseline() -> None:
    training = [scene(i) for i in range(40)]
    training += [training[3], ImageOps.mirror(training[5])]
    alike = calibration.near_duplicates(training, np.arange(len(training)))
    assert np.flatnonzero(alike).tolist() == [3, 5, 40, 41]
    found = detect.check_copies(GradientEncoder(), [scene(99)], training, baseline=42, copies_per_kind=1)
    assert found.calibration.near_duplicates == 4
    assert not set(found.calibration.rows) & {3, 5, 40, 41}


def test_a_copy_descriptor_sees_pictures_alone_and_past_changes() -> None:
    extractor = features.load("tiny-copies")
    pictures = [scene(i) for i in range(70)]
    together = extractor.embed_images(pictures)
    assert np.array_equal(together[66:67], extractor.embed_images(pictures[66:67]))
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    for change in (ImageOps.mirror, ImageOps.grayscale, ImageOps.autocontrast, lambda p: p.crop((6, 6, 58, 58))):
        nearest = (extractor.embed_images([change(p).convert("RGB") for p in pictures]) @ together.T).argmax(1)
        assert (nearest == np.arange(70)).mean() > 0.9


def test_described_references_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [scene(i) for i in range(2000, 2005)]
    first = nearest.describe_cached(GradientEncoder(), pictures)
    monkeypatch.setattr(windows, "describe", lambda *_, **__: pytest.fail("described again"))
    assert np.array_equal(nearest.describe_cached(GradientEncoder(), [p.copy() for p in pictures]), first)


def test_check_reports_both_sides_and_leaves_self_out(drawn: list[Image.Image]) -> None:
    training = drawn[:60]
    found = detect.check_copies(
        GradientEncoder(),
        [training[3], drawn[200]],
        training,
        neighbors=[[training[3], training[4]], []],
        baseline=30,
        copies_per_kind=1,
        seed=1,
    )
    assert found.training.whole[0] == pytest.approx(1, abs=1e-4)
    assert (found.training.whole_at[0], found.neighbors and found.neighbors.whole_at[0]) == (3, 0)
    assert (found.baseline.whole_at != found.calibration.rows).all()
    assert found.neighbors is not None
    assert found.neighbors.whole[1] == -1
    report = found.report()
    assert set(report["whole"]) == {"generated to training", "training to training", "generated to used neighbors"}
    over = report["whole"]["training to training"]["over"]
    assert over["99% quantile of the baseline"] <= 0.04


def test_similarities_are_summed_up() -> None:
    values = np.arange(101) / 100
    found = summarize(values, {"half": 0.5})
    assert (found.mean, found.p75, found.p90, found.p95) == pytest.approx((0.5, 0.75, 0.9, 0.95))
    assert found.over["half"] == pytest.approx(50 / 101)
    assert quantiles(values)["99% quantile of the baseline"] == pytest.approx(0.99)
    honest = np.random.default_rng(0).permutation(300).astype(float)
    found = ranks(np.array([298.5, 1000.0, 2000.0]), honest)
    assert found.tolist() == sorted(found.tolist())
    assert found[1] > ranks(honest, honest).max()


def test_an_alarm_keeps_its_rate_over_all_kinds_and_one_odd_pair_spoils_one_kind() -> None:
    rng = np.random.default_rng(0)
    alike = rng.permutation(300).astype(float)
    one = alarm({"whole": alike}, 0.01)
    assert (one.levels, one.rate) == ({"whole": 297}, 3 / 301)  # a new value is as likely in each of the 301 gaps
    assert alarm({"whole": alike, "split": 2 * alike}, 0.01).levels == {"whole": 297, "split": 594}
    other = alarm({"whole": alike, "split": rng.permutation(300).astype(float)}, 0.01)
    assert other.rate <= 0.01
    assert alarm({"whole": alike[:20]}, 0.01).rate == 1 / 21
    odd = {"whole": rng.random(150), "aligned": np.append(rng.random(149), 50.0)}
    copies = {"whole": np.full(9, 1.1), "aligned": np.full(9, 2.0)}
    assert alarm(odd, 0.01).passed(copies).all()  # ranked together, the odd pair hid them all


def test_a_calibration_is_made_once_for_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    training = [scene(i) for i in range(3000, 3025)]
    first = detect.check_copies(GradientEncoder(), [scene(1)], training, copies_per_kind=1)
    monkeypatch.setattr(calibration, "nearest", lambda *_, **__: pytest.fail("calibrated again"))
    again = detect.check_copies(GradientEncoder(), [scene(2)], [p.copy() for p in training], copies_per_kind=1)
    assert again.report()["thresholds"] == first.report()["thresholds"]
    assert again.recall == first.recall


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_training_pictures_are_checked_with_a_wide_statement(count: int, tmp_path: Path) -> None:
    training = [scene(i) for i in range(count)]
    found = detect.check_copies(
        features.load(detect.DESCRIPTOR), [ImageOps.mirror(training[0]), scene(50)], training, copies_per_kind=1
    )
    over = found.report()["whole"]["generated to training"]["over"]
    assert over[f"{detect.COPY_THRESHOLD} of the copy guard"] == 0.5
    report = reports.write_copy_report(found, ["a", "b"], [scene(0), scene(50)], training, tmp_path, {})
    lines = reports.recall_lines(report)
    copied = "1 of 2 pictures (a); look at worst.png"  # the mirrored training picture
    assert reports.copies_line(report) == f"possible copies: {copied}"
    high = {"95% quantile of the baseline": 0.9999}  # as training pictures that are alike have it
    report["thresholds"]["whole"] |= high
    assert reports.copies_line(report) == f"possible copies: {copied}"
    if count == 1:
        assert "nothing to say how like honest pictures are" in lines[0]
    else:
        assert found.recall is not None
        assert found.recall.strict.at_most > 0.4  # so few cannot say more
        assert f"in {count} pictures; below" in lines[0]
