"""Addresses are asked for a bounded time, and never those that only this machine can reach."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from bowerbird.data.sources import urls
from tests.faults.plain import picture


class Server(http.server.BaseHTTPRequestHandler):
    """Sends a picture, drips, or leads elsewhere, by the path."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/drip-head":
            self.flush_headers()
            self._drip(b"X-Filler: 1\r\n")
            return
        data = picture(1)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.path == "/drip":
            self._drip(b"x")
        else:
            self.wfile.write(data)

    def _drip(self, piece: bytes) -> None:
        pause = threading.Event()
        try:
            for _ in range(600):
                self.wfile.write(piece)
                self.wfile.flush()
                pause.wait(0.02)
        except OSError:
            pass


@pytest.fixture
def place() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_dripped_bytes_and_dripped_headers_end_at_the_deadline(place: str) -> None:
    found = list(urls.fetch([f"{place}/drip", f"{place}/drip-head"], private=True, seconds=0.5))
    assert [(data, problem) for data, _, problem in found] == [(b"", "not had within 0.5 s")] * 2


def test_pictures_come_in_order_and_private_addresses_only_where_allowed(place: str) -> None:
    asked = [f"{place}/a", "file:///etc/passwd", f"{place}/to/{place}/b", f"{place}/to/file:///etc/passwd"]
    found = list(urls.fetch(asked, private=True))
    assert [data for data, _, _ in found] == [picture(1), b"", picture(1), b""]
    assert [url for _, url, _ in found] == asked
    refused = list(urls.fetch(asked[:1]))
    assert refused[0][0] == b""
    assert "127.0.0.1 is of this machine or its network" in refused[0][2]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",  # where clouds keep their credentials
        "192.168.0.1",
        "0.0.0.0",
        "100.64.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "224.0.0.1",
    ],
)
def test_private_addresses(address: str) -> None:
    with pytest.raises(OSError, match="this machine or its network"):
        urls._check_address(address)


def test_public_addresses_pass() -> None:
    for address in ("93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"):
        urls._check_address(address)


def test_names_and_redirects_to_private_addresses_are_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public name may lead here; the address is looked at when it is connected to, not only before."""
    port = int(place.rpartition(":")[2])
    asked = []

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(urls.socket, "getaddrinfo", resolve)
    for url in (f"http://pictures.example:{port}/a", f"http://2130706433:{port}/a", f"http://localhost:{port}/a"):
        assert "this machine or its network" in urls._fetch(url)[2]
    assert asked == ["pictures.example", "2130706433"]
    handler = urls._Redirects(private=False)
    with pytest.raises(OSError, match="this machine or its network"):
        handler.redirect_request(None, None, 302, "", {}, "http://169.254.169.254/latest")  # type: ignore[arg-type]
