"""What the server stands on, for Python users too: steps and previews of generating, chosen neighbors, suggestions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError
from bowerbird.evaluation.copies import detect
from bowerbird.evaluation.features import Remembering, load
from bowerbird.systems import generation, jobs
from bowerbird.systems.loading import load_pipeline
from bowerbird.systems.suggestions import suggest


@pytest.fixture(scope="module")
def kb(small_kb_path: Path) -> KnowledgeBase:
    return KnowledgeBase.open(small_kb_path)


@pytest.mark.parametrize("fixture", ["random_rdm", "random_reimagen", "tiny_tokens"])
def test_every_step_is_heard_and_can_be_looked_at(
    fixture: str, kb: KnowledgeBase, request: pytest.FixtureRequest
) -> None:
    """Stages count on, listening changes no pixel, and what a listener raises ends the generating."""
    pipe = load_pipeline(request.getfixturevalue(fixture))
    job = jobs.Job(prompt="red apple", n=5, k=2, steps=(3,))
    prepared = jobs.prepare(pipe, kb, job)
    heard: list[tuple[range, int, int]] = []
    sizes = set()

    def listen(step: generation.Step) -> None:
        heard.append((step.pictures, step.step, step.steps))
        sizes.update(picture.size for picture in pipe.preview(step.latents))

    made = generation.generate(pipe, prepared.hits, prepared.settings, on_step=listen)
    total = 3 * pipe.capabilities.stages
    assert heard == [(rows, i, total) for rows in (range(2), range(2, 4), range(4, 5)) for i in range(1, total + 1)]
    assert (made[0].width, made[0].height) in sizes
    plain = generation.generate(pipe, prepared.hits, prepared.settings)
    assert [picture.tobytes() for picture in made] == [picture.tobytes() for picture in plain]

    def stop(step: generation.Step) -> None:
        raise BowerbirdError(f"enough after {step.step}")

    with pytest.raises(BowerbirdError, match="enough after 1"):
        generation.generate(pipe, prepared.hits, prepared.settings, on_step=stop)


def test_chosen_items_are_the_neighbors(kb: KnowledgeBase, random_rdm: Path, tiny_knn: Path, tmp_path: Path) -> None:
    found = kb.search(text="red apple", k=3)
    ids = found.ids[0].tolist()
    plain = load_pipeline(random_rdm)
    searched = jobs.prepare(plain, kb, jobs.Job(prompt="red apple", k=3))
    chosen = jobs.prepare(plain, kb, jobs.Job(prompt="red apple", items=tuple(ids), weights=(1, 1, 0.5), n=2))
    assert chosen.hits.ids.tolist() == [ids, ids]
    np.testing.assert_array_equal(chosen.hits.embeddings[0], searched.hits.embeddings[0])
    assert chosen.hits.effective_weights[1].tolist() == [1, 1, 0.5]
    # a picture of one's own stands before them, embedded as the knowledge base's are
    picture = tmp_path / "own.png"
    found.images()[0][2].save(picture)  # type: ignore[union-attr]
    own = jobs.prepare(plain, kb, jobs.Job(prompt="red apple", items=(ids[0],), references=(picture,), captions=("a",)))
    assert own.hits.ids[0].tolist() == [-2, ids[0]]
    np.testing.assert_allclose(own.hits.embeddings[0, 0], found.embeddings[0, 2], atol=1e-5)
    assert [image is not None for image in own.hits.images()[0]] == [True, True]
    # a system that reads the query keeps it
    asks = load_pipeline(tiny_knn)
    kept = jobs.prepare(asks, kb, jobs.Job(prompt="red apple", items=tuple(ids), weights=(2, 1, 1)))
    assert kept.hits.ids[0].tolist() == [-2, *ids]
    assert kept.hits.effective_weights[0].tolist() == [1, 2, 1, 1]
    for job, words in (
        (jobs.Job(prompt="a", items=()), "names no neighbor"),
        (jobs.Job(prompt="a", items=(5,)), "no item with id 5"),
    ):
        with pytest.raises(BowerbirdError, match=words):
            jobs.prepare(plain, kb, job)
    with pytest.raises(BowerbirdError, match="knowledge base"):
        jobs.check(jobs.Job(prompt="a", items=(5,)), has_kb=False)


def test_suggestions_are_what_generating_would_be_given(kb: KnowledgeBase, random_rdm: Path) -> None:
    pipe = load_pipeline(random_rdm)
    job = jobs.Job(prompt="red apple", k=4)
    first = suggest(pipe, kb, job)
    assert first.ids == jobs.prepare(pipe, kb, job).hits.ids[0].tolist()
    far = next(item for item in kb.ids().tolist() if item not in first.ids)
    changed = suggest(pipe, kb, job, pinned=[far, first.ids[1]], removed=[first.ids[0]])
    assert changed.ids[:2] == [far, first.ids[1]]
    assert (changed.pinned, len(changed.ids)) == (2, 4)
    assert first.ids[0] not in changed.ids
    assert np.isnan(changed.scores[0])
    assert not np.isnan(changed.scores[1])
    whole = suggest(pipe, kb, replace(job, k=len(kb), rerank=False), removed=first.ids)
    assert len(whole.ids) == len(kb) - 4


def test_a_remembering_extractor_looks_once_and_says_the_same(kb: KnowledgeBase) -> None:
    pictures = [image for image in kb.pictures(kb.ids()[None, :20])[0] if image is not None]
    extractor = load(detect.DESCRIPTOR)
    seen: list[int] = []
    embed = extractor.embed_images

    def counted(asked: Any) -> Any:
        seen.append(len(asked))
        return embed(asked)

    extractor.embed_images = counted  # type: ignore[method-assign]
    once = Remembering(extractor, most=18)
    first = once.embed_images(pictures[:10])
    np.testing.assert_array_equal(once.embed_images([*pictures[5:15], pictures[5]])[:5], first[5:])
    np.testing.assert_array_equal(once.embed_images(pictures), embed(pictures))
    assert seen == [10, 5, 5]
    once.embed_images(pictures[:1])  # the first ones were let go
    assert seen[-1] == 1
    assert isinstance(pictures[0], Image.Image)
