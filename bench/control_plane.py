"""The control plane measured: throughput, latency, claims, heartbeats, recovery, and the peers.

`python bench/control_plane.py [--quick] [--only SECTION …]`; tables for people, then one JSON
object as the last line. Everything is real but the work: real schedulers, Postgres, NATS, the real
protocol; runners that do nothing (bench/control_plane_parts, ADR 0014). Postgres is as durable as
the local stack's: fsync and synchronous_commit on, read back from the server.

Headline: `tasks_per_s` is the best way of submitting by command, with a stand-in that answers
`seal` in the proof-store's place; the real proof-store's number stands beside it. `peer_ratio`
compares it with the best way of the best peer that keeps each task's state in a durable store and
whose tasks are nothing at all; `peer_ratio_with_our_steps` where they have as many steps as ours.
Units: tasks a second, milliseconds (*_ms), seconds (*_s), cores.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from control_plane_parts import (
    claim_latency,
    heartbeats,
    latency,
    peer_runs,
    recovery,
    servers,
    table,
    throughput,
)
from control_plane_parts.processes import Family
from control_plane_parts.servers import Postgres
from control_plane_parts.throughput import Way

SINGLE = Way("one by one")
BATCH = Way("batches of 50", batch=50, width=4)
TWO = Way("batches of 50, two schedulers", batch=50, width=4, schedulers=2)
REST = Way("REST API, one by one", width=32, rest=True)
SEALED = Way("batches of 50, real proof-store", batch=50, width=4, real_proof_store=True)
BY_COMMAND = (SINGLE, BATCH, TWO)

FAILURE_CHARS_MAX = 500
SECTIONS = ("throughput", "peers", "latency", "claims", "heartbeats", "recovery")


class Bench:
    def __init__(self, family: Family, *, quick: bool) -> None:
        self.family, self.quick = family, quick
        self.pg = Postgres(family)
        self.results: dict[str, Any] = {}

    def throughput(self) -> None:
        found = []
        for way in (*BY_COMMAND, REST, SEALED):
            tasks = 1000 if way in (REST, SEALED) else 3000
            tasks = tasks // 2 if self.quick else tasks
            runs = 1 if self.quick else (3 if way in (REST, SEALED) else 5)
            found.append(throughput.measure(self.family, self.pg, way, tasks=tasks, runs=runs))
        self.results["throughput"] = found

    def peers(self) -> None:
        found = []
        for name in peer_runs.TRIES:
            found += peer_runs.measure(self.family, self.pg, name, quick=self.quick)
        for name in peer_runs.DURABLE_STATE:
            found += peer_runs.measure(
                self.family, self.pg, name, quick=self.quick, steps=peer_runs.STEPS
            )
        self.results["peers"] = found

    def latency(self) -> None:
        peak = (
            next(
                (
                    r["tasks_per_s"]
                    for r in self.results.get("throughput", ())
                    if r["way"] == SINGLE.name
                ),
                None,
            )
            or throughput.measure(self.family, self.pg, SINGLE, tasks=1000, runs=1)["tasks_per_s"]
        )
        seconds = 8.0 if self.quick else 30.0
        self.results["latency"] = latency.measure(
            self.family, self.pg, SINGLE, peak=peak, seconds=seconds
        )

    def claims(self) -> None:
        sizes = (1_000, 100_000) if self.quick else (1_000, 100_000, 1_000_000)
        self.results["claims"] = claim_latency.measure(
            self.family, self.pg, sizes, claims=150 if self.quick else 500
        )

    def heartbeats(self) -> None:
        self.results["heartbeats"] = heartbeats.measure(
            self.family, self.pg, periods=2 if self.quick else 4
        )

    def recovery(self) -> None:
        self.results["recovery"] = recovery.measure(self.family, self.pg)

    def summary(self) -> dict[str, Any]:
        found = self.results
        commands = {way.name for way in BY_COMMAND}
        ours = [r for r in found.get("throughput", ()) if r["way"] in commands]
        best = fastest(ours)
        durable = [r for r in found.get("peers", ()) if r["durable_state"]]
        rival = fastest(r for r in durable if not r["steps"])
        alike = fastest(r for r in durable if r["steps"])
        queue = [r["tasks_per_s"] for r in found.get("peers", ()) if r["peer"] == "taskiq"]
        half = [r for r in found.get("latency", ()) if r["load_percent"] == 50]

        def ratio(peer: dict[str, Any] | None) -> float | None:
            return round(best["tasks_per_s"] / peer["tasks_per_s"], 2) if best and peer else None

        return {
            "tasks_per_s": best and best["tasks_per_s"],
            "tasks_per_s_way": best and best["way"],
            "best_durable_peer": rival and {k: rival[k] for k in ("way", "tasks_per_s")},
            "peer_ratio": ratio(rival),
            "best_peer_with_our_steps": alike and {k: alike[k] for k in ("way", "tasks_per_s")},
            "peer_ratio_with_our_steps": ratio(alike),
            "taskiq_sync_always_per_s": max(queue, default=None),
            "dispatch_p99_ms": half[0]["dispatch_p99_ms"] if half else None,
            "claim_flat_ratio": found.get("claims", {}).get("claim_flat_ratio"),
            "heartbeat_core_share": found.get("heartbeats", {}).get("heartbeat_core_share"),
            "lost_runner_s": found.get("recovery", {}).get("runner_s"),
        }


def fastest(found: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    return max(found, key=lambda r: r["tasks_per_s"], default=None)


def main() -> None:
    options = argparse.ArgumentParser(description="measure the control plane")
    options.add_argument("--quick", action="store_true", help="about four minutes")
    options.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    asked = options.parse_args()
    began, load_before = time.monotonic(), os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="wfhub-bench-") as folder:
        os.chmod(folder, 0o711)  # Postgres runs as another user below it
        family = Family(Path(folder))
        try:
            bench = Bench(family, quick=asked.quick)
            settings = bench.pg.durable()
            took, failed = {}, {}
            for name in asked.only:
                section: Callable[[], None] = getattr(bench, name)
                at = time.monotonic()
                say(f"{name} …")
                try:
                    section()
                except Exception as e:  # noqa: BLE001 - what the others measured is not lost with it
                    traceback.print_exc()
                    failed[name] = repr(e)[:FAILURE_CHARS_MAX]
                took[name] = round(time.monotonic() - at, 1)
        finally:
            family.end_all()
    table.show(bench.results)
    peers = peer_runs.versions() if "peers" in asked.only else {}
    line = {
        "bench": "control_plane",
        "quick": asked.quick,
        **bench.summary(),
        "postgres": settings,
        "versions": {**servers.versions(), "python": platform.python_version(), **peers},
        "cores": os.cpu_count(),
        "load_before": [round(each, 2) for each in load_before],
        "load_after": [round(each, 2) for each in os.getloadavg()],
        "seconds": round(time.monotonic() - began, 1),
        "seconds_of": took,
        "failed": failed,
        "results": bench.results,
    }
    print(json.dumps(line))
    if failed:
        sys.exit(1)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
