"""The web process alone: who may ask, how much, and that every route answers in the one shape whatever comes."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bowerbird.serve import errors, recovery
from bowerbird.serve.context import Server, Settings
from bowerbird.serve.limits import LIMITS
from bowerbird.serve.metrics import resident_bytes
from bowerbird.serve.store import Store, new_id
from tests.serving import Answer, Client, web_alone
from tests.test_search_scores import run

TOKEN = "a-token-for-tests"
QUICK = replace(LIMITS, header_seconds=0.5, body_seconds=0.5, json_bytes=2**16)
OPEN = ("/", "/health", "/ready", "/api/session", "/favicon.ico")
TRAVERSALS = (
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "/etc/passwd",
    "x%00",
)


@pytest.fixture(scope="module")
def web(small_kb_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Server]]:
    folder = tmp_path_factory.mktemp("web")
    settings = Settings((str(small_kb_path),), folder / "data", ("tiny-rdm",), limits=QUICK)
    with web_alone(settings, folder / "sockets") as running:
        yield running


@pytest.fixture(scope="module")
def guarded(small_kb_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("guarded")
    settings = Settings((str(small_kb_path),), folder / "data", ("tiny-rdm",), token=TOKEN)
    with web_alone(settings, folder / "sockets") as (client, _):
        yield client


def routes(client: Client, **headers: str) -> list[tuple[str, str]]:
    """Every method and path there is, ids in place of parameters."""
    paths = client.get("/openapi.json", **headers).json["paths"]
    every = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return [*every, ("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json")]


def filled(path: str, value: str = "kb") -> str:
    return re.sub(r"\{\w+\}", value, path)


def test_every_route_wants_the_token(guarded: Client) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    every = routes(guarded, **bearer)
    assert len(every) > 45
    for method, path in every:
        if path in OPEN:
            continue
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "bowerbird_session=wrong"}):
            answer = guarded.ask(method, filled(path), headers=headers)
            assert (answer.status, answer.code) == (401, "invalid_api_key"), (method, path)
        assert guarded.ask(method, filled(path), headers=bearer).status != 401, (method, path)
    assert guarded.get("/api/session").json == {"token_required": True, "signed_in": False}
    assert guarded.post("/api/session", {"token": "wrong"}).status == 401
    signed_in = guarded.post("/api/session", {"token": TOKEN})
    cookie = signed_in.headers["set-cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.replace("; ", ";").split(";"))
    assert guarded.get("/api/status", Cookie=cookie.split(";")[0]).status == 200
    led = guarded.get(f"/?token={TOKEN}")
    assert (led.status, led.headers["location"]) == (303, "/")
    assert "set-cookie" in led.headers
    assert "set-cookie" not in guarded.get("/?token=wrong").headers


def test_a_cookie_that_came_by_https_never_goes_by_http(guarded: Client) -> None:
    """A proxy on this machine says how it was reached; nobody else is believed."""

    def cookie(**headers: str) -> str:
        answer = guarded.ask("POST", "/api/session", {"token": TOKEN}, headers)
        assert answer.status == 204
        return answer.headers["set-cookie"].lower()

    assert "; secure" in cookie(**{"X-Forwarded-Proto": "https"})
    assert "; secure" not in cookie()


def test_a_slash_too_many_is_no_route(web: tuple[Client, Server]) -> None:
    """It was answered with 307, to http, in no shape."""
    for path in ("/api/status/", "/v1/models/", "/docs/"):
        answer = web[0].get(path)
        assert (answer.status, answer.code) == (404, "route_not_found"), path


def test_refusals_say_it_in_words(web: tuple[Client, Server]) -> None:
    said = [
        web[0].post("/api/generate", body).json["error"]["message"]
        for body in ({"prompt": "red", "nn": 1}, {"prompt": "red", "neighbors": [{"item": "x"}]})
    ]
    assert said[0] == "nn: no key of this request; /docs lists them"
    assert said[1] == "neighbors.0.item: an item's id is a number of up to 63 bits, or a text of its digits"


def test_other_pages_and_other_names_are_refused_on_every_route(web: tuple[Client, Server]) -> None:
    client, _ = web
    foreign = (
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Host": "evil.test:7860"},  # a name that was made to mean this machine
        {"Host": "127.0.0.1.evil.test"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    )
    for method, path in routes(client):
        for headers in foreign:
            assert client.ask(method, filled(path), headers=headers).status == 403, (method, path, headers)
    own = {"Origin": client.url, "Sec-Fetch-Site": "same-origin"}
    assert client.get("/api/status", **own).status == 200
    assert client.get("/api/status", Host="localhost:1").status == 200


def test_no_path_comes_from_a_client(web: tuple[Client, Server]) -> None:
    client, _ = web
    for method, path in routes(client):
        if "{" in path:
            for value in TRAVERSALS:
                answer = client.ask(method, filled(path, value))
                assert answer.status in (400, 404, 405, 422), (method, path, value, answer.status)
                assert b"root:" not in answer.body
    for value in TRAVERSALS:
        assert client.get(f"/page/{value}").status in (404, 405)
        body = {"prompt": "a", "model": value, "knowledge_base": value}
        assert client.post("/api/generate", body).status == 404
        assert client.form("/api/knowledge-bases", [("files", "a.png", b"x")], name=value).status in (400, 422)


def test_answers_carry_headers_that_keep_a_browser_safe(web: tuple[Client, Server]) -> None:
    client, _ = web
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for answer in (page, client.get("/api/status"), client.get("/no-such-route"), client.get("/page/docs.js")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-request-id"].startswith("req_")
    refused = client.get("/no-such-route", **{"X-Request-ID": "mine-1"})
    assert refused.json["error"]["request_id"] == refused.headers["x-request-id"] == "mine-1"


def test_the_page_is_asked_for_again_and_sent_once(web: tuple[Client, Server]) -> None:
    client, _ = web
    file = client.get("/page/lib/api.js")
    assert file.headers["cache-control"] == "no-cache"
    assert client.get("/page/lib/api.js", **{"If-None-Match": file.headers["etag"]}).status == 304
    assert client.get("/api/status").headers["cache-control"] == "no-store"


def test_uploads_leave_some_of_the_disk_free(web: tuple[Client, Server]) -> None:
    client, server = web
    picture = [("file", "a.png", b"no picture at all")]
    assert client.form("/api/uploads", picture).status == 422
    server.settings = replace(server.settings, keep_free=2**62)
    try:
        for path in ("/api/uploads", "/api/knowledge-bases/kb/items", "/api/knowledge-bases", "/v1/images/edits"):
            answer = client.form(path, picture)
            assert (answer.status, answer.code) == (507, "disk_full"), path
        assert client.get("/api/status").status == 200
    finally:
        server.settings = replace(server.settings, keep_free=0)


def test_limits_are_refused_at_once_and_cost_no_memory(web: tuple[Client, Server]) -> None:
    client, server = web
    before = resident_bytes(os.getpid())
    most = server.settings.limits.json_bytes
    body = json.dumps({"prompt": "a"}).encode()
    assert client.ask("POST", "/api/generate", body + b" " * (most - len(body))).status == 202
    assert client.ask("POST", "/api/generate", body + b" " * (most + 1 - len(body))).code == "too_large"
    assert client.ask("POST", "/api/generate", b" " * 60_000_000).status == 413
    for change in ({"n": 17}, {"steps": 201}, {"height": 2049}, {"k": 65}, {"prompt": "a" * 10_000}, {"seed": -1}):
        answer = client.post("/api/generate", {"prompt": "a", **change})
        assert (answer.status, answer.code) == (400, "invalid_value"), change
    assert (
        client.post("/api/generate", {"prompt": "a", "n": 16, "steps": 200, "height": 1024, "width": 1024}).status
        == 400
    )
    many = [("files", f"{number}.png", b"x") for number in range(1001)]
    assert client.form("/api/knowledge-bases/kb/items", many).code == "too_many_files"
    assert client.form("/api/uploads", [("file", "a.png", b"x" * (LIMITS.picture_bytes + 2**17))]).status == 413
    assert client.ask("POST", "/api/generate", b'{"prompt": 1e999}').status in (400, 422)
    assert client.ask("POST", "/api/generate", b"[" * 60_000).status in (400, 422)
    assert resident_bytes(os.getpid()) - before < 100 * 2**20


def test_slow_connections_are_let_go(web: tuple[Client, Server]) -> None:
    client, _ = web
    heads = (
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        b"",
        b"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: 99\r\n\r\n{",
    )
    links = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(200)]
    for number, link in enumerate(links):
        link.sendall(heads[number % len(heads)])
        link.settimeout(20)
    assert client.get("/health").status == 200
    for link in links:
        with link, link.makefile("rb") as file:
            answer = file.read()
            assert answer.startswith(b"HTTP/1.1 408 "), answer[:100]
            assert b'"code": "timeout"' in answer or b'"code":"timeout"' in answer


def test_what_is_no_http_is_answered_in_the_same_shape(web: tuple[Client, Server]) -> None:
    client, _ = web
    with socket.create_connection(("127.0.0.1", client.port)) as link, link.makefile("rb") as file:
        link.sendall(b"\x16\x03\x01\x02\x00\x01\x00 not http\r\n\r\n")
        answer = file.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "invalid_http"


def test_an_address_as_proxies_give_it_is_that_path(web: tuple[Client, Server]) -> None:
    client, _ = web
    own = f"127.0.0.1:{client.port}"
    for host, status in ((own, b"200"), ("localhost", b"400")):
        with socket.create_connection(("127.0.0.1", client.port)) as link, link.makefile("rb") as file:
            link.sendall(f"GET http://{own}/health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert file.read().startswith(b"HTTP/1.1 " + status)


def test_ten_times_what_fits_is_refused_and_the_rest_ends(small_kb_path: Path, tmp_path: Path) -> None:
    """A worker that says nothing for a while: what was accepted waits and ends, the others hear when to come again."""
    settings = Settings((str(small_kb_path),), tmp_path / "data", ("tiny-rdm",), queue=4, drain_seconds=1)
    with web_alone(settings, tmp_path / "sockets", answers=False) as (client, server):
        with ThreadPoolExecutor(16) as pool:
            ask = [pool.submit(client.post, "/api/generate", {"prompt": f"picture {i}"}) for i in range(50)]
            answers: list[Answer] = [each.result() for each in ask]
        accepted = [each.json["id"] for each in answers if each.status == 202]
        refused = [each for each in answers if each.status == 429]
        # one is at work, and as many wait as may
        assert (len(accepted), len(refused)) == (5, 45)
        assert {each.code for each in refused} == {"queue_full"}
        assert all(1 <= int(each.headers["retry-after"]) <= 120 for each in refused)
        assert all(each.headers["x-should-retry"] == "true" for each in refused)
        assert client.get("/health").status == 200
        positions = {client.get(f"/api/jobs/{job}").json["position"] for job in accepted}
        assert positions == {None, 1, 2, 3, 4}
        for job in accepted:
            assert client.ask("DELETE", f"/api/jobs/{job}").json["state"] == "cancelled"
        assert server.dispatcher.tasks == {}
        assert {each["state"] for each in client.get("/api/jobs").json["jobs"]} == {"cancelled"}


def test_jobs_of_a_server_that_was_killed_are_marked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    done, waiting = new_id("job"), new_id("job")
    for job in (done, waiting):
        store.add(job, "generate", {"prompt": "a", "model": "tiny-rdm"})
    store.start(done)
    store.finish(done, "done")
    store.close()
    after = Store(tmp_path)
    assert recovery.recover(after) == [waiting]
    states = {each["id"]: each["state"] for each in after.jobs()}
    assert states == {done: "done", waiting: "interrupted"}
    assert (after.job(waiting) or {})["error"]["code"] == "interrupted"
    after.close()


def examples() -> int:
    return int(os.environ.get("BOWERBIRD_API_EXAMPLES", "40"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_operation_answers_as_openapi_says(small_kb_path: Path, tmp_path: Path) -> None:
    """Made-up requests, `BOWERBIRD_API_EXAMPLES` for each operation: no 5xx, documented codes, one shape."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    bounds = settings(
        max_examples=examples(),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    served = Settings((str(small_kb_path),), tmp_path / "data", ("tiny-rdm",), limits=QUICK)
    secret = (str(tmp_path), str(small_kb_path))
    count = 0

    def look(case: Any, documented: set[int]) -> None:
        nonlocal count
        count += 1
        response = case.call(timeout=20)
        place = (case.method, case.path, response.status_code, response.text[:300])
        assert response.status_code < 500 or response.status_code == 503, place
        assert response.status_code in documented, place
        assert not [each for each in secret if each in response.text], place
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code", "request_id"}, place

    with web_alone(served, tmp_path / "sockets") as (client, _):
        schema = schemathesis.openapi.from_url(f"{client.url}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()
            documented = {int(code) for code in operation.definition.raw["responses"]}
            bounds(given(case=operation.as_strategy())(looking(look, documented)))()
    sys.stdout.write(f"{count} requests\n")


def looking(look: Any, documented: set[int]) -> Any:
    """A test of one operation."""

    def check(case: Any) -> None:
        look(case, documented)

    return check


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """uvicorn logs it, below "serving http://…", and leaves with 3."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ("serve", "--port", str(port), "--data", str(tmp_path / "data"))
        _, said = run(*command, expect=2)
        _, warned = run(*command, "--allow-host", "pictures.example.org", expect=2)
        _, content = run(*command, "--allow-host", "pictures.example.org", "--token", TOKEN, expect=2)
    assert f"127.0.0.1:{port} cannot be listened at" in said
    assert said.count("\n") == content.count("\n") == 1
    assert "without --token whoever reaches pictures.example.org may" in warned
    assert not (tmp_path / "data").exists()


def test_a_model_that_takes_no_adapter_is_refused_before_anything_starts(tmp_path: Path, random_rdm: Path) -> None:
    """It came to light when somebody first asked for the model."""
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(b"x")
    for flag, name in (("--adapter", "tiny-rdm"), ("--lora", str(random_rdm))):
        models = ("--model", "tiny-knn", "--model", name)
        _, said = run("serve", *models, flag, f"{name}={file}", "--data", str(tmp_path / "data"), expect=2)
        assert "takes no --adapter" in said
        assert said.count("\n") == 1
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "model_index.json").write_text('{"_class_name": "AudioPipeline"}')
    _, said = run("serve", "--model", str(tmp_path / "odd"), "--data", str(tmp_path / "data"), expect=2)
    assert "'AudioPipeline'" in said
    assert not (tmp_path / "data").exists()


def test_errors_name_what_a_request_has_and_no_commands() -> None:
    cases = {
        "generate: give a knowledge base (`kb`), pictures of your own (`reference`), or `k=0` for the prompt alone": (
            "generate: give a knowledge base (knowledge_base), pictures of your own (neighbors), or k=0 for the prompt"
            " alone"
        ),
        "this model does not edit; use tiny-knn, or train one: bowerbird train tiny-knn": (
            "this model does not edit; use tiny-knn, or train one"
        ),
        "the row of id 3 is not as it was written; bowerbird kb verify my-kb names the damaged file": (
            "the row of id 3 is not as it was written"
        ),
        "InstructPipeline edits a picture, and none is given; see bowerbird edit --help": (
            "InstructPipeline edits a picture, and none is given"
        ),
        "pictures of 5 px do not fit it; --num-images is at most 8 with `k=0`": (
            "pictures of 5 px do not fit it; n is at most 8 with k=0"
        ),
        "a.png: 9000 x 9000 pixels is over the cap of 50,000,000; scale it down, or raise `max_pixels`": (
            "a.png: 9000 x 9000 pixels is over the cap of 50,000,000; scale it down"
        ),
        "a StableDiffusion cannot be grounded; bowerbird grounds others": (
            "a StableDiffusion cannot be grounded; bowerbird grounds others"
        ),
    }
    assert {text: errors.for_clients(text) for text in cases} == cases


def test_a_database_that_takes_nothing_more_loses_no_job_silently(
    small_kb_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits is answered, and what runs goes on when there is room again. It ended the worker for good."""

    def full(*parts: Any, **more: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    settings = Settings((str(small_kb_path),), tmp_path / "data", ("tiny-rdm",), drain_seconds=1)
    with web_alone(settings, tmp_path / "sockets", answers=False) as (client, server):
        taken = client.post("/api/generate", {"prompt": "a"}).json["id"]
        with monkeypatch.context() as patched:
            patched.setattr(server.store, "add", full)
            refused = client.post("/api/generate", {"prompt": "b"})
            assert (refused.status, refused.code) == (507, "disk_full")
            assert refused.headers["x-should-retry"] == "false"
            patched.setattr(server.store, "finish", full)
            ended = client.ask("DELETE", f"/api/jobs/{taken}").json
            assert (ended["state"], ended["error"]["code"]) == ("failed", "disk_full")
        assert server.dispatcher.tasks == {}
        assert client.post("/api/generate", {"prompt": "c"}).status == 202


def test_a_clock_that_goes_back_moves_no_job_and_counts_no_time_back(
    small_kb_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings((str(small_kb_path),), tmp_path / "data", ("tiny-rdm",), drain_seconds=1)
    with web_alone(settings, tmp_path / "sockets", answers=False) as (client, server):
        first = client.post("/api/generate", {"prompt": "a"}).json["id"]
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now - 10**6)
        second = client.post("/api/generate", {"prompt": "b"}).json["id"]
        for job in (first, second):
            client.ask("DELETE", f"/api/jobs/{job}")
        assert [job["id"] for job in client.get("/api/jobs").json["jobs"]] == [second, first]
        assert server.dispatcher.retry_after() >= 1
        lines = client.get("/metrics").body.decode().splitlines()
        sums = [float(line.split()[-1]) for line in lines if line.startswith("bowerbird_stage_seconds_sum")]
        assert min(sums) >= 0


def test_a_knowledge_base_that_is_gone_hides_no_other(small_kb_path: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(small_kb_path, tmp_path / name)
    settings = Settings((str(tmp_path / "one"), str(tmp_path / "two")), tmp_path / "data", ("tiny-rdm",))
    with web_alone(settings, tmp_path / "sockets") as (client, _):
        shutil.rmtree(tmp_path / "two")
        one, two = client.get("/api/knowledge-bases").json["knowledge_bases"]
        assert one["error"] is None
        assert one["items"] > 0
        assert (two["id"], two["items"]) == ("two", 0)
        assert two["error"]
        for path in ("", "/items", "/columns", "/versions"):
            answer = client.get(f"/api/knowledge-bases/two{path}")
            assert 400 <= answer.status < 500, (path, answer.status)
            assert str(tmp_path) not in answer.body.decode()
        assert client.get("/api/knowledge-bases/one/items").json["total"] == one["items"]


def test_removals_of_the_same_items_at_once_count_each_of_them_once(small_kb_path: Path, tmp_path: Path) -> None:
    """While others page through: nobody is answered with a fault, and an undo brings all of them back."""
    shutil.copytree(small_kb_path, tmp_path / "kb")
    settings = Settings((str(tmp_path / "kb"),), tmp_path / "data", ("tiny-rdm",))
    with web_alone(settings, tmp_path / "sockets") as (client, _):
        base = "/api/knowledge-bases/kb"
        before = client.get(base).json
        ids = [item["id"] for item in client.get(f"{base}/items?limit=6").json["items"]]

        def remove(number: int) -> Answer:
            return client.post(f"{base}/remove", {"ids": ids[number % 3 : number % 3 + 3]})

        with ThreadPoolExecutor(8) as pool:
            looking = [pool.submit(client.get, f"{base}/items?limit=50&offset={10 * i}") for i in range(12)]
            removing = [pool.submit(remove, number) for number in range(6)]
            removed, looked = [each.result() for each in removing], [each.result() for each in looking]
        assert {answer.status for answer in looked} == {200}
        assert {answer.status for answer in removed} <= {200, 404, 409}, [a.body for a in removed]
        gone = sum(answer.json["removed"] for answer in removed if answer.status == 200)
        assert client.get(base).json["items"] == before["items"] - gone
        assert 3 <= gone <= 5
        assert client.post(f"{base}/restore", {"version": before["version"]}).json["items"] == before["items"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"a"',
        b'{"prompt": "a"',
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "prompt": 3}',
        b'{"prompt": "a", "seed": 1e400}',
        b'{"prompt": "a", "seed": NaN}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "where": "1=1; drop table x --"}',
        b'{"prompt": {"$gt": ""}}',
        b'{"__proto__": {"n": 1}, "prompt": "a"}',
        b'{"prompt": "a", "neighbors": ' + b"[" * 400 + b"]" * 400 + b"}",
    ],
)
def test_a_body_that_is_no_request_is_refused_in_one_line(web: tuple[Client, Server], body: bytes) -> None:
    client, _ = web
    for path in ("/api/generate", "/v1/images/generations", "/api/compare", "/api/knowledge-bases/kb/search"):
        answer = client.ask("POST", path, body)
        assert answer.status in (400, 422), (path, answer.status, answer.body)
        assert "\n" not in answer.json["error"]["message"]
        assert answer.code
