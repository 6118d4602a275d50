"""Pictures by their addresses, asked for only where a person said so: http and https, public addresses, a size cap, a
deadline, many at once."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from bowerbird.data.sources.layout import MOST_BYTES

AT_ONCE, SECONDS = 16, 15.0
Fetched = tuple[bytes, str, str]
"""Bytes, address, and why there are no bytes."""


class _Refused(OSError):
    """An address that is not asked."""


def fetch(urls: Sequence[Any], *, private: bool = False, seconds: float = SECONDS) -> Iterator[Fetched]:
    """What lies at each address, in order, each had within `seconds` or not at all.

    Addresses of this machine and its network are not asked, also where a name or a redirect leads there, unless
    `private`: a table may be a stranger's, and would look at what only this machine can reach.
    """
    under_way: deque[Future[Fetched]] = deque()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for url in urls:
            under_way.append(pool.submit(_fetch, url, private, seconds))
            if len(under_way) > AT_ONCE:  # so many pictures may wait in memory
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _fetch(url: Any, private: bool = False, seconds: float = SECONDS) -> Fetched:
    if not _is_web(url):
        return b"", str(url or ""), "no http or https address"
    until = time.monotonic() + seconds
    lines = (_Web(private, until), _SecureWeb(private, until))
    opener = urllib.request.build_opener(*lines, _Redirects(private))
    watch = threading.Timer(seconds, lambda: [line.cut() for line in lines])
    watch.daemon = True
    watch.start()
    try:
        if not private:
            _check_host(url)
        with opener.open(urllib.request.Request(url, headers={"User-Agent": "bowerbird"}), timeout=seconds) as answer:
            data = answer.read(MOST_BYTES + 1)
            cut = getattr(answer, "length", 0)  # what was promised and did not come
        if len(data) > MOST_BYTES:
            return b"", url, f"over {MOST_BYTES // 1024**2} MB"
        if time.monotonic() > until:
            return b"", url, f"not had within {seconds:g} s"
        return (b"", url, "cut short") if cut else (data, url, "")
    except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
        late = time.monotonic() > until  # the line was cut, which has many names
        return b"", url, f"not had within {seconds:g} s" if late else _reason(error)
    finally:
        watch.cancel()
        for line in lines:
            line.forget()


def _reason(error: Exception) -> str:
    """One short line."""
    inner = error.reason if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception) else error
    return str(inner).splitlines()[0][:160] if str(inner).strip() else type(inner).__name__


def _is_web(url: Any) -> bool:
    return isinstance(url, str) and url.lower().startswith(("http://", "https://"))


def _check_host(url: str) -> None:
    """Raises: _Refused for an address whose host is written as a private one; names are looked at when they are
    connected to, or are a proxy's business."""
    host = urllib.parse.urlsplit(url).hostname or ""
    with suppress(ValueError):
        _check_address(host)
    if host.rstrip(".").lower().endswith("localhost"):
        raise _Refused(_line(host))


def _check_address(text: str) -> None:
    """Raises: _Refused for an address that is not of the public network, ValueError for what is no address."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):  # IPv4 in one of its IPv6 forms
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = address if inner is None else inner
    if not address.is_global or address.is_multicast:
        raise _Refused(_line(text))


def _line(host: str) -> str:
    return f"{host} is of this machine or its network, which is not asked unless you say so with `private_urls`"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects may lead to http and https alone, never to files, other protocols or private addresses."""

    def __init__(self, private: bool) -> None:
        self.private = private

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_web(newurl):
            return None
        if not self.private:
            _check_host(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Lines:
    """Connections to checked addresses, which can all be cut at once: a server that sends a byte now and then never
    lets a read time out."""

    def __init__(self, private: bool, until: float) -> None:
        super().__init__()
        self.private, self.until = private, until
        self.lines: list[socket.socket] = []

    def cut(self) -> None:
        """End every read and write that waits."""
        for line in list(self.lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Close what `cut` would need."""
        for line in self.lines:
            line.close()

    def connect(self, place: tuple[str, int], *, proxy: bool) -> socket.socket:
        """A connection to `place`; the address that was checked is the one that is connected to."""
        failure: OSError = OSError(f"{place[0]}: has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(*place, type=socket.SOCK_STREAM):
            if not self.private and not proxy:
                _check_address(str(address[0]))
            line = socket.socket(family, kind, protocol)
            self.lines.append(line.dup())  # TLS takes the socket itself away
            try:
                line.settimeout(max(0.01, self.until - time.monotonic()))
                line.connect(address)
                return line
            except OSError as error:
                failure = error
                line.close()
        raise failure


class _Web(_Lines, urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_connection(http.client.HTTPConnection, self, req), req)


class _SecureWeb(_Lines, urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_connection(http.client.HTTPSConnection, self, req), req)


def _connection(kind: type[http.client.HTTPConnection], lines: _Lines, req: urllib.request.Request) -> Any:
    """Makes connections of `kind` over `lines`. A proxy is a person's own choice, wherever it is."""
    proxy = req.has_proxy() or bool(getattr(req, "_tunnel_host", None))

    def make(host: str, **options: Any) -> http.client.HTTPConnection:
        made = kind(host, **options)
        made._create_connection = lambda place, *_: lines.connect(place, proxy=proxy)  # type: ignore[attr-defined]
        return made

    return make
