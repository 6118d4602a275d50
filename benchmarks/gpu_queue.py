"""The queue of trainings (`train_queue.py`) on a lent GPU, side by side, in about thirteen minutes and two calls.

The machine is bare: torch, transformers and accelerate are there, diffusers and pydantic come along as wheels. At most
64 MiB travel there, so the bundled weights stay here, and 64 MiB a call come back. What was started in the first call
runs on between calls:

    mv src/bowerbird/models/bundled /tmp/bundled                                     # and back afterwards
    bash benchmarks/gpu_call.sh begin 560 770      # the first call: a plan of 770 seconds, and 560 of them
    bash benchmarks/gpu_call.sh more 200 --last    # the next, within half a minute; the plan ends with it

with `carry` = runs/data, runs/wheels, runs/queue/autoencoder-8/model. Every call leaves in $OUT what was done since the
last: models in pieces under 16 MiB (half precision, what several models share once), sheets.png, gpu.log. Afterwards:

    python benchmarks/gpu_queue.py adopt FILES_AT                                    # for each call, in order

Trainings go by the clock (`PLAN`): the learning rate falls to zero when their time is over. To try all of it here:
`python benchmarks/gpu_queue.py --root /tmp/try schedule --seconds 200 --device cpu --batch 4 --set limit=64`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train_queue import QUEUE, ROOT, Entry, log, missing, prepare

PIECE = 15 * 2**20
"""Bytes of a file that comes back; the limit is 16 MiB."""
LENGTH = 690.0
"""Seconds the plan is written for; another length stretches all of it."""


@dataclass(frozen=True)
class Part:
    """When an entry is trained, in seconds of the plan, and how many processes make its batches."""

    begin: float
    end: float
    workers: int = 2


PLAN = {
    "autoencoder-8": Part(0, 140),
    "small-patches": Part(0, 160, 4),
    "small-patches-text": Part(161, 240, 4),
    "vq-drawings": Part(0, 140),
    "reimagen-drawings-32": Part(0, 300, 3),
    "tiny-sd": Part(0, 400, 3),
    "rdm-drawings": Part(241, 690),
    "tiny-rarm": Part(241, 690),
    "tiny-racm3": Part(241, 690),
    "reimagen-drawings-64": Part(301, 690, 3),
    "reimagen-drawings-128": Part(301, 690, 3),
    "tiny-ip-adapter": Part(401, 690),
    "tiny-instruct": Part(401, 690),
}
RESERVE = 22.0
"""Seconds of an entry's time for its export, its last sheet and its measures."""


class Clock:
    """The plan against the wall: `end` may be moved while it runs, by a file that any call can write."""

    def __init__(self, root: Path) -> None:
        self.file, self.read, self.value = root / "times.json", 0.0, (0.0, 0.0)

    def set(self, begun: float, end: float) -> None:
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps([begun, end]))
        temporary.replace(self.file)

    def at(self, planned: float) -> float:
        """The moment of a second of the plan."""
        if time.time() - self.read > 2:
            self.value, self.read = tuple(json.loads(self.file.read_text())), time.time()
        begun, end = self.value
        return begun + planned / LENGTH * (end - begun)


def faster(objective: Any, kind: str) -> None:
    """What a GPU makes faster without a compiler, whose first steps take longer than there is time."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    if kind in ("rdm", "stable-diffusion"):
        from diffusers.models.attention_processor import AttnProcessor2_0

        objective.unet.set_attn_processor(AttnProcessor2_0())


def built(entry: Entry, root: Path, device: str, settings: list[str]) -> Any:
    """An entry ready to be trained."""
    import torch

    torch.set_num_threads(2 if device == "cuda" else 1)
    wait_for_autoencoder(root)
    ready = prepare(entry, root, device, settings)
    kind = ready.recipe.system.kind
    if device == "cuda":
        faster(ready.objective, kind)
    return ready


def wait_for_autoencoder(root: Path) -> None:
    """Lets what needs the trained autoencoder wait for it, as late as it is asked for."""
    from bowerbird.systems.stable_diffusion import objective

    load = getattr(objective, "load_autoencoder")  # noqa: B009

    def patient(name: str) -> Any:
        while str(root) in name and not Path(name).is_dir():
            time.sleep(0.2)
        return load(name)

    setattr(objective, "load_autoencoder", patient)  # noqa: B010


def config_of(ready: Any, entry: Entry, batch: int | None) -> Any:
    never = 10**9
    return ready.recipe.train.model_copy(
        update={
            "batch_size": batch or entry.gpu_batch,
            "learning_rate": entry.gpu_rate,
            "save_every": never,
            "sheet_every": never,
            "keep_steps": (),
        }
    )


def train_for(entry: Entry, root: Path, device: str, settings: list[str], batch: int | None) -> None:
    """Trains one entry to the end of its part of the plan, reading of the data included."""

    from bowerbird.core import files
    from bowerbird.training.loop import train

    part, clock = PLAN[entry.name], Clock(root)
    ready = built(entry, root, device, settings)
    config = config_of(ready, entry, batch)
    if entry.name == "tiny-sd":  # what stands on it prepares its data with this one's autoencoder and words
        ready.objective.export(root / "provisional" / "queue" / entry.name / "model.tmp")
        (root / "provisional" / "queue" / entry.name / "model.tmp").rename(
            root / "provisional" / "queue" / entry.name / "model"
        )
    begun = time.time()
    logged, losses = begun, []
    log(f"{entry.name}: {config.steps} steps would be {config.steps * config.batch_size:,} pictures", root)

    def spent() -> float:
        return min(1.0, (time.time() - begun) / max(1.0, clock.at(part.end) - RESERVE - begun))

    for report in train(
        ready.objective, config, ready.out, device=device, spent=spent, workers=part.workers if device == "cuda" else 0
    ):
        losses.append(report.loss)
        if time.time() - logged > 20:
            pace = len(losses) * config.batch_size / (time.time() - logged)
            log(f"{entry.name}: {report.step} steps, {spent():.0%} of the time, loss {sum(losses) / len(losses):.4f},"
                f" {pace:.0f} pictures a second", root)  # fmt: skip
            losses, logged = [], time.time()
    log(f"{entry.name}: exported after {report.step} steps, {clock.at(part.end) - time.time():.0f} s before its end",
        root)  # fmt: skip
    # the model is written; what follows is for people and may be cut off
    checkpoint = ready.out / "checkpoint.safetensors"
    averaged = files.load_tensors(checkpoint)
    for name, parameter in ready.objective.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(averaged[f"ema.{name}"])
    checkpoint.unlink()
    (ready.out / "sheets").mkdir(exist_ok=True)
    ready.show(ready.objective.eval(), ready.out / "sheets" / f"{report.step:06d}.png")
    log(f"{entry.name}: done, {clock.at(part.end) - time.time():.0f} s before its time is over", root)


def provisional(root: Path) -> None:
    """An untrained second stage on the trained first, for the third stage to stand on while the second trains."""
    entry = next(entry for entry in QUEUE if entry.name == "reimagen-drawings-64")
    other = root / "provisional"
    (other / "queue").mkdir(parents=True, exist_ok=True)
    for name in ("queue/reimagen-drawings-32", "data"):
        if not (other / name).exists():
            (other / name).symlink_to(root / name)
    ready = prepare(entry, other, "cpu", ["limit=400"])
    ready.objective.export(other / "queue" / entry.name / "model")


def prepare_ahead(entry: Entry, root: Path, device: str, settings: list[str]) -> None:
    """What an entry learns from, by a stand-in for the base that is still being trained."""

    other = root / "provisional"
    (other / "queue").mkdir(parents=True, exist_ok=True)
    for place in ("data", *(f"queue/{needed}" for _, needed in entry.needs if needed != "tiny-sd")):
        if not (other / place).exists():
            (other / place).symlink_to(root / place)
    ready = built(entry, other, device, settings)
    (root / "queue" / entry.name).mkdir(parents=True, exist_ok=True)
    for found in ready.out.glob("*.safetensors"):
        os.link(found, root / "queue" / entry.name / found.name)
    log(f"{entry.name}: prepared ahead", root)


def schedule(root: Path, seconds: float, device: str, names: list[str], settings: list[str], batch: int | None) -> None:
    """The whole plan: each entry in a process of its own, begun in time and as soon as what it stands on is there."""
    clock = Clock(root)
    clock.set(time.time(), time.time() + seconds)
    own = [sys.executable, __file__, "--root"]
    common = [*(f"--set={s}" for s in settings), "--device", device, *([] if batch is None else [f"--batch={batch}"])]
    planned = [e for e in QUEUE if e.name in PLAN and (not names or e.name in names)]
    planned = [e for e in planned if not (root / "queue" / e.name / "model").is_dir()]
    log(f"gpu: {', '.join(entry.name for entry in planned)} in {seconds:.0f} s", root)
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed: dict[str, int] = {}
    begun_provisional, ahead = False, [e for e in planned if any(n == "tiny-sd" for _, n in e.needs)]
    while planned or running:
        for entry in list(ahead):
            others = [n for n in missing(entry, root) if n != "tiny-sd"]
            if not others and (root / "provisional" / "queue" / "tiny-sd" / "model").is_dir():
                ahead.remove(entry)
                subprocess.Popen([*own, str(root), "ahead", entry.name, *common])
        for entry in list(planned):
            absent = missing(entry, root)
            third = entry.name == "reimagen-drawings-128" and "reimagen-drawings-64" in absent
            if third and not missing(next(e for e in QUEUE if e.name == "reimagen-drawings-64"), root):
                made = root / "provisional" / "queue" / "reimagen-drawings-64" / "model"
                if not begun_provisional:
                    begun_provisional = True
                    subprocess.Popen([*own, str(root), "provisional", *common])
                if made.is_dir():
                    absent = []
            early = entry.name == "tiny-sd"  # reads its words before it needs the autoencoder
            if entry.name == "vq-drawings" and (root / "start" / "autoencoder-8").is_dir():
                absent = []
            if time.time() < clock.at(PLAN[entry.name].begin) or (absent and not early):
                if absent and time.time() > clock.at(PLAN[entry.name].end) - 2 * RESERVE:
                    log(f"{entry.name}: no time is left, there is no {', '.join(absent)}", root)
                    planned.remove(entry)
                continue
            planned.remove(entry)
            more = [f"--set=system.base={json.dumps(str(made))}"] if third else []
            start = root / "start" / "autoencoder-8"
            if entry.name == "vq-drawings" and start.is_dir():  # only its first weights
                more = [f"--set=system.base={json.dumps(str(start))}"]
            running[entry.name] = subprocess.Popen([*own, str(root), "one", entry.name, *common, *more])
        for name, process in list(running.items()):
            if (code := process.poll()) is not None:
                del running[name]
                exported = (root / "queue" / name / "model").is_dir()
                log(f"gpu: {name} ended with {code}, {'there' if exported else 'NOT THERE'}", root)
                if not exported and failed.get(name, 0) < 2 and time.time() < clock.at(PLAN[name].end) - 60:
                    failed[name] = failed.get(name, 0) + 1
                    planned.append(next(entry for entry in QUEUE if entry.name == name))
            elif time.time() > clock.at(PLAN[name].end) + 20:
                process.kill()
                log(f"gpu: {name} ran over its time and was ended", root)
        time.sleep(0.5)
    (root / "finished").touch()
    log("gpu: the plan is over", root)


def watch(root: Path, seconds: float, out: Path, last: bool) -> None:
    """Waits so long, or until all is done, and packs what has been done since the last call. `last`: the plan has to
    end in this call."""
    clock, end = Clock(root), time.time() + seconds
    for _ in range(100):
        if clock.file.exists():
            break
        time.sleep(0.2)
    if last:
        clock.at(0)
        clock.set(clock.value[0], end - 12)
    shown = 0
    while time.time() < end and not (root / "finished").exists():
        text = (root / "queue.log").read_text() if (root / "queue.log").exists() else ""
        if len(text) > shown:
            print(text[shown:], end="", flush=True)
            shown = len(text)
        time.sleep(1)
    pack(root, out)
    if shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader"], check=False)


def pack(root: Path, out: Path) -> None:
    """The models that no call has brought back yet, each file once, in pieces; their last sheets; the log."""
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    sent_file = root / "sent.json"
    sent: dict[str, Any] = json.loads(sent_file.read_text()) if sent_file.exists() else {"names": [], "blobs": []}
    buffer, manifest, blobs, sheets = io.BytesIO(), {}, list(sent["blobs"]), []
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in sorted((root / "queue").iterdir()):
            if folder.name in sent["names"] or not (folder / "model").is_dir():
                continue
            files = [p for p in sorted((folder / "model").rglob("*")) if p.is_file()] + [folder / "recipe.json"]
            new = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
            size = sum({d: p.stat().st_size for p, d in new.items() if d not in blobs}.values())
            if buffer.tell() + size > 58 * 2**20:
                log(f"gpu: {folder.name} comes back in the next call", root)
                continue
            for place, digest in new.items():
                manifest[str(place.relative_to(root))] = digest
                if digest not in blobs:
                    archive.add(place, f"blobs/{digest}")
                    blobs.append(digest)
            sent["names"].append(folder.name)
            found = sorted((folder / "sheets").glob("*.png"))
            sheets += [Image.open(path) for path in found if path.stem[:6] == found[-1].stem[:6]]
        data = json.dumps(manifest).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    whole = buffer.getvalue()
    for number, start in enumerate(range(0, len(whole), PIECE)):
        (out / f"models.tar.{number}").write_bytes(whole[start : start + PIECE])
    if sheets:
        page = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
        top = 0
        for sheet in sheets:
            page.paste(sheet, (0, top))
            top += sheet.height
        page.save(out / "sheets.png")
    sent["blobs"] = blobs
    sent_file.write_text(json.dumps(sent))
    shutil.copy(root / "queue.log", out / "gpu.log")


def adopt(root: Path, folder: Path) -> None:
    """The models that a GPU trained, into the state of the queue; what a CPU had trained stays beside it, renamed."""
    pieces = sorted(folder.glob("models.tar.*"), key=lambda piece: int(piece.suffix[1:]))
    data = b"".join(piece.read_bytes() for piece in pieces)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(root / "gpu", filter="data")
    manifest: dict[str, str] = json.loads((root / "gpu" / "manifest.json").read_text())
    names = sorted({place.split("/")[1] for place in manifest})
    for name in names:
        before = root / "queue" / name
        if before.exists():
            before.rename(before.with_name(f"{name}.before-{int(time.time())}"))
    for place, digest in manifest.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / "gpu" / "blobs" / digest, root / place)
    for name in names:
        log(f"{name}: trained on a GPU, taken over from {folder}", root)
    # the third stage was trained beside the second, on a stand-in for it
    second, third = (root / "queue" / f"reimagen-drawings-{size}" / "model" / "super_resolution" for size in (64, 128))
    if second.is_dir() and third.is_dir():
        shutil.rmtree(third)
        shutil.copytree(second, third)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="where state, data and log lie")
    verbs = parser.add_subparsers(dest="verb", required=True)
    whole, one = verbs.add_parser("schedule", help="the whole plan"), verbs.add_parser("one", help="one entry")
    stage, ahead = (verbs.add_parser(name) for name in ("provisional", "ahead"))
    whole.add_argument("names", nargs="*", help="these entries; default: what is not done")
    whole.add_argument("--seconds", type=float, default=LENGTH)
    one.add_argument("name")
    ahead.add_argument("name")
    for verb in (whole, one, stage, ahead):
        verb.add_argument("--device", default="cuda")
        verb.add_argument("--batch", type=int, help="over the entries' own, for a trial")
        verb.add_argument("--set", action="append", default=[], dest="settings")
    watching = verbs.add_parser("watch", help="wait, and pack what is done")
    watching.add_argument("--seconds", type=float, required=True)
    watching.add_argument("--last", action="store_true", help="the plan ends in this call")
    watching.add_argument("--out", type=Path, required=True)
    taking = verbs.add_parser("adopt", help="take over what came back")
    taking.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    root = arguments.root
    entries = {entry.name: entry for entry in QUEUE}
    if arguments.verb == "adopt":
        adopt(root, arguments.folder)
    elif arguments.verb == "watch":
        watch(root, arguments.seconds, arguments.out, arguments.last)
    elif arguments.verb == "one":
        train_for(entries[arguments.name], root, arguments.device, arguments.settings, arguments.batch)
    elif arguments.verb == "ahead":
        prepare_ahead(entries[arguments.name], root, arguments.device, arguments.settings)
    elif arguments.verb == "provisional":
        provisional(root)
    else:
        schedule(root, arguments.seconds, arguments.device, arguments.names, arguments.settings, arguments.batch)


if __name__ == "__main__":
    main()
