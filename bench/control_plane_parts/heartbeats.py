"""What 10k idle attempts cost: processor share of scheduler and Postgres, WAL bytes a second.

100 runners hold 100 attempts each and beat every HEARTBEAT_S, spread evenly over it, as runners
that started at different times do; nothing else happens. Counted over whole periods, beside the
same time with no beats at all (the schedulers' own polling), which is given apart.
Attempts are made by claims of the real command, in bulk-made tasks (claim_latency.multiply).
"""

import asyncio
import time
from typing import Any

from nats.aio.client import Client
from wfhub_common import ids, limits, subjects
from wfhub_common.messages import Claim, Heartbeat, SubmitTask

from control_plane_parts import wire
from control_plane_parts.claim_latency import multiply, registered
from control_plane_parts.hub import PROJECT, Hub
from control_plane_parts.latency import percentile
from control_plane_parts.load import SPEC
from control_plane_parts.processes import Family
from control_plane_parts.servers import Postgres

RUNNERS, EACH = 100, 100


def measure(family: Family, pg: Postgres, *, periods: int) -> dict[str, Any]:
    hub = Hub(family, pg, "heartbeats", runners=RUNNERS)
    try:
        return asyncio.run(_measure(hub, periods))
    finally:
        hub.close()


async def _measure(hub: Hub, periods: int) -> dict[str, Any]:
    api = await wire.connect(hub.nats.url, subjects.API, hub.passwords[subjects.API])
    incarnation = str(ids.new_claim_id())
    runners = [Beating(hub, each, incarnation) for each in hub.runner_ids]
    for runner in runners:
        await runner.register()
    body = SubmitTask(project=PROJECT, spec=SPEC).model_dump_json().encode()
    seed = (await wire.ask(api, subjects.API, "submit_task", body))["task_id"]
    await asyncio.to_thread(multiply, hub, [seed], RUNNERS * EACH)
    for runner in runners:
        await runner.claim()
    period_s = limits.HEARTBEAT_S
    beats = [
        asyncio.create_task(runner.beat(period_s, after_s=period_s * number / RUNNERS))
        for number, runner in enumerate(runners)
    ]
    await asyncio.sleep(period_s * 1.5)  # the claims' own events and hints are over
    busy = await used(hub, periods * period_s)
    for task in beats:
        task.cancel()
    await asyncio.gather(*beats, return_exceptions=True)
    idle = await used(hub, period_s)
    for runner in runners:
        await runner.connection.close()
    await api.close()
    return {
        "attempts": RUNNERS * EACH,
        "runners": RUNNERS,
        "period_s": period_s,
        "seconds": periods * period_s,
        "renewed": sum(runner.renewed for runner in runners),
        "lost": sum(runner.lost for runner in runners),
        "failed": sum(runner.failed for runner in runners),
        "beat_p50_ms": percentile([ms for runner in runners for ms in runner.took_ms], 50),
        "beat_p99_ms": percentile([ms for runner in runners for ms in runner.took_ms], 99),
        "with_beats": busy,
        "idle": idle,
        "heartbeat_core_share": round(busy["cores"] - idle["cores"], 4),
    }


async def used(hub: Hub, seconds: float) -> dict[str, float]:
    """Cores in use by scheduler and Postgres, WAL bytes a second, over `seconds`."""
    watched = {"scheduler": hub.schedulers[0], "postgres": hub.pg.child, "nats": hub.nats.child}
    before = {name: child.cpu_s() for name, child in watched.items()}
    wal, began = await asyncio.to_thread(hub.pg.wal_bytes), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    written = await asyncio.to_thread(hub.pg.wal_bytes) - wal
    share = {name: (child.cpu_s() - before[name]) / took for name, child in watched.items()}
    return {
        "cores": round(share["scheduler"] + share["postgres"], 4),
        "scheduler": round(share["scheduler"], 4),
        "postgres": round(share["postgres"], 4),
        "nats": round(share["nats"], 4),
        "wal_bytes_per_s": round(written / took),
    }


class Beating:
    """A runner that holds attempts and only beats."""

    connection: Client

    def __init__(self, hub: Hub, runner_id: str, incarnation: str) -> None:
        self._hub, self._id, self._incarnation = hub, runner_id, incarnation
        self._attempts: list[str] = []
        self.renewed = self.lost = self.failed = 0
        self.took_ms: list[float] = []

    async def register(self) -> None:
        self.connection = await wire.connect(
            self._hub.nats.url, self._id, self._hub.passwords[self._id]
        )
        await registered(self.connection, self._id, self._incarnation)

    async def claim(self) -> None:
        while (missing := EACH - len(self._attempts)) > 0:
            claim = Claim(
                claim_id=str(ids.new_claim_id()), incarnation=self._incarnation, slots=missing
            )
            body = claim.model_dump_json().encode()
            got = (await wire.ask(self.connection, self._id, "claim", body))["assignments"]
            if not got:
                raise SystemExit("heartbeats: a claim got nothing though tasks are queued")
            self._attempts += [each["attempt_id"] for each in got]

    async def beat(self, every_s: float, *, after_s: float) -> None:
        request = Heartbeat(incarnation=self._incarnation, attempts=tuple(self._attempts))
        body = request.model_dump_json().encode()
        due = time.monotonic() + after_s
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            asked = time.monotonic()
            try:
                reply = await wire.ask(self.connection, self._id, "heartbeat", body, timeout_s=5)
            except (wire.Refused, TimeoutError):
                self.failed += 1
            else:
                self.took_ms.append((time.monotonic() - asked) * 1e3)
                self.renewed += len(reply["lease_until"])
                self.lost += len(reply["lost"])
            due += every_s
