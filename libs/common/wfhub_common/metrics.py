"""Metrics of a process, in Prometheus' text form; docs/metrics.md lists those of every service.

One registry a process. A label has few values: states, kinds, our own codes; never an id, a model
or a project, which others name. What somebody else may word (a reason) goes through `Bounded`.
Served on a port of its own, METRICS_LISTEN, when that is set: for the operator, on a network that
agents do not reach. Counting costs about a microsecond and is never awaited.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from wfhub_common import service
from wfhub_common.log import get_logger

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
VALUES_MAX = 64  # of a label that others word; what comes later is `other`
OTHER = "other"
LOOK_UP_EVERY_S = 5.0
LOOK_UP_S_MAX = 3.0  # a scrape waits for 10 s by default
FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
SLOW_S = (0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600, 14_400)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, unasked for
log = get_logger(__name__)

_WORD = re.compile(r"[a-z0-9][a-z0-9:._-]{0,62}\Z")


class Metrics:
    """A service's metrics; `prefix` begins each name."""

    def __init__(self, prefix: str) -> None:
        self.registry = CollectorRegistry()
        self._prefix = prefix
        self._look: Callable[[], Awaitable[None]] | None = None
        self._looking = asyncio.Lock()
        self._look_again_at = 0.0  # monotonic

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(self._prefix + name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(self._prefix + name, text, labels, registry=self.registry)

    def histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = FAST_S
    ) -> Histogram:
        return Histogram(self._prefix + name, text, labels, buckets=buckets, registry=self.registry)

    def watch(self, name: str, text: str, now: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(self._prefix + name, text, registry=self.registry).set_function(now)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def look_up(self, look: Callable[[], Awaitable[None]]) -> None:
        """`look` sets gauges that have to be asked for, of a database say: before a scrape, and
        not more often than each LOOK_UP_EVERY_S. One that fails leaves them as they were."""
        self._look = look
        text = "Scrapes for which figures could not be looked up: those are old."
        self._failures = self.counter("lookup_failures", text)

    async def refresh(self) -> None:
        if self._look is None:
            return
        async with self._looking:
            if time.monotonic() < self._look_again_at:
                return
            try:
                async with asyncio.timeout(LOOK_UP_S_MAX):
                    await self._look()
            except Exception as e:  # noqa: BLE001 - an outage must not take the other figures along
                self._failures.inc()
                log.warning("metrics not looked up", why=repr(e)[:300])
            self._look_again_at = time.monotonic() + LOOK_UP_EVERY_S


class Bounded:
    """Words of others as values of a label: the first VALUES_MAX that look like a code."""

    def __init__(self) -> None:
        self._known: set[str] = {""}

    def __call__(self, word: str) -> str:
        if word in self._known:
            return word
        if len(self._known) > VALUES_MAX or not _WORD.match(word):
            return OTHER
        self._known.add(word)
        return word


async def serve(metrics: Metrics, address: str, stop: service.Stop) -> None:
    """GET /metrics at `address` until `stop`; at once done where there is none."""
    if address:
        await service.serve_http(app(metrics), address, stop, setting="METRICS_LISTEN")


def app(metrics: Metrics) -> Callable[..., Awaitable[None]]:
    """An ASGI app with that one path. Not for agents, whose relays add a token to all they ask."""

    async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in ("startup", "shutdown"):
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
            return
        if scope["type"] != "http":
            return
        status, body = await _answered(metrics, scope)
        headers = [(b"content-type", CONTENT_TYPE.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


async def _answered(metrics: Metrics, scope: dict[str, Any]) -> tuple[int, bytes]:
    if scope["path"] != "/metrics":
        return 404, b"only /metrics is here\n"
    if scope["method"] not in {"GET", "HEAD"}:
        return 405, b"use GET\n"
    if any(name == b"authorization" for name, _ in scope["headers"]):
        return 403, b"metrics are for the operator: ask without a token\n"
    await metrics.refresh()
    return 200, metrics.text()
