"""In which order a route's deployments are asked, and which route is next. Pure."""

from collections.abc import Callable, Iterator, Sequence

from wfhub_llm_gateway.routing.config import FALLBACK_DEPTH_MAX, Deployment, Route, Routes
from wfhub_llm_gateway.routing.reasons import Reason


def in_order(deployments: Sequence[Deployment], draw: Callable[[], float]) -> list[Deployment]:
    """Each once: drawn by weight, those without weight last, in their own order."""
    weighted = [deployment for deployment in deployments if deployment.weight]
    # Efraimidis and Spirakis: the first of the order is each one with its share of the weight.
    keys = {id(each): draw() ** (1 / each.weight) for each in weighted}
    weighted.sort(key=lambda each: keys[id(each)], reverse=True)
    return weighted + [deployment for deployment in deployments if not deployment.weight]


def fallbacks(route: Route, reason: Reason) -> Iterator[str]:
    """Names of the routes to go to, nearest first: those for the reason, then those for any."""
    yield from route.fallbacks.get(reason, ())
    yield from route.fallbacks.get("any", ())


def reachable(routes: Routes, name: str, route: Route) -> list[tuple[str, Route]]:
    """The route and all that it may fall back to, each once."""
    found = {name: route}
    edge = [route]
    for _ in range(FALLBACK_DEPTH_MAX - 1):
        names = [n for each in edge for several in each.fallbacks.values() for n in several]
        edge = []
        for each in names:
            if each not in found:
                found[each] = routes.routes[each]
                edge.append(found[each])
    return list(found.items())
