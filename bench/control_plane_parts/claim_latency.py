"""How long a claim takes with 1k, 100k and 1M tasks queued: one unit a claim, one at a time.

Rows are made by INSERT … SELECT from one task that was submitted by command, so that each has
whatever columns the schema has by now; ids are made anew. One deployment a size, all up at once
and asked in turn, so that whatever else the machine does falls on all of them alike. Statistics
are brought up to date once, as autovacuum would have.
"""

import asyncio
import time
from typing import Any

from nats.aio.client import Client
from wfhub_common import ids, subjects
from wfhub_common.messages import Claim, CreateProject, Register, SubmitTask

from control_plane_parts import wire
from control_plane_parts.hub import PROJECT, RUNNING_LIMIT, Hub
from control_plane_parts.latency import percentile
from control_plane_parts.load import SPEC
from control_plane_parts.processes import Family
from control_plane_parts.servers import Postgres

WARM_CLAIMS = 30
PROJECTS = 10  # the queue is spread over as many, so that fairness has something to choose from


def measure(family: Family, pg: Postgres, sizes: tuple[int, ...], *, claims: int) -> dict[str, Any]:
    hubs = [Hub(family, pg, f"claims_{size}") for size in sizes]
    try:
        queues = asyncio.run(_measure(hubs, sizes, claims))
    finally:
        for hub in hubs:
            hub.close()
    smallest, largest = queues[0], queues[-1]
    return {
        "claims": claims,
        "sizes": queues,
        "claim_flat_ratio": round(largest["p50_ms"] / smallest["p50_ms"], 3),
        "claim_flat_ratio_p99": round(largest["p99_ms"] / smallest["p99_ms"], 3),
    }


async def _measure(hubs: list[Hub], sizes: tuple[int, ...], claims: int) -> list[dict[str, Any]]:
    queues = [Queue(hub, size) for hub, size in zip(hubs, sizes, strict=True)]
    for queue in queues:
        await queue.fill()
    for _ in range(WARM_CLAIMS):
        for queue in queues:
            await queue.claim()
    taken = [[(await queue.claim()) for queue in queues] for _ in range(claims)]
    for queue in queues:
        await queue.close()
    return [
        {
            "queued": queue.size,
            "p50_ms": percentile([turn[n] for turn in taken], 50),
            "p99_ms": percentile([turn[n] for turn in taken], 99),
            "filled_s": queue.filled_s,
        }
        for n, queue in enumerate(queues)
    ]


class Queue:
    """One deployment with `size` tasks queued, spread over PROJECTS."""

    _api: Client
    _runner: Client

    def __init__(self, hub: Hub, size: int) -> None:
        self._hub, self.size, self.filled_s = hub, size, 0.0
        self._runner_id, self._incarnation = hub.runner_ids[0], str(ids.new_claim_id())

    async def fill(self) -> None:
        hub, runner_id = self._hub, self._runner_id
        self._api = await wire.connect(hub.nats.url, subjects.API, hub.passwords[subjects.API])
        self._runner = await wire.connect(hub.nats.url, runner_id, hub.passwords[runner_id])
        await registered(self._runner, runner_id, self._incarnation)
        seeds = [await self._submit(project) for project in await self._projects()]
        began = time.monotonic()
        await asyncio.to_thread(multiply, hub, seeds, self.size)
        self.filled_s = round(time.monotonic() - began, 1)

    async def _projects(self) -> list[str]:
        names = [PROJECT]
        for number in range(1, PROJECTS):
            made = CreateProject(name=f"{PROJECT}-{number}", running_limit=RUNNING_LIMIT)
            body = made.model_dump_json().encode()
            await wire.ask(self._api, subjects.API, "create_project", body)
            names.append(made.name)
        return names

    async def _submit(self, project: str) -> str:
        body = SubmitTask(project=project, spec=SPEC).model_dump_json().encode()
        return str((await wire.ask(self._api, subjects.API, "submit_task", body))["task_id"])

    async def claim(self) -> float:
        """How long it took, in milliseconds."""
        claim = Claim(claim_id=str(ids.new_claim_id()), incarnation=self._incarnation, slots=1)
        body = claim.model_dump_json().encode()
        asked = time.monotonic()
        got = await wire.ask(self._runner, self._runner_id, "claim", body)
        took_ms = (time.monotonic() - asked) * 1e3
        if len(got["assignments"]) != 1:
            raise SystemExit(f"a claim among {self.size} queued tasks got {got}")
        return took_ms

    async def close(self) -> None:
        await self._api.close()
        await self._runner.close()


async def registered(runner: Any, runner_id: str, incarnation: str) -> None:
    body = Register(incarnation=incarnation, name="bench", slots=1000).model_dump_json().encode()
    deadline = time.monotonic() + 60
    while True:
        try:
            await wire.ask(runner, runner_id, "register", body, timeout_s=2)
        except Exception:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def multiply(hub: Hub, seeds: list[str], size: int) -> None:
    """Each seed's task and unit, copied with new ids until `size` tasks are queued."""
    copies = size // len(seeds) - 1
    task, unit = columns(hub, "task"), columns(hub, "unit")
    kept = ", ".join(name for name in task if name != "task_id")
    unit_kept = ", ".join(name for name in unit if name not in ("task_id", "unit_id"))
    tail = "translate(lpad(to_hex({n}), 10, '0'), '0189', 'ghij')"  # of the id's alphabet a-z2-7
    statements = ["SET synchronous_commit = off"]
    for seed in seeds:
        new_task = f"substr('{seed}', 1, 18) || {tail.format(n='n')}"
        new_unit = f"substr(unit_id, 1, 18) || {tail.format(n='n')}"
        series = f"generate_series(1, {copies}) AS n"
        statements.append(
            f"INSERT INTO sched.task (task_id, {kept})"
            f" SELECT {new_task}, {kept} FROM sched.task, {series} WHERE task_id = '{seed}'"
        )
        statements.append(
            f"INSERT INTO sched.unit (unit_id, task_id, {unit_kept})"
            f" SELECT {new_unit}, {new_task}, {unit_kept}"
            f" FROM sched.unit, {series} WHERE task_id = '{seed}'"
        )
    hub.pg.execute(*statements, "VACUUM (ANALYZE) sched.task, sched.unit", database=hub.name)
    queued = hub.pg.value(
        "SELECT count(*) FROM sched.unit WHERE state = 'ready'", database=hub.name
    )
    assert queued == size, f"{queued} units are queued, not {size}"


def columns(hub: Hub, table: str) -> list[str]:
    rows = hub.pg.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'sched'"
        " AND table_name = $1 AND is_generated = 'NEVER' ORDER BY ordinal_position",
        table,
        database=hub.name,
    )
    return [str(row[0]) for row in rows]
