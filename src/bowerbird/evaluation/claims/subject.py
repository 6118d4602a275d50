"""DreamBooth: prior preservation keeps the class; and what Re-Imagen's appendix H compares, fine-tuning against
retrieval with the same few pictures."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from bowerbird import encoders
from bowerbird.core import seeds, tensors
from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import Pictures
from bowerbird.encoders.perceptual import mean_distance, perceptual_distances
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import MODEL as REIMAGEN
from bowerbird.evaluation.claims.benchmark import Benchmark
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.grounding import at_edge
from bowerbird.evaluation.metrics.intervals import Estimate, over_groups
from bowerbird.evaluation.metrics.subject import preservation
from bowerbird.models.low_rank import FILE
from bowerbird.systems.dreambooth import class_pictures
from bowerbird.systems.dreambooth.class_pictures import PART
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.reference_settings import LoraFile
from bowerbird.training.cached import train_once
from bowerbird.training.losses import read_losses
from bowerbird.training.recipe import Recipe, with_settings
from bowerbird.training.recipes import recipe

BASE, RDM = "tiny-sd", "tiny-rdm"
TINY = False
"""Whether the recipe is taken in its tiny form, as tests do."""
SUBJECTS, MOST_PICTURES, LEAST_PICTURES = 8, 5, 3
PICTURES = 4
"""Generated of each prompt."""
STEPS = 500
AT = (50, 100, 200, 500)
"""Steps at which a subject is looked at, as shares of `STEPS` where the training is shorter."""
RATE = 1e-3
"""As a small network at 64 px takes it; the recipe's 1e-4 is of Stable Diffusion."""
WORD = "sks"
Values = list[list[float]]
"""A list a seed, with a value a subject."""
WEIGHTS = {"with prior preservation": 1.0, "without": 0.0}


def measure(experiment: Experiment) -> Finding:
    """Each subject is a rare entity, its pictures the drawings of it; a LoRA for each, seed and prior weight."""
    benchmark, base = Benchmark(experiment), experiment.model(BASE)
    subjects = choose_subjects(benchmark)
    plain = ReferencePipeline.from_pretrained(base)
    of_class = class_seconds(plain, experiment.device)
    named: dict[str, Values] = {}
    seconds: dict[str, Values] = {}
    kept: dict[str, dict[str, Values]] = {}
    for seed in experiment.settings.seeds:
        for number in subjects:
            pictures = pictures_of(benchmark, number, base_edge(plain))
            class_name = class_of(pictures)
            own = tensors.to_pil(pictures.pixels)
            images = generate(experiment, plain, class_name, seed)
            _note_class(kept, "base", seed, images, own)
            _append(named, "base, by the class", seed, share(benchmark, images, number))
            for label, weight in WEIGHTS.items():
                made = subject_recipe(base, class_name, weight, seed, experiment.settings.train_steps, base_edge(plain))
                model = train_once(made, pictures, device=experiment.device, progress=experiment.progress)
                spent = {report.step: report.seconds for report in read_losses(model.parent)}
                for step in made.train.keep_steps:
                    folder = model.parent / f"model-{step}"
                    if not folder.is_dir():  # it ended before, as the class had collapsed
                        folder = model
                    tuned = ReferencePipeline.from_pretrained(base, loras=[LoraFile(folder / FILE)])
                    name = f"fine-tuned {label}, {step} steps"
                    images = generate(experiment, tuned, f"{WORD} {class_name}", seed)
                    _append(named, name, seed, share(benchmark, images, number))
                    _append(seconds, name, seed, weight * of_class + sum(v for k, v in spent.items() if k <= step))
                    _note_class(kept, name, seed, generate(experiment, tuned, class_name, seed), own)
            for name, images, took in retrieved(benchmark, number, own, seed):
                _append(named, name, seed, share(benchmark, images, number))
                _append(seconds, name, seed, took)
    last = max(made.train.keep_steps)
    both = {label: f"fine-tuned {label}, {last} steps" for label in WEIGHTS}
    first, second = both.values()
    effects = [
        Effect(
            "diversity of the class (DIV): with prior preservation − without",
            _apart(kept[first]["diversity"], kept[second]["diversity"]),
        ),
        Effect(
            "likeness of the class to the subject (PRES): without prior preservation − with",
            _apart(kept[second]["preservation"], kept[first]["preservation"]),
        ),
        Effect(
            "pictures named as the subject: fine-tuned − the base, by the class",
            _apart(named[first], named["base, by the class"]),
        ),
        *(
            Effect(
                f"pictures named as the subject: {name} − fine-tuned, {last} steps",
                _apart(values, named[first]),
                needed=False,
            )
            for name, values in named.items()
            if name.startswith("retrieved")
        ),
    ]
    values: dict[str, Any] = {
        name: {
            "named as the subject": asdict(_estimate(each)),
            **({"seconds": asdict(_estimate(seconds[name]))} if name in seconds else {}),
            **{key: asdict(_estimate(found)) for key, found in kept.get(name, {}).items()},
        }
        for name, each in named.items()
    }
    values["base"] = {key: asdict(_estimate(found)) for key, found in kept["base"].items()}
    lines = {
        f"fine-tuned {label}": [_point(named[n], seconds[n]) for n in named if n.startswith(f"fine-tuned {label},")]
        for label in WEIGHTS
    } | {name: [_point(named[name], seconds[name])] for name in named if name.startswith("retrieved")}
    plot = partial(
        plots.curves,
        lines=lines,
        title="A subject by a few pictures: training against retrieval",
        x="seconds until the first picture",
        y="named as the subject",
    )
    notes = (
        f"{len(subjects)} entities that no model was trained on, each by {LEAST_PICTURES} to {MOST_PICTURES} drawings"
        f" in as many styles; the class is the subgroup of Unicode. A LoRA of the recipe's rank, rate {RATE:g},"
        f" {last} steps; {PICTURES} pictures of each prompt. Seconds: of the steps, and with prior preservation of the"
        " class's pictures too, by the time that eight of them take. The judge chooses among the"
        f" {len(benchmark.entities)} rare entities. Retrieved, by its name and with no weight changed: RDM reads all of"
        " the pictures, and its seconds are those of embedding them; Re-Imagen reads two of them as they are. Intervals"
        " over subjects."
    )
    return Finding(effects, values, notes, plot)


def choose_subjects(benchmark: Benchmark) -> list[int]:
    """Entities, by number, that are drawn often enough."""
    codes = benchmark.drawings.column("hexcode")
    enough = [i for i, code in enumerate(benchmark.entities) if codes.count(code) >= LEAST_PICTURES]
    return benchmark.sample(enough, SUBJECTS)


def pictures_of(benchmark: Benchmark, number: int, edge: int) -> Pictures:
    """The drawings of an entity at the base's edge, at most `MOST_PICTURES`."""
    codes = benchmark.drawings.column("hexcode")
    rows = [i for i, code in enumerate(codes) if code == benchmark.entities[number]][:MOST_PICTURES]
    return at_edge(benchmark.drawings.select(rows), edge)


def class_of(pictures: Pictures) -> str:
    """What kind of thing it is, in words: `animal-mammal` is a mammal."""
    group = pictures.metadata[0].get("subgroup") or pictures.metadata[0].get("group") or "thing"
    return str(group).rpartition("-")[2] or "thing"


def base_edge(pipe: ReferencePipeline) -> int:
    """The edge in pixels of the base's pictures."""
    return int(pipe.capabilities.sizes[-1])


def class_seconds(pipe: ReferencePipeline, device: str) -> float:
    """How long the base takes for the pictures of a class, by as many as one file of them holds."""
    system: Any = recipe("dreambooth", tiny=TINY).system
    config = class_pictures.with_usual_steps(system, pipe.defaults.num_inference_steps)
    config = config.model_copy(update={"class_name": "thing"})
    start = time.perf_counter()
    class_pictures.generate(pipe.base, config, list(range(PART)), device, pipe.defaults.guidance_scale)
    return (time.perf_counter() - start) * config.class_pictures / PART


def subject_recipe(base: str, class_name: str, weight: float, seed: int, steps: int, edge: int) -> Recipe:
    """The recipe `dreambooth` of one arm, looked at on the way."""
    total = min(STEPS, steps)
    at = sorted({max(1, total * step // STEPS) for step in AT})
    settings = {
        "system.base": base,
        "system.class_name": class_name,
        "system.word": WORD,
        "system.template": "{}",
        "system.prior_weight": weight,
        "system.stop_below": 0,
        "size": edge,
        "train.steps": total,
        "train.learning_rate": RATE,
        "train.keep_steps": at,
        "train.seed": seed,
        "train.save_every": total,
    }
    return with_settings(
        recipe("dreambooth", tiny=TINY), [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    )


def generate(experiment: Experiment, pipe: ReferencePipeline, prompt: str, seed: int) -> list[Image.Image]:
    """A few pictures of a prompt, the same noise for every model."""
    pipe.set_progress_bar_config(disable=True)
    made: list[Image.Image] = pipe(
        prompt,
        num_images_per_prompt=PICTURES,
        generator=[seeds.picture_generator(1_000_000 * (seed + 1) + i) for i in range(PICTURES)],
        num_inference_steps=experiment.settings.sampling_steps,
    ).images
    return made


def share(benchmark: Benchmark, images: list[Image.Image], number: int) -> float:
    """The share of pictures that the judge names as the subject."""
    return float((benchmark.name_entities(images) == number).mean())


def retrieved(
    benchmark: Benchmark, number: int, own: list[Image.Image], seed: int
) -> list[tuple[str, list[Image.Image], float]]:
    """Pictures from the subject's own as neighbors, with the seconds that took before the first could be generated."""
    found = []
    name = benchmark.names[number]
    start = time.perf_counter()
    hits = Neighbors.from_images([name], own[:2], [name] * min(2, len(own))).repeat(PICTURES)
    took = time.perf_counter() - start
    found.append(("retrieved, Re-Imagen", benchmark.generate(hits, seed, model=REIMAGEN), took))
    start = time.perf_counter()
    vectors = encoders.load("small").embed_images(own)
    near = Neighbors.from_embeddings(vectors[None], [[name] * len(own)]).repeat(PICTURES)
    took = time.perf_counter() - start
    found.append(("retrieved, RDM", benchmark.generate(near, seed, model=RDM), took))
    return found


def _note_class(
    kept: dict[str, dict[str, Values]],
    name: str,
    seed: int,
    images: list[Image.Image],
    own: list[Image.Image],
) -> None:
    """DIV and PRES of pictures of the class."""
    encoder = encoders.load("small")
    at = kept.setdefault(name, {})
    _append(at, "diversity", seed, mean_distance(perceptual_distances(images)))
    _append(at, "preservation", seed, preservation(encoder.embed_images(images), encoder.embed_images(own)))


def _append(into: dict[str, Values], name: str, seed: int, value: float) -> None:
    """One more value of a seed."""
    rows = into.setdefault(name, [])
    while len(rows) <= seed:
        rows.append([])
    rows[seed].append(value)


def _estimate(values: Values) -> Estimate:
    """Mean and interval; the bootstrap draws subjects."""
    return over_groups(np.array([row for row in values if row], np.float64).T)


def _apart(a: Values, b: Values) -> Estimate:
    return _estimate([[x - y for x, y in zip(one, other, strict=True)] for one, other in zip(a, b, strict=True)])


def _point(values: Values, took: Values) -> tuple[float, float, float, float]:
    found = _estimate(values)
    return _estimate(took).mean, found.mean, found.low, found.high


CLAIM = Claim(
    name="subject",
    says=(
        "Prior preservation keeps the class while a subject is learned; fine-tuning and retrieval take it from the same"
        " pictures."
    ),
    source="DreamBooth, arXiv 2208.12242, section 4.3; Re-Imagen, arXiv 2209.14491, appendix H",
    varies="the weight of the prior's loss, the steps of training, and retrieval in place of training",
    measures="DIV and PRES of the class, the share of pictures that a judge names as the subject, seconds",
    measure=measure,
    models=(BASE,),
)
