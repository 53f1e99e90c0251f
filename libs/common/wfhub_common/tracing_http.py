"""Traces over HTTP: an ASGI layer that takes a request's `traceparent` in, and makes its span.

Put it behind whatever admits a request: a stranger's header joins no trace of ours.
"""

from collections.abc import Callable
from typing import Any

from wfhub_common import tracing

READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Traced:
    """`spans`: a span for each request that changes something, or names its trace; a read that
    names none has none. Otherwise the trace is only passed on.

    A request that names none is in none: a server may read it in the context of the one before it
    on the same connection."""

    def __init__(self, app: Callable[..., Any], *, spans: bool = True) -> None:
        self._app = app
        self._spans = spans

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        parent = _parent(scope)
        if not self._spans or not tracing.on() or (scope["method"] in READS and not parent):
            with tracing.within(parent):
                await self._app(scope, receive, send)
            return
        with tracing.within(parent), tracing.span(scope["method"], tracing.SERVER) as span:

            async def seen(message: Any) -> None:
                if message["type"] == "http.response.start":
                    span.note(http_response_status=message["status"])
                    if message["status"] >= 500:
                        span.failed(str(message["status"]))
                await send(message)

            await self._app(scope, receive, seen)
            route = getattr(scope.get("route"), "path", "")
            span.name(f"{scope['method']} {route}".rstrip())
            span.note(http_route=route, http_method=scope["method"])


def _parent(scope: Any) -> str:
    for name, value in scope["headers"]:
        if name == b"traceparent":
            return tracing.parsed(value.decode("latin-1"))
    return ""
