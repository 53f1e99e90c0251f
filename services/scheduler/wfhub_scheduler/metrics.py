"""Metrics of a scheduler; docs/metrics.md lists them.

What this process did is counted, after its commit. What stands in the database is looked up at a
scrape and is the same from each scheduler: take one's word, do not add them up.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, metrics
from wfhub_common.errors import WfhubError
from wfhub_common.sql import Row

PREFIX = "wfhub_scheduler_"

# Each part goes by the index that has just such rows.
_UNITS = text("""
SELECT pool, kind, 'ready' AS state, count(*) AS units,
       extract(epoch FROM now() - min(greatest(created_at, run_at))) AS oldest_s
  FROM sched.unit WHERE state = 'ready' AND due GROUP BY pool, kind
UNION ALL
SELECT pool, kind, 'later', count(*), 0 FROM sched.unit
 WHERE state = 'ready' AND NOT due GROUP BY pool, kind
UNION ALL
SELECT pool, kind, 'leased', count(*), 0 FROM sched.unit WHERE state = 'leased' GROUP BY pool, kind
""")
_UNQUEUED = text("""
SELECT (SELECT count(*) FROM sched.task
         WHERE state IN ('ready', 'blocked') AND state = 'blocked') AS blocked,
       (SELECT count(*) FROM sched.task WHERE state = 'sealing') AS sealing,
       (SELECT count(*) FROM sched.task WHERE state = 'review') AS review
""")
_RELAY = text("""
SELECT r.generation, r.last_pos, r.published_pos,
       (SELECT coalesce(sum(events), 0) FROM sched.event_batch WHERE up_to IS NULL) AS unplaced,
       extract(epoch FROM now() - least(
           (SELECT time FROM sched.event_batch WHERE up_to IS NULL ORDER BY batch_id LIMIT 1),
           (SELECT time FROM sched.event_batch
             WHERE generation = r.generation AND up_to > r.published_pos
             ORDER BY up_to LIMIT 1))) AS oldest_s
  FROM sched.relay r
""")
_LETTERS = text("""
SELECT source, count(*) AS letters FROM sched.dead_letter WHERE state = 'open' GROUP BY source
""")
_RUNNERS = text("""
SELECT CASE WHEN seen_at < now() - make_interval(secs => :ttl_s) THEN 'lost'
            WHEN draining THEN 'draining' ELSE 'active' END AS state, count(*) AS runners
  FROM sched.runner GROUP BY 1
""")
# What a unit is to its task.
_TASK_STATES = {
    ("agent", "ready"): "ready",
    ("agent", "later"): "ready",
    ("agent", "leased"): "running",
    ("publish", "ready"): "publishing",
    ("publish", "later"): "publishing",
    ("publish", "leased"): "publishing",
}


class Metrics(metrics.Metrics):
    def __init__(self) -> None:
        super().__init__(PREFIX)
        self._pool, self._reason = metrics.Bounded(), metrics.Bounded()
        self._requests = self.counter(
            "requests", "Commands that were answered.", "command", "outcome"
        )
        self._claims = self.counter("claims", "Attempts that were leased.", "pool", "kind")
        self._dispatch = self.histogram(
            "dispatch_seconds",
            "From ready, or its run_at, to leased.",
            *("pool", "kind"),
            buckets=metrics.SLOW_S,
        )
        self._attempts = self.counter("attempts_ended", "Ends of attempts.", "kind", "outcome")
        self._retries = self.counter(
            "retries", "Units that are ready again, by why they were not done.", "effect", "reason"
        )
        self._ended = self.counter("tasks_ended", "Tasks that became final.", "state", "reason")
        self._expired = self.counter("lease_expiries", "Attempts that were lost.", "reason")
        self._turns = self.counter("turns", "Turns of what nobody asks for.", "turn", "outcome")
        self._seals = self.counter("seals", "Answers to questions for a proof.", "outcome")
        self._published = self.counter("relay_events", "Events that were put on the stream.")
        self._leads = self.gauge("relay_leads", "1: this scheduler is the relay.")
        self._standing()

    def _standing(self) -> None:
        """What is the database's, not this process's."""
        self._tasks = self.gauge("tasks", "Tasks that have not ended.", "state", "pool")
        self._depth = self.gauge("queue_depth", "Units that wait for a runner.", "pool", "kind")
        self._oldest = self.gauge(
            "queue_oldest_seconds", "For how long the first of them does.", "pool"
        )
        self._backlog = self.gauge("outbox_events", "Events that are not on the stream.")
        self._outbox_age = self.gauge("outbox_oldest_seconds", "Age of the first of them.")
        self._position = self.gauge(
            "relay_position", "Of the last event that has one, or is on the stream.", "what"
        )
        self._generation = self.gauge("relay_generation", "Of the events' positions.")
        self._letters = self.gauge(
            "dead_letters", "Dead letters that wait for a decision.", "source"
        )
        self._runners = self.gauge("runners", "Runners that ever registered.", "state")

    def answered(self, command: str, outcome: str) -> None:
        self._requests.labels(command, outcome).inc()

    def after(self, noted: Sequence[tuple[str, ...]]) -> None:
        """What a committed transaction did: (what, labels…); see core.After."""
        for (what, *of), times in Counter(noted).items():
            match what, of:
                case "attempt", (kind, outcome):
                    self._attempts.labels(kind, outcome).inc(times)
                case "retry", (effect, reason):
                    self._retries.labels(effect, self._reason(reason)).inc(times)
                case "ended", (state, reason):
                    self._ended.labels(state, self._reason(reason)).inc(times)
                case "expired", (reason,):
                    self._expired.labels(reason).inc(times)

    def leased(self, pool: str, kind: str, waits_s: Sequence[float]) -> None:
        """Units of one pool and kind, and how long each was ready."""
        pool = self._pool(pool)
        self._claims.labels(pool, kind).inc(len(waits_s))
        dispatch = self._dispatch.labels(pool, kind)
        for waited_s in waits_s:
            dispatch.observe(max(0.0, waited_s))

    def sealed(self, outcomes: Iterable[str]) -> None:
        """sealed | refused | later, of each question"""
        for outcome, times in Counter(outcomes).items():
            self._seals.labels(outcome).inc(times)

    def published(self, events: int) -> None:
        self._published.inc(events)

    def leads(self, leads: bool) -> None:
        self._leads.set(leads)

    def counted(
        self, name: str, turn: Callable[[], Awaitable[bool]]
    ) -> Callable[[], Awaitable[bool]]:
        """`turn`, counted; its errors go on to who has it run."""

        async def work() -> bool:
            outcome = "failed"
            try:
                more = await turn()
                outcome = "done"
                return more
            except WfhubError:
                outcome = "put-off"
                raise
            finally:
                self._turns.labels(name, outcome).inc()

        return work

    def observe(self, engine: AsyncEngine, *, lease_ttl_s: float) -> None:
        """What is looked up at a scrape."""

        async def look() -> None:
            async with db.transaction(engine) as connection:
                units = (await connection.execute(_UNITS)).all()
                unqueued = (await connection.execute(_UNQUEUED)).one()
                relay = (await connection.execute(_RELAY)).one()
                letters = (await connection.execute(_LETTERS)).all()
                runners = (await connection.execute(_RUNNERS, {"ttl_s": lease_ttl_s})).all()
            self._show_queue(units, dict(unqueued))
            self._show_relay(relay)
            self._letters.clear()
            for row in letters:
                self._letters.labels(row.source).set(row.letters)
            found = {row.state: row.runners for row in runners}
            for state in ("active", "draining", "lost"):
                self._runners.labels(state).set(found.get(state, 0))

        self.look_up(look)

    def _show_queue(self, units: Sequence[Row], others: dict[str, int]) -> None:
        tasks: Counter[tuple[str, str]] = Counter()
        depth: Counter[tuple[str, str]] = Counter()
        oldest: dict[str, float] = {}
        for row in units:
            pool, count = self._pool(row.pool), int(row.units)
            tasks[_TASK_STATES.get((row.kind, row.state), row.state), pool] += count
            if row.state == "ready":
                depth[pool, row.kind] += count
                oldest[pool] = max(oldest.get(pool, 0.0), float(row.oldest_s))
        for each in (self._tasks, self._depth, self._oldest):
            each.clear()  # a pool whose queue is empty says nothing
        for (state, pool), count in tasks.items():
            self._tasks.labels(state, pool).set(count)
        for state, count in others.items():  # in no pool's queue
            self._tasks.labels(state, "").set(count)
        for (pool, kind), count in depth.items():
            self._depth.labels(pool, kind).set(count)
        for pool, age_s in oldest.items():
            self._oldest.labels(pool).set(age_s)

    def _show_relay(self, relay: Row) -> None:
        waiting = relay.last_pos - relay.published_pos + relay.unplaced
        self._backlog.set(waiting)
        self._outbox_age.set(max(0.0, float(relay.oldest_s or 0)))
        self._position.labels("placed").set(relay.last_pos)
        self._position.labels("published").set(relay.published_pos)
        self._generation.set(relay.generation)
