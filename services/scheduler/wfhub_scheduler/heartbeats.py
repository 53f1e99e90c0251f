"""Command `heartbeat`: leases renewed, those of all runners that beat at the same time at once.

A lease is never renewed past its attempt's end: what the task's limits allow it and a margin, and,
once it is told to stop, a grace. Then it runs out, whatever its runner says, and the sweeper ends
the attempt. So a runner that beats and never finishes holds a task no longer than that.
A renewal touches no index, and locks attempts by ascending id (writers of more lock them so too).
Raises: nothing of its own.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from wfhub_common.errors import WfhubError
from wfhub_common.messages import Heartbeat, HeartbeatReply, UnitKind
from wfhub_common.sql import Row

from wfhub_scheduler import stored_json
from wfhub_scheduler.core import Core
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
_RENEW = text(f"""
-- Only live attempts of that very process; what is missing from the answer is lost to it.
-- A runner's row may be held by its claim or registration: then it is seen anyway.
WITH seen AS (
    UPDATE sched.runner SET seen_at = now()
     WHERE runner_id IN (
        SELECT r.runner_id FROM sched.runner r
          JOIN unnest(CAST(:beating_runners AS text[]), CAST(:beating_processes AS text[]))
               AS asked (runner_id, incarnation) USING (runner_id, incarnation)
         WHERE r.seen_at < now() - make_interval(secs => :heartbeat_s / 2)
         ORDER BY r.runner_id FOR NO KEY UPDATE OF r SKIP LOCKED)),
renewed AS (
    UPDATE sched.attempt lasting
       SET lease_until = least(now() + make_interval(secs => :ttl_s), asked.ends_at)
      FROM (SELECT a.attempt_id, t.stopping_since IS NOT NULL AS stop, {ENDS_AT} AS ends_at
              FROM unnest(CAST(:attempts AS text[]), CAST(:runners AS text[]),
                          CAST(:processes AS text[])) AS asked (attempt_id, runner_id, incarnation)
              JOIN sched.attempt a ON a.attempt_id = asked.attempt_id
                   -- No other index's own words: the plan must not walk through all that live, or
                   -- are a runner's.
               AND a.runner_id || '' = asked.runner_id AND a.incarnation = asked.incarnation
              JOIN sched.task t ON t.task_id = a.task_id AND t.current_attempt = a.attempt_id
             WHERE a.state || '' IN ('leased', 'running', 'verifying')
             ORDER BY a.attempt_id FOR NO KEY UPDATE OF a) asked
     WHERE lasting.attempt_id = asked.attempt_id AND asked.ends_at > now()
    RETURNING lasting.attempt_id, lasting.runner_id, lasting.incarnation, lasting.lease_until,
              asked.stop)
SELECT runner_id, incarnation, lease_until, stop, array_agg(attempt_id) AS attempt_ids
  FROM renewed GROUP BY runner_id, incarnation, lease_until, stop
""")  # noqa: S608 - our own text


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
    asked = {
        "beating_runners": [runner_id for runner_id, _ in processes],
        "beating_processes": [incarnation for _, incarnation in processes],
        "heartbeat_s": timing.heartbeat_s,
        "attempts": [attempt_id for attempt_id, _, _ in leases],
        "runners": [runner_id for _, runner_id, _ in leases],
        "processes": [incarnation for _, _, incarnation in leases],
        "ttl_s": timing.lease_ttl_s,
        **ends(timing),
    }
    renewed = defaultdict[tuple[str, str], list[Row]](list)
    for row in await core.single(_RENEW, asked):
        renewed[row.runner_id, row.incarnation].append(row)
    return [_reply(beat, renewed[beat.runner_id, beat.incarnation]) for beat in beats]


def _reply(beat: _Beat, renewed: Sequence[Row]) -> HeartbeatReply:
    """Of a group's renewals, those that are this runner's: it may have sent several beats."""
    asked = set(beat.attempts)
    lease_until = {
        each: row.lease_until for row in renewed for each in row.attempt_ids if each in asked
    }
    stopping = {each for row in renewed if row.stop for each in row.attempt_ids}
    return HeartbeatReply(
        lease_until=lease_until,
        cancel=tuple(each for each in beat.attempts if each in stopping),
        lost=tuple(each for each in beat.attempts if each not in lease_until),
    )


def why_over(attempt: Attempt, timing: Timing) -> str:
    """Of an attempt whose lease is over: what let it run out."""
    own_s = attempt.budget_s if attempt.kind is UnitKind.AGENT else PUBLISH_S_MAX
    if attempt.ran_s >= own_s + timing.attempt_margin_s:
        return RAN_TOO_LONG
    if attempt.stopping_s is not None and attempt.stopping_s >= timing.stop_grace_s:
        return STOP_IGNORED
    return LEASE_EXPIRED
