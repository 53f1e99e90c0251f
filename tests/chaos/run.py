"""A run: load and faults side by side, then quiet, then judgement.

The plan of tasks and of faults comes from the seed alone. Faults go one after the other; after each
one a task is submitted and must be published in time (I7). When the minutes are over what did not
count is tried once more; then everything is healed, and all tasks must come to an end.
Result: one JSON-able object (`Summary`).
"""

import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wfhub_local import servers
from wfhub_local.services import RUNNER

from chaos import evidence, history, subscribers
from chaos.checker import INVARIANTS, VIOLATIONS_LISTED_MAX, Violation, check
from chaos.cluster import Cluster
from chaos.driver import REPO_TASKS, Ask, Driver, make_repositories, plan
from chaos.evidence import Evidence
from chaos.faults import FAULTS, SHORT
from chaos.field import Field, until
from chaos.history import History
from chaos.nodes import FLOOD_RUNNER, REAL_RUNNER, SCHEDULERS
from chaos.observer import Observer
from chaos.settings import Options

Summary = dict[str, Any]

FAULT_S_MAX = 90.0
PAUSE_S = (0.2, 1.5)  # between a recovery and the next fault
HEARD_S_MAX = 40.0
PROOFS_DISK = "768m"
CANARY_PROJECT = "p3"  # the one with a wide limit


def fault_plan(options: Options, rng: random.Random) -> list[str]:
    """Kinds in their order: each once, then any, more than there is time for."""
    kinds = wanted(options)
    first = kinds if options.short else rng.sample(kinds, len(kinds))
    return first + [rng.choice(kinds) for _ in range(10_000 if kinds else 0)]


def wanted(options: Options) -> list[str]:
    kinds = SHORT if options.short else tuple(FAULTS)
    return [kind for kind in kinds if kind in (options.only or FAULTS)]


class Run:
    def __init__(self, options: Options) -> None:
        self.options = options
        options.folder.mkdir(parents=True, exist_ok=True)
        options.folder.chmod(0o755)
        self.history = History(options.folder / "client.jsonl", began=time.monotonic())
        self.cluster = Cluster(options, self.history)
        self.observer = Observer(self.cluster)
        self.driver = Driver(self.cluster, self.history, options)
        self.counted: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.recovery_s: list[float] = []

    async def go(self) -> Summary:
        began = time.monotonic()
        with _disk(self.cluster.layout.proofs):
            try:
                await self.cluster.start()
                say(f"cluster is up after {self.history.now():.0f} s; folder {self.options.folder}")
                found = await self._under_load()
            finally:
                self.cluster.heal()
                await self.observer.close()
                await self.cluster.stop()
        violations = check(found)
        for each in violations[:VIOLATIONS_LISTED_MAX]:
            say(f"VIOLATION {each.invariant} {each.what} [{each.about}]")
        return self._summary(found, violations, time.monotonic() - began)

    async def _under_load(self) -> Evidence:
        options = self.options
        count = (options.tasks + 2 * REPO_TASKS) // REPO_TASKS + 4
        repos = make_repositories(options.folder / "repos", count, servers.uid_of(RUNNER))
        asks = plan(options, random.Random(options.seed), repos)
        self.driver.repos = repos
        await self.driver.open()
        heard: list[subscribers.NatsSubscriber | subscribers.HttpSubscriber] = [
            subscribers.NatsSubscriber(self.cluster, self.history, options.folder),
            subscribers.HttpSubscriber(self.cluster, self.history, options.folder),
        ]
        background = [asyncio.create_task(each.run()) for each in heard]
        for work in (self.driver.read_on(), self.driver.review_on()):
            background.append(asyncio.create_task(work))
        over_s = options.minutes * 60
        load = asyncio.create_task(self._load(asks, over_s))
        try:
            await self._faults(over_s)
            await load
            self.cluster.heal()
            await self.driver.settled(options.drain_s_max)
            drained = await self._drained()
            await self._all_heard(heard)
            if not drained:
                self._stand_still(*SCHEDULERS)
        finally:
            await _ended(*background, load)
            await self.driver.close()
        found = await evidence.gather(self.cluster, self.observer, repos)
        found.heard = subscribers.heard(options.folder)
        found.recovery_s_max = options.recovery_s_max
        records = self.cluster.layout.data / "records"
        found.history = history.read(options.folder / "client.jsonl", *records.glob("*.jsonl"))
        found.save(options.folder / "evidence.json")
        return found

    async def _load(self, asks: list[Ask], over_s: float) -> None:
        await self.driver.run(asks, over_s * 0.95)

    async def _faults(self, over_s: float) -> None:
        rng = random.Random(self.options.seed + 2)
        field = Field(self.cluster, self.observer, self.driver, self.history, self.options, rng)
        end = time.monotonic() + over_s
        for kind in fault_plan(self.options, rng):
            if time.monotonic() > end:
                break
            await self._one(field, kind)
            await asyncio.sleep(rng.uniform(*PAUSE_S))
        for kind in [kind for kind in self.missed if not self.counted[kind]]:
            await self._one(field, kind)

    async def _one(self, field: Field, kind: str) -> None:
        self.history.note("faults", "begin", fault=kind)
        proof: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(FAULT_S_MAX):
                proof = await FAULTS[kind](field)
        except Exception as e:  # noqa: BLE001 - a fault that failed is no fault, and is told
            self.history.note("faults", "failed", fault=kind, error=repr(e)[:500])
            say(f"  {kind}: {e!r}"[:300])
        self.cluster.heal()
        await self.cluster.bring_back(*self.cluster.away())
        (self.missed if proof is None else self.counted)[kind] += 1
        self.history.note("faults", "end", fault=kind, proof=proof)
        seconds = await self._canary(kind)
        word = "counts" if proof else "missed"
        say(f"{self.history.now():6.0f} s  {kind}: {word}, recovered in {seconds:.1f} s")

    async def _canary(self, kind: str) -> float:
        began = time.monotonic()
        limit = self.options.recovery_s_max

        async def published() -> bool:
            return await self.observer.published(task_id)

        task_id = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit + 5):
                told = await self.driver.submit(CANARY_PROJECT, name="canary", priority=100)
                task_id = told or ""
                await until(published, within_s=limit + 5)
        seconds = time.monotonic() - began
        self.recovery_s.append(seconds)
        self.history.note("faults", "canary", fault=kind, task_id=task_id, seconds=seconds)
        return seconds

    async def _drained(self) -> bool:
        """If not, what is left is a violation; runners end, so that it stays what it is."""

        async def done() -> bool:
            return not await self.observer.live_tasks()

        began = time.monotonic()
        drained = bool(await until(done, within_s=self.options.drain_s_max))
        if not drained:
            self._stand_still(*self.cluster.lean, FLOOD_RUNNER, REAL_RUNNER)
        word = "drained in" if drained else "not drained after"
        say(f"{self.history.now():6.0f} s  {word} {time.monotonic() - began:.0f} s")
        return drained

    def _stand_still(self, *names: str) -> None:
        for name in names:
            if self.cluster.nodes[name].alive:
                self.cluster.kill(name)

    async def _all_heard(self, heard: list[Any]) -> None:
        async def all_there() -> bool:
            (relay,) = await self.observer.rows(
                "SELECT generation, last_pos,"
                " (SELECT count(*) FROM sched.event_batch WHERE up_to IS NULL) AS waiting"
                " FROM sched.relay"
            )
            end = (relay["generation"], relay["last_pos"])
            return not relay["waiting"] and all(each.at >= end for each in heard)

        if not await until(all_there, within_s=HEARD_S_MAX):
            say("subscribers did not hear of everything in time")

    def _summary(self, found: Evidence, violations: list[Violation], took_s: float) -> Summary:
        states = Counter(task["state"] for task in found.tasks)
        by_invariant = Counter(each.invariant for each in violations)
        return {
            "chaos": "control-plane",
            "seed": self.options.seed,
            "minutes": self.options.minutes,
            "seconds": round(took_s, 1),
            "tasks": len(found.tasks),
            "states": dict(states),
            "faults": self.counted.total(),
            "faults_by_kind": dict(sorted(self.counted.items())),
            "missed_windows": dict(sorted(self.missed.items())),
            "never_counted": [kind for kind in wanted(self.options) if not self.counted[kind]],
            "events": len(found.events),
            "recovery_s": {
                "median": round(statistics.median(self.recovery_s), 1) if self.recovery_s else None,
                "max": round(max(self.recovery_s, default=0.0), 1),
                "limit": self.options.recovery_s_max,
            },
            "violations": len(violations),
            "violations_by_invariant": {name: by_invariant[name] for name in INVARIANTS},
            "first_violations": [asdict(each) for each in violations[:5]],
            "folder": str(self.options.folder),
        }


async def _ended(*tasks: asyncio.Task[None]) -> None:
    """Cancelled; one that had ended by its own error is told."""
    for task in tasks:
        task.cancel()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        if error is not None and not isinstance(error, asyncio.CancelledError):
            say(f"a part of the run ended early: {error!r}")


@contextlib.contextmanager
def _disk(root: Path) -> Any:
    """A disk of their own for the proof-stores, small enough to be filled. Only root can mount."""
    if os.geteuid() != 0:
        yield
        return
    root.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={PROOFS_DISK}", "tmpfs", str(root)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(root)], check=False)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
