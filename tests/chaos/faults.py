"""The faults. Each is injected, proven to have met what it is aimed at, and taken back.

A fault answers with its proof (what was in its window, by the database's or the wire's word), or
None: then it does not count. docs/adr/0013-chaos.md lists them beside the wanted ones.
Units: seconds.
"""

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaos.cluster import APIS, NATS, POSTGRES, PROOF_STORES, SCHEDULERS
from chaos.field import (
    Field,
    ReplyTap,
    stopped_in_transaction,
    stopped_with_work,
    until,
    within,
)
from chaos.proxy import TO_CLIENT, TO_SERVER, Link, Proxy
from chaos.wire import Frame

Proof = dict[str, Any]
Fault = Callable[[Field], Awaitable[Proof | None]]

DOWN_S = (0.3, 2.5)  # how long what was killed stays away
LONG_OUTAGE_S = 12.0  # past the clients' own time-outs and several reconnects
IDLE_CORES_MAX = 0.5  # of a process that can only wait
CLOCK = Path(__file__).parent / "clock"
CLOCK_JUMPS_S = (3600.0, -3600.0)
LARGEST_FILLER = 1024 * 1024


async def scheduler_killed(field: Field) -> Proof | None:
    """kill -9 inside of a transaction that has written."""
    name = field.one_of(SCHEDULERS)
    caught = await stopped_in_transaction(field, name)
    if caught is None:
        return None
    await _killed(field, name)
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
    await _killed(field, name)
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


async def completion_unanswered(field: Field) -> Proof | None:
    """The scheduler's answer to `complete` is dropped, and its runner killed at that moment."""
    name = field.one_of(field.cluster.lean)
    field.driver.burst_soon(12, "busy", 300)
    return await _unanswered(field, name, field.cluster.nats_proxies[name], "complete", kill=True)


async def claim_unanswered(field: Field) -> Proof | None:
    """The answer to a claim is dropped: asked again, it must be the same attempts."""
    name = field.one_of(field.cluster.lean)
    field.driver.burst_soon(12, "busy", 300)
    return await _unanswered(field, name, field.cluster.nats_proxies[name], "claim", kill=False)


async def submission_unanswered(field: Field) -> Proof | None:
    """An API is killed between the scheduler's commit and its own answer."""
    name = field.one_of(APIS)
    asking = [
        asyncio.create_task(field.driver.submit("p3", name="unanswered", api=name))
        for _ in range(4)
    ]
    proof = await _unanswered(
        field, name, field.cluster.nats_proxies[name], "submit_task", kill=True
    )
    await asyncio.gather(*asking)
    return proof


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
    await _back(field, name)
    return {"node": name, "announced": subject}


async def nats_killed(field: Field) -> Proof | None:
    return await _server_killed(field, NATS)


async def postgres_killed(field: Field) -> Proof | None:
    return await _server_killed(field, POSTGRES)


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


async def runner_cut(field: Field) -> Proof | None:
    """No way between a runner and NATS, for longer than a lease lives."""
    name = field.one_of(field.cluster.lean)
    field.driver.burst_soon(12, "busy", 1500)
    return await _cut(field, field.cluster.nats_proxies[name], name, TO_SERVER, TO_CLIENT)


async def runner_cut_one_way(field: Field) -> Proof | None:
    name = field.one_of(field.cluster.lean)
    field.driver.burst_soon(12, "busy", 1500)
    way = field.rng.choice([TO_SERVER, TO_CLIENT])
    return await _cut(field, field.cluster.nats_proxies[name], name, way)


async def scheduler_cut_from_postgres(field: Field) -> Proof | None:
    name = field.one_of(SCHEDULERS)
    field.driver.burst_soon(12, "busy", 300)
    return await _cut(field, field.cluster.pg_proxies[name], name, TO_SERVER, TO_CLIENT)


async def scheduler_cut_one_way(field: Field) -> Proof | None:
    """Its statements arrive, and no answer comes back."""
    name = field.one_of(SCHEDULERS)
    field.driver.burst_soon(12, "busy", 300)
    return await _cut(field, field.cluster.pg_proxies[name], name, TO_CLIENT)


async def scheduler_cut_from_nats(field: Field) -> Proof | None:
    name = field.one_of(SCHEDULERS)
    field.driver.burst_soon(12, "busy", 300)
    return await _cut(field, field.cluster.nats_proxies[name], name, TO_SERVER, TO_CLIENT)


async def delivered_twice(field: Field) -> Proof | None:
    """Each message of the product twice: what runners send, and what anybody is handed."""
    doubled = 0

    async def tap(way: str, frame: Frame, _link: Link) -> Sequence[bytes] | None:
        nonlocal doubled
        if not frame.subject.startswith("wfhub."):
            return None
        doubled += 1
        return (frame.raw, frame.raw)

    async def handed(way: str, frame: Frame, link: Link) -> Sequence[bytes] | None:
        return await tap(way, frame, link) if way == TO_CLIENT else None

    proxies = field.cluster.nats_proxies
    taps = {name: tap if name in field.cluster.lean else handed for name in proxies}
    for name, each in taps.items():
        proxies[name].taps.append(each)
    await field.driver.burst(12, "twice", 200)
    await asyncio.sleep(3.0)
    for name, each in taps.items():
        proxies[name].taps.remove(each)
    return {"messages": doubled} if doubled else None


async def stream_wiped(field: Field) -> Proof | None:
    """NATS comes back with an empty store."""
    before = await field.observer.stream_end()
    if before is None or not before[1]:
        return None
    field.cluster.kill(NATS)
    shutil.rmtree(field.cluster.layout.nats / "jetstream")
    await field.cluster.bring_back(NATS)
    return {"messages_lost": before[1]}


async def stream_truncated(field: Field) -> Proof | None:
    """NATS comes back with a store of some seconds ago: acknowledged events are gone from it."""
    store = field.cluster.layout.nats / "jetstream"
    kept = field.options.folder / "jetstream-earlier"
    at = await field.observer.stream_end()
    field.cluster.kill(NATS)
    shutil.rmtree(kept, ignore_errors=True)
    _copied(store, kept)
    await field.cluster.bring_back(NATS)
    await field.driver.burst(8, "truncated", 100)

    async def moved() -> tuple[int, int] | None:
        end = await field.observer.stream_end()
        return end if end and at and end[0] > at[0] else None

    end = await until(moved)
    field.cluster.kill(NATS)
    shutil.rmtree(store)
    kept.rename(store)
    await field.cluster.bring_back(NATS)
    return {"from": end[0], "to": at[0]} if end and at else None


async def disk_full(field: Field) -> Proof | None:
    """The proof-stores' disk is full for some seconds; no artifact is receipted meanwhile."""
    root = field.cluster.layout.proofs
    if not await asyncio.to_thread(os.path.ismount, root):
        return None
    field.driver.burst_soon(8, "full", 300)
    filler = root / "filler"
    _fill(filler)
    try:
        await asyncio.sleep(1.0)  # uploads that had their room are through
        stat = os.statvfs(root)
        _fill(filler)
        live = await field.observer.live_tasks()
        await asyncio.sleep(4.0)
    finally:
        filler.unlink()
    return {"free_bytes": stat.f_bavail * stat.f_frsize, "live_tasks": live} if live else None


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


FAULTS: dict[str, Fault] = {
    "scheduler-killed": scheduler_killed,
    "runner-killed": runner_killed,
    "completion-unanswered": completion_unanswered,
    "claim-unanswered": claim_unanswered,
    "submission-unanswered": submission_unanswered,
    "nats-killed": nats_killed,
    "postgres-killed": postgres_killed,
    "runner-cut": runner_cut,
    "delivered-twice": delivered_twice,
    "stream-wiped": stream_wiped,
    "proof-store-killed": proof_store_killed,
    "scheduler-stopped": scheduler_stopped,
    "runner-stopped": runner_stopped,
    "nats-away": nats_away,
    "runner-cut-one-way": runner_cut_one_way,
    "scheduler-cut-from-postgres": scheduler_cut_from_postgres,
    "scheduler-cut-one-way": scheduler_cut_one_way,
    "scheduler-cut-from-nats": scheduler_cut_from_nats,
    "stream-truncated": stream_truncated,
    "disk-full": disk_full,
    "clock-jumped": clock_jumped,
}
SHORT = tuple(list(FAULTS)[:11])  # of the cut for CI


async def _killed(field: Field, name: str) -> None:
    field.cluster.kill(name)
    await _back(field, name)


async def _back(field: Field, name: str) -> None:
    await asyncio.sleep(field.rng.uniform(*DOWN_S))
    await field.cluster.bring_back(name)


async def _server_killed(field: Field, name: str) -> Proof | None:
    field.driver.burst_soon(12, "busy", 500)
    live = await until(field.observer.live_tasks)
    if not live:
        return None
    await _killed(field, name)
    return {"live_tasks": live}


async def _unanswered(
    field: Field, name: str, proxy: Proxy, command: str, *, kill: bool
) -> Proof | None:
    """The reply to `command` is dropped, and `name` killed where asked: always in the window."""

    def is_wanted(payload: bytes) -> bool:
        with contextlib.suppress(ValueError):
            told = json.loads(payload).get("ok")
            return bool(told and (command != "claim" or told.get("assignments")))
        return False

    def seen() -> None:
        if kill:
            field.cluster.kill(name)

    tap = ReplyTap(command, is_wanted, seen)
    proxy.taps.append(tap)
    met = await within(tap.caught)
    proxy.taps.remove(tap)
    if not met or tap.dropped is None:
        return None
    if kill:
        await _back(field, name)
    told = json.loads(tap.dropped)["ok"]
    ids = [each["attempt_id"] for each in told.get("assignments", ())]
    return {"node": name, "told": ids or told.get("task_state") or told.get("task_id")}


async def _cut(field: Field, proxy: Proxy, name: str, *ways: str) -> Proof | None:
    await asyncio.sleep(0.5)
    held = proxy.chunks_held
    proxy.cut(*ways)
    await asyncio.sleep(field.options.lease_ttl_s * field.rng.uniform(1.2, 2.0))
    met = proxy.chunks_held - held
    proxy.heal()
    return {"node": name, "ways": list(ways), "chunks_held": met} if met else None


def _copied(source: Path, target: Path) -> None:
    """With its owners."""
    shutil.copytree(source, target)
    for path in source.rglob("*"):
        stat = path.stat()
        os.chown(target / path.relative_to(source), stat.st_uid, stat.st_gid)
    stat = source.stat()
    os.chown(target, stat.st_uid, stat.st_gid)


def _fill(filler: Path) -> None:
    with filler.open("ab", buffering=0) as file:
        size = LARGEST_FILLER
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2


def _last_said(log: Path) -> datetime | None:
    for line in reversed(log.read_bytes().splitlines()[-50:]):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return datetime.fromisoformat(json.loads(line)["timestamp"])
    return None
