"""Edge: what happens to every request before a handler sees it, outermost first.

1. security headers on every response; 2. a valid token, or 401 (health checks and the web page's
files excepted); 3. a line in the log for each request that may change something: who, what, answer;
4. the body read up to REQUEST_BYTES_MAX, or 413 (a little more is read then, and dropped).
Plain ASGI, so that event streams pass through unbuffered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from wfhub_common import problems
from wfhub_common.errors import WfhubError
from wfhub_common.log import get_logger

REQUEST_BYTES_MAX = 1024 * 1024  # what fits into a message to the scheduler, JSON-escaped
DROPPED_BYTES_MAX = 4 * REQUEST_BYTES_MAX
DROPPED_WAIT_S = 2.0
OPEN_PATHS = frozenset({"/healthz", "/readyz"})

PATH_CHARS_MAX = 300  # in the log
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
log = get_logger(__name__)

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class SecurityHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class Authenticated:
    """`caller_of(Authorization header)` names who holds a live token; it is put into the scope.
    `also_open`: paths that need none, each as it is."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        caller_of: Callable[[str | None], Awaitable[str | None]],
        also_open: Collection[str] = (),
    ) -> None:
        self._app = app
        self._open = OPEN_PATHS.union(also_open)
        self._caller_of = caller_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._caller_of(Headers(scope=scope).get("authorization"))
        except WfhubError as e:
            await problems.of_error(e)(scope, receive, send)
            return
        if caller is None:
            refused = problems.problem(
                401,
                "unauthenticated",
                "send a valid token: `Authorization: Bearer wht_…`",
                headers={"WWW-Authenticate": "Bearer"},
            )
            await refused(scope, receive, send)
            return
        scope["wfhub_caller"] = caller
        if scope["method"] in _READS:
            await self._app(scope, receive, send)
        else:
            await _noted(self._app, scope, receive, send)


async def _noted(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Of one that was cut off before it was answered, `status` is 0: it may have been done."""
    status = 0

    async def seen(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        await app(scope, receive, seen)
    finally:
        path = scope["path"][:PATH_CHARS_MAX]
        by = scope["wfhub_caller"]
        log.info("request", by=by, method=scope["method"], path=path, status=status)


class BodyLimit:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READS:
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > REQUEST_BYTES_MAX:
            await _too_large(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > REQUEST_BYTES_MAX:
                await _too_large(scope, receive, send)
                return
        if not _is_utf8(body):
            refused = problems.problem(422, "body-not-utf8", "the body has to be JSON in UTF-8")
            await refused(scope, receive, send)
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)


def _is_utf8(body: bytearray) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    # To close with bytes unread resets the connection, and the sender never sees the answer.
    dropped, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(DROPPED_WAIT_S):
            while more and dropped < DROPPED_BYTES_MAX:
                message = await receive()
                dropped += len(message.get("body", b""))
                more = message.get("more_body", False)
    refused = problems.problem(
        413,
        "request-too-large",
        f"the body may have {REQUEST_BYTES_MAX} bytes; put long texts into the repository",
        headers={"Connection": "close"},
        limit_bytes=REQUEST_BYTES_MAX,
    )
    await refused(scope, receive, send)
