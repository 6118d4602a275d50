"""A first-run hint: the bundled encoder knows drawings, and says so where photographs come in."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird import KnowledgeBase, encoders
from bowerbird.core import images
from bowerbird.data.photographs import looks_like_photographs
from bowerbird.data.sources import read
from bowerbird.encoders import installed
from bowerbird.knowledge.ingest import prepare
from bowerbird.knowledge.ingest.add import photographs_hint
from tests.faults.plain import PlainEncoder


def test_no_picture_is_examined_for_another_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examined: list[Image.Image] = []
    monkeypatch.setattr(prepare, "color_share", lambda picture: examined.append(picture) or 0.0)
    drawings = list(itertools.islice(read("drawn"), 3))
    for encoder, expected in ((PlainEncoder(), 0), (encoders.load("small"), 3)):
        prepare.prepare(drawings, encoder)
        assert len(examined) == expected


def test_photographs_are_told_from_drawings_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96)))
    frequency[0, 0] = 1.0
    photographs = []
    for _ in range(12):
        field = np.stack(
            [np.real(np.fft.ifft2(np.fft.fft2(rng.normal(size=(96, 96))) / frequency)) for _ in range(3)], 2
        )
        photographs.append(Image.fromarray((255 * (field - field.min()) / np.ptp(field)).astype(np.uint8)))
    drawings = [images.decode(item.data, item.name) for item in itertools.islice(read("drawn"), 12)]
    assert looks_like_photographs(photographs)
    assert not looks_like_photographs(drawings)
    assert not looks_like_photographs(photographs[:7])
    said: list[str] = []
    for name, pictures in (("photographs", photographs), ("drawings", drawings)):
        (tmp_path / name).mkdir()
        for n, picture in enumerate(pictures):
            picture.save(tmp_path / name / f"{n}.png")
        KnowledgeBase.build(tmp_path / f"kb-{name}", tmp_path / name, on_message=said.append)
    assert [line for line in said if "photographs" in line] == [photographs_hint()]
    for there in (True, False):
        monkeypatch.setattr(installed, "is_installed", lambda _, there=there: there)
        assert "--encoder photos" in photographs_hint()
        assert ("pip install" in photographs_hint()) is not there
