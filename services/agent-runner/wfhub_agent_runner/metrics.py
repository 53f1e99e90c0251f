"""Metrics of a runner, and the phases of its attempts, which are spans too; docs/metrics.md lists
them. Sandboxes do not reach where they are served: they have no network of this machine's.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from wfhub_common import messages, metrics, tracing

from wfhub_agent_runner.gitwork import eviction
from wfhub_agent_runner.sandbox import port
from wfhub_agent_runner.spool import Spool

PREFIX = "wfhub_runner_"
P = ParamSpec("P")
T = TypeVar("T")


class Metrics(metrics.Metrics):
    def __init__(self) -> None:
        super().__init__(PREFIX)
        self._reason = metrics.Bounded()
        self._running = self.gauge("attempts", "Attempts at work now.", "kind")
        self._ended = self.counter(
            "attempts_ended", "What attempts came to.", "kind", "outcome", "reason"
        )
        self._phases = self.histogram(
            "phase_seconds", "Of the parts of attempts.", "phase", buckets=metrics.SLOW_S
        )
        self._sandboxes = self.counter("sandbox_runs", "Sandboxes, by how they ended.", "outcome")
        self._verdicts = self.counter("verdicts", "Of verifications.", "status")
        self._lost = self.counter("leases_lost", "Attempts that the scheduler gave to others.")
        self._kept = self.gauge("kept_bytes", "What is kept for later attempts.", "what")

    @contextmanager
    def at_work(self, assignment: messages.Assignment) -> Iterator[None]:
        running = self._running.labels(assignment.kind.value)
        running.inc()
        try:
            yield
        finally:
            running.dec()

    @contextmanager
    def phase(self, name: str, **about: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            with tracing.span(name, **about):
                yield
        finally:
            self._phases.labels(name).observe(time.monotonic() - began)

    def ended(self, kind: messages.UnitKind, complete: messages.Complete) -> None:
        reason = self._reason(complete.reason)
        self._ended.labels(kind.value, complete.outcome.value, reason).inc()

    def lost(self) -> None:
        self._lost.inc()

    def verified(self, status: messages.VerdictStatus) -> None:
        self._verdicts.labels(status.value).inc()

    def ran(self, outcome: port.Outcome) -> None:
        """By the kind of outcome: a limit by its name, a signal or exit code without its number."""
        match outcome:
            case port.LimitExceeded(name=name):
                word = f"limit:{name}"
            case port.Exited(code):
                word = "exited" if code == 0 else "exited-with-error"
            case _:
                word = type(outcome).__name__.lower()
        self._sandboxes.labels(word).inc()

    def observe(self, home: Path, spool: Spool, *, slots: int, paused: Callable[[], bool]) -> None:
        """What is looked up at a scrape."""
        self.watch("slots", "Attempts that may be at work at once.", lambda: slots)
        self.watch("paused", "1: a probe got out of the sandbox, no task is taken.", paused)
        self.watch("disk_free_bytes", "Free below RUNNER_HOME.", lambda: eviction.free_bytes(home))
        waiting = "Artifacts that have no receipt yet."
        self.watch("spooled", waiting, lambda: sum(1 for _ in spool.waiting()))

        async def look() -> None:
            kept = await asyncio.to_thread(eviction.kept, home)
            for what in ("trees", "setups", "mirrors"):
                self._kept.labels(what).set(sum(k.bytes for k in kept if _is(k.path, what)))

        self.look_up(look)


def _is(path: Path, what: str) -> bool:
    return what in {path.parent.name, path.parent.parent.name}


class _HasParts(Protocol):
    @property
    def metrics(self) -> Metrics: ...


S = TypeVar("S", bound=_HasParts)


def phase(
    name: str,
) -> Callable[
    [Callable[Concatenate[S, P], Awaitable[T]]], Callable[Concatenate[S, P], Awaitable[T]]
]:
    """A method that is a phase of its attempt."""

    def decorated(
        method: Callable[Concatenate[S, P], Awaitable[T]],
    ) -> Callable[Concatenate[S, P], Awaitable[T]]:
        @wraps(method)
        async def measured(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            with self.metrics.phase(name):
                return await method(self, *args, **kwargs)

        return measured

    return decorated


@contextmanager
def traced_as(assignment: messages.Assignment) -> Iterator[None]:
    """The span of an attempt, below its task's."""
    parent = tracing.parsed(assignment.traceparent)
    if not parent:
        yield
        return
    about = {"task_id": assignment.task_id, "attempt_id": assignment.attempt_id}
    with tracing.within(parent), tracing.span(f"attempt {assignment.kind.value}", **about):
        yield


class CountedSandbox:
    """A sandbox whose runs are counted."""

    def __init__(self, sandbox: port.Sandbox, counts: Metrics) -> None:
        self._sandbox, self._counts = sandbox, counts

    @property
    def interpreter(self) -> tuple[str, ...]:
        return self._sandbox.interpreter

    @property
    def scratch(self) -> Path:
        return self._sandbox.scratch

    async def run(
        self, spec: port.SandboxSpec, *, on_output: port.OnOutput, cancel: asyncio.Event
    ) -> port.SandboxResult:
        result = await self._sandbox.run(spec, on_output=on_output, cancel=cancel)
        self._counts.ran(result.outcome)
        return result

    def describe(self, image: str = "") -> dict[str, Any]:
        return self._sandbox.describe(image)
