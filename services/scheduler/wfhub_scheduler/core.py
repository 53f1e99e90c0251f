"""The core every handler is given: one transaction a command, and what is said after its commit.

`Core.commit(work)` runs `work(tx)` in a transaction (again after a deadlock) and then announces
what `tx.after` gathered: a wake-up for claimers, the end of attempts for the gateway. These are
hints: a crash between commit and announcement costs a poll interval, never a result.
Raises: RetryLater when the database is away; whatever `work` raises.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import nats.errors
from faststream.nats import NatsBroker
from sqlalchemy import TextClause
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, subjects, tracing
from wfhub_common.errors import RetryLater, WfhubError
from wfhub_common.grouping import Grouped
from wfhub_common.log import get_logger
from wfhub_common.messages import AttemptEnded, AttemptsEnded
from wfhub_common.sql import Connection, Row

from wfhub_scheduler.metrics import Metrics
from wfhub_scheduler.timing import Timing
from wfhub_scheduler.wakeups import Bell

ENDED_IN_A_HINT_MAX = 1000

log = get_logger(__name__)
T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")


class Leased(NamedTuple):
    """A unit that found its runner, `waited_s` after it was ready."""

    attempt_id: str
    task_id: str
    pool: str
    kind: str
    waited_s: float
    traceparent: str = ""


@dataclass
class After:
    """What to announce once the transaction is committed."""

    units_ready: bool = False
    seal_due: bool = False
    workflow_due: bool = False  # a task of a workflow came to its end
    ended: list[str] = field(default_factory=list)  # attempt ids
    noted: list[tuple[str, ...]] = field(default_factory=list)  # for metrics.after
    leased: list[Leased] = field(default_factory=list)


@dataclass
class Tx:
    connection: Connection
    timing: Timing
    after: After = field(default_factory=After)


@dataclass
class Core:
    engine: AsyncEngine
    broker: NatsBroker
    timing: Timing
    units: Bell = field(default_factory=Bell)  # rung when a unit became ready
    seals: Bell = field(default_factory=Bell)  # rung when a proof is to be asked for
    workflows: Bell = field(default_factory=Bell)  # rung when a task of a workflow ended
    events: Bell = field(default_factory=Bell)  # rung when the outbox may hold new rows
    sweeps: Bell = field(default_factory=Bell)  # never rung: sweeping goes by the clock
    stream_replicas: int = 1
    metrics: Metrics = field(default_factory=Metrics)
    groups: dict[str, Any] = field(default_factory=dict)  # commands that are answered in groups

    async def commit(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        after = After()

        async def run(connection: Connection) -> T:
            nonlocal after
            after = After()
            return await work(Tx(connection, self.timing, after))

        result = await db.retried(self.engine, run)
        try:
            await self._announce(after)
        except Exception:  # it is committed: to look failed would have it done once more
            log.exception("what was committed is not announced: it is found by the next poll")
        return result

    async def single(self, statement: TextClause, values: Mapping[str, Any]) -> Sequence[Row]:
        """One statement that is a transaction, and of which nobody has to be told."""

        async def run(connection: Connection) -> Sequence[Row]:
            return (await connection.execute(statement, values)).all()

        return await db.retried(self.autocommitting, run)

    @cached_property
    def autocommitting(self) -> AsyncEngine:
        """For statements that are a transaction each."""
        return db.autocommitting(self.engine)

    def grouped(
        self,
        name: str,
        work: Callable[["Core", Sequence[Q]], Awaitable[Sequence[A | WfhubError]]],
        *,
        max_items: int,
        at_once: int = 1,
        size: Callable[[Q], int] = lambda _: 1,
    ) -> Grouped[Q, A]:
        """This process's one group of that name, made when it is first asked for."""
        found: Grouped[Q, A] | None = self.groups.get(name)
        if found is None:
            found = Grouped(partial(work, self), max_items=max_items, at_once=at_once, size=size)
            self.groups[name] = found
        return found

    async def _announce(self, after: After) -> None:
        self.events.ring()
        self.metrics.after(after.noted)
        waits_s: dict[tuple[str, str], list[float]] = {}
        for leased in after.leased:
            waits_s.setdefault((leased.pool, leased.kind), []).append(leased.waited_s)
            if leased.traceparent:
                _trace(leased)
        for (pool, kind), each in waits_s.items():
            self.metrics.leased(pool, kind, each)
        if after.seal_due:
            self.seals.ring()
        if after.workflow_due:
            self.workflows.ring()
        if after.units_ready:
            self.units.ring()
            await self._hint(subjects.WAKE, b"")
        for first in range(0, len(after.ended), ENDED_IN_A_HINT_MAX):
            ended = after.ended[first : first + ENDED_IN_A_HINT_MAX]
            if len(ended) == 1:
                one = AttemptEnded(attempt_id=ended[0])
                await self._hint(subjects.CTL_ATTEMPT_ENDED, one.model_dump_json().encode())
            else:
                several = AttemptsEnded(attempt_ids=tuple(ended))
                await self._hint(subjects.CTL_ATTEMPTS_ENDED, several.model_dump_json().encode())

    async def _hint(self, subject: str, body: bytes) -> None:
        if not self.connected:
            return
        try:
            await self.broker.connection.publish(subject, body)
        except (nats.errors.Error, OSError) as e:
            log.info("hint not sent", subject=subject, error=str(e))

    @property
    def connected(self) -> bool:
        try:
            return bool(self.broker.connection.is_connected)
        except Exception:  # noqa: BLE001 - before the first connect FastStream raises its own kind
            return False

    def close(self) -> None:
        """The process stops: long polls answer, loops end. (Cancelling them is not enough: before
        Python 3.12 `wait_for`, which nats-py uses, can lose a cancellation.)"""
        for bell in (self.units, self.seals, self.workflows, self.events, self.sweeps):
            bell.close()


def _trace(leased: Leased) -> None:
    tracing.record(
        f"dispatch {leased.kind}",
        parent=leased.traceparent,
        seconds=leased.waited_s,
        task_id=leased.task_id,
        attempt_id=leased.attempt_id,
        pool=leased.pool,
    )


async def every(
    name: str, bell: Bell, period_s: float, turn: Callable[[], Awaitable[bool]]
) -> None:
    """Until the bell is closed: run `turn` when it rings and each `period_s`, and at once again
    while it answers True (there is more). An error is logged; the next turn is the next try."""
    while not bell.closed:
        ticket = bell.ticket()
        more = False
        try:
            more = await turn()
        except RetryLater as e:
            log.warning("turn put off", turn=name, why=str(e))
        except Exception:
            log.exception("turn failed", turn=name)
        if not more:
            await ticket.wait(period_s)
