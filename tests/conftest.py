"""Fixtures: pictures that code draws, small random networks saved to disk, and a network that is switched off."""

from __future__ import annotations

import contextlib
import csv
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bowerbird.data.drawn import read_drawn

AUTHOR = 'Ann <b>"O\'Neil"</b> & Sons'
"""Of every picture of `catalog`."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails."""

    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        here = isinstance(address, tuple) and address[0] in ("127.0.0.1", "localhost")
        if self.family != socket.AF_UNIX and not here:  # processes of one machine may talk
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that an earlier run kept is used, and nothing is left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def usual_threads() -> Iterator[int]:
    """Networks run on one thread, here and in the processes that tests start: small ones are as fast so, and where a
    machine is busy, threads that wait for each other are many times slower. The number is the one that torch takes by
    itself."""
    import torch

    usual = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, threads(1):
        patch.setenv("OMP_NUM_THREADS", "1")
        yield usual


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """A block in which torch runs on `count` threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 drawn pictures in two class folders, captions in .txt files."""
    folder = tmp_path_factory.mktemp("drawn")
    items = list(read_drawn())
    for number, item in enumerate(items[::6]):
        place = folder / str(item.metadata["style"])
        place.mkdir(exist_ok=True)
        (place / f"{number:03d}.png").write_bytes(item.data)
        (place / f"{number:03d}.txt").write_text(item.caption)
    return folder


@pytest.fixture(scope="session")
def kb_path(usual_threads: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A knowledge base of all drawn pictures with the bundled encoder; do not change it."""
    from bowerbird import KnowledgeBase

    path = tmp_path_factory.mktemp("kb") / "kb"
    with threads(usual_threads):  # the golden tests see its last bits
        KnowledgeBase.build(path, "drawn")
    return path


@pytest.fixture(scope="session")
def small_kb_path(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A knowledge base of the 36 pictures of `drawn_folder` with the bundled encoder; do not change it."""
    from bowerbird import KnowledgeBase

    path = tmp_path_factory.mktemp("small-kb") / "kb"
    KnowledgeBase.build(path, drawn_folder)
    return path


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog: pictures in a class folder and a table with sku, license, author, page and a local path."""
    folder = tmp_path_factory.mktemp("catalog")
    (folder / "fruit").mkdir()
    rows = []
    for number, item in enumerate(list(read_drawn())[::12]):
        name = f"fruit/{number:03d}.png"
        (folder / name).write_bytes(item.data)
        rows.append({"file_name": name, "text": item.caption, "sku": f"B-{number:03d}", "license": "CC-BY-4.0"})
        rows[-1] |= {"author": AUTHOR, "page": f"https://me:secret@shop.test/{number}", "shot at": "/home/ann/a.raw"}
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="session")
def catalog_kb(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A knowledge base of `catalog` that credits sku, license and author; do not change it."""
    from bowerbird import KnowledgeBase

    path = tmp_path_factory.mktemp("catalog-kb") / "kb"
    KnowledgeBase.build(path, catalog, credit=["sku", "License", "author"])
    return path


def random_autoencoder() -> Any:
    """A small random autoencoder of the bundled one's shapes, a tenth of its time."""
    from diffusers import AutoencoderKL

    levels = 3
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=4,
        mid_block_add_attention=False,
    ).eval()


@pytest.fixture(scope="session")
def random_rdm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random RDM pipeline on disk that fits the bundled encoder."""
    import torch

    from bowerbird import encoders
    from bowerbird.diffusion import schedulers
    from bowerbird.models.unet import UNetConfig, build_unet
    from bowerbird.systems.rdm.pipeline import RDMPipeline

    encoder = encoders.load("small")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        unet = build_unet(UNetConfig(block_out_channels=(32, 32, 32), cross_attention_dim=16), encoder.dim)
        vae = random_autoencoder()
    pipe = RDMPipeline(
        unet, vae, schedulers.scheduler("ddim"), encoder_name="small", encoder_fingerprint=encoder.fingerprint
    )
    pipe.proposal_counts = {1: 3, 2: 1}
    path = tmp_path_factory.mktemp("rdm") / "model"
    pipe.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def random_reimagen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Re-Imagen cascade 16 -> 32 px of small random networks on disk; every weight is drawn, so that everything
    matters."""
    import torch

    from bowerbird.diffusion import schedulers
    from bowerbird.models.neighbor_unet import NeighborUNet
    from bowerbird.models.text_tower import SmallTextTower
    from bowerbird.systems.reimagen.pipeline import ReImagenPipeline

    sizes = {
        "block_out_channels": (16, 16),
        "layers_per_block": (1, 2),
        "attention": (True, True),
        "itself": (False, True),
        "head_channels": 8,
    }
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        tower = SmallTextTower(buckets=64, dim=16, heads=2)
        first, second = (
            NeighborUNet(sample_size=size, low_size=low, text_dim=16, time_dim=16, **sizes)
            for size, low in ((16, 0), (32, 16))
        )
        for module in (tower, first, second):
            for parameter in module.parameters():
                parameter.data += 0.1 * torch.randn(parameter.shape)
    path = tmp_path_factory.mktemp("reimagen") / "model"
    ReImagenPipeline(tower, first, schedulers.scheduler("dpmsolver++"), super_resolution=second).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def short_sheets() -> Iterator[None]:
    """Sheets drawn in training show one item instead of eight: drawing them is nearly all that a tiny form does."""
    from bowerbird.systems.latent_cache import LatentCache

    examples = LatentCache.examples
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LatentCache, "examples", lambda *arguments, **options: examples(*arguments, **options)[:1])
        yield


def _two_steps(name: str, source: Path, out: Path) -> Path:
    from bowerbird.training import recipes
    from bowerbird.training.loop import train
    from bowerbird.training.recipe import build_objective, read_pictures

    recipe = recipes.recipe(name, tiny=True)
    list(train(build_objective(recipe, read_pictures(recipe, source), out), recipe.train, out, device="cpu"))
    return out / "model"


@pytest.fixture(scope="session")
def tiny_knn(drawn_folder: Path, short_sheets: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KNN-Diffusion with editing in its tiny form, trained for two steps, on disk."""
    return _two_steps("tiny-knn", drawn_folder, tmp_path_factory.mktemp("knn"))


@pytest.fixture(scope="session")
def tiny_tokens(
    drawn_folder: Path, short_sheets: None, usual_threads: int, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The discrete KNN-Diffusion in its tiny form, trained for two steps, on disk."""
    with threads(usual_threads):  # the golden tests see its last bits
        return _two_steps("tiny-knn-discrete", drawn_folder, tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="session")
def tiny_rarm(drawn_folder: Path, short_sheets: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RARM in its tiny form, trained for two steps, on disk."""
    return _two_steps("tiny-rarm", drawn_folder, tmp_path_factory.mktemp("rarm"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--make-golden",
        action="store_true",
        help="write the values of tests/golden again (a deliberate change of what is made)",
    )
