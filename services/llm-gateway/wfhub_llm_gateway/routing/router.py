"""The provider that asks others: deployments of a route, its fallbacks, all again after a wait.

A route's deployments are asked one after the other, in an order drawn by weight; those whose
circuit is open are left out, those that are full come last. When none answered: the routes that it
falls back to for that reason, else the same ones again after a wait. In all `attempts_max` servers
are asked, and what comes of the last is what the client gets. Nothing is tried again once the
first byte of an answer's body is there (servers.py).
Raises: Rejected (`model-unknown`, 404), UpstreamFailed (`no-deployment`, 503), what servers raise.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from wfhub_common.errors import Rejected
from wfhub_common.log import get_logger
from wfhub_common.model_paths import Format

from wfhub_llm_gateway.formats.asked import Asked, UpstreamFailed
from wfhub_llm_gateway.provider import Answer, Provider
from wfhub_llm_gateway.routing import backoff, choice, reasons
from wfhub_llm_gateway.routing.breaker import CircuitBreaker
from wfhub_llm_gateway.routing.config import FALLBACK_DEPTH_MAX, Deployment, Route, Routes
from wfhub_llm_gateway.routing.servers import Failure, Server

TRIES_NOTED_MAX = 3

log = get_logger(__name__)


@dataclass
class _Journey:
    """Of one request: where it is, and what it has met."""

    asked: Asked
    attempt_id: str
    name: str
    route: Route
    left: int
    stack: AsyncExitStack
    been: set[str] = field(default_factory=set)  # routes
    waits: int = 0
    last: Failure | None = None
    tries: list[str] = field(default_factory=list)


class Router:
    name = "routed"
    replayed = False
    note = ""
    speaks: tuple[Format, ...] = get_args(Format)

    def __init__(
        self,
        routes: Routes,
        providers: Mapping[str, Provider],
        *,
        clock: Callable[[], float] = time.monotonic,
        luck: Callable[[], float] = random.random,
    ) -> None:
        self._routes, self._clock, self._luck = routes, clock, luck
        self._servers = {
            name: Server(name, providers[name], config.concurrency)
            for name, config in routes.providers.items()
        }
        self._breakers: dict[tuple[str, str, str], CircuitBreaker] = {}

    @asynccontextmanager
    async def ask(self, asked: Asked, *, attempt_id: str) -> AsyncIterator[Answer]:
        name, route = self._find(asked.model)
        async with AsyncExitStack() as stack:
            left = self._routes.retries_of(route).attempts_max
            journey = _Journey(asked, attempt_id, name, route, left, stack, {name})
            answer = await self._travel(journey)
            yield replace(answer, tries=tuple(journey.tries[-TRIES_NOTED_MAX:]))

    def _find(self, model: str) -> tuple[str, Route]:
        found = self._routes.find(model)
        if found is None:
            known = ", ".join(sorted(self._routes.routes))
            raise Rejected(
                "model-unknown", f"no route is called {model!r}; there is: {known}", status=404
            )
        return found

    async def _travel(self, journey: _Journey) -> Answer:
        while True:
            answer = await self._over_deployments(journey)
            if answer is not None:
                return answer
            if not (self._fall_back(journey) or await self._waited(journey)):
                break
        last = journey.last
        if last is None:
            raise UpstreamFailed(
                "no-deployment",
                f"all deployments of {journey.name!r} failed a moment ago and are left alone for "
                "a while; ask again",
                status=503,
            )
        if isinstance(last.came, UpstreamFailed):
            raise last.came
        return last.came

    async def _over_deployments(self, journey: _Journey) -> Answer | None:
        """Each of the route's once."""
        left = choice.in_order(journey.route.deployments, self._luck)
        while journey.left > 0 and (deployment := self._next(journey, left)) is not None:
            left.remove(deployment)
            journey.left -= 1
            breaker = self._breaker(journey, deployment)
            breaker.asked(self._clock())
            server = self._servers[deployment.provider]
            asked = replace(journey.asked, model=deployment.model or journey.name)
            came = await server.ask(journey.stack, asked, attempt_id=journey.attempt_id)
            if not isinstance(came, Failure):
                breaker.answered()
                return came
            if reasons.blames_server(came.reason):
                breaker.failed(self._clock())
            else:
                breaker.answered()
            journey.last = came
            journey.tries.append(f"{server.name} {came.reason}")
            log.warning(
                "deployment did not answer",
                route=journey.name,
                provider=server.name,
                reason=came.reason,
                attempt_id=journey.attempt_id,
            )
            if not reasons.same_server_again(came.reason):
                break  # the others have the same model
        return None

    def _next(self, journey: _Journey, left: list[Deployment]) -> Deployment | None:
        now = self._clock()
        ready = [each for each in left if self._breaker(journey, each).allows(now)]
        free = [each for each in ready if not self._servers[each.provider].full]
        return next(iter(free or ready), None)

    def _breaker(self, journey: _Journey, deployment: Deployment) -> CircuitBreaker:
        at = (journey.name, deployment.provider, deployment.model)
        if at not in self._breakers:
            config = self._routes.breaker_of(journey.route)
            self._breakers[at] = CircuitBreaker(config.failures, config.open_s)
        return self._breakers[at]

    def _fall_back(self, journey: _Journey) -> bool:
        reason = "failed" if journey.last is None else journey.last.reason
        if journey.left <= 0 or len(journey.been) >= FALLBACK_DEPTH_MAX:
            return False
        for name in choice.fallbacks(journey.route, reason):
            if name not in journey.been:
                journey.been.add(name)
                journey.name, journey.route = name, self._routes.routes[name]
                return True
        return False

    async def _waited(self, journey: _Journey) -> bool:
        """True: it is worth asking the same ones again."""
        last = journey.last
        if journey.left <= 0 or last is None or not reasons.same_server_again(last.reason):
            return False
        retries = self._routes.retries_of(journey.route)
        wait_s = backoff.wait_s(retries, journey.waits, last.retry_after_s, self._luck())
        if wait_s is None:
            return False
        journey.waits += 1
        await asyncio.sleep(wait_s)
        return any(
            self._breaker(journey, each).allows(self._clock()) for each in journey.route.deployments
        )

    def candidates(self, model: str) -> list[tuple[str, str]]:
        found = self._routes.find(model)
        if found is None:
            return []
        return [
            (deployment.provider, deployment.model or name)
            for name, route in choice.reachable(self._routes, *found)
            for deployment in route.deployments
        ]

    async def models(self) -> list[dict[str, Any]]:
        names = [*self._routes.routes, *self._routes.by_alias]
        listed = [
            {"id": name, "object": "model", "created": 0, "owned_by": "wfhub"} for name in names
        ]
        if self._routes.default_provider is not None:
            own = await self._servers[self._routes.default_provider].provider.models()
            listed += [model for model in own if model["id"] not in names]
        return listed

    def forget(self, attempt_id: str) -> None:
        for server in self._servers.values():
            server.provider.forget(attempt_id)

    async def close(self) -> None:
        for server in self._servers.values():
            await server.provider.close()
