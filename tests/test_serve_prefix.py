"""A server below a path of another site: page, API, events and signed addresses through a proxy that takes the path
away, or leaves it there."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from bowerbird.core.errors import BowerbirdError
from bowerbird.serve.context import Server, Settings, read_root_path
from bowerbird.serve.pictures import signed_path
from tests.serving import Client, web_alone

ROOT = "/tools/bowerbird"
TOKEN = "a-token-for-tests"


@contextmanager
def proxy(port: int, *, strips: bool) -> Iterator[int]:
    """What nginx does with `location /tools/bowerbird/`: pieces go through as they come, anything else is 404."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # what comes ends with the connection

        def pass_on(self) -> None:
            if not self.path.startswith(ROOT):
                self.send_error(404)
                return
            path = (self.path.removeprefix(ROOT) or "/") if strips else self.path
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            link.request(self.command, path, body or None, {k: v for k, v in self.headers.items() if k != "Connection"})
            found = link.getresponse()
            self.send_response(found.status)
            for name, value in found.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError), closing(link):
                while piece := found.read1():
                    self.wfile.write(piece)
                    self.wfile.flush()

        do_GET = do_POST = do_PATCH = do_DELETE = pass_on

        def log_message(self, *parts: Any) -> None:
            return None

    site = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.daemon_threads = True
    threading.Thread(target=site.serve_forever, daemon=True).start()
    try:
        yield site.server_address[1]
    finally:
        site.shutdown()
        site.server_close()


@pytest.fixture(scope="module")
def web(small_kb_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Server]]:
    folder = tmp_path_factory.mktemp("prefix")
    settings = Settings((str(small_kb_path),), folder / "data", ("tiny-rdm",), root_path=ROOT, token=TOKEN)
    with web_alone(settings, folder / "sockets") as running:
        yield running


@pytest.mark.parametrize("strips", [True, False])
def test_the_api_gives_addresses_that_lead_through_the_proxy(web: tuple[Client, Server], *, strips: bool) -> None:
    _, server = web
    with proxy(web[0].port, strips=strips) as port:
        site = Client(port, {"Authorization": f"Bearer {TOKEN}"})
        assert site.get("/api/status").status == 404  # of the site, not ours
        item = site.get(f"{ROOT}/api/knowledge-bases/kb/items?limit=1").json["items"][0]
        for name in ("picture", "thumbnail"):
            assert item[name].startswith(f"{ROOT}/api/knowledge-bases/kb/items/")
        assert site.get(item["picture"]).status == 200
        accepted = site.post(f"{ROOT}/api/generate", {"prompt": "red"})
        assert accepted.status == 202
        assert site.get(accepted.headers["location"]).json["id"] == accepted.json["id"]
        events = site.get(f"{accepted.headers['location']}/events")
        assert events.body.startswith(b"event: ")
        signed = signed_path(server.store.key, "img_" + "0" * 24, "png")
        assert Client(port).get(ROOT + signed).code == "image_not_found"  # the signature is good
        assert Client(port).get(f"{ROOT}/api/status").status == 401
        led = Client(port).get(f"{ROOT}/?token={TOKEN}")
        assert (led.status, led.headers["location"]) == (303, f"{ROOT}/")
        assert f"Path={ROOT}/" in led.headers["set-cookie"]
        api = site.get(f"{ROOT}/openapi.json").json
        assert api["servers"] == [{"url": ROOT}]
        assert site.post(f"{ROOT}/v1/images/generations", {"prompt": "red", "size": "9x9"}).status == 400
        for page in (f"{ROOT}/", f"{ROOT}/docs"):
            html = Client(port).get(page) if page.endswith("/") else site.get(page)
            for address in re.findall(r'(?:href|src)="([^"#]+)"', html.body.decode()):
                file = site.get(urljoin(page, address))
                assert file.status == 200, (page, address)
    whole = web[0].get(ROOT)
    assert (whole.status, whole.headers["location"]) == (307, f"{ROOT}/")


def test_the_page_works_below_a_path(web: tuple[Client, Server]) -> None:
    """Signing in, the grid with its pictures, a job with its events: no request leaves the path."""
    from tests.test_page import CHROMIUM, PATIENCE, browsers, expect  # skips where there is no Chromium

    faults: list[str] = []
    asked: list[str] = []
    with proxy(web[0].port, strips=True) as port, browsers.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.route("**/neighbors", lambda route: route.fulfill(json={"version": 1, "k": 0, "neighbors": []}))
        with page.expect_response(re.compile("/items/[0-9]+/thumbnail")) as picture:
            page.goto(f"http://127.0.0.1:{port}{ROOT}/?token={TOKEN}#/collection")
        assert picture.value.status == 200
        page.goto(f"http://127.0.0.1:{port}{ROOT}/#/generate")
        page.locator("#prompt").fill("a whale")
        page.locator("button.big").click()
        expect(page.get_by_role("article", name="Generated: a whale")).to_contain_text(
            "no model here"
        )  # heard by events
        browser.close()
    paths = {url.split(str(port), 1)[1] for url in asked if not url.startswith("data:")}
    assert not [path for path in paths if not path.startswith(f"{ROOT}/")]
    assert [path for path in paths if path.endswith("/events")]
    assert not faults


def test_a_path_that_is_none_is_refused() -> None:
    assert [read_root_path(text) for text in ("", "/", "/bowerbird/", "/a/b.c")] == ["", "", "/bowerbird", "/a/b.c"]
    for wrong in ("bowerbird", "//evil.test", "/a b", "/a/../b", "/%2e", "https://a/b", "/api", "/page/x"):
        with pytest.raises(BowerbirdError, match="root_path"):
            read_root_path(wrong)
