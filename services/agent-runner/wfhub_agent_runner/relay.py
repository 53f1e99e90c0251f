"""The relay: an attempt's only way out of its sandbox, a unix socket that leads to the LLM gateway.

The socket is the identity: whoever reaches it speaks as this attempt. The agent's own credentials
are dropped, wherever its format has them (a header, or `?key=`), and the attempt's token is added
here, so the agent never holds it. Bodies pass byte for byte in both directions as they come; only
the paths of wfhub_common.model_paths are passed at all.
Shape: `async with GatewayRelay(…) as relay`; leaving it cuts every open stream. One per attempt.
Errors are JSON that the clients of each format can read; `requests`, `statuses`, `answered` and
`last_error` keep what the runner needs to tell "never reached a model" from the rest.
"""

import asyncio
import contextlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import uvicorn
from wfhub_common import model_paths, tracing
from wfhub_common.log import get_logger
from wfhub_common.service import Server

from wfhub_agent_runner.agents.builtin.errors import said
from wfhub_agent_runner.steering import INBOX_PATH, Inbox

BODY_BYTES_MAX = 32 * 1024 * 1024  # of a request: a long context is a few MiB
CONNECTIONS_MAX = 64
CONNECT_TIMEOUT_S = 10.0
ERROR_CHARS_MAX = 500
SOCKET_BACKLOG = 128

_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
_NOT_FORWARDED = _HOP_BY_HOP | {
    b"host",
    b"expect",
    # The agent's word about who it is:
    b"authorization",
    b"api-key",
    b"x-api-key",
    b"x-goog-api-key",
    b"cookie",
    b"forwarded",
    # And about which trace it belongs to: ours.
    b"traceparent",
    b"tracestate",
    b"baggage",
    # Ours to say:
    model_paths.HAND_IN_HEADER.encode(),
}

log = get_logger(__name__)

Scope = dict[str, Any]


class _Refused(Exception):
    """The relay's own answer to a request."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class GatewayRelay:
    """`socket_path` must not exist, in a folder that only the runner may enter."""

    def __init__(
        self, *, socket_path: Path, gateway_url: str, token: str, inbox: Inbox | None = None
    ) -> None:
        self.socket_path = socket_path
        self.requests = 0
        self.statuses: Counter[int] = Counter()  # answered by the gateway, or by us in its place
        self.last_error = ""
        self.last_status = 0  # of the request that was answered last
        self._last_at = 0.0  # monotonic
        self._gateway_url = gateway_url.rstrip("/")
        self._token = token
        self._traceparent = tracing.current().encode()  # of whoever opens it
        self._inbox = inbox
        self._open: set[asyncio.Task[Any]] = set()
        self._closing = False

    @property
    def answered(self) -> int:
        return sum(count for status, count in self.statuses.items() if 200 <= status < 300)

    def active_at(self) -> float:
        """When (time.monotonic) a request was last open: now, while one is."""
        return time.monotonic() if self._open else self._last_at

    async def __aenter__(self) -> Self:
        self._upstream = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),  # a model may think for long
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            trust_env=False,
            verify=self._gateway_url.startswith("https:"),
            follow_redirects=False,
        )
        self._listener = listen(self.socket_path)
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            http="h11",
            ws="none",
            proxy_headers=False,
            log_config=None,
            log_level="critical",  # it would call every cut stream an error; we say what matters
            access_log=False,
            lifespan="off",
            limit_concurrency=CONNECTIONS_MAX,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cuts every open request; afterwards nobody listens."""
        self._closing = True
        self._server.should_exit = self._server.force_exit = True
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._serving
        self._listener.close()
        self.socket_path.unlink(missing_ok=True)
        await self._upstream.aclose()

    async def _app(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or self._closing:
            return  # not to answer is to refuse
        if scope["path"] == INBOX_PATH and self._inbox is not None:
            # Answered here, and no sign of life: an agent may ask as often as it likes.
            await _send_json(send, 200, self._inbox.shown())
            return
        self.requests += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._answer(scope, receive, send)
        except _Refused as e:
            self._failed(e.status, e.message)
            await _send_error(send, e)
        except Exception:
            log.exception("the relay failed on an agent's request")
            raise
        finally:
            self._open.discard(task)
            self._last_at = time.monotonic()

    async def _answer(self, scope: Scope, receive: Any, send: Any) -> None:
        request = self._request(scope, body := _Body(receive))
        answering = asyncio.create_task(self._forward(request, body, send))
        leaving = asyncio.create_task(body.left())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                await answering
        finally:  # a client that left cancels what it asked for
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    def _request(self, scope: Scope, body: "_Body") -> httpx.Request:
        """Raises: _Refused for what does not lead to a model."""
        path = scope["path"]
        found = model_paths.recognised(path)
        if found is None:
            raise _Refused(404, "not-found", f"this gateway has only {model_paths.SHOWN}")
        if scope["method"] != found.method:
            raise _Refused(405, "method-not-allowed", f"use {found.method} for {path}")
        try:
            target = model_paths.forwarded(path, scope.get("query_string", b""))
        except ValueError as e:
            raise _Refused(400, "bad-query", f"the query cannot be read: {e}") from e
        headers = [(k, v) for k, v in scope["headers"] if k.lower() not in _NOT_FORWARDED]
        headers.append((b"authorization", f"Bearer {self._token}".encode()))
        if self._inbox is not None and found.operation == "generate":
            last_word = self._inbox.last_word()
            if last_word is not None:
                headers.append((model_paths.HAND_IN_HEADER.encode(), last_word.encode()))
        if self._traceparent:
            headers.append((b"traceparent", self._traceparent))
        length = dict(headers).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            raise _Refused(413, "request-too-large", f"the limit is {BODY_BYTES_MAX} bytes")
        if found.method != "POST":
            body.is_none()
        return self._upstream.build_request(
            scope["method"],
            self._gateway_url + target,
            headers=headers,
            content=body.chunks() if found.method == "POST" else None,
        )

    async def _forward(self, request: httpx.Request, body: "_Body", send: Any) -> None:
        try:
            response = await self._upstream.send(request, stream=True)
        except httpx.HTTPError as e:
            if body.too_large:
                message = f"the limit is {BODY_BYTES_MAX} bytes"
                raise _Refused(413, "request-too-large", message) from e
            message = f"the gateway does not answer ({type(e).__name__}); try again"
            raise _Refused(502, "gateway-unreachable", message) from e
        async with contextlib.aclosing(response):
            self.statuses[response.status_code] += 1
            self.last_status = response.status_code
            headers = [(k, v) for k, v in response.headers.raw if k.lower() not in _HOP_BY_HOP]
            await send(
                {
                    "type": "http.response.start",
                    "status": response.status_code,
                    "headers": headers,
                }
            )
            error = b""
            try:
                async for chunk in response.aiter_raw():
                    if response.is_error:
                        error = (error + chunk)[:ERROR_CHARS_MAX]
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except httpx.HTTPError as e:
                # The status is out already: uvicorn closes the connection, and an incomplete body
                # is how the agent learns of it.
                self.last_error = f"the gateway ended a response early: {type(e).__name__}"
                return
            if response.is_error:
                text = said(error.decode(errors="replace"))
                self.last_error = f"{response.status_code}: {text}"
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _failed(self, status: int, message: str) -> None:
        self.statuses[status] += 1
        self.last_status = status
        self.last_error = f"{status}: {message}"
        log.info("agent's request refused", status=status, reason=message)


class _Body:
    """A request's body as it arrives, and whether its sender is still there."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self._complete = asyncio.Event()
        self._gone = asyncio.Event()
        self.too_large = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises: httpx.WriteError when it is cut off or too large; then nothing was sent whole."""
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone.set()
                raise httpx.WriteError("the agent left")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > BODY_BYTES_MAX:
                self.too_large = True
                raise httpx.WriteError("the body is too large")
            if chunk:
                yield chunk
            if not message.get("more_body", False):
                self._complete.set()
                return

    def is_none(self) -> None:
        """The request is one without a body."""
        self._complete.set()

    async def left(self) -> None:
        """Waits until the sender is gone. Reads only after the body was read, not beside it."""
        waits = [asyncio.create_task(e.wait()) for e in (self._complete, self._gone)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        while not self._gone.is_set():
            if (await self._receive())["type"] == "http.disconnect":
                self._gone.set()


def listen(path: Path) -> socket.socket:
    """By way of the folder's descriptor: an address may have 108 bytes only, a path more.
    Raises: OSError."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
    listener.listen(SOCKET_BACKLOG)
    return listener


async def _send_error(send: Any, error: _Refused) -> None:
    # What the clients of all formats look for stands in it: `type` above is the Messages format's.
    inner = {"message": error.message, "type": "wfhub_relay", "code": error.code}
    shape = {"type": "error", "error": inner}
    await _send_json(send, error.status, json.dumps(shape).encode())


async def _send_json(send: Any, status: int, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
