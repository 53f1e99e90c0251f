"""Writes: what was decided about tasks, attempts and units, and the events of it, in one statement.

Each of its parts repeats what was decided on (state, holder, live, leased) as its fence. Under the
task's lock it must hold: a row too few means a bug, or a writer without the lock, and the whole
transaction is given up.
Shape: each kind of change is a list of rows, handed over as one JSON array. `LIMIT :count` is all
of them. It says to the planner, which makes its plan once, and maybe while the tables are empty,
that they are few: each is then a step into the table's own index.
Raises: AssertionError.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from wfhub_common import ids
from wfhub_common.messages import AttemptState, Receipt, RunnerObservations
from wfhub_common.sql import Connection

from wfhub_scheduler import stored_json
from wfhub_scheduler.outbox import EVENTS, Event, emit_many, execute_telling
from wfhub_scheduler.rows import SAME_TIMES, Attempt
from wfhub_scheduler.states import REVIEW_S

_CHANGE = text(f"""
WITH attempts AS (
    -- Only the current attempt changes, and only by its own runner.
    UPDATE sched.attempt a
       SET state = c.state, reason = c.reason, message = c.message,
           started_at = coalesce(a.started_at, CASE WHEN NOT c.over THEN now() END),
           finished_at = CASE WHEN c.over THEN now() END,
           observed = c.observed, receipts = c.receipts
      FROM (SELECT * FROM jsonb_to_recordset(CAST(:attempts AS jsonb)) AS r
               (attempt_id text, runner_id text, state text,
               over boolean, reason text, message text, observed jsonb, receipts jsonb)
             LIMIT :attempts_count) c,
           sched.task t
     WHERE a.attempt_id = c.attempt_id AND t.task_id = a.task_id
       AND t.current_attempt = a.attempt_id
       -- No other index's own words: the plan must not walk through all that live, or are a
       -- runner's.
       AND a.runner_id || '' = c.runner_id AND a.state || '' IN ('leased', 'running', 'verifying')
    RETURNING a.attempt_id),
units AS (
    UPDATE sched.unit u
       SET state = c.state, tries = u.tries + c.tries, losses = u.losses + c.losses,
           run_at = CASE WHEN c.state = 'ready' THEN now() + make_interval(secs => c.delay_s)
                         ELSE u.run_at END,
           due = c.delay_s <= 0
      FROM (SELECT * FROM jsonb_to_recordset(CAST(:units AS jsonb)) AS r
               (unit_id text, state text, tries integer,
               losses integer, delay_s double precision)
             LIMIT :units_count) c
     WHERE u.unit_id = c.unit_id AND u.state || '' = 'leased'  -- as above
    RETURNING u.unit_id),
tasks AS (
    UPDATE sched.task t
       SET state = c."to", reason = c.reason, message = c.message,
           current_attempt = CASE WHEN c.stopping THEN t.current_attempt END,
           stopping_since = CASE WHEN c.stopping THEN coalesce(t.stopping_since, now()) END,
           cancel_requested = t.cancel_requested OR c.cancel IS NOT NULL,
           cancel_reason = coalesce(c.cancel, t.cancel_reason),
           winner = coalesce(c.winner, t.winner),
           attempts_used = t.attempts_used + c.tries, infra_losses = t.infra_losses + c.losses,
           verdict = coalesce(c.verdict, t.verdict), commit_id = coalesce(c.commit_id, t.commit_id),
           base_commit = coalesce(c.base_commit, t.base_commit),
           proof_id = coalesce(c.proof_id, t.proof_id), tokens = coalesce(c.tokens, t.tokens),
           seal_due_at = CASE WHEN c."to" = 'sealing' THEN now() END,
           -- Whoever may approve it may do so by then; later it could not be published.
           review_until = CASE WHEN c."to" = 'review' THEN least(t.deadline_at, now()
               + make_interval(secs => coalesce(CAST(t.spec ->> 'review_s' AS integer),
                                                {REVIEW_S}))) END,
           review = coalesce(c.review, t.review),
           reviewed_by = coalesce(c.reviewed_by, t.reviewed_by),
           branch = CASE WHEN c."to" = 'succeeded' AND t.spec ->> 'repo' NOT LIKE 'directory:%'
                         THEN 'wfhub/' || t.task_id ELSE t.branch END,
           finished_at = CASE WHEN c.final THEN now() END, updated_at = now(),
           {SAME_TIMES}
      FROM (SELECT * FROM jsonb_to_recordset(CAST(:tasks AS jsonb)) AS r
               (task_id text, was text, held_by text,
               "to" text, final boolean, stopping boolean, reason text, message text, cancel text,
               winner text, tries integer, losses integer, verdict text, commit_id text,
               base_commit text, proof_id text, tokens bigint, review text, reviewed_by text)
             LIMIT :tasks_count) c
     WHERE t.task_id = c.task_id AND t.state = c.was
       AND t.current_attempt IS NOT DISTINCT FROM c.held_by
    RETURNING t.task_id),
publications AS (
    -- Where the task's agent unit waited: whoever could work on the repository can publish to it.
    -- One that writes into a folder has its whole top folder below WORKSPACE_ROOT for itself:
    -- folders may lie in one another, and writing is short.
    INSERT INTO sched.unit (unit_id, task_id, project_id, kind, pool, priority, lane_id, state,
                            exclusive)
    SELECT c.unit_id, u.task_id, u.project_id, 'publish', u.pool, u.priority, u.lane_id, 'ready',
           CASE WHEN t.spec -> 'apply' = 'true'
                THEN 'folder ' || split_part(regexp_replace(t.spec ->> 'repo', '^[a-z]+:', ''),
                                             '/', 1)
           END
      FROM (SELECT * FROM jsonb_to_recordset(CAST(:publications AS jsonb)) AS r
               (unit_id text, task_id text)
             LIMIT :publications_count) c
     CROSS JOIN LATERAL (SELECT * FROM sched.unit
                          WHERE task_id = c.task_id AND kind = 'agent' OFFSET 0) u
     CROSS JOIN LATERAL (SELECT spec FROM sched.task WHERE task_id = c.task_id OFFSET 0) t
    RETURNING unit_id),
{EVENTS}
SELECT (SELECT count(*) FROM attempts) AS attempts, (SELECT count(*) FROM units) AS units,
       (SELECT count(*) FROM tasks) AS tasks, (SELECT count(*) FROM publications) AS publications
""")  # noqa: S608 - our own text
_DEAD_UNITS = text("""
UPDATE sched.unit SET state = 'dead'
 WHERE task_id = ANY(CAST(:tasks AS text[])) AND state = 'ready'
""")


@dataclass(slots=True)
class TaskChange:
    task_id: str
    was: str
    held_by: str | None
    to: str
    reason: str
    message: str
    final: bool
    stopping: bool  # the current attempt stays, and is told to stop
    cancel: str | None = None  # why it was asked for
    winner: str | None = None
    tries: int = 0
    losses: int = 0
    verdict: str | None = None  # here and below: None leaves what is there
    commit_id: str | None = None
    base_commit: str | None = None
    proof_id: str | None = None
    tokens: int | None = None
    review: str | None = None
    reviewed_by: str | None = None


@dataclass(slots=True)
class UnitChange:
    """`delay_s`: a ready unit may be claimed that much later."""

    unit_id: str
    tries: int
    losses: int
    state: str = "done"
    delay_s: float = 0.0


@dataclass
class Changes:
    tasks: list[TaskChange] = field(default_factory=list)
    units: list[UnitChange] = field(default_factory=list)
    attempts: dict[str, dict[str, Any]] = field(default_factory=dict)  # by id: the last counts
    publish: list[str] = field(default_factory=list)  # tasks that get a publish unit
    dead: list[str] = field(default_factory=list)  # tasks whose ready units nobody may claim
    events: list[Event] = field(default_factory=list)

    def attempt(
        self,
        attempt: Attempt,
        to: AttemptState,
        *,
        over: bool,
        reason: str,
        message: str,
        observed: RunnerObservations | None,
        receipts: Sequence[Receipt],
    ) -> None:
        self.attempts[attempt.attempt_id] = {
            "attempt_id": attempt.attempt_id,
            "runner_id": attempt.runner_id,
            "state": to.value,
            "over": over,
            "reason": reason,
            "message": message,
            "observed": observed,
            "receipts": receipts,
        }

    async def write(self, connection: Connection) -> None:
        parts: dict[str, Sequence[Any]] = {
            "attempts": list(self.attempts.values()),
            "units": self.units,
            "tasks": self.tasks,
            "publications": [
                {"unit_id": unit_id, "task_id": task_id}
                for unit_id, task_id in zip(
                    ids.new_unit_ids(len(self.publish)), self.publish, strict=True
                )
            ],
        }
        if any(parts.values()):
            await _change(connection, parts, self.events)
        else:
            await emit_many(connection, self.events)
        if self.dead:
            await connection.execute(_DEAD_UNITS, {"tasks": self.dead})


async def _change(
    connection: Connection, parts: Mapping[str, Sequence[Any]], events: Sequence[Event]
) -> None:
    values: dict[str, Any] = {}
    for name, changes in parts.items():
        values[name] = stored_json.dumped(changes)
        values[f"{name}_count"] = len(changes)
    changed = (await execute_telling(connection, _CHANGE, values, events)).one()
    expected = {name: len(changes) for name, changes in parts.items()}
    assert dict(changed) == expected, "a row changed under its task's lock"
