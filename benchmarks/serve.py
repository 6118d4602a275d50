"""`bowerbird serve` beside a plain FastAPI application with the pipeline inside: pictures a minute, search meanwhile.

Both answer `POST /v1/images/generations` for one picture of `tiny-rdm` in the same steps, as base64, to 1, 4 and 16
clients that ask again as soon as they are answered. The plain one does what such a file does: one lock around the
pipeline, in a thread of the web process. It is measured twice. `same pixels`: by `generation.generate`, whose pictures
do not depend on what else is generated, as ours; the network always gets four at once. `one at a time`: by calling the
pipeline, which is faster for one client, and gives other last bits. Ours also looks for near copies, writes the record
into the PNG, and keeps job, picture and sheet.

Search is asked for ten times a second while four clients generate; plain: a route of the same process. `--gradio` names
a Python that has gradio and these packages too: its queue, as `Interface.launch` sets it up, calls the pipeline as `one
at a time` does, and a client posts, hears that it is done, and fetches the file.

    python benchmarks/serve.py --seconds 30 --out runs/serve.json
    python benchmarks/serve.py --seconds 30 --gradio /tmp/gradio/bin/python
    python benchmarks/serve.py --soak 3600                # generate, add and search for an hour; memory and descriptors
    python benchmarks/serve.py --overload 120             # ten times what fits: answers, refusals, /health
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

PLAIN = """
import base64, io, os, sys, threading, time
os.nice(5)  # as the worker of the other: beside other work of the machine that would be most of the difference
import uvicorn
from fastapi import FastAPI
from bowerbird import KnowledgeBase
from bowerbird.core import seeds
from bowerbird.core.quiet import quiet_libraries
from bowerbird.systems import generation, jobs
from bowerbird.systems.loading import load_pipeline

quiet_libraries()
place, port, steps, how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
kb, pipe, turn, app = KnowledgeBase.open(place), load_pipeline("tiny-rdm"), threading.Lock(), FastAPI()

@app.get("/ready")
def ready():
    return {}

@app.post("/v1/images/generations")
def generate(body: dict):
    with turn:
        if how == "same pixels":
            job = jobs.Job(prompt=body["prompt"], seed=body["seed"], steps=(steps,))
            prepared = jobs.prepare(pipe, kb, job)
            image = generation.generate(pipe, prepared.hits, prepared.settings)[0]
        else:
            pipe.set_progress_bar_config(disable=True)
            generator = seeds.picture_generator(body["seed"])
            image = pipe(body["prompt"], knowledge_base=kb, num_inference_steps=steps, generator=generator).images[0]
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]}

@app.post("/api/knowledge-bases/kb/search")
def search(body: dict):
    hits = kb.search(text=body["text"], k=8)
    return {"results": hits.ids[0].tolist()}

uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")
"""
GRADIO = """
import os, sys
os.nice(5)
import gradio
from bowerbird import KnowledgeBase
from bowerbird.core import seeds
from bowerbird.core.quiet import quiet_libraries
from bowerbird.systems.loading import load_pipeline

quiet_libraries()
place, port, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
kb, pipe = KnowledgeBase.open(place), load_pipeline("tiny-rdm")
pipe.set_progress_bar_config(disable=True)

def generate(prompt, seed):
    generator = seeds.picture_generator(int(seed))
    return pipe(prompt, knowledge_base=kb, num_inference_steps=steps, generator=generator).images[0]

def search(text):
    return kb.search(text=text, k=8).ids[0].tolist()

with gradio.Blocks() as app:
    prompt, seed, image, found = gradio.Textbox(), gradio.Number(), gradio.Image(format="png"), gradio.JSON()
    gradio.Button().click(generate, [prompt, seed], image, api_name="generate")
    gradio.Button().click(search, prompt, found, api_name="search")
app.queue().launch(server_name="127.0.0.1", server_port=port, quiet=True)
"""
PROMPTS = (
    "red apple",
    "green leaf",
    "blue house",
    "yellow star",
    "orange fish",
    "purple flower",
    "black cat",
    "a tree",
)
CLIENTS = (1, 4, 16)
ROUNDS = 3


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        if body is None:
            link.request("GET", path)
        else:
            link.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = link.getresponse()
        return answer.status, answer.read()
    finally:
        link.close()


Call = Callable[[int, str, dict[str, Any]], None]
"""Asks the server at a port to "generate" or to "search", with the body of ours; returns when the answer is there."""


def call_rest(port: int, what: str, body: dict[str, Any]) -> None:
    """Ours, and the plain application."""
    path = {"generate": "/v1/images/generations", "search": "/api/knowledge-bases/kb/search"}[what]
    status, _ = ask(port, path, body)
    assert status == 200, status


def call_gradio(port: int, what: str, body: dict[str, Any]) -> None:
    """gradio's queue: an event is posted, its end heard, its file fetched."""
    data = [body["prompt"], body["seed"]] if what == "generate" else [body["text"]]
    _, answer = ask(port, f"/gradio_api/call/{what}", {"data": data})
    _, heard = ask(port, f"/gradio_api/call/{what}/{json.loads(answer)['event_id']}")
    last = heard.rpartition(b"event: ")[2]  # heartbeats come before it where others are served first
    assert last.startswith(b"complete"), heard[:200]
    if what == "generate":
        status, _ = ask(port, json.loads(last.split(b"data: ", 1)[1])[0]["url"].partition(str(port))[2])
        assert status == 200, status


def call_of(name: str) -> Call:
    """How a server of this name is asked."""
    return call_gradio if name == "gradio" else call_rest


@contextmanager
def running(command: list[str], port: int) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A server that is ready, and the seconds until it was."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                if ask(port, "/ready")[0] in (200, 404):  # gradio has no such route, and answers when it is there
                    break
            except OSError:
                pass
            time.sleep(0.02)
        yield process, time.perf_counter() - started
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])


def rate(port: int, clients: int, seconds: float, steps: int, call: Call) -> tuple[int, float]:
    """Pictures to so many clients, and the seconds until the last of them."""
    until = time.perf_counter() + seconds
    done: list[float] = []

    def client(number: int) -> None:
        turn = 0
        while time.perf_counter() < until:
            turn += 1
            body = {"prompt": PROMPTS[(number + turn) % len(PROMPTS)], "seed": 1000 * number + turn, "steps": steps}
            call(port, "generate", body)
            done.append(time.perf_counter())

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return len(done), max(done) - started


def search_times(port: int, seconds: float, call: Call) -> list[float]:
    """Milliseconds of searches, ten a second."""
    found: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        call(port, "search", {"text": PROMPTS[len(found) % len(PROMPTS)]})
        found.append(1000 * (time.perf_counter() - started))
        time.sleep(max(0.0, 0.1 - (time.perf_counter() - started)))
    return found


def while_generating(port: int, seconds: float, steps: int, call: Call) -> dict[str, float]:
    """Search while four clients generate."""
    thread = threading.Thread(target=rate, args=(port, 4, seconds, steps, call))
    thread.start()
    times = search_times(port, seconds, call)
    thread.join()
    return {"p50": statistics.median(times), "p99": statistics.quantiles(times, n=100)[-1]}


PARTS = {
    "bowerbird.serve.worker": "models",
    "bowerbird.serve.decoder": "decoders",
    "bowerbird.serve.ingest": "additions",
}
"""What a process of the server does, by the module that it runs; the one that answers runs none of these."""


def memory(process: int) -> dict[str, float]:
    """Megabytes of a server by what its processes do; pages that several share count in parts (`Pss`)."""
    found: dict[str, float] = defaultdict(float)
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if process not in (parent, int(place.name)):
                continue
            words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
            part = next((PARTS[word] for word in words if word in PARTS), "web")
            if part == "models" and '"preload": []' in words[-2]:
                part = "encoders"
            text = (place / "smaps_rollup").read_text()
        except (OSError, ValueError, IndexError):
            continue
        found[part] += int(text.split("\nPss:")[1].split()[0]) / 2**10
    return {part: round(found[part], 1) for part in sorted(found)}


def total(process: int) -> float:
    """Megabytes of all processes of a server."""
    return round(sum(memory(process).values()), 1)


def seconds_of(process: int) -> float:
    """Seconds that a server and its processes have computed."""
    found = 0.0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if process in (int(words[1]), int(place.name)):
            found += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return found


def compare(
    servers: dict[str, Callable[[int], list[str]]], loads: list[int], seconds: float, steps: int
) -> dict[str, dict[str, Any]]:
    """All figures of all servers: they stand beside each other, and each load is put on one after the other, `ROUNDS`
    times, so that whatever else the machine does meets all of them."""
    found: dict[str, dict[str, Any]] = {name: {} for name in servers}
    with ExitStack() as stack:
        ports, processes = {}, {}
        for name, command in servers.items():
            ports[name] = port = free_port()
            started = time.perf_counter()
            process, found[name]["ready"] = stack.enter_context(running(command(port), port))
            processes[name] = process.pid
            call_of(name)(port, "generate", {"prompt": "red apple", "seed": 1, "steps": steps})
            found[name]["first picture"] = time.perf_counter() - started
            time.sleep(2)
            found[name]["memory at rest"] = memory(process.pid)
        for clients in loads:
            rates: dict[str, list[float]] = {name: [] for name in servers}
            used: dict[str, list[float]] = {name: [] for name in servers}
            for _ in range(ROUNDS):
                for name, port in ports.items():
                    before = seconds_of(processes[name])
                    made, spent = rate(port, clients, seconds / ROUNDS, steps, call_of(name))
                    rates[name].append(60 * made / spent)
                    used[name].append((seconds_of(processes[name]) - before) / made)
            for name in servers:
                found[name][f"a minute, {clients} clients"] = rates[name]
                found[name][f"seconds of a core a picture, {clients} clients"] = used[name]
        for name, port in ports.items():
            found[name]["search"] = while_generating(port, min(seconds, 60.0), steps, call_of(name))
    return found


def slope(values: list[float]) -> float:
    """How much a minute's value is more than the one before, by least squares."""
    times = range(len(values))
    return statistics.linear_regression(times, values).slope if len(values) > 1 else 0.0


def soak(command: list[str], port: int, seconds: float) -> None:
    """Generate, add, remove and search; memory and open files once a minute. The first third warms up."""
    from bowerbird.data.drawn import read_drawn

    pictures = [item.data for item in read_drawn()]
    counts: Counter[str] = Counter()
    with running(command, port) as (process, _):
        until, number, rows = time.monotonic() + seconds, 0, []
        while time.monotonic() < until:
            minute = min(until, time.monotonic() + 60)
            while time.monotonic() < minute:
                number += 1
                status, _ = ask(port, "/v1/images/generations", {"prompt": PROMPTS[number % 8], "steps": 4})
                counts[f"generate {status}"] += 1
                status, _ = ask(port, "/api/knowledge-bases/kb/search", {"text": PROMPTS[number % 8]})
                counts[f"search {status}"] += 1
                if number % 10 == 0:
                    # a picture that is there already says so and changes nothing; one that is not comes, and goes again
                    before = json.loads(ask(port, "/api/knowledge-bases/kb")[1])["version"]
                    data = pictures[number % len(pictures)] + str(number).encode()
                    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
                    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                    form = {"Content-Type": "multipart/form-data; boundary=b"}
                    link.request("POST", "/api/knowledge-bases/kb/items", head + data + b"\r\n--b--\r\n", form)
                    answer = link.getresponse()
                    counts[f"add {answer.status}"] += 1
                    job = json.loads(answer.read())["id"]
                    link.close()
                    ask(port, f"/api/jobs/{job}/events")
                    status, _ = ask(port, "/api/knowledge-bases/kb/restore", {"version": before})
                    counts[f"restore {status}"] += 1
            files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            rows.append({**memory(process.pid), "all": total(process.pid), "files": float(files)})
            sys.stdout.write(f"{len(rows)} min: {number} pictures, {json.dumps(rows[-1])}\n")
            sys.stdout.flush()
    later = rows[len(rows) // 3 :]
    grows = {
        part: round(slope([row.get(part, 0.0) for row in later]), 2) for part in ("all", "web", "models", "encoders")
    }
    sys.stdout.write(f"answers {dict(counts)}; MB a minute: {json.dumps(grows)}\n")


def probe(port: int, seconds: float) -> list[float]:
    """Milliseconds that `/health` took, asked five times a second by a process of its own: the clients' threads would
    hold it up."""
    code = """
import http.client, json, sys, time
found, until = [], time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    started = time.perf_counter()
    link = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
    link.request("GET", "/health")
    assert link.getresponse().read()
    link.close()
    found.append(1000 * (time.perf_counter() - started))
    time.sleep(0.2)
print(json.dumps(found))
"""
    command = [sys.executable, "-c", code, str(port), str(seconds)]
    made: list[float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return made


def overload(command: list[str], port: int, seconds: float, capacity: int) -> None:
    """Ten times as many clients as fit: how many are answered and refused, how fast `/health` is, and memory."""
    with running(command, port) as (process, _):
        ask(port, "/v1/images/generations", {"prompt": "red apple", "steps": 2})
        before, until, counts = total(process.pid), time.monotonic() + seconds, Counter[int]()

        def client(number: int) -> None:
            while time.monotonic() < until:
                body = {"prompt": PROMPTS[number % 8], "seed": number, "steps": 10}
                status, _ = ask(port, "/v1/images/generations", body)
                counts[status] += 1
                if status == 429:
                    time.sleep(random.uniform(0.5, 1.5))  # as OpenAI's client does, not all at once

        threads = [threading.Thread(target=client, args=(number,)) for number in range(10 * capacity)]
        for thread in threads:
            thread.start()
        times = sorted(probe(port, seconds))
        for thread in threads:
            thread.join()
        jobs = json.loads(ask(port, "/api/jobs?limit=500")[1])["jobs"]
        states = Counter(job["state"] for job in jobs)
        p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
        sys.stdout.write(f"answers {dict(counts)}, jobs {dict(states)}, memory {before} then {total(process.pid)} MB\n")
        sys.stdout.write(f"/health: p50 {p50:.1f}, p99 {p99:.1f}, longest {times[-1]:.1f} ms of {len(times)}\n")


def main() -> None:
    """Measure, and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load on each server")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--soak", type=float, default=0.0, help="seconds")
    parser.add_argument("--overload", type=float, default=0.0, help="seconds")
    parser.add_argument("--model", default="tiny-rdm", help="of --soak and --overload: a small one turns over faster")
    parser.add_argument("--gradio", help="a Python that has gradio beside what this one has")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kb = Path(folder) / "kb"
        python = [sys.executable, "-W", "ignore"]
        subprocess.run([*python, "-m", "bowerbird", "kb", "build", str(kb), "drawn"], check=True, capture_output=True)

        def ours(port: int) -> list[str]:
            serve = ["-m", "bowerbird", "serve", "--kb", str(kb), "--model", arguments.model, "--port", str(port)]
            return [*python, *serve, "--data", f"{folder}/data-{port}"]

        if arguments.soak:
            port = free_port()
            soak(ours(port), port, arguments.soak)
            return
        if arguments.overload:
            port = free_port()
            overload([*ours(port), "--queue", "8"], port, arguments.overload, 9)
            return

        def plain(how: str, port: int) -> list[str]:
            return [*python, "-c", PLAIN, str(kb), str(port), str(arguments.steps), how]

        def gradio(port: int) -> list[str]:
            return [arguments.gradio, "-W", "ignore", "-c", GRADIO, str(kb), str(port), str(arguments.steps)]

        others: dict[str, Callable[[int], list[str]]] = {
            how: partial(plain, how) for how in ("same pixels", "one at a time")
        }
        if arguments.gradio:
            others["gradio"] = gradio
        found = compare({"bowerbird serve": ours, **others}, arguments.clients, arguments.seconds, arguments.steps)
    for name, figures in found.items():
        sys.stdout.write(f"{name}: {json.dumps(figures)}\n")
    mine = found["bowerbird serve"]
    for how in others:
        for clients in arguments.clients:
            for key in (f"a minute, {clients} clients", f"seconds of a core a picture, {clients} clients"):
                ratios = [a / b for a, b in zip(mine[key], found[how][key], strict=True)]
                means = [statistics.mean(mine[key]), statistics.mean(found[how][key])]
                sys.stdout.write(
                    f"{key}: {means[0]:.2f}, plain ({how}) {means[1]:.2f}: {means[0] / means[1]:.2f} times"
                )
                sys.stdout.write(f" ({min(ratios):.2f} to {max(ratios):.2f})\n")
        for part in ("p50", "p99"):
            other = found[how]["search"][part]
            sys.stdout.write(f"search {part} while generating: {mine['search'][part]:.1f} ms, plain {other:.1f} ms\n")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
