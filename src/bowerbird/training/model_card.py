"""The `README.md` of a trained model: what it was trained on and how, from the files of its run.

Everything in it comes from the run's `recipe.json`, `data.json` and `losses.csv`; text from elsewhere is written so
that it stays text.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bowerbird.core import files
from bowerbird.core.text import printable
from bowerbird.core.version import __version__
from bowerbird.data.scenes.words import KNOWN
from bowerbird.systems.settings import with_names
from bowerbird.training.config import TrainConfig
from bowerbird.training.data import FILE as DATA
from bowerbird.training.losses import StepReport, read_losses
from bowerbird.training.recipe import FILE, read_recipe

RECENT = 50
"""Steps whose losses are averaged for a figure, as one batch says little."""
MOST_LICENSES = 20


def write_card(run: Path, model: Path, command: str = "") -> None:
    """Write the card of the model in the folder `model`, which the run in the folder `run` made with `command`."""
    recipe, data, losses = read_recipe(run / FILE), files.read_json(run / DATA, "note on the data"), read_losses(run)
    pipeline = (model / "model_index.json").is_file()
    lines = [
        "---",
        f"library_name: {'diffusers' if pipeline else 'bowerbird'}",
        f"tags: {json.dumps(['bowerbird', recipe.system.kind])}",
        "---",
        "",
        f"# {_cell(recipe.name)}",
        "",
        f"Trained with bowerbird {__version__}.",
        "",
        "## Data",
        "",
        *_table(_of_data(recipe.where, recipe.size, data)),
        "",
        *_licenses(data.get("licenses")),
        "",
        "## Training",
        "",
        *_table(_of_training(recipe.train, losses)),
        "",
        *(["```sh", _plain(command), "```", ""] if command else []),
        "Settings of the system:",
        "",
        "```json",
        *map(_plain, json.dumps(_without_folders(recipe.system), indent=2).splitlines()),
        "```",
    ]
    shown = files.read_json(model / KNOWN, "list of what a model knows") if (model / KNOWN).is_file() else {}
    if shown:
        lines += ["", "## What it was trained on", "", *_shown(shown)]
    if pipeline:
        looked_up = "-k 0" if shown else "--kb KB"
        lines += [
            "",
            "## Use",
            "",
            "```sh",
            f'bowerbird generate THIS_FOLDER {looked_up} --prompt "…" --out pictures',
            "```",
        ]
    with files.atomic_path(model / "README.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _without_folders(system: BaseModel) -> dict[str, Any]:
    """The settings of a system; of a directory of the writer's machine the last part."""

    def shown(name: str) -> str:
        return files.last_part(name) if Path(name).exists() else files.portable(name)

    return with_names(system, "network", shown).model_dump(mode="json")


def _of_data(where: str | None, size: int, data: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    yield "source", data.get("source") or "not named"
    yield "pictures", data.get("pictures")
    yield "used for training", data.get("trained_on")
    yield "held out for the validation loss", data.get("held_out")
    if where:
        yield "condition", where
    yield "edge in pixels", size
    yield "fingerprint", data.get("fingerprint")


def _shown(shown: Mapping[str, Any]) -> Iterable[str]:
    """A paragraph for each kind of what a model knows by a word."""
    for kind, words in shown.items():
        yield f"{_cell(kind)} ({len(words)}): {', '.join(map(_cell, words)) or 'none'}."
        yield ""
    yield "Other things in a prompt are unknown to it."


def _licenses(found: Any) -> list[str]:
    if not isinstance(found, dict) or not found:
        return ["The data has no column with licenses: state them before you pass this model on."]
    most = sorted(found.items(), key=lambda entry: -entry[1])
    rest = [("others", sum(count for _, count in most[MOST_LICENSES:]))] if len(most) > MOST_LICENSES else []
    rows = [(name or "unknown", count) for name, count in most[:MOST_LICENSES]]
    return ["Licenses of the pictures:", "", *_table([*rows, *rest], ("license", "pictures"))]


def _of_training(train: TrainConfig, losses: list[StepReport]) -> Iterable[tuple[str, Any]]:
    yield "steps", f"{losses[-1].step if losses else 0} of {train.steps}"
    times = f" x {train.gradient_accumulation}" if train.gradient_accumulation > 1 else ""
    yield "batch size per process", f"{train.batch_size}{times}"
    yield "learning rate", f"{train.learning_rate:g}, {train.schedule}, {train.warmup_steps} steps of warm-up"
    yield "EMA decay of the weights", train.ema_decay
    yield "precision", train.precision
    yield "seed", train.seed
    if losses:
        yield f"loss, first {RECENT} steps", f"{_mean(losses[:RECENT]):.4f}"
        yield f"loss, last {RECENT} steps", f"{_mean(losses[-RECENT:]):.4f}"
        validated = [(each.validation_loss, each.step) for each in losses if each.validation_loss is not None]
        if validated:
            best, at = min(validated)
            yield "validation loss, last", f"{validated[-1][0]:.4f}"
            yield "validation loss, lowest", f"{best:.4f} at step {at}"
        yield "training time in seconds", f"{sum(each.seconds for each in losses):.0f}"
    yield "hardware", _hardware()


def _mean(losses: list[StepReport]) -> float:
    return sum(each.loss for each in losses) / len(losses)


def _hardware() -> str:
    import torch

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        return f"{processes} x {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {processes} x {threads} threads, {platform.system()}"


def _table(rows: Iterable[tuple[Any, Any]], heading: tuple[str, str] = ("", "")) -> list[str]:
    return [f"| {heading[0]} | {heading[1]} |", "|---|---|", *(f"| {_cell(a)} | {_cell(b)} |" for a, b in rows)]


def _cell(value: Any) -> str:
    """Text in one cell of a table: no line break, no markup, no control character, 200 characters at most."""
    return "".join(f"\\{c}" if c in "\\|<>[]`*_#&" else c for c in printable(str(value))[:200])


def _plain(text: str) -> str:
    """One line that stays inside a block of code."""
    return printable(text).replace("`", "'")[:2000]
