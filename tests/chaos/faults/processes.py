"""Processes that are killed, stopped, left alone for long or given a wrong clock."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from chaos.faults.parts import Proof, back, killed, server_killed
from chaos.field import Field, stopped_in_transaction, stopped_with_work, until, within
from chaos.nodes import APIS, NATS, POSTGRES, PROOF_STORES, SCHEDULERS
from chaos.proxy import TO_CLIENT, Link
from chaos.wire import Frame

LONG_OUTAGE_S = 12.0  # past the clients' own time-outs and several reconnects
IDLE_CORES_MAX = 0.5  # of a process that can only wait
CLOCK = Path(__file__).parents[1] / "clock"
CLOCK_JUMPS_S = (3600.0, -3600.0)


async def scheduler_killed(field: Field) -> Proof | None:
    """kill -9 inside of a transaction that has written."""
    name = field.one_of(SCHEDULERS)
    caught = await stopped_in_transaction(field, name)
    if caught is None:
        return None
    await killed(field, name)
    return {"node": name, "in": caught["query"][:100]}


async def scheduler_stopped(field: Field) -> Proof | None:
    """SIGSTOP inside of a transaction for longer than a lease lives, then SIGCONT."""
    name = field.one_of(SCHEDULERS)
    caught = await stopped_in_transaction(field, name)
    if caught is None:
        return None
    await asyncio.sleep(field.options.lease_ttl_s * 1.5)
    field.cluster.resume(name)
    return {"node": name, "in": caught["query"][:100]}


async def runner_killed(field: Field) -> Proof | None:
    name = field.one_of(field.cluster.lean)
    held = await stopped_with_work(field, name)
    if not held:
        return None
    await killed(field, name)
    return {"node": name, "attempts": held}


async def runner_stopped(field: Field) -> Proof | None:
    """SIGSTOP for three TTLs, with work: it wakes up to leases that are others' by then."""
    name = field.one_of(field.cluster.lean)
    held = await stopped_with_work(field, name)
    if not held:
        return None
    await asyncio.sleep(field.options.lease_ttl_s * 3)
    states = await field.observer.attempt_states(held)
    field.cluster.resume(name)
    lost = [each for each, state in states.items() if state == "lost"]
    return {"node": name, "lost": lost} if lost else None


async def proof_store_killed(field: Field) -> Proof | None:
    """kill -9 when it is handed an announcement: the blob is there, the receipt is not."""
    name = field.one_of(PROOF_STORES)
    caught: asyncio.Event = asyncio.Event()
    subject = ""

    async def tap(way: str, frame: Frame, _link: Link) -> Sequence[bytes] | None:
        nonlocal subject
        if way == TO_CLIENT and frame.subject.startswith("wfhub.v1.ingest.") and not subject:
            subject = frame.subject
            field.cluster.kill(name)
            caught.set()
            return ()
        return None

    proxy = field.cluster.nats_proxies[name]
    proxy.taps.append(tap)
    field.driver.burst_soon(12, "busy", 200)
    met = await within(caught)
    proxy.taps.remove(tap)
    if not met:
        return None
    await back(field, name)
    return {"node": name, "announced": subject}


async def nats_killed(field: Field) -> Proof | None:
    return await server_killed(field, NATS)


async def postgres_killed(field: Field) -> Proof | None:
    return await server_killed(field, POSTGRES)


async def nats_away(field: Field) -> Proof | None:
    """Down for long: everybody waits, and nobody spins."""
    field.driver.burst_soon(12, "busy", 1000)
    live = await until(field.observer.live_tasks)
    if not live:
        return None
    field.cluster.kill(NATS)
    await asyncio.sleep(2.0)  # what was under way comes to its wait
    names = [*SCHEDULERS, *APIS, *PROOF_STORES, *field.cluster.lean]
    pids = {name: field.cluster.nodes[name].pid for name in names}
    before = {name: field.cluster.cpu_s(name) for name in names}
    began = time.monotonic()
    await asyncio.sleep(LONG_OUTAGE_S)
    took = time.monotonic() - began
    for name in names:
        if field.cluster.nodes[name].pid == pids[name]:
            cores = (field.cluster.cpu_s(name) - before[name]) / took
            field.history.note("faults", "busy", node=name, cores=cores, cores_max=IDLE_CORES_MAX)
    await field.cluster.bring_back(NATS)
    return {"live_tasks": live, "seconds": round(took + 2.0, 1)}


async def clock_jumped(field: Field) -> Proof | None:
    """A scheduler or runner runs with its wall clock an hour off, then with the right one again."""
    name = field.one_of([*SCHEDULERS, *field.cluster.lean])
    jump_s = field.rng.choice(CLOCK_JUMPS_S)
    node = field.cluster.nodes[name]
    right = node.process
    path = os.pathsep.join([str(CLOCK), right.env.get("PYTHONPATH", "")])
    wrong = {**right.env, "PYTHONPATH": path, "CHAOS_CLOCK_S": str(jump_s)}
    field.cluster.kill(name)
    node.process = replace(right, env=wrong, visible=(*right.visible, CLOCK))
    try:
        await field.cluster.bring_back(name)
        await field.driver.burst(10, "clock", 300)
        await asyncio.sleep(4.0)
        said = _last_said(node.process.log)
        field.cluster.kill(name)
    finally:
        node.process = right
    await field.cluster.bring_back(name)
    off_s = None if said is None else (said - datetime.now(UTC)).total_seconds()
    near = off_s is not None and abs(off_s - jump_s) < 120
    return {"node": name, "clock_off_s": off_s} if near else None


def _last_said(log: Path) -> datetime | None:
    for line in reversed(log.read_bytes().splitlines()[-50:]):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return datetime.fromisoformat(json.loads(line)["timestamp"])
    return None
