"""What an adapter learns from: latents with captions, and for each the embeddings that may be its references.

Base and encoder are frozen, so latents, embeddings and tokens are made once; a batch only picks from them. A reference
is a *neighbor* of the target: the same thing by another hand, something near, or of the same style. Where the reference
is the target, as published adapters were trained, copying is what is learned (IP-Adapter#94); so the target itself is
one in a smaller share alone, and then moved, in another color, on another ground, or as a line drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import cache, seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT, Encoder
from bowerbird.data import variation
from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.grammar import SHAPE, Scene, draw_scene
from bowerbird.data.scenes.render import render
from bowerbird.data.scenes.vocabulary import Vocabulary, build_vocabulary
from bowerbird.data.variation import Variation
from bowerbird.knowledge.neighbors.graph import knn_graph
from bowerbird.models import clip_text
from bowerbird.systems.components import weights_hash
from bowerbird.systems.grounded.adapter_training.captions import drawing, named_captions, nameless_captions
from bowerbird.systems.grounded.adapter_training.config import IPAdapterConfig
from bowerbird.systems.latent_cache import embed_tensors, encode_latents
from bowerbird.systems.objective import RunContext

PART = 256
"""Pictures that are changed and encoded at once."""


@dataclass(frozen=True)
class AdapterData:
    """Targets, of three kinds one after another: drawings, drawings under variations, scenes; `counts` of each.

    `latents` `(M, C, h, w)` float16. `tokens` `(m, 2 c, L)` of the drawings, under variations or not, and of the
    scenes: c captions with names, then c without. `embeddings` `(E, d)` float16, and rows of it: `shows` `(M, r)` what
    shows the same thing, `near` `(M, r)` what shows another. `names`: what each drawing is called.
    """

    latents: Tensor
    tokens: Tensor
    embeddings: Tensor
    shows: Tensor
    near: Tensor
    counts: tuple[int, int, int]
    names: tuple[str, ...]


@dataclass(frozen=True)
class AdapterSample:
    """A batch of n targets: `clean` `(n, C, h, w)`, `tokens` `(n, L)`, `embeddings` `(n, K, d)`, zeros where the
    references are dropped."""

    clean: Tensor
    tokens: Tensor
    embeddings: Tensor


def sample(
    config: IPAdapterConfig, data: AdapterData, no_words: Tensor, rng: np.random.Generator, size: int
) -> AdapterSample:
    """`size` targets; one number of references for all. `no_words` `(L,)`: the tokens of no caption."""
    shares = np.array([config.drawings, config.varied, config.composed]) * (np.array(data.counts) > 0)
    starts = np.concatenate([[0], np.cumsum(data.counts)])
    kind = rng.choice(3, size=size, p=shares / shares.sum())
    items = starts[kind] + (rng.random(size) * np.array(data.counts)[kind]).astype(np.int64)
    nameless = rng.random(size) < np.where(kind == 1, config.varied_nameless, config.nameless)
    other = ~nameless & (kind == 0) & (rng.random(size) < config.other)
    often = 1 / np.arange(1, config.references + 1) ** 2
    k = 1 + int(rng.choice(config.references, p=often / often.sum()))
    stored = data.shows.shape[1]
    column = torch.from_numpy((rng.integers(stored, size=size)[:, None] + np.arange(k)) % stored)
    luck = rng.random(size)
    no_caption = luck < config.caption_null + config.both_null
    no_reference = (luck >= config.caption_null) & (
        luck < config.caption_null + config.both_null + config.reference_null
    )
    chosen = torch.from_numpy(items)
    rows = torch.where(
        torch.from_numpy(other)[:, None], data.near[chosen].gather(1, column), data.shows[chosen].gather(1, column)
    )
    captions = rng.integers(config.captions, size=size) + config.captions * nameless
    asked = np.where(kind == 2, items - data.counts[1], items % max(1, data.counts[0]))
    tokens = data.tokens[torch.from_numpy(asked), torch.from_numpy(captions)].long()
    present = torch.from_numpy(~no_reference).float()
    return AdapterSample(
        data.latents[chosen].float(),
        torch.where(torch.from_numpy(no_caption)[:, None], no_words, tokens),
        data.embeddings[rows].float() * present[:, None, None],
    )


def build_data(
    config: IPAdapterConfig,
    pictures: Pictures,
    autoencoder: Any,
    encoder: Encoder,
    tokenizer: Any,
    edge: int,
    run: RunContext,
) -> AdapterData:
    """The data of a training, its latents and embeddings from the run's file where the same were made before. What is
    held out is shown as it is, beside what is trained on, which its references are from. `edge`: of the base, in
    pixels."""
    if pictures.size < edge:
        raise BowerbirdError(f"pictures of {pictures.size} px, and the base is made for {edge}; set size={edge}")
    everything = pictures if run.database is None else pictures.concat(run.database)
    shown, held = len(pictures), run.database is not None
    views = 0 if held else config.varied_views
    scenes, vocabulary = ([], None) if held or not config.scenes else _scenes(config, everything, run.seed)
    settings = f"{views} {config.forms} {edge} {run.seed} {shown}{' exact' * bool(config.exact)}"
    key = cache.key(everything.fingerprint(), weights_hash(autoencoder), encoder.fingerprint, settings, repr(scenes))
    name = "validation" if held else "cache"
    path = run.out / f"{name}.safetensors" if run.caches is None else run.caches / f"{key[:16]}.safetensors"
    autoencoder.to(run.device)
    made = cache.memoize(
        path,
        key,
        lambda: _encoded(config, everything, shown, views, (scenes, vocabulary), autoencoder, encoder, edge, run),
    )
    return _assembled(config, everything, shown, views, (scenes, vocabulary), made, encoder, tokenizer, run.seed)


def _scenes(config: IPAdapterConfig, pictures: Pictures, seed: int) -> tuple[list[Scene], Vocabulary | None]:
    """Scenes in which something is drawn, of any style; none where no picture has a name that scenes can use."""
    vocabulary = build_vocabulary(pictures, config.scene_names, style_key=config.style_key)
    if not len(vocabulary):
        return [], None
    rng, found = seeds.numpy_generator(seed, "adapter scenes"), list[Scene]()
    while len(found) < config.scenes:
        scene = draw_scene(vocabulary, rng)
        if any(thing.row != SHAPE for thing in scene.things):
            found.append(scene)
    return found, vocabulary


Composed = tuple[list[Scene], Vocabulary | None]


@torch.no_grad()
def _encoded(
    config: IPAdapterConfig,
    pictures: Pictures,
    shown: int,
    views: int,
    composed: Composed,
    autoencoder: Any,
    encoder: Encoder,
    edge: int,
    run: RunContext,
) -> dict[str, Tensor]:
    """Latents of the targets; embeddings of all drawings as they are, in `forms` of each, and of what each view shows,
    as it shows it and with everything in another place; and of the scenes where references are the targets."""
    latents: list[Tensor] = []
    embeddings: list[Tensor] = []

    def changed(draw: Callable[[int], Variation], count: int) -> Iterator[tuple[Tensor, Variation]]:
        for rows in torch.split(torch.arange(count), PART):
            change = draw(len(rows))
            yield _apply(pictures, rows, change, edge, run.device), change

    def encode(x: Tensor) -> None:
        latents.append(encode_latents(autoencoder, x, device=run.device))

    def embed(x: Tensor) -> Tensor:
        return embed_tensors(encoder, x)

    for at, (x, _) in enumerate(changed(variation.identity, len(pictures))):
        if at * PART < shown:
            encode(x[: shown - at * PART])
        embeddings.append(embed(x))
    for number in range(config.forms):
        generator = seeds.torch_generator(run.seed, "form", number)
        forms = changed(lambda n, g=generator: _form(n, g), len(pictures))  # type: ignore[misc]
        embeddings += [embed(x) for x, _ in forms]
    moved: list[Tensor] = []
    for number in range(views):
        generator = seeds.torch_generator(run.seed, "varied", number)
        start = 0
        for x, change in changed(lambda n, g=generator: variation.draw(n, g), shown):  # type: ignore[misc]
            encode(x)
            embeddings.append(embed(x))
            rows = torch.arange(start, start + len(change))
            elsewhere = _elsewhere(change, generator)
            moved.append(embed(_apply(pictures, rows, elsewhere, edge, run.device)))
            start += len(change)
    scenes, vocabulary = composed
    if vocabulary is not None:
        for at in range(0, len(scenes), PART):
            composed_pictures = render(scenes[at : at + PART], vocabulary, pictures, edge)
            encode(composed_pictures)
            if config.exact:
                moved.append(embed(composed_pictures))
    return {"latents": torch.cat(latents), "embeddings": torch.cat([*embeddings, *moved])}


def _apply(pictures: Pictures, rows: Tensor, change: Variation, edge: int, device: str) -> Tensor:
    alpha = pictures.opacity()[rows].to(device)
    return variation.apply(change, pictures.pixels[rows].to(device), alpha, edge)


def _form(n: int, generator: torch.Generator) -> Variation:
    """Changes after which a drawing is the same thing to the eye, and no copy."""
    return variation.draw(n, generator, colored=0.15, moved=0.7, grounded=0.4, drawn=0.15, several=0.0)


def _elsewhere(change: Variation, generator: torch.Generator) -> Variation:
    """The same changes with everything in another place."""
    other = variation.draw(len(change), generator, moved=1.0)
    return Variation(
        change.color, other.place, change.things, change.ground, change.outline, change.line, change.blocks, other.moved
    )


def _assembled(
    config: IPAdapterConfig,
    pictures: Pictures,
    shown: int,
    views: int,
    composed: Composed,
    made: Mapping[str, Tensor],
    encoder: Encoder,
    tokenizer: Any,
    seed: int,
) -> AdapterData:
    """Captions and references for what was encoded."""
    n, stored, rng = len(pictures), config.stored, seeds.numpy_generator(seed, "adapter references")
    scenes, vocabulary = composed
    names = [caption.strip().lower() or "thing" for caption in pictures.captions]
    styles = pictures.column(config.style_key) if config.style_key else [""] * n
    whole = F.normalize(made["embeddings"][:n, : encoder.shared_dim].float(), dim=1).numpy()
    same = _same_things(pictures, names, whole, config.max_similarity)
    forms = n * (1 + np.arange(config.forms))

    def shows(row: int, itself: float) -> list[int]:
        """Rows of embeddings that show what the drawing at `row` shows."""
        peers = same[row]
        own = rng.random(stored) < itself if len(peers) else np.ones(stored, bool)
        others = rng.choice(peers, stored) if len(peers) else np.zeros(stored, np.int64)
        return np.where(own, row + rng.choice(forms, stored), others).tolist()

    table = [shows(row, config.itself) for row in range(shown)]
    near = _near(config, pictures, names, styles, whole, shown, rng)
    first = n * (1 + config.forms)
    for view in range(views):
        exact = first + view * shown + np.arange(shown)
        half = np.arange(stored) % 2 == 0
        table += np.where(half, exact[:, None], exact[:, None] + views * shown).tolist()
    for scene in scenes:
        assert vocabulary is not None
        drawn = [vocabulary.rows[thing.row] for thing in scene.things if thing.row != SHAPE]
        parts = [shows(row, config.itself) for row in drawn]
        table.append([parts[column % len(drawn)][column] for column in range(stored)])
    shows_rows = torch.tensor(table)
    if config.exact:
        views_end = first + views * shown
        scenes_start = views_end + views * shown
        targets = np.r_[0:shown, first:views_end, scenes_start : scenes_start + len(scenes)]
        exactly = seeds.numpy_generator(seed, "exact references").random(tuple(shows_rows.shape)) < config.exact
        shows_rows = torch.where(torch.from_numpy(exactly), torch.from_numpy(targets)[:, None], shows_rows)
    near_rows = torch.cat([near, shows_rows[shown:]])

    count = config.captions
    texts: list[str] = []
    for scene in [*(drawing(names[row], styles[row]) for row in range(shown)), *scenes]:
        texts += named_captions(scene, count, rng) + nameless_captions(scene, count, rng)
    tokens = clip_text.token_ids(tokenizer, texts).to(torch.int32)
    return AdapterData(
        made["latents"],
        tokens.unflatten(0, (-1, 2 * count)),
        made["embeddings"],
        shows_rows,
        near_rows,
        (shown, views * shown, len(scenes)),
        tuple(names[:shown]),
    )


def _same_things(
    pictures: Pictures, names: Sequence[str], whole: np.ndarray, max_similarity: float | None
) -> list[np.ndarray]:
    """For each drawing the rows of the others with its name, but for near-duplicates."""
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(name, []).append(row)
    found: list[np.ndarray] = []
    for row, name in enumerate(names):
        others = np.array([each for each in groups[name] if pictures.ids[each] != pictures.ids[row]], np.int64)
        if max_similarity is not None and len(others):
            others = others[whole[others] @ whole[row] <= max_similarity]
        found.append(others)
    return found


def _near(
    config: IPAdapterConfig,
    pictures: Pictures,
    names: Sequence[str],
    styles: Sequence[str],
    whole: np.ndarray,
    shown: int,
    rng: np.random.Generator,
) -> Tensor:
    """For each target drawing, rows that show other things: half by the search, half of the same style."""
    ids = np.asarray(pictures.ids, np.int64)
    found, _ = knn_graph(
        whole[:shown],
        whole,
        config.stored,
        query_ids=ids[:shown],
        database_ids=ids,
        max_similarity=config.max_similarity,
        exclude=(names[:shown], names),
    )
    by_style: dict[str, list[int]] = {}
    for row, style in enumerate(styles):
        by_style.setdefault(style, []).append(row)
    of_style = np.stack([rng.choice(by_style[styles[row]], config.stored) for row in range(shown)])
    searched = (np.arange(config.stored) % 2 == 0) & (found != ABSENT)
    return torch.from_numpy(np.where(searched, found, of_style))
