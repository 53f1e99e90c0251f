"""Seconds until tasks complete again after a kill -9, by default settings, with a steady trickle.

Two schedulers, two runners, RATE tasks a second. What is killed is started again at once, as its
supervisor would (but for the runner: its tasks must run elsewhere).
- runner: one that holds tasks and beats is killed; until the last of them was claimed by another.
- scheduler, NATS, Postgres: until a task that was meant to be submitted after the kill succeeded,
  and the longest pause between two completions around it.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from control_plane_parts.hub import Hub
from control_plane_parts.latency import moments
from control_plane_parts.processes import Child, Family, until
from control_plane_parts.servers import Postgres
from control_plane_parts.throughput import start_far, start_load, tell

RATE = 20.0
HELD = 5
SETTLE_S = 3.0
RECOVERY_S_MAX = 120.0
TRICKLE_S = 600.0  # outlasts all faults together; ended with the hub


def measure(family: Family, pg: Postgres) -> dict[str, Any]:
    hub = Hub(family, pg, "recovery", schedulers=2, runners=2)
    try:
        return _measure(hub)
    finally:
        hub.close()


def _measure(hub: Hub) -> dict[str, Any]:
    steady, doomed = hub.runner_ids
    seen, meant, held = (hub.folder / name for name in ("seen", "meant", "held"))
    # The doomed runner comes first, so that it gets the first tasks, and keeps them.
    holder = start_far(
        hub, name="doomed", runner_ids=[doomed], slots=HELD, hold=True, seal=False, trace=str(held)
    )
    first = start_load(hub, count=HELD)
    tell(first)
    until(lambda: len(moments(held, "c")) == HELD, "the doomed runner holds tasks")
    hub.family.end(first)
    far = start_far(hub, runner_ids=[steady], slots=50, trace=str(seen))
    load = start_load(hub, rate=RATE, seconds=TRICKLE_S, trace=str(meant), patient=True)
    tell(load)
    until(lambda: len(moments(seen, "s")) > RATE, "tasks succeed")

    killed = time.monotonic()
    holder.kill()
    tasks = moments(held, "c")
    # Alone: while a server is away the scheduler takes no silence for a loss (sweeper.py).
    elsewhere = "lost tasks run elsewhere"
    until(lambda: tasks.keys() <= moments(seen, "c").keys(), elsewhere, timeout_s=RECOVERY_S_MAX)
    claimed = moments(seen, "c")
    last = max(claimed[task] for task in tasks) / 1e9
    found: dict[str, Any] = {}
    for name, (fault, is_up) in faults(hub).items():
        found[name] = after(fault, is_up, seen, meant)
        time.sleep(SETTLE_S)
    for child in (load, far, holder):
        hub.family.end(child)
    return {"runner_s": round(last - killed, 2), **found}


def faults(hub: Hub) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """What is killed and started again, and what waits until it answers."""

    def again(child: Child) -> None:
        child.kill()
        child.restart()

    def database() -> None:
        hub.pg.crash()
        hub.pg.restart()

    return {
        "scheduler": (lambda: again(hub.schedulers[0]), lambda: None),
        "nats": (lambda: again(hub.nats.child), hub.nats.wait),
        "postgres": (database, hub.pg.wait),
    }


def after(
    fault: Callable[[], None], is_up: Callable[[], None], seen: Path, meant: Path
) -> dict[str, float]:
    killed_ns = time.monotonic_ns()
    fault()
    is_up()
    up_s = (time.monotonic_ns() - killed_ns) / 1e9

    def fresh() -> list[int]:
        """When tasks succeeded that were submitted after the kill."""
        started = {task for task, at in moments(meant, "i").items() if at > killed_ns}
        return sorted(at for task, at in moments(seen, "s").items() if task in started)

    until(fresh, "a task succeeds after the fault", timeout_s=RECOVERY_S_MAX)
    time.sleep(1)
    done = sorted(moments(seen, "s").values())
    around = [at for at in done if at > killed_ns - 1_000_000_000]
    pauses = [(b - a) / 1e9 for a, b in itertools.pairwise(around)]
    return {
        "up_again_s": round(up_s, 2),
        "next_task_s": round((fresh()[0] - killed_ns) / 1e9, 2),
        "longest_pause_s": round(max(pauses, default=0.0), 2),
    }
