"""Projects: made, found by name or id, changed, paused.

A change of limits waits for the claims at work and holds for every later one. While a project is
paused nothing new of it is claimed but the publication of what was already won; what runs goes on.
Raises: Rejected (404 `project-unknown`, 409 `project-exists`, 422 `limits-invalid`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from sqlalchemy import text
from wfhub_common import ids
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    CassetteUse,
    CiFilesPolicy,
    CreateProject,
    DebuggerPolicy,
    LimitPolicy,
    McpServer,
    Project,
    ProjectBudget,
    UpdateProject,
)
from wfhub_common.sql import Connection

from wfhub_scheduler import fairness, limit_policies, queue_caps, stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.outbox import emit

_COLUMNS = """project_id, name, running_limit, weight, queue_limit, paused, limits, budget,
       cassette, mcp, ci_files, debuggers, created_at"""
_NEW = text("""
INSERT INTO sched.project
       (project_id, name, running_limit, weight, queue_limit, limits, budget, cassette, mcp,
        ci_files, debuggers)
VALUES (:project_id, :name, :running_limit, :weight, :queue_limit, CAST(:limits AS jsonb),
        CAST(:budget AS jsonb), CAST(:cassette AS jsonb), CAST(:mcp AS jsonb),
        :ci_files, :debuggers)
    ON CONFLICT (name) DO NOTHING
""")
_FIND = text(f"""
SELECT {_COLUMNS} FROM sched.project
 WHERE name = ANY(CAST(:refs AS text[])) OR project_id = ANY(CAST(:refs AS text[]))
""")  # noqa: S608 - our own column list
_CHANGE = text(f"""
UPDATE sched.project
   SET running_limit = coalesce(:running_limit, running_limit), weight = coalesce(:weight, weight),
       queue_limit = coalesce(:queue_limit, queue_limit), paused = coalesce(:paused, paused),
       limits = coalesce(CAST(:limits AS jsonb), limits),
       budget = coalesce(CAST(:budget AS jsonb), budget),
       cassette = coalesce(CAST(:cassette AS jsonb), cassette),
       mcp = coalesce(CAST(:mcp AS jsonb), mcp),
       ci_files = coalesce(:ci_files, ci_files), debuggers = coalesce(:debuggers, debuggers)
 WHERE project_id = :project_id RETURNING {_COLUMNS}
""")  # noqa: S608 - our own column list


@dataclass(frozen=True)
class ProjectRow:
    project_id: str
    name: str
    running_limit: int
    weight: int
    queue_limit: int
    paused: bool
    limits: LimitPolicy
    budget: ProjectBudget
    cassette: CassetteUse | None
    mcp: dict[str, McpServer]
    ci_files: CiFilesPolicy
    debuggers: DebuggerPolicy
    created_at: datetime

    @classmethod
    def of(cls, row: Any) -> Self:
        values = dict(row)
        values["limits"] = limit_policies.stored(row.limits)
        values["budget"] = ProjectBudget.model_validate(row.budget)
        values["cassette"] = row.cassette and CassetteUse.model_validate(row.cassette)
        values["mcp"] = {name: McpServer.model_validate(each) for name, each in row.mcp.items()}
        return cls(**values)


async def find_all(connection: Connection, refs: list[str]) -> dict[str, ProjectRow]:
    """Projects by each ref (name or id) of them that is known."""
    wanted = sorted({stored_json.clean(ref) for ref in refs})
    rows = [ProjectRow.of(row) for row in await connection.execute(_FIND, {"refs": wanted})]
    by_ref = {row.name: row for row in rows} | {row.project_id: row for row in rows}
    return {ref: by_ref[ref] for ref in refs if ref in by_ref}


async def find(connection: Connection, ref: str) -> ProjectRow:
    """Raises: Rejected (404)."""
    found = (await find_all(connection, [ref])).get(ref)
    if found is None:
        raise project_unknown(ref)
    return found


def project_unknown(ref: str) -> Rejected:
    return Rejected(
        "project-unknown", f"there is no project {ref[:64]!r}: create it first", status=404
    )


async def create_project(core: Core, command: CreateProject) -> Project:
    async def work(tx: Tx) -> Project:
        wanted = dict(command)
        new = {
            **wanted,
            **_stored(command),
            "project_id": ids.new_project_id(),
            "limits": limit_policies.to_store(command.limits),
        }
        made = await tx.connection.execute(_NEW, new)
        row = await find(tx.connection, command.name)
        project = Project.model_validate({**vars(row), "created": made.rowcount == 1})
        differs = [name for name, value in wanted.items() if getattr(project, name) != value]
        if differs:
            raise Rejected(
                "project-exists",
                f"project {command.name!r} exists with another {', '.join(differs)};"
                " choose another name, or ask with its settings",
                status=409,
            )
        return project

    return await core.commit(work)


async def update_project(core: Core, command: UpdateProject) -> Project:
    wanted = {name: value for name, value in command if name != "project"}

    async def work(tx: Tx) -> Project:
        before = await find(tx.connection, command.project)
        at = before.project_id
        await fairness.lock_projects(tx.connection, [at])  # claims at work count with the old ones
        await queue_caps.lock(tx.connection, [at])  # and so do submissions
        before = await find(tx.connection, at)  # as it is under the locks
        new = {**wanted, **_stored(command), "project_id": at, "limits": None}
        if command.limits is not None:
            policy = limit_policies.changed(before.limits, command.limits)
            new["limits"] = limit_policies.to_store(policy)
        changed = ProjectRow.of((await tx.connection.execute(_CHANGE, new)).one())
        if changed.queue_limit != before.queue_limit:
            await queue_caps.changed(tx.connection, at, changed.queue_limit)
        after = vars(changed)
        differs = [name for name in wanted if after[name] != getattr(before, name)]
        data = {name: after[name] for name in differs}
        if "mcp" in data:  # names alone: an environment may hold what is not for everybody
            data["mcp"] = sorted(changed.mcp)
        if "limits" in data:
            data["limits"] = limit_policies.plain(changed.limits)
        if data:
            await emit(tx.connection, "project.updated", at, data, project_id=at)
            tx.after.units_ready = True
        return Project.model_validate(after)

    return await core.commit(work)


def _stored(command: CreateProject | UpdateProject) -> dict[str, str | None]:
    """As JSON texts; None leaves what is there."""
    budget, cassette = command.budget, command.cassette
    kept = isinstance(command, UpdateProject) and cassette is None
    text = cassette.model_dump_json() if isinstance(cassette, CassetteUse) else "null"
    return {
        "budget": None if budget is None else budget.model_dump_json(exclude_none=True),
        "cassette": None if kept else text,
        "mcp": None if command.mcp is None else _plain(command.mcp),
    }


def _plain(servers: Mapping[str, McpServer]) -> str:
    return json.dumps({name: each.model_dump(mode="json") for name, each in servers.items()})
