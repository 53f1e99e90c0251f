"""Command `claim`: units for a runner's free slots, leased, each with an attempt of its own.

A claim_id stands for one answer: asked again, the same attempts come back (those still live), with
a lease renewed and the same tokens. We store only a token's hash; they are made anew of the key
that the runner sends with its claim, so a claim that is answered twice, by two schedulers and in
any order, takes no token from whoever works (ADR 54). A runner of before sends none, and gets new
tokens.
Claims of a pool go one transaction at a time, over all schedulers (fairness.py); each transaction
serves all that wait in its process (claim_desk.py). A drained runner waits and gets nothing.
An answer is one message: a claim gets fewer units than it has slots for where more would not fit,
and the rest stay first in line.
Raises: Rejected (409 `runner-unknown`, `incarnation-stale`: register first).
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from wfhub_common import db
from wfhub_common.errors import Rejected
from wfhub_common.limits import RPC_BYTES_MAX
from wfhub_common.log import get_logger
from wfhub_common.messages import Assignment, Claim, Claimed, UnitKind
from wfhub_common.sql import Row

from wfhub_scheduler import fairness, leasing, stored_json
from wfhub_scheduler.claim_desk import Desk, Served, Waiting
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.leasing import Holder
from wfhub_scheduler.specs import Unreadable

PUT_OFF_MAX = 100  # tasks that cannot be read, of one look
ROUNDS_MAX = 8  # looks for more units in one transaction; what is left is the next one's
ANSWER_BYTES_MAX = RPC_BYTES_MAX  # of the units of one claim, if it is more than one
URGENCY = (UnitKind.PUBLISH, UnitKind.VERIFY, UnitKind.AGENT)  # what ends a task goes first

log = get_logger(__name__)

_RUNNERS = text("""
-- A new incarnation, a drain, and the same claim asked of another pool wait for this one.
SELECT runner_id, incarnation, draining, ARRAY(SELECT jsonb_array_elements_text(labels)) AS labels
  FROM sched.runner WHERE runner_id = ANY(CAST(:ids AS text[])) ORDER BY runner_id FOR NO KEY UPDATE
""")
_SAME_CLAIMS = text("""
SELECT a.runner_id, a.claim_id, a.attempt_id, a.kind,
       a.state IN ('leased', 'running', 'verifying') AS live
  FROM unnest(CAST(:runner_ids AS text[]), CAST(:claim_ids AS text[])) AS c (runner_id, claim_id)
  JOIN sched.attempt a USING (runner_id, claim_id) ORDER BY a.claim_slot
""")
_NEWS = text("""
SELECT EXISTS (SELECT FROM sched.unit
                WHERE state = 'ready' AND NOT due AND pool = :pool AND run_at <= now())
    OR EXISTS (SELECT FROM sched.runner
                WHERE runner_id = ANY(CAST(:draining AS text[])) AND NOT draining)
""")


@dataclass(frozen=True)
class Ability:
    """What a runner can be given. `kinds` in the order of their urgency."""

    kinds: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class _Free:
    """What a claim can still be given, and the bytes of what it was."""

    slots: int
    size: int = 0

    def takes(self, size: int) -> bool:
        return self.slots > 0 and (not self.size or self.size + size <= ANSWER_BYTES_MAX)


async def claim(core: Core, sender: str, command: Claim) -> Claimed:
    waiting = Waiting(
        sender,
        stored_json.clean(command.incarnation),
        stored_json.clean(command.claim_id),
        command,
        time.monotonic() + command.wait_s,
        asyncio.get_running_loop().create_future(),
    )
    return await _desk(core, command.pool).claim(waiting)


def _desk(core: Core, pool: str) -> Desk:
    """The pool's one desk in this process, as long as somebody waits at it."""
    name = f"claim {pool}"
    desk: Desk | None = core.groups.get(name)
    if desk is None:
        desk = Desk(
            lambda group: _serve(core, pool, group),
            core.units,
            lambda: core.groups.pop(name, None),
        )
        core.groups[name] = desk
    return desk


async def _serve(core: Core, pool: str, group: Sequence[Waiting]) -> Served:
    if all(claim.looked for claim in group) and not await _worth_a_look(core, pool, group):
        return {}
    for _ in range(PUT_OFF_MAX):
        try:
            return await core.commit(lambda tx: _serve_all(tx, pool, group))
        except Unreadable as e:
            await _put_off(core, e)
    return {}


async def _put_off(core: Core, unreadable: Unreadable) -> None:
    """Else every claim that comes to it would fail, and nobody get what waits behind it. Raises it
    where it does not wait."""
    task_id = unreadable.task_id
    if not await core.commit(lambda tx: leasing.put_off(tx, task_id)):
        raise unreadable
    log.error(
        "a task is put off: this version cannot read its spec",
        task_id=task_id,
        seconds=leasing.UNREADABLE_S,
        why=str(unreadable),
    )


async def _worth_a_look(core: Core, pool: str, group: Sequence[Waiting]) -> bool:
    """Without a lock or a write: most wake-ups are for somebody else."""
    async with db.transaction(core.autocommitting) as connection:
        for ability in {_ability(claim) for claim in group if not claim.draining}:
            if await fairness.seen(connection, pool, ability.kinds, ability.labels):
                return True
        of = {"pool": pool, "draining": [c.runner_id for c in group if c.draining]}
        return bool((await connection.execute(_NEWS, of)).scalar_one())


async def _serve_all(tx: Tx, pool: str, group: Sequence[Waiting]) -> Served:
    turn = await fairness.lock_pool(tx.connection, pool)
    served = await _refused(tx, group)
    served |= await _answered_before(tx, [claim for claim in group if claim not in served])
    if turn is None:
        return served
    able: dict[Ability, list[Waiting]] = {}
    for claim in group:
        if claim not in served and not claim.draining:
            able.setdefault(_ability(claim), []).append(claim)
    for ability, claims in able.items():
        given, turn = await _give(tx, pool, turn, ability, claims)
        served |= given
    return served


async def _refused(tx: Tx, group: Sequence[Waiting]) -> Served:
    """Who may not claim. It is noted of the others what they are admitted as."""
    asked = {"ids": sorted({claim.runner_id for claim in group})}
    runners = {row.runner_id: row for row in await tx.connection.execute(_RUNNERS, asked)}
    refused: Served = {}
    for claim in group:
        row = runners.get(claim.runner_id)
        if row is None:
            refused[claim] = Rejected(
                "runner-unknown", "this runner is not registered: register", status=409
            )
        elif row.incarnation != claim.incarnation:
            refused[claim] = Rejected(
                "incarnation-stale",
                "another process of this runner registered since: end this one, or register again",
                status=409,
            )
        else:
            claim.looked, claim.draining = True, row.draining
            claim.labels = tuple(sorted(row.labels))
    return refused


def _ability(claim: Waiting) -> Ability:
    kinds = tuple(kind.value for kind in URGENCY if kind in claim.command.kinds)
    return Ability(kinds, claim.labels)


async def _answered_before(tx: Tx, claims: Sequence[Waiting]) -> Served:
    """Claims that were asked before and got units: the same again, as far as they live."""
    if not claims:
        return {}
    by_name = {(claim.runner_id, claim.claim_id): claim for claim in claims}
    asked = {
        "runner_ids": [runner_id for runner_id, _ in by_name],
        "claim_ids": [claim_id for _, claim_id in by_name],
    }
    rows = (await tx.connection.execute(_SAME_CLAIMS, asked)).all()
    if not rows:
        return {}
    live = {
        row.attempt_id: (row.kind, by_name[row.runner_id, row.claim_id].command.token_key)
        for row in rows
        if row.live
    }
    again = await leasing.given_again(tx, live)
    served: Served = {}
    for (runner_id, claim_id), claim in by_name.items():
        of_it = [row for row in rows if (row.runner_id, row.claim_id) == (runner_id, claim_id)]
        if of_it:
            still = tuple(again[row.attempt_id] for row in of_it if row.attempt_id in again)
            served[claim] = Claimed(assignments=still)
    return served


async def _give(
    tx: Tx,
    pool: str,
    turn: fairness.PoolTurn,
    ability: Ability,
    claims: Sequence[Waiting],
) -> tuple[Served, fairness.PoolTurn]:
    """Leases what there is for such runners; once, unless a project had less than its turns."""
    free = {claim: _Free(claim.command.slots) for claim in claims}
    given: dict[Waiting, list[Assignment]] = {}
    tried: list[str] = []
    for _ in range(ROUNDS_MAX):
        slots = sum(each.slots for each in free.values())
        slots = slots if turn.room is None else min(slots, turn.room)
        if slots <= 0:
            break
        wanted = (pool, ability.kinds, ability.labels)
        found = await fairness.lock_candidates(tx.connection, *wanted, tried=tried, count=slots)
        if not found:
            break
        shares = await fairness.shares(tx.connection, pool, turn, found)
        allotted = fairness.allot(shares, slots)
        taken = dict.fromkeys(shares, 0)
        picked = await leasing.pick(tx.connection, *wanted, allotted) if allotted else []
        by_id = {share.project_id: share for share in shares}
        dealt = _dealt(picked, free)
        for unit, _, _ in dealt:
            taken[by_id[unit.project_id]] += 1
        if dealt:
            turn, clocks = fairness.advanced(pool, turn, taken)
            units = [unit for unit, _, _ in dealt]
            assignments = await leasing.lease(tx, units, [holder for *_, holder in dealt], clocks)
            for (_, claim, _), assignment in zip(dealt, assignments, strict=True):
                given.setdefault(claim, []).append(assignment)
        done = [s for s, count in taken.items() if count < allotted.get(s, 0) or count == s.room]
        tried += [share.project_id for share in done]
        if len(done) == len(shares) and len(found) < slots:
            break  # there is no other project, and of these nothing is left
    return {claim: Claimed(assignments=tuple(of)) for claim, of in given.items()}, turn


def _dealt(units: Sequence[Row], free: dict[Waiting, _Free]) -> list[tuple[Row, Waiting, Holder]]:
    """Who gets each of the units: one a claim in turn, so that work spreads over runners. One that
    fits into nobody's answer is left; into an empty one every unit fits."""
    dealt: list[tuple[Row, Waiting, Holder]] = []
    line = deque(claim for claim, left in free.items() if left.slots)
    for unit in units:
        size = leasing.answer_bytes(unit)
        takes = next((c for c in line if free[c].takes(size)), None)
        if takes is None:
            continue
        line.remove(takes)
        slot = takes.command.slots - free[takes].slots
        free[takes] = _Free(free[takes].slots - 1, free[takes].size + size)
        if free[takes].slots:
            line.append(takes)
        key = takes.command.token_key
        holder = Holder(takes.runner_id, takes.incarnation, takes.claim_id, slot, key)
        dealt.append((unit, takes, holder))
    return dealt
