"""Pictures by their addresses, asked for only where a person said so: http and https, a size cap, a time limit, many
at once."""

from __future__ import annotations

import http.client
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bowerbird.data.sources.archive import MOST_BYTES

URL = "url"
AT_ONCE, SECONDS = 16, 15.0


class _SameKind(urllib.request.HTTPRedirectHandler):
    """Redirects may lead to http and https alone, never to files or other protocols."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        return super().redirect_request(req, fp, code, msg, headers, newurl) if _is_web(newurl) else None


def fetch(urls: Sequence[Any]) -> Iterator[tuple[bytes, str]]:
    """`(bytes, address)` of each address, in order; no bytes where it cannot be had, which is then reported like any
    unreadable picture."""
    under_way: deque[Future[tuple[bytes, str]]] = deque()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for url in urls:
            under_way.append(pool.submit(_fetch, url))
            if len(under_way) >= 2 * AT_ONCE:  # so many pictures may wait in memory
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _is_web(url: Any) -> bool:
    return isinstance(url, str) and url.lower().startswith(("http://", "https://"))


def _fetch(url: Any) -> tuple[bytes, str]:
    if not _is_web(url):
        return b"", str(url or "")
    opener, until = urllib.request.build_opener(_SameKind), time.monotonic() + SECONDS
    try:
        with opener.open(urllib.request.Request(url, headers={"User-Agent": "bowerbird"}), timeout=SECONDS) as answer:
            data = bytearray()
            while piece := answer.read(65_536):
                data += piece
                if len(data) > MOST_BYTES or time.monotonic() > until:  # too large, or sent in drops
                    return b"", url
            cut = getattr(answer, "length", 0)  # what was promised and did not come
            return (b"" if cut else bytes(data)), url
    except (OSError, ValueError, http.client.HTTPException):
        return b"", url
