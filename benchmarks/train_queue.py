"""The trainings of the next bundled models, one after the other, on whatever machine there is.

On the CPU, in the background, for days; ended and started again it goes on where it was:

    python benchmarks/train_queue.py table ../shared/data/emoji.parquet ../shared/data/icons.parquet
    nohup setsid nice -n 19 bash runs/queue.sh &          # see docs/log.md; runs `python benchmarks/train_queue.py run`

An entry whose model lies in runs/start/NAME goes on from it. State is files under runs/queue/NAME: `recipe.json`,
`checkpoint.safetensors`, `sheets/`, and at the end `model/`, by which an entry counts as done. Everything is written to
runs/queue.log.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent / "runs"


@dataclass(frozen=True)
class Entry:
    """A training: its recipe, the entries it stands on with the settings that take their models, and what a GPU is
    given in a step."""

    name: str
    needs: tuple[tuple[str, str], ...] = ()
    gpu_batch: int = 256
    gpu_rate: float = 1e-3


TRAINED, HELD_OUT = "drawings.parquet", "held-out.parquet"
QUEUE = (
    Entry("autoencoder-8", gpu_batch=192, gpu_rate=1.5e-3),
    Entry("tiny-sd", (("system.autoencoder", "autoencoder-8"),), gpu_batch=256, gpu_rate=8e-4),
    Entry("vq-drawings", (("system.base", "autoencoder-8"),), gpu_batch=192, gpu_rate=1e-3),
    Entry("small-patches", gpu_batch=384, gpu_rate=2e-3),
    Entry("small-patches-text", (("system.base", "small-patches"),), gpu_batch=1024, gpu_rate=2e-3),
    Entry(
        "rdm-drawings",
        (("system.encoder", "small-patches-text"),),
        gpu_batch=256,
        gpu_rate=7e-4,
    ),
    Entry("tiny-rarm", (("system.tokenizer", "vq-drawings"), ("system.encoder", "small-patches-text")), gpu_batch=192),
    Entry(
        "tiny-racm3",
        (("system.tokenizer", "vq-drawings"), ("system.encoder", "small-patches-text")),
        gpu_batch=96,
        gpu_rate=8e-4,
    ),
    Entry(
        "tiny-ip-adapter",
        (("system.base", "tiny-sd"), ("system.encoder", "small-patches-text")),
        gpu_batch=256,
        gpu_rate=1e-3,
    ),
    Entry(
        "tiny-instruct",
        (("system.base", "tiny-sd"), ("system.encoder", "small-patches-text")),
        gpu_batch=256,
        gpu_rate=5e-4,
    ),
    Entry("reimagen-drawings-32", gpu_batch=192, gpu_rate=1e-3),
    Entry("reimagen-drawings-64", (("system.base", "reimagen-drawings-32"),), gpu_batch=96, gpu_rate=8e-4),
    Entry("reimagen-drawings-128", (("system.base", "reimagen-drawings-64"),), gpu_batch=64, gpu_rate=7e-4),
)


def log(text: str, root: Path) -> None:
    line = f"{time.strftime('%m-%d %H:%M:%S')} {text}"
    print(line, flush=True)
    with (root / "queue.log").open("a") as file:
        file.write(line + "\n")


def table(sources: list[str], out: Path) -> None:
    """Writes the rows of several tables that are learned from into one, and those of the held-out styles into another
    beside it; bytes of pictures stay as they are. The rare entities and openmoji are in neither, so that no setting can
    take them by mistake."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from bowerbird.training.recipes.drawings import HELD_OUT_STYLES

    rows = pa.concat_tables([pq.read_table(source) for source in sources], promote_options="default")
    rows = rows.filter(pc.and_(pc.not_equal(rows["split"], "rare"), pc.not_equal(rows["style"], "openmoji")))
    apart = pc.is_in(rows["style"], pa.array(HELD_OUT_STYLES))
    out.mkdir(parents=True, exist_ok=True)
    for name, part in ((TRAINED, rows.filter(pc.invert(apart))), (HELD_OUT, rows.filter(apart))):
        pq.write_table(part, out / name, compression="zstd")
        print(f"{out / name}: {len(part):,} rows, {(out / name).stat().st_size / 2**20:.1f} MiB")


def settings_of(entry: Entry, root: Path) -> list[str]:
    return [f"{key}={json.dumps(str(root / 'queue' / needed / 'model'))}" for key, needed in entry.needs]


def missing(entry: Entry, root: Path) -> list[str]:
    return [needed for _, needed in entry.needs if not (root / "queue" / needed / "model").is_dir()]


@dataclass(frozen=True)
class Prepared:
    """A training ready to run: its recipe, what is trained, and the sheet with a line of measures to write on the
    way."""

    recipe: Any
    objective: Any
    out: Path
    show: Callable[[Any, Path], None]


def go_on_from(folder: Path, objective: Any) -> None:
    """First weights from a model of the same networks: what a GPU began or a shorter training made."""
    from bowerbird.core import files
    from bowerbird.core.errors import BowerbirdError

    stages = [place for place in ("super_resolution_2", "super_resolution") if (folder / place).is_dir()]
    places = {"": ("autoencoder", "encoder", "model"), (stages or ["unet"])[0]: ("unet",)}
    places |= {name: (name,) for name in ("text_encoder", "transformer", "decoder")}
    count = 0
    for place, names in places.items():
        for name in names:
            network, found = getattr(objective, name, None), sorted((folder / place).glob("*.safetensors"))
            if network is not None and found:
                network.load_state_dict({k: v.float() for k, v in files.load_tensors(found[0]).items()})
                count += 1
    if not count:
        raise BowerbirdError(f"{folder}: holds no weights of what is trained; take it away, or give the right ones")


def prepare(entry: Entry, root: Path, device: str, settings: list[str]) -> Prepared:
    """Reads the data, builds what the entry trains, and keeps its settings beside its state."""
    from bowerbird.core import files
    from bowerbird.data.pictures import load_pictures
    from bowerbird.training.recipe import FILE, build_objective, preview, read_pictures, with_settings
    from bowerbird.training.recipes import recipe as named

    started = time.time()
    chosen = ["where=null", *settings_of(entry, root), *settings]  # the tables hold what may be learned from, no more
    recipe = with_settings(named(entry.name), chosen)
    pictures = read_pictures(recipe, root / "data" / TRAINED)
    held_out = load_pictures(root / "data" / HELD_OUT, size=128, transparency=True)
    out = root / "queue" / entry.name
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / FILE, recipe.model_dump(mode="json"))
    objective = build_objective(recipe, pictures, out, device=device)
    if (root / "start" / entry.name).is_dir():
        go_on_from(root / "start" / entry.name, objective)
        log(f"{entry.name}: goes on from start/{entry.name}", root)
    count = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    facts = f"{len(pictures)} pictures, {count / 1e6:.2f} M parameters, ready after {time.time() - started:.0f} s"
    log(f"{entry.name}: {facts}", root)
    sheet = preview(recipe)

    def show(trained: Any, path: Path) -> None:
        if sheet is not None:
            sheet(trained, path)
        if (other := HELD_OUT_SHEETS.get(recipe.system.kind)) is not None:
            other(trained, held_out, path.with_name(f"{path.stem}-held-out.png"))
        log(f"{entry.name}: {path.stem}: held-out styles: {validate(recipe.system.kind, trained, held_out)}", root)

    return Prepared(recipe, objective, out, show)


def train_entry(entry: Entry, root: Path, device: str, settings: list[str]) -> None:
    """Trains one entry to its end, from its last checkpoint."""
    from bowerbird.training.loop import train

    started = time.time()
    ready = prepare(entry, root, device, settings)
    config = ready.recipe.train
    losses: list[float] = []
    logged = time.time()
    for report in train(ready.objective, config, ready.out, device=device, preview=ready.show):
        losses.append(report.loss)
        if time.time() - logged > 300 or report.step == config.steps:
            rate = len(losses) * config.batch_size / (time.time() - logged)
            line = f"{report.step} of {config.steps}, loss {sum(losses) / len(losses):.4f}"
            log(f"{entry.name}: {line}, {rate:.0f} pictures a second", root)
            losses, logged = [], time.time()
    log(f"{entry.name}: done in {(time.time() - started) / 60:.0f} minutes since the last start", root)


def decibels(made: Any, wanted: Any) -> float:
    """Mean over pictures in [-1, 1] of the peak signal-to-noise ratio."""
    error = (made.float() - wanted.float()).square().flatten(1).mean(1).clamp(min=1e-8)
    return float((10 * (4 / error).log10()).mean())


def validate(kind: str, trained: Any, held_out: Any) -> str:
    """One line on pictures of styles that were not trained on."""
    import torch

    chosen = list(range(0, len(held_out), max(1, len(held_out) // 256)))
    with torch.no_grad():
        return VALIDATIONS.get(kind, lambda *_: "not measured")(trained, held_out.select(chosen))


def of_autoencoder(trained: Any, pictures: Any) -> str:
    from bowerbird.data import variation

    model = trained.autoencoder
    device = next(model.parameters()).device
    n = len(pictures)
    import torch

    changed = variation.draw(n, torch.Generator().manual_seed(0))
    found = []
    for change in (variation.identity(n), changed):
        x = variation.apply(change, pictures.pixels, pictures.alpha, 64)
        latents = [model.encode(part.to(device)).latent_dist.mean for part in torch.split(x, 64)]
        made = torch.cat([model.decode(part).sample.cpu() for part in latents])
        corner = float((made - x)[:, :, -2:, :].abs().mean()) * 127.5
        found.append(f"{decibels(made.clamp(-1, 1), x):.2f} dB, lowest two rows off by {corner:.2f} of 255")
    return f"as they are {found[0]}; varied {found[1]}"


def of_tokenizer(trained: Any, pictures: Any) -> str:
    """What its tokens give back, and how many of its codes they use, the pictures as they are and varied."""
    import torch

    from bowerbird.data import variation
    from bowerbird.models.vq import to_pictures, to_tokens

    model, n = trained.model, len(pictures)
    codes, found, used = int(model.config.num_vq_embeddings), [], []
    for change in (variation.identity(n), variation.draw(n, torch.Generator().manual_seed(0))):
        x = variation.apply(change, pictures.pixels, pictures.alpha, 64)
        tokens = torch.cat([to_tokens(model, part) for part in torch.split(x, 64)])
        made = torch.cat([to_pictures(model, part).cpu() for part in torch.split(tokens, 64)])
        used.append(torch.bincount(tokens.flatten().cpu(), minlength=codes))
        share = used[-1][used[-1] > 0] / used[-1].sum()
        found.append(f"{decibels(made, x):.2f} dB, {-float((share * share.log2()).sum()):.2f} bits a token")
    return f"as they are {found[0]}; varied {found[1]}; {int((used[0] + used[1] > 0).sum())} of {codes} codes used"


def of_encoder(trained: Any, pictures: Any) -> str:
    """What its tokens give back, and the nearest other picture, which should be the same thing under another variation,
    or be drawn in the same style."""
    import torch

    from bowerbird.data import variation

    trained.calibrate()
    encoder, device = trained.encoder, trained.log_scale.device
    x = variation.apply(variation.identity(len(pictures)), pictures.pixels, pictures.alpha, 64)
    changed = variation.draw(len(pictures), torch.Generator().manual_seed(0), several=0.0)
    y = variation.apply(changed, pictures.pixels, pictures.alpha, 64)
    semantic, style, patches = encoder.parts(x.to(device))
    made = trained.decoder(encoder.normal_patches(patches)).clamp(-1, 1).cpu()
    again = encoder.parts(y.to(device))[0]
    same = (again @ semantic.T).argmax(1) == torch.arange(len(pictures), device=device)
    near = (style @ style.T).fill_diagonal_(-1).argmax(1).cpu()
    styles = pictures.column("style")
    agreed = sum(styles[i] == styles[int(j)] for i, j in enumerate(near)) / len(styles)
    return (
        f"tokens give back {decibels(made, x):.2f} dB, the same thing varied nearest {float(same.float().mean()):.1%},"
        f" nearest in style is of the style {agreed:.1%}"
    )


def of_words(trained: Any, pictures: Any) -> str:
    """How often a name that was trained on finds a picture of that name before all other pictures as they are."""
    import torch
    from torch.nn import functional as F

    captions = [caption.lower() for caption in trained.pictures.captions]
    device = trained.log_scale.device
    with torch.no_grad():
        whole = F.normalize(trained.last(trained.features[0].float().to(device)), dim=1)
        chosen = sorted(set(captions))[::8]
        found = (trained.encoder.text_meaning(chosen) @ whole.T).argmax(1).tolist()
    right = sum(captions[row] == name for name, row in zip(chosen, found, strict=True)) / len(chosen)
    return f"a name finds its picture first among {len(captions)}: {right:.1%} of {len(chosen)}"


def of_pipeline(trained: Any, pictures: Any) -> str:
    """Each of 64 pictures from itself alone; see `one_picture.py`."""
    import one_picture

    pictures = pictures.select(list(range(0, len(pictures), max(1, len(pictures) // 64)))[:64])
    pipe = trained.pipeline().to(next(trained.unet.parameters()).device)
    encoder = trained.frozen[1] if hasattr(trained, "cache") else None
    found = one_picture.from_one(pipe, pictures, encoder=encoder, steps=12)
    return f"from one picture: {found}"


def of_text_to_image(trained: Any, pictures: Any) -> str:
    """Two shapes where their caption puts them, in the colors it says; styles that were held out say nothing of it."""
    import grounded

    pipe = trained.pipeline().to(next(trained.unet.parameters()).device)
    return f"two shapes: {grounded.colors_in_place(pipe, count=32, steps=12)}"


def unknown_things(trained: Any, pictures: Any, count: int) -> Any:
    """Up to `count` of the pictures, of things whose name is none of those trained on, each name once."""
    known, found = set(trained.data.names), dict[str, int]()
    for row, caption in enumerate(pictures.captions):
        if (name := caption.strip().lower()) not in known:
            found.setdefault(name, row)
    rows = list(found.values()) or list(range(len(pictures)))
    return pictures.select(rows[:: max(1, len(rows) // count)][:count])


def embeddings_of(trained: Any, pictures: Any) -> Any:
    """What the adapter's encoder makes of `pictures`, at the edge of the base, `(n, d)`."""
    from bowerbird.core import tensors

    return trained.frozen[1].embed_images(tensors.to_pil(pictures.pixels))


def of_adapter(trained: Any, pictures: Any) -> str:
    """Things whose names were never trained on, from one picture of each: is what comes out nearest to its own
    reference, by the semantic part of the encoder, among all of them? Then on a ground that the prompt asks for."""
    import numpy as np

    from bowerbird.data.scenes.words import COLORS, nearest_color, with_article
    from bowerbird.systems.grounded.adapter_training.preview import generate

    chosen = unknown_things(trained, pictures, 64)
    pipe, encoder = trained.pipeline(), trained.frozen[1]
    wanted = embeddings_of(trained, chosen)
    named = [with_article(caption.strip().lower() or "thing") for caption in chosen.captions]

    def unit(embeddings: Any) -> Any:
        part = embeddings[:, : encoder.shared_dim]
        return part / np.linalg.norm(part, axis=1, keepdims=True)

    parts = []
    for title, prompts, scale in (
        ("without", named, 0.0),
        ("with", named, 1.0),
        ("nameless", ["a picture of it"] * len(named), 1.0),
    ):
        alike = unit(encoder.embed_images(generate(pipe, prompts, wanted, scale=scale))) @ unit(wanted).T
        found = float((alike.argmax(1) == np.arange(len(alike))).mean())
        parts.append(f"{title} {found:.1%} nearest ({float(np.diag(alike).mean()):.3f})")
    grounds = [list(COLORS)[row % len(COLORS)] for row in range(len(named))]
    made = generate(pipe, [f"{name} on {color}" for name, color in zip(named, grounds, strict=True)], wanted)
    rims = [np.asarray(image)[[0, 1, -2, -1]].reshape(-1, 3) for image in made]
    seen = [nearest_color(tuple(np.median(rim, 0).astype(int).tolist())) for rim in rims]
    right = sum(a == b for a, b in zip(grounds, seen, strict=True)) / len(grounds)
    return f"things without a name in training, of {len(named)}: {', '.join(parts)}; ground as asked {right:.1%}"


def adapter_sheet(trained: Any, pictures: Any, path: Path) -> None:
    """Things whose names were never trained on, drawn in styles that were not: see `adapter_training.preview`."""
    from bowerbird.core import tensors
    from bowerbird.systems.grounded.adapter_training.preview import draw_sheet

    chosen = unknown_things(trained, pictures, 10)
    names = [caption.strip().lower() or "thing" for caption in chosen.captions]
    draw_sheet(trained.pipeline(), names, embeddings_of(trained, chosen), tensors.to_pil(chosen.pixels), path)


def of_edits(trained: Any, pictures: Any) -> str:
    """Edits with held-out names in held-out wordings; styles that were held out say nothing of it. Done: nearer to what
    is wanted than to what was there."""
    from bowerbird.systems.instruct.preview import held_out_edits

    held = trained.data.held_out
    rows = list(range(len(held.instructions)))
    if not rows:
        return "no edit is held out"
    source, wanted = held.source, held.wanted
    named = held.weights > 0
    found = []
    for given in (True, False):
        made = held_out_edits(trained, rows, references=given)
        nearer = (made - wanted).square().mean((1, 2, 3)) < (made - source).square().mean((1, 2, 3))
        part = f", of named things {float(nearer[named].float().mean()):.1%}" if bool(named.any()) else ""
        name = "with references" if given else "without"
        found.append(f"{name} {decibels(made, wanted):.2f} dB, done {float(nearer.float().mean()):.1%}{part}")
    return f"{len(rows)} held-out edits (unchanged {decibels(source, wanted):.2f} dB): {'; '.join(found)}"


def of_documents(trained: Any, pictures: Any) -> str:
    """How probable pictures are, given their caption and the two documents it retrieves of those that were trained on,
    the documents of another, none, or the picture itself as a document."""
    import torch

    from bowerbird.data import variation
    from bowerbird.models.vq import to_tokens
    from bowerbird.systems.racm3 import documents, objective
    from bowerbird.systems.racm3 import layout as lay
    from bowerbird.systems.racm3.likelihood import bits_per_code

    tokenizer, encoder, words = trained.frozen
    n, plan = len(pictures), trained.layout
    size = int(tokenizer.config.sample_size)
    x = variation.apply(variation.identity(n), pictures.pixels, pictures.alpha, size)
    own = torch.cat([to_tokens(tokenizer, part).cpu() for part in torch.split(x, 64)]).numpy()
    texts = objective.text_tokens(words, list(pictures.captions))
    scores = documents.text_half(encoder, pictures.captions) @ trained.cache.vectors.float().T
    near = scores.topk(min(2, scores.shape[1])).indices.tolist()

    def given(codes: Any, text: Any, number: int) -> Any:
        return lay.retrieved(plan, codes, text, number)

    def retrieved(row: int) -> list[Any]:
        return [given(trained.codes[0, r], trained.plain[r], i) for i, r in enumerate(near[row % n], start=1)]

    cases: dict[str, list[list[Any]]] = {
        "its documents": [retrieved(row) for row in range(n)],
        "those of another": [retrieved(row + n // 2) for row in range(n)],
        "none": [[] for _ in range(n)],
        "itself": [[given(own[row], texts[row], 1)] for row in range(n)],
    }
    said = []
    for name, before in cases.items():
        passages = [lay.join([*before[i], lay.picture_from_text(plan, own[i], texts[i])]) for i in range(n)]
        said.append(f"{name} {float(bits_per_code(trained.decoder, plan, passages).mean()):.3f}")
    return f"bits an image token given {', '.join(said)}"


def of_tokens(trained: Any, pictures: Any) -> str:
    """How probable pictures are given the nearest that were trained on, those of another picture, and none; and given
    themselves."""
    import torch
    from torch.nn import functional as F

    from bowerbird.core import tensors
    from bowerbird.core.types import Neighbors
    from bowerbird.data import variation

    pipe, encoder, k = trained.pipeline(), trained.frozen[1], trained.config.draws.k
    edge = pipe.capabilities.sizes[0]
    x = variation.apply(variation.identity(len(pictures)), pictures.pixels, pictures.alpha, edge)
    own = torch.from_numpy(encoder.embed_images(tensors.to_pil(x)))
    database = trained.cache.embeddings[0].float()
    near = (F.normalize(own, dim=1) @ F.normalize(database, dim=1).T).topk(min(k, len(database)), dim=1).indices
    found = database[near]
    given = {
        "its neighbors": (found, False),
        "those of another": (found.roll(len(found) // 2, 0), False),
        "none": (found, True),
        "itself": (own[:, None], False),
    }
    said = []
    for name, (embeddings, null) in given.items():
        bits = []
        for rows in torch.split(torch.arange(len(x)), 64):
            hits = Neighbors.from_embeddings(embeddings[rows].numpy(), [[""] * embeddings.shape[1]] * len(rows))
            bits.append(pipe.bits_per_token(x[rows], hits, null=null))
        said.append(f"{name} {float(torch.cat(bits).mean()):.3f}")
    return f"bits a token given {', '.join(said)}"


HELD_OUT_SHEETS: dict[str, Callable[[Any, Any, Path], None]] = {"ip-adapter": adapter_sheet}
VALIDATIONS: dict[str, Callable[[Any, Any], str]] = {
    "autoencoder": of_autoencoder,
    "vq": of_tokenizer,
    "locked-image": of_words,
    "patch-encoder": of_encoder,
    "racm3": of_documents,
    "rdm": of_pipeline,
    "rarm": of_tokens,
    "reimagen": of_pipeline,
    "stable-diffusion": of_text_to_image,
    "instruct": of_edits,
    "ip-adapter": of_adapter,
}


def run(root: Path, device: str, names: list[str], settings: list[str]) -> int:
    """Every entry that is not done, in order. 0 when all are."""
    for entry in QUEUE:
        if names and entry.name not in names:
            continue
        if (root / "queue" / entry.name / "model").is_dir():
            continue
        absent = missing(entry, root)
        if absent:
            log(f"{entry.name}: waits for {', '.join(absent)}", root)
            continue
        train_entry(entry, root, device, settings)
    return sum(not (root / "queue" / entry.name / "model").is_dir() for entry in QUEUE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="where state, data and log lie")
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("table", help="one table of what may be learned from")
    making.add_argument("sources", nargs="+")
    running = verbs.add_parser("run", help="train what is next, until all is done")
    running.add_argument("names", nargs="*")
    running.add_argument("--device", default="cpu")
    running.add_argument("--set", action="append", default=[], dest="settings")
    arguments = parser.parse_args()
    arguments.root.mkdir(parents=True, exist_ok=True)
    if arguments.verb == "table":
        table(arguments.sources, arguments.root / "data")
        return
    left = run(arguments.root, arguments.device, arguments.names, arguments.settings)
    raise SystemExit(1 if left else 0)


if __name__ == "__main__":
    main()
