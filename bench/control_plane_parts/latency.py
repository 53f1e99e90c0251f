"""Open-loop latency at shares of the peak: submit → claimed (dispatch) and submit → succeeded.

Counted from the moment each task was meant to be submitted, so nothing is hidden by a load
generator that waits (no coordinated omission). Tasks come one by one, each its own command.
"""

from pathlib import Path
from typing import Any

from control_plane_parts.hub import Hub
from control_plane_parts.processes import Family
from control_plane_parts.servers import Postgres
from control_plane_parts.throughput import Way, go, one, start_far, start_load

SHARES = (10, 50, 80)  # per cent of the peak
DRAIN_S_MAX = 60.0


def measure(
    family: Family, pg: Postgres, way: Way, *, peak: float, seconds: float
) -> list[dict[str, Any]]:
    hub = Hub(family, pg, "latency", schedulers=way.schedulers, runners=way.runners)
    try:
        one(hub, way, 500)  # warm
        return [at_rate(hub, way, share, peak * share / 100, seconds) for share in SHARES]
    finally:
        hub.close()


def at_rate(hub: Hub, way: Way, share: int, rate: float, seconds: float) -> dict[str, Any]:
    meant, seen = hub.folder / f"meant-{share}", hub.folder / f"seen-{share}"
    far = start_far(hub, expect=0, slots=way.slots, trace=str(seen))
    load = start_load(hub, rate=rate, seconds=seconds, trace=str(meant))
    sent = go(load)
    began = moments(meant, "i")
    import time

    deadline = time.monotonic() + DRAIN_S_MAX
    while len(moments(seen, "s")) < len(began) and time.monotonic() < deadline:
        time.sleep(0.2)
    for child in (load, far):
        hub.family.end(child)
    claimed, succeeded = moments(seen, "c"), moments(seen, "s")
    dispatch = [(claimed[task] - at) / 1e6 for task, at in began.items() if task in claimed]
    whole = [(succeeded[task] - at) / 1e6 for task, at in began.items() if task in succeeded]
    return {
        "load_percent": share,
        "rate": round(rate, 1),
        "sent_rate": round(sent["submitted"] / ((sent["ended_ns"] - sent["began_ns"]) / 1e9), 1),
        "tasks": len(began),
        "unfinished": len(began) - len(whole),
        "dispatch_p50_ms": percentile(dispatch, 50),
        "dispatch_p99_ms": percentile(dispatch, 99),
        "succeeded_p50_ms": percentile(whole, 50),
        "succeeded_p99_ms": percentile(whole, 99),
    }


def moments(trace: Path, kind: str) -> dict[str, int]:
    """Task → its first moment of that kind; a half-written last line is left out."""
    found: dict[str, int] = {}
    if not trace.exists():
        return found
    for line in trace.read_text().split("\n")[:-1]:
        letter, ns, task = line.split(" ")
        if letter == kind:
            found.setdefault(task, int(ns))
    return found


def percentile(values: list[float], per_cent: float) -> float:
    if not values:
        return float("inf")
    ordered = sorted(values)
    return round(ordered[min(int(len(ordered) * per_cent / 100), len(ordered) - 1)], 2)
