"""DBOS: a workflow is a row with its status, in Postgres, the same server as ours.

Enqueued by a client in its own process and dequeued by workers, one by one and many in one
transaction. The end is the last workflow's own `updated_at`. `steps`: those that the workflow has,
each of which DBOS writes down.
"""

import json
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa
from common import PAYLOAD, order, report, start_workers, stop
from dbos import DBOS, DBOSClient, DBOSConfig

SUBMITTERS = 8
BATCH = 100
QUEUE, WORKFLOW, VERSION = "bench", "nothing", "bench"


def work(told: dict[str, Any]) -> None:
    os.environ["DBOS__APPVERSION"] = VERSION
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": told["database_url"],
        "run_admin_server": False,
        "log_level": "ERROR",
        "executor_id": f"bench-{told['number']}",
        "application_version": VERSION,
        "sys_db_pool_size": 20,
    }
    DBOS(config=config)

    @DBOS.step()
    async def step(number: int) -> int:
        return number

    @DBOS.workflow(name=WORKFLOW)
    async def nothing(payload: str) -> None:
        for number in range(told["steps"]):
            await step(number)

    DBOS.launch()
    DBOS.register_queue(
        QUEUE, worker_concurrency=told["concurrency"], polling_interval_sec=told["poll_s"]
    )
    threading.Event().wait()


def options() -> dict[str, Any]:
    return {"workflow_name": WORKFLOW, "queue_name": QUEUE, "app_version": VERSION}


def submit(client: DBOSClient, engine: sa.Engine, tasks: int, batch: int) -> None:
    def single(_number: int) -> None:
        client.enqueue(options(), PAYLOAD)

    def many(_number: int) -> None:
        with engine.begin() as connection:
            for _ in range(batch):
                client.enqueue_in_transaction(connection, options(), PAYLOAD)

    threads = SUBMITTERS if batch == 1 else 2
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(single if batch == 1 else many, range(tasks // batch)))


def run(client: DBOSClient, engine: sa.Engine, tasks: int, batch: int) -> float:
    began = time.time()
    submit(client, engine, tasks, batch)
    left = sa.text("SELECT count(*) FROM dbos.workflow_status WHERE status <> 'SUCCESS'")
    end = sa.text("SELECT max(updated_at) FROM dbos.workflow_status WHERE name = :name")
    while True:
        with engine.begin() as connection:
            if not connection.execute(left).scalar_one():
                ended = float(connection.execute(end, {"name": WORKFLOW}).scalar_one()) / 1000
                return tasks / (ended - began)
        if time.time() - began > 180:
            raise SystemExit("dbos: not done in time")
        time.sleep(0.05)


def bench(told: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    url = told["database_url"].replace("postgresql://", "postgresql+psycopg://")
    engine = sa.create_engine(url)
    for workers, concurrency, poll_s in told["tries"]:
        more = {"concurrency": concurrency, "poll_s": poll_s}
        children = start_workers(told, 1, **more)  # the first migrates; not two at once
        ready(engine, workers=1)
        children += start_workers({**told, "number": 1}, workers - 1, **more)
        client = DBOSClient(system_database_url=told["database_url"])
        for name, batch in (("one by one", 1), ("batch", BATCH)):
            run(client, engine, told["tasks"] // 4, batch)
            rates = [run(client, engine, told["tasks"], batch) for _ in range(told["runs"])]
            settings = {"workers": workers, **more, "batch": batch, "steps": told["steps"]}
            found.append(report(f"dbos, {name}", settings, rates, told["tasks"]))
        client.destroy()
        stop(children)
    return found


def ready(engine: sa.Engine, workers: int) -> None:
    """The queue is in the database: the first worker is past its launch."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with engine.begin() as connection:
                if connection.execute(sa.text("SELECT count(*) FROM dbos.queues")).scalar_one():
                    return
        except sa.exc.SQLAlchemyError:
            pass
        time.sleep(0.1)
    raise SystemExit("dbos: no worker came up")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    told = order()
    if told["role"] == "work":
        work(told)
    else:
        print(json.dumps(bench(told)), flush=True)
        os._exit(0)  # its threads have nothing more to do
