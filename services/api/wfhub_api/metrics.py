"""Metrics of the API, and the edge that counts requests; docs/metrics.md lists them.

An operation is a route's name (`submit_task`); what led to none is `unmatched`.
"""

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from wfhub_common import metrics

PREFIX = "wfhub_api_"
UNMATCHED = "unmatched"


class Metrics(metrics.Metrics):
    def __init__(self) -> None:
        super().__init__(PREFIX)
        self._requests = self.counter(
            "requests", "Requests that were answered, by their status.", "operation", "status"
        )
        self._seconds = self.histogram(
            "request_seconds", "From a request's head to its answer's head.", "operation"
        )

    def answered(self, operation: str, status: int, seconds: float) -> None:
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)


class Counted:
    """The outermost part of the edge."""

    def __init__(self, app: ASGIApp, counts: Metrics) -> None:
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = time.monotonic() - began
                self._counts.answered(_operation(scope), message["status"], seconds)
            await send(message)

        await self._app(scope, receive, counted)


def _operation(scope: Scope) -> str:
    route: Any = scope.get("route")  # set while it is routed
    return str(getattr(route, "name", UNMATCHED))
