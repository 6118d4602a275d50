"""Decoding with the nearest windows of a collection (DAiD): the search, the merging, the pipeline, and the record."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bowerbird import KnowledgeBase, RARMPipeline
from bowerbird.cli.common import with_flags
from bowerbird.cli.main import app
from bowerbird.core import provenance, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.models.vq import to_tokens
from bowerbird.systems import generation, jobs, patches, records, regeneration
from bowerbird.systems.jobs import Job
from bowerbird.systems.patches import AROUND, TRACE, PatchBase, PatchDecoding, PatchSettings
from bowerbird.systems.prompt_file import make_jobs

BOOK = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], np.float32)
GREEDY = TokenSampling(temperature=0.0)


@pytest.fixture(scope="module")
def pipe(tiny_rarm: Path) -> RARMPipeline:
    loaded = RARMPipeline.from_pretrained(tiny_rarm)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def kb(kb_path: Path) -> KnowledgeBase:
    return KnowledgeBase.open(kb_path)


@pytest.fixture(scope="module")
def hits(kb: KnowledgeBase) -> Neighbors:
    return kb.search(text=["red apple", "a tree"], k=3)


def expected(codes: np.ndarray, tokens: np.ndarray, settings: PatchSettings) -> dict[int, float]:
    """The same by a loop over every place of every picture."""
    side = codes.shape[1]
    grid, at = np.append(tokens, np.zeros(side * side - len(tokens), int)).reshape(side, side), len(tokens)
    row, column = divmod(at, side)
    unit = np.mean([((a - b) ** 2).sum() for a in BOOK for b in BOOK])

    def around(y: int, x: int) -> list[tuple[int, int]]:
        return [(y + dy, x + dx) for dy, dx in AROUND if y + dy >= 0 and 0 <= x + dx < side]

    own, seen = [grid[place] for place in around(row, column)], {}
    shape = [(y - row, x - column) for y, x in around(row, column)]
    for picture in codes:
        for y in range(side):
            for x in range(side):
                if [(v - y, u - x) for v, u in around(y, x)] == shape:
                    key = tuple(picture[place] for place in around(y, x))
                    distance = sum(((BOOK[a] - BOOK[b]) ** 2).sum() for a, b in zip(own, key, strict=True))
                    entry = (distance / unit / max(1, len(key)), *key, picture[y, x])
                    seen[entry] = seen.get(entry, 0) + 1
    nearest = sorted(seen.items(), key=lambda pair: (round(pair[0][0], 5), -pair[1]))[: settings.neighbors]
    weights: dict[int, float] = {}
    for (distance, *_, code), count in nearest:
        weights[int(code)] = weights.get(int(code), 0) + count * np.exp(-distance / settings.temperature)
    return {code: weight / sum(weights.values()) for code, weight in weights.items()}


@pytest.mark.parametrize("neighbors", [3, 256])
def test_what_follows_the_nearest_windows(neighbors: int) -> None:
    """At every place, edges too, as a loop over all windows finds it."""
    rng = np.random.default_rng(0)
    codes = rng.integers(4, size=(3, 4, 4))
    settings = PatchSettings(weight=0.5, neighbors=neighbors, temperature=0.3)
    base, tokens = PatchBase(codes, BOOK), rng.integers(4, size=16)
    for at in range(16):
        found, chances = base.near(tokens[None, :at], settings)
        said = {int(c): float(p) for c, p in zip(found[0], chances[0], strict=True) if c >= 0}
        wanted = expected(codes, tokens[:at], settings)
        if neighbors == 256 or set(said) == set(wanted):  # of equally near and frequent ones any may be taken
            assert said == pytest.approx(wanted, abs=1e-5)
        assert sum(said.values()) == pytest.approx(1, abs=1e-5)


def test_a_row_does_not_depend_on_its_company() -> None:
    rng = np.random.default_rng(1)
    base, settings = PatchBase(rng.integers(4, size=(9, 4, 4)), BOOK), PatchSettings(weight=0.5, neighbors=5)
    tokens = rng.integers(4, size=(6, 7))
    codes, chances = base.near(tokens, settings)
    for i in range(6):
        alone = base.near(tokens[i : i + 1], settings)
        there = codes[i] >= 0
        assert (codes[i][there] == alone[0][0]).all()
        assert (chances[i][there] == alone[1][0]).all()


def test_merging_is_a_mixture_before_truncation() -> None:
    """(1 - w) p + w r, after the temperature; then top-k and the others; greedy takes the likeliest of both."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log() * 2
    near = (np.array([[3, -1]], np.int32), np.array([[1.0, 0.0]], np.float32))
    windows = PatchDecoding(PatchSettings(weight=0.25), "", PatchBase(np.zeros((1, 2, 2), int), BOOK))

    def said(**how: Any) -> list[float]:
        return windows.distribution(logits, near, TokenSampling(**how))[0].exp().tolist()

    assert said(temperature=2.0) == pytest.approx([0.3, 0.225, 0.15, 0.325])
    assert said(temperature=2.0, top_k=2) == pytest.approx([0.48, 0, 0, 0.52])
    assert said(temperature=2.0, top_p=0.5) == pytest.approx([0.48, 0, 0, 0.52])
    assert said(temperature=0.0) == [1, 0, 0, 0]
    assert said() == pytest.approx([0.4, 0.225, 0.1, 0.275])


def test_weight_zero_is_the_model_alone(pipe: RARMPipeline, kb: KnowledgeBase, hits: Neighbors) -> None:
    plain = pipe(neighbors=hits, seed=3, output_type="latent").images
    for off in (PatchSettings(), pipe.patch_decoding(kb, PatchSettings(weight=0.0))):
        again = pipe(neighbors=hits, knowledge_base=kb, patches=off, seed=3, output_type="latent").images
        assert torch.equal(plain, again)
    other = pipe(neighbors=hits, knowledge_base=kb, patches=PatchSettings(weight=0.9), seed=3, output_type="latent")
    assert not torch.equal(plain, other.images)


def test_a_base_of_one_picture_gives_that_picture(pipe: RARMPipeline, hits: Neighbors) -> None:
    """Weight 1 and the likeliest code each time: every code of the picture, whose windows are all different."""
    rng = np.random.default_rng(0)
    picture = np.concatenate([rng.permutation(32)[None, :16], rng.integers(32, size=(15, 16))]).astype(np.int32)
    base = PatchBase(picture[None], pipe.vae.quantize.embedding.weight.detach().numpy())
    assert all(len(np.unique(each.keys, axis=0)) == len(each.keys) for each in base.windows.values())
    windows = PatchDecoding(PatchSettings(weight=1.0, neighbors=1), "", base)
    out = pipe(neighbors=hits, patches=windows, token_sampling=GREEDY, output_type="latent").images
    assert (out.numpy() == picture.ravel()).all()


def test_codes_are_kept_and_follow_the_knowledge_base(
    pipe: RARMPipeline, drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))
    own, _ = KnowledgeBase.build(tmp_path / "kb", drawn_folder, encoder="small")
    settings = PatchSettings(weight=0.5)

    def made() -> tuple[str, np.ndarray]:
        found = pipe.patch_decoding(own, settings)
        assert isinstance(found.source, PatchBase)
        return found.key, found.source.codes

    key, codes = made()
    [pictures] = own.pictures(own.ids()[None, :8])
    wanted = to_tokens(
        pipe.vae, tensors.to_float(tensors.stack([p.resize((64, 64)) for p in pictures if p is not None]))
    )
    kept = {tuple(picture.ravel().tolist()) for picture in codes}
    assert (len(codes), {tuple(row) for row in wanted.tolist()} - kept) == (len(own), set())
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "patches").iterdir()}
    assert made()[0] == key
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "patches").iterdir()} == files
    own.remove(ids=[int(own.ids()[0])])
    less, fewer = made()
    assert (less != key, len(fewer)) == (True, len(codes) - 1)
    new = set((tmp_path / "cache" / "patches").iterdir()) - set(files)
    assert len(new) <= 1  # the part that the item was in, unless it is empty now
    with pytest.raises(BowerbirdError, match="no item that satisfies `where` 'false'"):
        pipe.patch_decoding(own, settings, where="false")


def test_the_record_gives_the_picture_again_without_the_knowledge_base(
    pipe: RARMPipeline, kb: KnowledgeBase, tiny_rarm: Path, tmp_path: Path
) -> None:
    job = Job(prompt="a red apple", k=2, n=2, seed=9, patch_weight=0.5, patch_neighbors=8, where="true")
    prepared = jobs.prepare(pipe, kb, job)
    assert prepared.settings.patches is not None
    images = generation.generate(pipe, prepared.hits, prepared.settings)
    alone = generation.generate(pipe, prepared.hits.rows([1]), prepared.settings, picture_seeds=[10])
    assert np.array_equal(np.asarray(images[1]), np.asarray(alone[0]))
    written = records.generation_records(
        pipe, str(tiny_rarm), kb, prepared.hits, images, prepared.settings, prepared.request
    )[1]
    provenance.save_png(images[1], tmp_path / "a.png", written)
    read = provenance.read_png(tmp_path / "a.png")
    assert {name: read["patches"][name] for name in ("weight", "neighbors", "temperature", "where")} == {
        "weight": 0.5,
        "neighbors": 8,
        "temperature": 0.1,
        "where": "true",
    }
    again, _ = regeneration.regenerate(pipe, read)
    assert np.array_equal(np.asarray(again), np.asarray(images[1]))
    assert TRACE in again.info
    for damaged in ({"weight": 2.0}, {"codes": "AAAA"}, {"chances": read["patches"]["codes"]}, {"width": 0}):
        with pytest.raises(BowerbirdError, match="record is damaged"):
            regeneration.regenerate(pipe, {**read, "patches": {**read["patches"], **damaged}})
    large = np.frombuffer(base64.b64decode(read["patches"]["codes"]), "<i4") + 10_000
    beyond = {**read["patches"], "codes": base64.b64encode(large.tobytes()).decode()}
    with pytest.raises(BowerbirdError, match="windows of the record"):
        regeneration.regenerate(pipe, {**read, "patches": beyond})


def test_what_has_no_windows_is_one_line(pipe: RARMPipeline, kb: KnowledgeBase, hits: Neighbors) -> None:
    with pytest.raises(BowerbirdError, match="knowledge_base"):
        pipe(neighbors=hits, patches=PatchSettings(weight=0.5))
    with pytest.raises(BowerbirdError, match="`patch_weight` too"):
        jobs.prepare(pipe, kb, Job(prompt="a", patch_neighbors=4))
    foreign = PatchDecoding(PatchSettings(weight=0.5), "", PatchBase(np.zeros((1, 4, 4), int), BOOK))
    with pytest.raises(BowerbirdError, match="16 places and 4 codes, this model has 256 and 32"):
        pipe(neighbors=hits, patches=foreign)
    own = pipe.patch_decoding(kb, PatchSettings(weight=0.5))
    assert isinstance(own.source, PatchBase)
    exchanged = dataclasses.replace(own, source=PatchBase(own.source.codes, own.source.codebook[::-1].copy()))
    with pytest.raises(BowerbirdError, match="32 codes of the windows mean something else"):
        pipe(neighbors=hits, patches=exchanged)
    with pytest.MonkeyPatch.context() as patched:  # as of embeddings that were imported
        patched.setattr(KnowledgeBase, "pictures", lambda self, ids: [[None] * ids.shape[1]])
        patched.setattr(patches.cache, "memoize", lambda path, key, make: make())
        with pytest.raises(BowerbirdError, match="has no picture"):
            pipe.patch_decoding(kb, PatchSettings(weight=0.5))
    for wrong in ({"weight": 1.5}, {"neighbors": 0}, {"temperature": 0.0}):
        with pytest.raises(BowerbirdError, match=f"`patch_{next(iter(wrong))}`"):
            PatchSettings(**wrong)
    assert make_jobs(["a"], Job(patch_weight=0.5), has_kb=True)[0].patch_weight == 0.5


def test_the_command_line_generates_with_windows(tiny_rarm: Path, kb_path: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    def run(*words: Any) -> Any:
        return CliRunner().invoke(app, list(map(str, words)))

    out = tmp_path / "out"
    how = ["--kb", kb_path, "--prompt", "a red apple", "-n", 1]
    assert run("generate", tiny_rarm, *how, "--patch-weight", 0.5, "--out", out).exit_code == 0
    assert run("generate", tiny_rarm, "--from", out / "000.png", "--out", tmp_path / "again").exit_code == 0
    assert (out / "000.png").read_bytes() == (tmp_path / "again" / "000.png").read_bytes()
    done = run("generate", "tiny-rdm", *how, "--patch-weight", 0.5, "--out", tmp_path / "no")
    assert with_flags(str(done.exception)).startswith("an RDMPipeline does not support patch decoding: --patch-weight,")
    assert not (tmp_path / "no").exists()
