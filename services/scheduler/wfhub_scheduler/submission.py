"""Commands of the API: submit_task and submit_tasks.

A key names one task of a project for good: the same canonical spec gets that task again.
What is submitted at the same time shares a transaction; each task is answered for itself, and one
that is refused takes none with it. Answered after the commit.
Raises: Rejected (404 `project-unknown`; 409 `idempotency-conflict`; 413 `spec-too-large`; 422
`nul-character`, `label-sets-full`, `limit-above-maximum`; 429 `queue-full`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import text
from wfhub_common import digests, ids, tracing
from wfhub_common.errors import Rejected, WfhubError, to_wire
from wfhub_common.messages import (
    SubmitResult,
    SubmitTask,
    SubmitTasks,
    Submitted,
    SubmittedTasks,
    TaskState,
)
from wfhub_common.sql import Connection

from wfhub_scheduler import queue_caps, stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.creation import NewTaskRow, insert_tasks, settled
from wfhub_scheduler.projects import ProjectRow, find_all, project_unknown

GROUP_COMMANDS_MAX = 200  # of one task each, or of a whole batch: what one transaction takes on

_TAKE_KEYS = text("""
-- A rival with the same key waits here for our commit, then finds our task. Sorted: no deadlock.
INSERT INTO sched.idempotency (project_id, key, request_sha256, task_id)
SELECT project_id, key, sha256, task_id
  FROM unnest(CAST(:project_ids AS text[]), CAST(:keys AS text[]), CAST(:sha256s AS text[]),
              CAST(:task_ids AS text[])) AS n (project_id, key, sha256, task_id)
 ORDER BY project_id, key ON CONFLICT DO NOTHING
RETURNING task_id
""")
_BY_KEYS = text("""
SELECT i.project_id, i.key, i.request_sha256, t.task_id, t.state
  FROM unnest(CAST(:project_ids AS text[]), CAST(:keys AS text[])) AS n (project_id, key)
  JOIN sched.idempotency i USING (project_id, key) JOIN sched.task t USING (task_id)
""")
_GIVE_BACK = text("DELETE FROM sched.idempotency WHERE task_id = ANY(CAST(:task_ids AS text[]))")


@dataclass(frozen=True)
class _Candidate:
    """One task of a group: where it goes, and what its key stands for."""

    project: ProjectRow
    row: NewTaskRow
    key: str | None
    sha256: str

    @property
    def at(self) -> tuple[str, str | None]:
        return self.project.project_id, self.key


Outcome = Submitted | WfhubError


@dataclass(frozen=True)
class _Batch:
    """What one command submits, and the trace that it belongs to."""

    commands: tuple[SubmitTask, ...]
    traceparent: str


async def submit_task(core: Core, command: SubmitTask) -> Submitted:
    (outcome,) = await _submit(core, (command,))
    if isinstance(outcome, WfhubError):
        raise outcome
    return outcome


async def submit_tasks(core: Core, command: SubmitTasks) -> SubmittedTasks:
    outcomes = await _submit(core, command.tasks)
    return SubmittedTasks(
        results=tuple(
            SubmitResult(error=to_wire(outcome))
            if isinstance(outcome, WfhubError)
            else SubmitResult(submitted=outcome)
            for outcome in outcomes
        )
    )


async def _submit(core: Core, commands: Sequence[SubmitTask]) -> Sequence[Outcome]:
    group = core.grouped("submit", _submit_group, max_items=GROUP_COMMANDS_MAX)
    return await group(_Batch(tuple(commands), tracing.current()))


async def _submit_group(
    core: Core, group: Sequence[_Batch]
) -> list[Sequence[Outcome] | WfhubError]:
    commands = [(command, batch.traceparent) for batch in group for command in batch.commands]
    outcomes = await core.commit(lambda tx: _submit_all(tx, commands))
    answers = iter(outcomes)
    return [[next(answers) for _ in batch.commands] for batch in group]


async def _submit_all(tx: Tx, commands: Sequence[tuple[SubmitTask, str]]) -> list[Outcome]:
    """One outcome a command (with its trace), in order. A refusal is found before anything of it
    is written."""
    projects = await find_all(tx.connection, [command.project for command, _ in commands])
    outcomes: dict[int, Outcome] = {}
    candidates: dict[int, _Candidate] = {}
    task_ids = ids.new_task_ids(len(commands))
    for n, (command, traceparent) in enumerate(commands):
        project = projects.get(command.project)
        if project is None:
            outcomes[n] = project_unknown(command.project)
        else:
            candidates[n] = _candidate(project, command, traceparent, task_ids[n])
    first, repeats = _firsts(candidates)
    known = await _known(tx.connection, first)
    fresh = {n: candidate for n, candidate in first.items() if n not in known}
    # Not before: a repeated key gets its task, whatever its project allows by now.
    allowed, forbidden = _settled(fresh)
    await _give_back(tx, [fresh[n] for n in forbidden])
    refused = forbidden | await _create(tx, allowed)
    for n, candidate in fresh.items():
        outcomes[n] = refused.get(n) or _submitted(candidate)
    outcomes |= known
    for n, of in repeats.items():
        outcomes[n] = _again(outcomes[of], candidates[n], candidates[of])
    return [outcomes[n] for n in range(len(commands))]


def _candidate(
    project: ProjectRow, command: SubmitTask, traceparent: str, task_id: str
) -> _Candidate:
    row = NewTaskRow(command.spec, command.submitted_by, traceparent=traceparent, task_id=task_id)
    if command.idempotency_key is None:
        return _Candidate(project, row, None, "")
    spec = digests.canonical_json(command.spec.model_dump(mode="json"))
    key = stored_json.clean(command.idempotency_key)
    return _Candidate(project, row, key, hashlib.sha256(spec).hexdigest())


def _firsts(candidates: dict[int, _Candidate]) -> tuple[dict[int, _Candidate], dict[int, int]]:
    """Those with a key of their own or none; and for each other the one that has its key."""
    by_key: dict[tuple[str, str | None], int] = {}
    repeats: dict[int, int] = {}
    for n, candidate in candidates.items():
        if candidate.key is not None and by_key.setdefault(candidate.at, n) != n:
            repeats[n] = by_key[candidate.at]
    return {n: c for n, c in candidates.items() if n not in repeats}, repeats


async def _known(connection: Connection, candidates: dict[int, _Candidate]) -> dict[int, Outcome]:
    """Outcomes of those whose key had a task already; the keys of the others are now theirs."""
    keyed = {n: candidate for n, candidate in candidates.items() if candidate.key is not None}
    if not keyed:
        return {}
    columns = {
        "project_ids": [candidate.project.project_id for candidate in keyed.values()],
        "keys": [candidate.key for candidate in keyed.values()],
        "sha256s": [candidate.sha256 for candidate in keyed.values()],
        "task_ids": [candidate.row.task_id for candidate in keyed.values()],
    }
    taken = set((await connection.execute(_TAKE_KEYS, columns)).scalars())
    if len(taken) == len(keyed):
        return {}
    at = {name: columns[name] for name in ("project_ids", "keys")}
    rows = {(row.project_id, row.key): row for row in await connection.execute(_BY_KEYS, at)}
    known: dict[int, Outcome] = {}
    for n, candidate in keyed.items():
        if candidate.row.task_id in taken:
            continue
        row = rows[candidate.at]
        known[n] = (
            Submitted(
                task_id=row.task_id,
                project_id=row.project_id,
                state=TaskState(row.state),
                created=False,
            )
            if row.request_sha256 == candidate.sha256
            else _key_conflict(row.task_id)
        )
    return known


def _settled(
    fresh: dict[int, _Candidate],
) -> tuple[dict[int, _Candidate], dict[int, WfhubError]]:
    """Those that may be made, with all limits said; and why the others may not."""
    allowed: dict[int, _Candidate] = {}
    forbidden: dict[int, WfhubError] = {}
    for n, candidate in fresh.items():
        try:
            allowed[n] = replace(candidate, row=settled(candidate.project, candidate.row))
        except Rejected as e:
            forbidden[n] = e
    return allowed, forbidden


async def _give_back(tx: Tx, refused: Sequence[_Candidate]) -> None:
    """Their keys."""
    task_ids = [candidate.row.task_id for candidate in refused if candidate.key is not None]
    if task_ids:
        await tx.connection.execute(_GIVE_BACK, {"task_ids": task_ids})


async def _create(tx: Tx, fresh: dict[int, _Candidate]) -> dict[int, WfhubError]:
    """Makes as many as their projects' queues have room for; answers for the others."""
    wanted: dict[str, list[int]] = {}
    for n, candidate in fresh.items():
        wanted.setdefault(candidate.project.project_id, []).append(n)
    if not wanted:
        return {}
    fit = await queue_caps.admit(tx.connection, {of: len(each) for of, each in wanted.items()})
    refused = {n for of, each in wanted.items() for n in each[fit[of] :]}
    await _give_back(tx, [fresh[n] for n in refused])
    made = [(c.project.project_id, c.row) for n, c in fresh.items() if n not in refused]
    await insert_tasks(tx, made)
    return {n: queue_caps.queue_full(fresh[n].project.name) for n in refused}


def _submitted(candidate: _Candidate) -> Submitted:
    return Submitted(
        task_id=candidate.row.task_id,
        project_id=candidate.project.project_id,
        state=candidate.row.state,
        created=True,
    )


def _again(outcome: Outcome, candidate: _Candidate, first: _Candidate) -> Outcome:
    """What a second task with the same key in the same group is told."""
    if isinstance(outcome, WfhubError):
        return outcome
    if candidate.sha256 != first.sha256:
        return _key_conflict(outcome.task_id)
    return outcome.model_copy(update={"created": False})


def _key_conflict(task_id: str) -> Rejected:
    return Rejected(
        "idempotency-conflict",
        "this idempotency key was used for another task; use a new key for a new task",
        status=409,
        task_id=task_id,
    )
