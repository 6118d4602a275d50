"""References for phrases, the critics, and the loop that asks again for what is missing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.drawn import read_drawn
from bowerbird.systems.choice import ChoiceSettings, ChosenReference, choose_references
from bowerbird.systems.grounded.critic.encoder import EncoderCritic
from bowerbird.systems.grounded.critic.loop import refine
from bowerbird.systems.grounded.critic.protocol import Critic
from bowerbird.systems.phrases import grammar
from bowerbird.systems.phrases.phrase import ParsedPrompt, Phrase


@pytest.fixture(scope="module")
def kb(kb_path: Path) -> KnowledgeBase:
    return KnowledgeBase.open(kb_path)


def chosen(kb: KnowledgeBase, prompt: str, **settings: Any) -> dict[str, list[str]]:
    """The captions of the references of each phrase."""
    found: dict[str, list[str]] = {}
    for each in choose_references(kb, grammar.phrases(prompt), settings=ChoiceSettings(**settings)).references:
        found.setdefault(each.phrase.text, []).append(kb.get([each.item]).captions[0][0])
    return found


# -- choosing ----------------------------------------------------------------------------------------------------------


def test_each_phrase_gets_its_own_where_one_query_finds_one_thing_twice(kb: KnowledgeBase) -> None:
    prompt = "a red apple left of a blue star"
    together = kb.search(text=prompt, k=2).captions[0]
    assert len({caption.split()[-1] for caption in together}) == 1
    assert chosen(kb, prompt) == {"a red apple": ["a red apple"], "a blue star": ["a blue star"]}


def test_a_phrase_that_nothing_shows_has_no_reference_and_it_is_said(kb: KnowledgeBase) -> None:
    choice = choose_references(kb, grammar.phrases("a red apple beside a lighthouse on a green background"))
    assert [each.phrase.text for each in choice.references] == ["a red apple"]
    assert "'a red apple' has the words" in choice.references[0].why
    reasons = {phrase.text: why for phrase, why in choice.without}
    assert set(reasons) == {"a lighthouse", "a green background"}
    assert "nothing is near enough; the nearest: " in reasons["a lighthouse"]
    assert "ground" in reasons["a green background"]
    taken = choose_references(
        kb, grammar.phrases("a lighthouse"), settings=ChoiceSettings(min_relevance=0, min_relevance_unnamed=0)
    )
    assert len(taken.references) == 1  # whoever wants the best there is gets it


def test_likeness_leaves_out_a_second_reference_of_a_phrase_but_never_its_only_one(kb: KnowledgeBase) -> None:
    assert chosen(kb, "a red rocket and an orange rocket") == {
        "a red rocket": ["a red rocket"],
        "an orange rocket": ["an orange rocket"],
    }
    several = choose_references(kb, grammar.phrases("a rocket"), settings=ChoiceSettings(per_phrase=4))
    vectors = kb.get([each.item for each in several.references]).embeddings[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert len(vectors) > 1
    assert (vectors @ vectors.T - np.eye(len(vectors))).max() <= 0.9


def test_no_more_than_allowed_and_the_best_covered_first(kb: KnowledgeBase) -> None:
    phrases = grammar.phrases("a red apple and a blue star and a yellow moon")
    all_three = choose_references(kb, phrases).references
    two = choose_references(kb, phrases, settings=ChoiceSettings(max_references=2))
    best = sorted(all_three, key=lambda each: -each.score)[:2]
    assert {each.item for each in two.references} == {each.item for each in best}
    assert [why for _, why in two.without] == ["there is no room for it (`max_references=2`)"]


def test_conditions_and_items_that_were_tried_are_kept_to(kb: KnowledgeBase) -> None:
    phrases = grammar.phrases("a red apple")
    ink = choose_references(kb, phrases, settings=ChoiceSettings(where="style = 'ink'")).references[0].item
    assert kb.get([ink]).metadata[0][0]["style"] == "ink"
    first = choose_references(kb, phrases).references[0].item
    assert choose_references(kb, phrases, exclude=[first]).references[0].item != first
    none = choose_references(kb, phrases, settings=ChoiceSettings(where="style = 'oil'"))
    assert none.without == ((phrases[0], "nothing was found"),)


def test_it_is_a_function_of_what_it_is_given(kb: KnowledgeBase, kb_path: Path) -> None:
    phrases = grammar.phrases("a red apple and a blue star")
    assert choose_references(KnowledgeBase.open(kb_path), phrases) == choose_references(kb, phrases)
    turned = choose_references(kb, phrases[::-1]).references
    assert {e.item for e in turned} == {e.item for e in choose_references(kb, phrases).references}


@pytest.mark.parametrize(
    "wrong", [{"max_references": 0}, {"candidates": 0}, {"redundancy": 2.0}, {"min_relevance": -1}]
)
def test_settings_out_of_range_are_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(BowerbirdError, match=next(iter(wrong))):
        ChoiceSettings(**wrong)


# -- the critic by the encoder -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawings() -> dict[str, Image.Image]:
    found = {}
    for item in read_drawn():
        if item.metadata["style"] == "flat":
            found[item.caption] = Image.open(io.BytesIO(item.data)).convert("RGB")
    return found


def beside(*pictures: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", (128, 128), "white")
    for at, picture in enumerate(pictures):
        sheet.paste(picture.resize((64, 64)), (64 * at, 32))
    return sheet


def test_the_encoder_sees_what_is_there_and_what_is_not(kb: KnowledgeBase, drawings: dict[str, Image.Image]) -> None:
    """What it compares with are pictures of another style than those that are seen."""
    critic = EncoderCritic(kb, ChoiceSettings(where="style = 'ink'"))
    assert isinstance(critic, Critic)
    there, absent = [], []
    names = ["a red apple", "a blue star", "a yellow moon", "a green cactus", "a brown bear", "a purple present"]
    names = [name for name in names if name in drawings]
    for at, name in enumerate(names):
        other, third = names[(at + 1) % len(names)], names[(at + 2) % len(names)]
        phrases = [grammar.phrases(text)[0] for text in (name, other, third)]
        scores = critic.missing("", phrases, beside(drawings[name], drawings[other]))
        assert scores.shape == (3,)
        assert scores.dtype == np.float32
        there += scores[:2].tolist()
        absent.append(float(scores[2]))
    assert np.mean([value < 0.5 for value in there]) >= 0.75
    assert min(absent) >= 0.5
    assert critic.missing("", [], drawings[names[0]]).shape == (0,)


# -- the critic by yes and no ------------------------------------------------------------------------------------------


def tiny_llava() -> tuple[Any, Any]:
    """A LlavaForConditionalGeneration with random weights, and its processor."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    said = "<pad> <s> </s> <unk> <image> yes no Yes No does this picture show a red blue heart ? answer or ."
    words = said.split()
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", additional_special_tokens=["<image>"]
    )
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=4))
    for parameter in model.parameters():
        parameter.data *= 3
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    return model.eval(), processor


def test_yes_and_no_are_read_from_the_models_own_numbers(tmp_path: Path) -> None:
    import torch

    from bowerbird.systems.grounded.critic.yes_no import YesNoCritic, load_yes_no

    model, processor = tiny_llava()
    critic = YesNoCritic(model, processor)
    assert isinstance(critic, Critic)
    assert (critic.yes, critic.no) == ([5, 7], [6, 8])
    picture = Image.new("RGB", (16, 16), "red")
    phrases = grammar.phrases("a red heart and a blue heart")
    scores = critic.missing("", phrases, picture)
    inputs = processor(
        images=[picture],
        text=["<image>\nDoes this picture show a red heart? Answer yes or no.\nAnswer:"],
        return_tensors="pt",
    )
    with torch.no_grad():
        odds = model(**inputs).logits[0, -1].softmax(-1)
    yes, no = odds[[5, 7]].sum(), odds[[6, 8]].sum()
    assert scores[0] == pytest.approx(float(no / (yes + no)), abs=1e-6)
    assert scores[0] != scores[1]
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    assert scores[0] != critic.missing("", phrases, Image.fromarray(noise))[0]

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    np.testing.assert_allclose(load_yes_no(tmp_path).missing("", phrases, picture), scores, atol=1e-6)


def test_a_model_is_asked_in_its_own_form() -> None:
    from bowerbird.systems.grounded.critic.yes_no import YesNoCritic

    model, processor = tiny_llava()
    plain = YesNoCritic(model, processor, question="{phrase}?")
    assert plain.prompt_for("a red heart?") == "<image>\na red heart?\nAnswer:"
    processor.chat_template = (
        "{% for m in messages %}{{ m['role'] }}{% for c in m['content'] %}"
        "{{ ' <image> ' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endfor %} answer"
    )
    assert plain.prompt_for("a red heart?") == "user <image> a red heart? answer"
    picture = Image.new("RGB", (16, 16), "red")
    assert 0 < plain.missing("", grammar.phrases("a red heart"), picture)[0] < 1
    with pytest.raises(BowerbirdError, match=r"has no \{phrase\}"):
        YesNoCritic(model, processor, question="Well?")


def test_what_is_no_image_text_model_is_one_line(tmp_path: Path) -> None:
    from bowerbird.systems.grounded.critic.yes_no import YesNoCritic, load_yes_no

    with pytest.raises(BowerbirdError, match="no image-text model") as error:
        load_yes_no(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(BowerbirdError, match="no tokens that tell yes from no"):
        YesNoCritic(None, SimpleNamespace(tokenizer=Mute()))


class Mute:
    """A tokenizer that knows no word."""

    unk_token_id = 3

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [3]}


# -- the loop ----------------------------------------------------------------------------------------------------------

FOX, HOUSE = Phrase("a fox", 0, 5, "fox"), Phrase("a house", 10, 17, "house")
PROMPT = ParsedPrompt("a fox and a house", (FOX, HOUSE))


class World:
    """A generator whose pictures show what their references' items are known to bring, a critic that sees that, and
    items by phrase."""

    name = "world"

    def __init__(
        self, items: dict[str, list[int]], effect: dict[int, dict[str, float]], draft: dict[str, float]
    ) -> None:
        self.items, self.effect, self.draft = items, effect, draft
        self.asked: list[list[str]] = []
        self.generated: list[list[int]] = []
        self.shown: dict[int, dict[str, float]] = {}

    def generate(self, references: Sequence[ChosenReference]) -> Image.Image:
        self.generated.append([each.item for each in references])
        seen = dict(self.draft)
        for each in references:
            seen |= self.effect.get(each.item, {})
        picture = Image.new("RGB", (1, 1))
        picture.info["number"] = len(self.generated) - 1
        self.shown[picture.info["number"]] = seen
        return picture

    def choose(self, phrases: Sequence[Phrase], tried: Sequence[int]) -> list[ChosenReference]:
        self.asked.append([phrase.text for phrase in phrases])
        left = {p: [i for i in self.items.get(p.text, []) if i not in tried] for p in phrases}
        return [ChosenReference(phrase, items[0], 1.0, "") for phrase, items in left.items() if items]

    def missing(self, prompt: str, phrases: Sequence[Phrase], picture: Image.Image) -> np.ndarray:
        seen = self.shown[picture.info["number"]]
        return np.asarray([1 - seen[phrase.text] for phrase in phrases], np.float32)

    def run(self, passes: int, **options: Any) -> Any:
        return refine(self.generate, self.choose, self, PROMPT, max_passes=passes, **options)


def test_only_what_is_missing_is_asked_for() -> None:
    world = World(
        {"a fox": [1], "a house": [2]}, {1: {"a fox": 1.0}, 2: {"a house": 1.0}}, {"a fox": 0.9, "a house": 0.1}
    )
    found = world.run(4)
    assert world.asked == [["a house"]]
    assert world.generated == [[], [2]]
    assert (found.best, found.picture.info["number"]) == (1, 1)
    assert [round(one.score, 3) for one in found.passes] == [0.5, 0.95]
    assert found.record(PROMPT.phrases)["passes"][1]["references"] == [["a house", 2]]


def test_the_best_picture_is_kept_not_the_last() -> None:
    world = World({"a house": [2, 3]}, {2: {"a house": 0.4}, 3: {"a fox": 0.0}}, {"a fox": 1.0, "a house": 0.1})
    found = world.run(4)
    assert world.generated == [[], [2], [3]]  # the second reference in place of the first
    assert (found.best, found.picture.info["number"]) == (1, 1)
    assert [each.item for each in found.references] == [2]
    assert len(found.passes) == 3


def test_a_reference_that_served_stays_while_another_phrase_is_asked_for() -> None:
    world = World(
        {"a fox": [1], "a house": [2, 3]},
        {1: {"a fox": 1.0}, 2: {"a house": 0.2}, 3: {"a house": 1.0}},
        {"a fox": 0.0, "a house": 0.0},
    )
    found = world.run(4)
    assert world.generated == [[], [1, 2], [1, 3]]
    assert found.passes[-1].score == 1
    assert len(found.passes) == 3


@pytest.mark.parametrize(("passes", "generated"), [(1, [[]]), (2, [[], [1, 2]]), (3, [[], [1, 2], [1, 3]])])
def test_the_budget_is_all_pictures_that_are_generated(passes: int, generated: list[list[int]]) -> None:
    effect = {1: {"a fox": 1.0}, 2: {"a house": 0.2}, 3: {"a house": 0.4}, 4: {"a house": 0.6}}
    world = World({"a fox": [1], "a house": [2, 3, 4]}, effect, {"a fox": 0.0, "a house": 0.0})
    world.run(passes)
    assert world.generated == generated


@pytest.mark.parametrize(("most", "generated"), [(1, [[], [1]]), (2, [[], [1, 2], [1, 3]])])
def test_no_picture_has_more_references_than_its_base_takes(most: int, generated: list[list[int]]) -> None:
    effect = {1: {"a fox": 1.0}, 2: {"a house": 0.2}, 3: {"a house": 0.4}}
    world = World({"a fox": [1], "a house": [2, 3]}, effect, {"a fox": 0.0, "a house": 0.0})
    world.run(3, max_references=most)
    assert world.generated == generated


def test_it_ends_when_nothing_is_found_or_nothing_improves() -> None:
    nothing = World({}, {}, {"a fox": 0.0, "a house": 0.0})
    assert nothing.run(9).best == 0
    assert nothing.generated == [[]]
    useless = World({"a fox": [1, 2, 3, 4]}, {}, {"a fox": 0.0, "a house": 1.0})
    assert useless.run(9).best == 0
    assert useless.generated == [[], [1]]
    first = World({"a fox": [1]}, {1: {"a fox": 1.0}}, {"a fox": 0.0, "a house": 1.0})
    found = first.run(9, first=[ChosenReference(FOX, 1, 1.0, "")])
    assert first.generated == [[1]]
    assert found.references[0].item == 1


def test_a_critic_that_says_something_else_is_one_line() -> None:
    world = World({}, {}, {"a fox": 0.0, "a house": 3.0})
    with pytest.raises(BowerbirdError, match="critic world: 2 phrases, and it says"):
        world.run(1)
    with pytest.raises(BowerbirdError, match="max_passes"):
        world.run(0)
