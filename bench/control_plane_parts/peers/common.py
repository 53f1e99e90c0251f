"""What every peer's program shares: its order, its worker processes, its clock. Stdlib only.

The shape is that of the product's measurement: tasks are submitted as fast as they are taken
while workers work them off, from the first submission to the last task that the peer itself
calls done. Times are wall clock seconds of this one machine.
"""

import ctypes
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PAYLOAD = "Make the failing test of the parser pass without changing the test itself.\n" * 4
POLL_S = 0.02
RUN_S_MAX = 120.0
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(1, signal.SIGKILL)


def order() -> dict[str, Any]:
    """The JSON argument; `role` is `bench` for the program that the bench starts."""
    return {"role": "bench", **json.loads(sys.argv[1])}


def start_workers(told: dict[str, Any], count: int, **more: Any) -> list[subprocess.Popen[bytes]]:
    """This program again, as a worker."""
    workers = []
    for number in range(count):
        spec = json.dumps({**told, "role": "work", "number": number, **more})
        workers.append(
            subprocess.Popen(
                [sys.executable, sys.argv[0], spec],
                stdout=sys.stderr,
                preexec_fn=_die_with_parent,
            )
        )
    return workers


def stop(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.kill()
        worker.wait()


def wait_until(look: Callable[[], bool], what: str, timeout_s: float = RUN_S_MAX) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {timeout_s:g} s")
        time.sleep(POLL_S)


def report(way: str, settings: dict[str, Any], rates: list[float], tasks: int) -> dict[str, Any]:
    return {
        "way": way,
        "tasks_per_s": round(statistics.median(rates), 1),
        "runs": [round(rate, 1) for rate in rates],
        "tasks": tasks,
        "settings": settings,
    }
