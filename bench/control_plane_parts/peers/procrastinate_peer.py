"""Procrastinate: a job is a row with its history, in Postgres, the same server as ours.

Async throughout. Submitted one by one (many in flight) and by batch_defer. The end is the time of
the last `succeeded` event that its own trigger wrote. `steps`: jobs of a task, each of which defers
the next one.
"""

import asyncio
import json
import logging
import time
from typing import Any

import procrastinate
from common import PAYLOAD, order, report, start_workers, stop

SUBMITTERS = 16
BATCH = 100


def make_app(told: dict[str, Any], connections: int) -> procrastinate.App:
    connector = procrastinate.PsycopgConnector(
        conninfo=told["database_url"], min_size=2, max_size=connections
    )
    app = procrastinate.App(connector=connector)

    @app.task(name="nothing", queue="bench")
    async def nothing(payload: str, steps_left: int) -> None:
        if steps_left:
            await nothing.defer_async(payload=payload, steps_left=steps_left - 1)

    return app


async def work(told: dict[str, Any]) -> None:
    app = make_app(told, told["concurrency"] + 4)
    async with app.open_async():
        await app.run_worker_async(
            queues=["bench"],
            concurrency=told["concurrency"],
            install_signal_handlers=False,
            fetch_job_polling_interval=0.5,
        )


async def submit(app: procrastinate.App, tasks: int, batch: int, steps: int) -> None:
    left = tasks
    task = app.tasks["nothing"]
    job = {"payload": PAYLOAD, "steps_left": max(steps - 1, 0)}

    async def sender() -> None:
        nonlocal left
        while left > 0:
            left -= batch
            if batch == 1:
                await task.defer_async(**job)
            else:
                await task.batch_defer_async(*[job] * batch)

    await asyncio.gather(*(sender() for _ in range(SUBMITTERS if batch == 1 else 2)))


async def run(app: procrastinate.App, tasks: int, batch: int, steps: int) -> float:
    """Tasks a second."""
    began = time.time()
    await submit(app, tasks, batch, steps)
    query = "SELECT count(*) AS left FROM procrastinate_jobs WHERE status <> 'succeeded'"
    while (await app.connector.execute_query_one_async(query))["left"]:
        if time.time() - began > 120:
            raise SystemExit("procrastinate: not done in time")
        await asyncio.sleep(0.05)
    row = await app.connector.execute_query_one_async(
        "SELECT extract(epoch FROM max(at))::float8 AS ended FROM procrastinate_events"
        " WHERE type = 'succeeded'"
    )
    return tasks / (float(row["ended"]) - began)


async def bench(told: dict[str, Any]) -> list[dict[str, Any]]:
    app = make_app(told, SUBMITTERS + 2)
    found = []
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for workers, concurrency in told["tries"]:
            children = start_workers(told, workers, concurrency=concurrency)
            for name, batch in (("one by one", 1), ("batch", BATCH)):
                steps = told["steps"]
                await run(app, told["tasks"] // 4, batch, steps)
                rates = [await run(app, told["tasks"], batch, steps) for _ in range(told["runs"])]
                settings = {"workers": workers, "concurrency": concurrency, "batch": batch}
                settings["steps"] = steps
                found.append(report(f"procrastinate, {name}", settings, rates, told["tasks"]))
            stop(children)
    return found


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    told = order()
    if told["role"] == "work":
        asyncio.run(work(told))
    else:
        print(json.dumps(asyncio.run(bench(told))))
