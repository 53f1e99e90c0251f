"""Command `heartbeat`: leases renewed, those of all runners that beat at the same time at once.

A lease is never renewed past its attempt's end: what the task's limits allow it and a margin, and,
once it is told to stop, a grace. Then it runs out, whatever its runner says, and the sweeper ends
the attempt. So a runner that beats and never finishes holds a task no longer than that.
A renewal touches no index, and locks attempts by ascending id (writers of more lock them so too).
Raises: nothing of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from wfhub_common.errors import WfhubError
from wfhub_common.messages import Heartbeat, HeartbeatReply, UnitKind

from wfhub_scheduler import stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.rows import Attempt
from wfhub_scheduler.timing import Timing

GROUP_HEARTBEATS_MAX = 50  # of up to 1000 attempts each: what one transaction takes on
PUBLISH_S_MAX = 900  # of its own; with the margin, what a publication may take

LEASE_EXPIRED = "lease-expired"
RAN_TOO_LONG = "limit:run-time"
STOP_IGNORED = "stop-ignored"

# When attempt `a` of task `t` ends, whatever its runner says. Its values are `ends`.
ENDS_AT = """least(
           a.created_at + make_interval(secs => :margin_s + CASE a.kind
               WHEN 'agent' THEN t.attempt_s ELSE :publish_s END),
           t.stopping_since + make_interval(secs => :grace_s))"""
_RENEW = text("""
-- Only live attempts of that very process; what is missing from the answer is lost to it.
UPDATE sched.attempt a
   SET lease_until = least(now() + make_interval(secs => :ttl_s), asked.ends_at)
  FROM (SELECT m.attempt_id, t.stopping_since IS NOT NULL AS stop,
               least(m.created_at + make_interval(secs => :margin_s + CASE m.kind
                         WHEN 'agent' THEN t.attempt_s ELSE :publish_s END),
                     t.stopping_since + make_interval(secs => :grace_s)) AS ends_at
          FROM unnest(CAST(:attempts AS text[]), CAST(:runners AS text[]),
                      CAST(:processes AS text[])) AS asked (attempt_id, runner_id, incarnation)
          JOIN sched.attempt m ON m.attempt_id = asked.attempt_id
               -- No other index's own words: the plan must not walk through all that live, or are
               -- a runner's.
           AND m.runner_id || '' = asked.runner_id AND m.incarnation = asked.incarnation
          JOIN sched.task t ON t.task_id = m.task_id AND t.current_attempt = m.attempt_id
         WHERE m.state || '' IN ('leased', 'running', 'verifying')
         ORDER BY m.attempt_id FOR NO KEY UPDATE OF m) asked
 WHERE a.attempt_id = asked.attempt_id AND asked.ends_at > now()
RETURNING a.attempt_id, a.runner_id, a.incarnation, a.lease_until, asked.stop
""")
_SEEN = text("""
-- A runner's row may be held by its claim or registration: then it is seen anyway.
UPDATE sched.runner SET seen_at = now()
 WHERE runner_id IN (
    SELECT r.runner_id FROM sched.runner r
      JOIN unnest(CAST(:runners AS text[]), CAST(:processes AS text[]))
           AS asked (runner_id, incarnation) USING (runner_id, incarnation)
     WHERE r.seen_at < now() - make_interval(secs => :heartbeat_s / 2)
     ORDER BY r.runner_id FOR NO KEY UPDATE OF r SKIP LOCKED)
""")


@dataclass(frozen=True)
class _Beat:
    runner_id: str
    incarnation: str
    attempts: tuple[str, ...]


def ends(timing: Timing) -> dict[str, float]:
    return {
        "margin_s": timing.attempt_margin_s,
        "grace_s": timing.stop_grace_s,
        "publish_s": PUBLISH_S_MAX,
    }


async def heartbeat(core: Core, sender: str, command: Heartbeat) -> HeartbeatReply:
    asked = tuple(sorted(set(map(stored_json.clean, command.attempts))))
    beat = _Beat(sender, stored_json.clean(command.incarnation), asked)
    group = core.grouped("heartbeat", _renew_group, max_items=GROUP_HEARTBEATS_MAX)
    return await group(beat)


async def _renew_group(core: Core, beats: Sequence[_Beat]) -> list[HeartbeatReply | WfhubError]:
    timing = core.timing
    leases = sorted(
        {(a, beat.runner_id, beat.incarnation) for beat in beats for a in beat.attempts}
    )
    processes = sorted({(beat.runner_id, beat.incarnation) for beat in beats})

    async def work(tx: Tx) -> list[Any]:
        seen = {
            "runners": [runner_id for runner_id, _ in processes],
            "processes": [incarnation for _, incarnation in processes],
            "heartbeat_s": timing.heartbeat_s,
        }
        await tx.connection.execute(_SEEN, seen)
        if not leases:
            return []
        renewal = {
            "attempts": [attempt_id for attempt_id, _, _ in leases],
            "runners": [runner_id for _, runner_id, _ in leases],
            "processes": [incarnation for _, _, incarnation in leases],
            "ttl_s": timing.lease_ttl_s,
            **ends(timing),
        }
        return list(await tx.connection.execute(_RENEW, renewal))

    rows = await core.commit(work)
    renewed = {(row.attempt_id, row.runner_id, row.incarnation): row for row in rows}
    return [_reply(beat, renewed) for beat in beats]


def _reply(beat: _Beat, renewed: Mapping[tuple[str, str, str], Any]) -> HeartbeatReply:
    """Of a group's renewals, those that are this runner's."""
    asked = {each: renewed.get((each, beat.runner_id, beat.incarnation)) for each in beat.attempts}
    return HeartbeatReply(
        lease_until={each: row.lease_until for each, row in asked.items() if row is not None},
        cancel=tuple(each for each, row in asked.items() if row is not None and row.stop),
        lost=tuple(each for each, row in asked.items() if row is None),
    )


def why_over(attempt: Attempt, timing: Timing) -> str:
    """Of an attempt whose lease is over: what let it run out."""
    own_s = attempt.budget_s if attempt.kind is UnitKind.AGENT else PUBLISH_S_MAX
    if attempt.ran_s >= own_s + timing.attempt_margin_s:
        return RAN_TOO_LONG
    if attempt.stopping_s is not None and attempt.stopping_s >= timing.stop_grace_s:
        return STOP_IGNORED
    return LEASE_EXPIRED
