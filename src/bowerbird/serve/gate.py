"""What every request passes before a route sees it: who may ask (Host, Origin, token), how much may come and how
slowly; and what is written of it: one line of JSON, counters, headers.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.responses import RedirectResponse

from bowerbird.serve.context import Server
from bowerbird.serve.errors import Refused
from bowerbird.serve.pictures import is_signed

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

COOKIE = "bowerbird_session"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = ("", "/", "/health", "/ready", "/api/session", "/favicon.ico")
"""Routes that want no token: they tell nothing."""
QUEUED: tuple[str, ...] = ("/api/generate", "/api/edit", "/api/compare", "/api/check", "/api/regenerate")
QUEUED += ("/v1/images/generations", "/v1/images/edits")
"""Routes that put a job into the queue."""
DRAIN_BYTES, DRAIN_SECONDS = 64 * 2**20, 5.0
"""How much of a body that is refused is still read, so that its sender gets to hear why."""
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " font-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
_SIGNED = re.compile(r"/api/images/(?P<image>img_[0-9a-f]{24})/file")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ABSOLUTE = re.compile(r"https?://([^/]*)(/.*)?", re.IGNORECASE | re.DOTALL)
_access = logging.getLogger("bowerbird.serve.access")


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: Any, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        visit = _Visit(scope, self.server)
        try:
            if visit.addressed not in (None, visit.headers.get("host", "").lower()):
                raise Refused(400, "the address and the Host header name two servers", code="host_not_allowed")
            check(self.server, scope, visit.path, visit.headers)
            if scope["method"] == "POST" and visit.path in QUEUED:  # before a body is read and looked at
                self.server.dispatcher.check_room()
            visit.expect_body()
            app = self.app if visit.path else RedirectResponse(scope["root_path"] + "/", 307)
            await app(scope, visit.receiving(receive), visit.sending(receive, send))
        except Refused as refused:
            if visit.status:
                raise
            await visit.refuse(refused, receive, send)
        finally:
            visit.write_down()


class _Visit:
    """One request."""

    def __init__(self, scope: Message, server: Server) -> None:
        self.scope, self.server, self.limits = scope, server, server.settings.limits
        self.headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        given = self.headers.get("x-request-id", "")
        self.id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = self.id
        self.addressed = without_address(scope)
        self.path = below_root(scope, server.settings.root_path)
        self.started, self.status, self.sent, self.received = time.monotonic(), 0, 0, 0
        self.code = ""

    @property
    def most(self) -> int:
        """Bytes that the body may have."""
        form = self.headers.get("content-type", "").startswith("multipart/")
        if not form:
            return self.limits.json_bytes
        one = self.path in ("/api/uploads", "/api/records", "/api/regenerate")
        return self.limits.picture_bytes + 2**16 if one else self.limits.upload_bytes

    def expect_body(self) -> None:
        """Raises: Refused for one that says it is too long, or is compressed: how much it holds nobody could tell."""
        if self.headers.get("content-encoding", "identity").strip().lower() != "identity":
            text = "the body has a Content-Encoding; send it as it is"
            raise Refused(400, text, code="encoded_body")
        length = self.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.most:
            raise self._too_long()

    def _too_long(self) -> Refused:
        return Refused(413, f"the body is longer than {self.most:,} bytes; send less", code="too_large")

    def receiving(self, receive: Receive) -> Receive:
        """`receive`, with a limit on bytes and on the time that is spent waiting for them: what a busy server spends on
        those that came is not counted."""
        whole, waited = False, 0.0

        async def counted() -> Message:
            nonlocal whole, waited
            if whole:
                return await receive()
            # who sends keeps getting time: half a megabyte a second is little
            left = self.limits.body_seconds + self.received / 2**19 - waited
            began = time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    message = await receive()
            except TimeoutError as error:
                raise Refused(408, "the body did not come in time", code="timeout") from error
            waited += time.monotonic() - began
            if message["type"] == "http.request":
                body = message.get("body", b"")
                self.received += len(body)
                whole = not message.get("more_body", False)
                if self.received > self.most:
                    raise self._too_long()
            return message

        return counted

    def sending(self, receive: Receive, send: Send) -> Send:
        """`send`, with the headers that every answer has; after a body that is too long it reads on for a little, as
        who is still sending would not hear the answer."""

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._headers(message.get("headers", ()))]
            elif message["type"] == "http.response.body":
                self.sent += len(message.get("body", b""))
                if self.status == 413 and not message.get("more_body", False):
                    await send({**message, "more_body": True})
                    await _drain(receive)
                    message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        return marked

    def _headers(self, given: Any) -> list[tuple[bytes, bytes]]:
        names = {key.lower() for key, _ in given}
        html = any(key.lower() == b"content-type" and value.startswith(b"text/html") for key, value in given)
        found = {
            "x-request-id": self.id,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-resource-policy": "same-origin",
            "cross-origin-opener-policy": "same-origin",
            "x-frame-options": "DENY",
            "content-security-policy": PAGE_POLICY if html else DATA_POLICY,
            # the page's files are asked for again, and answered with 304 while they are the same
            "cache-control": "no-cache" if self.path.startswith("/page/") else "no-store",
        }
        pairs = [(key.encode(), value.encode()) for key, value in found.items()]
        return [(key, value) for key, value in pairs if key not in names]

    async def refuse(self, refused: Refused, receive: Receive, send: Send) -> None:
        """Answer at once."""
        self.code = refused.code
        body = json.dumps(refused.body(self.id)).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.answer_headers()}
        if refused.status in (408, 413):
            headers["connection"] = "close"
        sending = self.sending(receive, send)
        pairs = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
        await sending({"type": "http.response.start", "status": refused.status, "headers": pairs})
        await sending({"type": "http.response.body", "body": body, "more_body": False})

    def write_down(self) -> None:
        """A line for the log, and the counters. What was asked for is nobody's business: no query, no body."""
        route = getattr(self.scope.get("route"), "path", None) or "other"
        spent = time.monotonic() - self.started
        method = self.scope["method"] if self.scope["method"] in METHODS else "other"
        metrics = self.server.metrics
        metrics.count("requests_total", route=route, method=method, status=str(self.status))
        metrics.observe("request_seconds", spent, route=route)
        if self.status >= 400:
            metrics.count("refusals_total", code=self.code or str(self.status))
        line = {
            "time": round(time.time(), 3),
            "request_id": self.id,
            "method": method,
            "route": route,
            "status": self.status,
            "ms": round(spent * 1000, 1),
            "in": self.received,
            "out": self.sent,
            "client": (self.scope.get("client") or ("",))[0],
        }
        _access.info(json.dumps(line))


def without_address(scope: Message) -> str | None:
    """The server that a request names as a proxy is asked, `GET http://host/path` (RFC 9112, section 3.2.2), in lower
    case; None where it names none. From now on `scope` has the path alone."""
    found = _ABSOLUTE.fullmatch(scope["path"])
    if found is None:
        return None
    scope["path"] = found[2] or "/"
    return str(found[1]).lower()


def below_root(scope: Message, root_path: str) -> str:
    """The path of a route, "" for `root_path` itself without its slash. A proxy may have left the root path there, or
    taken it away; from now on `scope` has it, as ASGI wants it, so that addresses are made with it."""
    path: str = scope["path"]
    if root_path and (path == root_path or path.startswith(root_path + "/")):
        path = path.removeprefix(root_path)
    scope["root_path"], scope["path"] = root_path, root_path + path
    return path


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


async def _drain(receive: Receive) -> None:
    read = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while read < DRAIN_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                read += len(message.get("body", b""))
    except TimeoutError:
        return


# -- who may ask -----------------------------------------------------------------------------------------------------


def check(server: Server, scope: Message, path: str, headers: dict[str, str]) -> None:
    """Raises: Refused for a request of a foreign page, to a name that is not ours, or without the token."""
    host = headers.get("host", "")
    if not _host_allowed(server, host):
        raise Refused(403, "this name is not one that is served; see --allow-host", code="host_not_allowed")
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise Refused(403, "requests of other pages are not taken", code="origin_not_allowed")
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not _is_visit(scope, path, headers):
        raise Refused(403, "requests of other pages are not taken", code="origin_not_allowed")
    if server.settings.token is not None and not is_signed_in(server, headers) and not _is_open(server, scope, path):
        raise Refused(401, "give the token: Authorization: Bearer TOKEN", code="invalid_api_key")


def _is_visit(scope: Message, path: str, headers: dict[str, str]) -> bool:
    """Whether somebody follows a link to the page."""
    return scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate" and path in ("", "/")


def _host_allowed(server: Server, host: str) -> bool:
    name = (urlsplit(f"//{host}").hostname or "").lower() if re.fullmatch(r"[\w.:\[\]-]+", host) else ""
    if not name:
        return False
    settings = server.settings
    if name in LOOPBACK or name == settings.host.lower() or name in settings.allowed_hosts:
        return True
    # a page that makes its own name mean this address has no cookie for it, so the token keeps it out
    return settings.host not in LOOPBACK and settings.token is not None and not settings.allowed_hosts


def is_signed_in(server: Server, headers: dict[str, str]) -> bool:
    """Whether a request brings the token, or the cookie that it was given for."""
    token = server.settings.token
    if token is None:
        return True
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode()):
        return True
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return False
    return found is not None and hmac.compare_digest(found.value.encode(), session(server).encode())


def session(server: Server) -> str:
    """What the cookie holds: it proves the token, and is not it."""
    return hmac.new(server.store.key, (server.settings.token or "").encode(), hashlib.sha256).hexdigest()


def _is_open(server: Server, scope: Message, path: str) -> bool:
    if path in OPEN or path.startswith("/page/"):
        return True
    found = _SIGNED.fullmatch(path)
    if found is None or scope["method"] not in ("GET", "HEAD"):
        return False
    query = {key: values[0] for key, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
    until = query.get("expires", "")
    if not (until.isascii() and until.isdecimal() and len(until) < 12):
        return False
    return is_signed(server.store.key, found["image"], query.get("format", ""), int(until), query.get("signature", ""))
