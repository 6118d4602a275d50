"""The learned reranker: what it knows of candidates, its labels, its training, and the order it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bowerbird import KnowledgeBase
from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import Pictures, pictures_of
from bowerbird.evaluation import neighbor_labels
from bowerbird.knowledge.rerank.facts import FACTS, candidate_facts
from bowerbird.knowledge.rerank.learned import LearnedReranker
from bowerbird.knowledge.rerank.protocol import Task
from bowerbird.knowledge.rerank.registry import check_rerank, open_reranker
from bowerbird.systems import loading
from bowerbird.training.objectives.reranker import Labels, RerankerConfig, RerankerObjective, read_labels
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes import recipe as named_recipe
from bowerbird.training.run import train_recipe


def candidates(captions: list[str], embeddings: np.ndarray, query: str, bm25: list[float]) -> Neighbors:
    count = len(captions)
    return Neighbors(
        ids=np.arange(count)[None],
        scores=np.ones((1, count), np.float32),
        embeddings=np.asarray(embeddings, np.float32)[None],
        captions=(tuple(captions),),
        metadata=(({},) * count,),
        measures={"bm25": np.asarray([bm25], np.float32)},
        queries=(query,),
    )


def test_facts_say_what_is_there() -> None:
    found = candidates(
        ["red apple", "green apple", "apple tree with a bench"],
        np.array([[2.0, 0], [0, 1], [1, 1]]),
        "a picture of red apple",
        [4, 2, np.nan],
    )
    facts = candidate_facts(found, np.array([[3.0, 0]], np.float32))[0]
    of = {name: facts[:, column] for column, name in enumerate(FACTS)}
    assert np.allclose(of["similarity"], [1, 0, 0.5**0.5])
    assert np.allclose(of["similarity rank"], [1, 1 / 3, 1 / 2])
    assert np.allclose(of["rank"], [1, 1 / 2, 1 / 3])
    assert np.allclose(of["bm25"], [1, 0.5, 0])
    assert np.allclose(of["query share"], [1, 0.5, 0.5])  # no candidate has "picture", so it says nothing
    assert np.allclose(of["caption share"], [1, 0.5, 1 / 3])
    assert of["named"].tolist() == [1, 0, 0]
    assert of["color"].tolist() == [1, -1, 0]
    assert np.allclose(of["typical"], [0.5**0.5 / 2, 0.5**0.5 / 2, 0.5**0.5])


def test_facts_of_a_query_depend_on_no_other_and_are_zero_where_nothing_is() -> None:
    rng = np.random.default_rng(0)
    one = candidates(["a cat", "a dog"], rng.normal(size=(2, 4)), "cat", [1, 0]).padded(3, 4)
    two = candidates(["bird", "fish", "cow"], rng.normal(size=(3, 4)), "cow", [0, 0, 1])
    vectors = rng.normal(size=(2, 4)).astype(np.float32)
    both = Neighbors.stack([one, two])
    both = replace(both, measures={"bm25": np.concatenate([one.measures["bm25"], two.measures["bm25"]])})
    together = candidate_facts(both, vectors)
    assert np.array_equal(together[0], candidate_facts(one, vectors[:1])[0])
    assert not together[0, 2].any()


def labels_by_look(count: int = 160, many: int = 6, dim: int = 12) -> Labels:
    """Candidates of which those that point along the first dimension are named; nothing else tells them apart."""
    rng = np.random.default_rng(1)
    looks = rng.normal(size=(count, many, dim)).astype(np.float32)
    facts = rng.normal(size=(count, many, len(FACTS))).astype(np.float32)
    named = (looks[..., 0] > 0.5).astype(np.float32)
    collected = {"shared_dim": 8, "encoder": "mine", "encoder_print": "0123"}
    return Labels(facts, looks, rng.normal(size=(count, dim)).astype(np.float32), named, collected)


def trained(labels: Labels, out: Path, **changes: Any) -> RerankerObjective:
    objective = RerankerObjective(RerankerConfig(hidden=8, rank=4, **changes), labels, 0)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.02, weight_decay=0.05)
    for step in range(150):
        optimizer.zero_grad()
        objective(objective.batch(step, 32)).backward()
        optimizer.step()
    out.mkdir(exist_ok=True)
    objective.export(out)
    return objective


def test_it_learns_what_the_generator_can_use_and_says_so_of_queries_it_never_saw(tmp_path: Path) -> None:
    objective = trained(labels_by_look(), tmp_path / "model")
    found = files.read_json(tmp_path / "model" / "config.json", "reranker")["held_out"]
    assert found == objective.measure()
    assert found["queries"] == 20
    assert found["search"] < 0.5 < 0.8 < found["reranked"] <= found["best"]
    blind = trained(labels_by_look(), tmp_path / "blind", embeddings=False)
    assert blind.measure()["reranked"] < 0.6


def test_without_torch_it_scores_the_same(tmp_path: Path) -> None:
    labels = labels_by_look()
    objective = trained(labels, tmp_path / "model").eval()
    with torch.no_grad():
        wanted = objective.model(*(torch.from_numpy(x) for x in (labels.facts, labels.candidates, labels.queries)))
    scorer = LearnedReranker(tmp_path / "model").scorer
    assert np.allclose(scorer(labels.facts, labels.candidates, labels.queries), wanted.numpy(), atol=1e-4)


class Named:
    """A judge who sees what a random network cannot show: every other picture is right."""

    fingerprint = "named"

    def __init__(self, entities: list[str]) -> None:
        self.entities = entities

    def prepare(self, images: list[Any]) -> int:
        return len(images)

    def __call__(self, count: int) -> tuple[None, torch.Tensor, None]:
        return None, torch.eye(len(self.entities))[torch.arange(count) % 2], None


@pytest.fixture
def recipe(random_rdm: Path) -> Recipe:
    tiny = named_recipe("reranker", tiny=True)
    system = tiny.system.model_copy(update={"base": str(random_rdm), "entity_key": None, "queries": 10})
    return tiny.model_copy(update={"system": system})


@pytest.fixture
def collect(recipe: Recipe, small_kb_path: Path) -> Callable[..., Pictures]:
    kb = KnowledgeBase.open(small_kb_path)
    pictures = pictures_of(kb, size=recipe.size)
    pipe = loading.open_pipeline(recipe.system.base)  # type: ignore[attr-defined]

    def into(out: Path, **options: Any) -> Pictures:
        judge = Named(sorted(set(pictures.captions)))
        neighbor_labels.collect_labels(recipe, kb, pipe, pictures, out, judge=judge, **options)  # type: ignore[arg-type]
        return pictures

    return into


def test_collecting_goes_on_where_it_was_cut_and_training_opens(
    recipe: Recipe, collect: Callable[..., Pictures], small_kb_path: Path, tmp_path: Path
) -> None:
    pictures = collect(tmp_path / "whole")

    def cut(done: int, total: int | None = None, stage: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "cut", progress=cut)
    with pytest.raises(BowerbirdError, match="nothing was collected here"):
        read_labels(tmp_path / "cut")
    first = next((tmp_path / "cut" / "labels").glob("*.safetensors"))
    written = first.stat().st_mtime_ns
    collect(tmp_path / "cut")
    assert first.stat().st_mtime_ns == written
    whole, again = read_labels(tmp_path / "whole"), read_labels(tmp_path / "cut")
    assert whole.named.shape == (10, 4)
    assert set(np.unique(whole.named)) <= {-1.0, 0.0, 1.0}
    for part in ("facts", "candidates", "queries", "named"):
        assert np.array_equal(getattr(whole, part), getattr(again, part))

    list(train_recipe(recipe, pictures, tmp_path / "whole", sheets=False))
    kb, reranker = KnowledgeBase.open(small_kb_path), LearnedReranker(tmp_path / "whole" / "model")

    def find(rows: Any, n: int) -> Neighbors:
        return kb.search(text=[texts[row] for row in rows], k=n)

    texts = ["red apple", "blue star"]
    best = reranker.rerank(Task(base=kb, texts=tuple(texts), pictures=(), k=2, find=find))
    assert best.ids.shape == (2, 2)
    assert np.array_equal(best.scores, best.measures["learned"])
    assert (np.diff(best.scores) <= 0).all()
    assert set(best.ids[0].tolist()) <= set(find([0], 4).ids[0].tolist())
    opened = open_reranker(str(tmp_path / "whole" / "model"))
    assert kb.search(text=texts, k=2, rerank=opened).ids.tolist() == best.ids.tolist()
    with pytest.raises(BowerbirdError, match="choose one of auto"):  # a request of the server names no files
        check_rerank(str(tmp_path / "whole" / "model"))
    with pytest.raises(BowerbirdError, match="or the directory of one that was trained"):
        open_reranker("colour")
    other = SimpleNamespace(path="other", encoder=SimpleNamespace(name="other", fingerprint="f"))
    with pytest.raises(MismatchError, match="trained on embeddings of 'small'"):
        reranker.rerank(Task(base=other, texts=("x",), pictures=(), k=1, find=find))  # type: ignore[arg-type]


def test_other_labels_in_the_folder_are_not_added_to(
    recipe: Recipe, collect: Callable[..., Pictures], tmp_path: Path
) -> None:
    collect(tmp_path)
    note = tmp_path / "labels" / "started.json"
    files.write_json(note, {**files.read_json(note, "note"), "judge": "another"})
    with pytest.raises(BowerbirdError, match="another model, judge"):
        collect(tmp_path)


def test_queries_are_things_in_a_few_wordings() -> None:
    pixels = torch.zeros((6, 3, 8, 8), dtype=torch.uint8)
    names = ("fox", "fox", "owl", "owl", "ox", "ox")
    metadata = tuple({"hexcode": name[0] + name[-1], "tags": ["wild", name]} for name in names)
    pictures = Pictures(pixels, names, metadata, tuple(range(6)))
    queries = neighbor_labels.make_queries(pictures, RerankerConfig(queries=5), 0)
    assert len(queries) == 5
    assert {query.entity for query in queries[:3]} == {"fx", "ol", "ox"}
    assert queries[0].text in names
    assert queries[1].text.startswith("a picture of ")
    assert queries[3].text in {f"wild {name}" for name in names}
    with pytest.raises(BowerbirdError, match="needs two things"):
        neighbor_labels.make_queries(pictures.select([0, 1]), RerankerConfig(), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no reranker; train one"),
        (lambda folder: files.write_json(folder / "config.json", {"type": "x"}), "no reranker that this version"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 40), "cannot be read as safetensors"),
        (lambda folder: reshape(folder), "is not what its config.json says"),
        (lambda folder: reshape(folder, hidden=10**9), "hidden is no size"),
    ],
)
def test_a_damaged_one_is_one_line(change: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    trained(labels_by_look(16), tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(BowerbirdError, match=message):
        LearnedReranker(tmp_path / "model")


def reshape(folder: Path, hidden: int = 9) -> None:
    config = files.read_json(folder / "config.json", "reranker")
    files.write_json(folder / "config.json", {**config, "hidden": hidden})
