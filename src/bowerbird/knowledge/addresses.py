"""Pictures by their addresses, asked for only where a person said so: http and https, a size cap, a time limit, many at once."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bowerbird.knowledge.archives import MOST_BYTES

URL = "url"
AT_ONCE, SECONDS = 16, 15.0


class _SameKind(urllib.request.HTTPRedirectHandler):
    """Redirects may lead to http and https alone, never to files or other protocols."""

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> urllib.request.Request | None:
        return super().redirect_request(req, fp, code, msg, headers, newurl) if _is_web(newurl) else None


def fetched(urls: Sequence[Any]) -> Iterator[tuple[bytes, str]]:
    """`(bytes, address)` of each address, in order; no bytes where it cannot be had, which is then reported like any unreadable picture."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(_fetch, urls)


def _is_web(url: Any) -> bool:
    return isinstance(url, str) and url.lower().startswith(("http://", "https://"))


def _fetch(url: Any) -> tuple[bytes, str]:
    if not _is_web(url):
        return b"", str(url or "")
    opener = urllib.request.build_opener(_SameKind)
    try:
        with opener.open(urllib.request.Request(url, headers={"User-Agent": "bowerbird"}), timeout=SECONDS) as answer:
            data = answer.read(MOST_BYTES + 1)
            return (data if len(data) <= MOST_BYTES else b""), url
    except (OSError, ValueError, urllib.error.URLError):
        return b"", url
