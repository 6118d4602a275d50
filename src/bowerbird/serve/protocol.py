"""HTTP connections that do not come to the point: a request whose head takes too long is answered with 408."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from bowerbird.serve.errors import Refused
from bowerbird.serve.limits import LIMITS


class PatientProtocol(H11Protocol):
    """uvicorn's protocol, with a limit on the time until a request's head is there, and our shape of refusals."""

    header_seconds = LIMITS.header_seconds
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._waiting is None and self.conn.their_state is h11.IDLE:  # the next request of a connection that is kept
            self._wait()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if not self.transport.is_closing() and self.conn.our_state is h11.IDLE:
            message = f"the request did not come within {self.header_seconds:g} s"
            self._refuse(Refused(408, message, code="timeout"))

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP."""
        self._refuse(Refused(400, "this is no HTTP request that can be read", code="invalid_http"))

    def _refuse(self, refused: Refused) -> None:
        body = json.dumps(refused.body(None)).encode()
        headers: list[Any] = [("content-type", "application/json"), ("content-length", str(len(body)))]
        headers += [("connection", "close"), *refused.answer_headers().items()]
        events = [
            h11.Response(status_code=refused.status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        try:
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer is on its way already
            pass
        self.transport.close()
