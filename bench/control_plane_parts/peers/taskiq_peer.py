"""taskiq on NATS JetStream, the server with `sync_interval: always`: a queue, no more.

Pulled in batches, acknowledged when executed. No result is kept and a task has no state; it is
here as the floor of what the same broker costs. The end is when the consumer has nothing pending
and nothing unacknowledged (looked at each 20 ms).
"""

import asyncio
import json
import logging
import time
from typing import Any

from common import PAYLOAD, order, report, start_workers, stop
from taskiq.receiver import Receiver
from taskiq_nats import PullBasedJetStreamBroker

SUBMITTERS = 64


def make_broker(told: dict[str, Any]) -> PullBasedJetStreamBroker:
    broker = PullBasedJetStreamBroker(
        told["nats_url"],
        pull_consume_batch=told.get("batch", 100),
        pull_consume_timeout=1.0,
    )

    @broker.task(task_name="nothing")
    async def nothing(payload: str) -> None:
        pass

    return broker


async def work(told: dict[str, Any]) -> None:
    broker = make_broker(told)
    broker.is_worker_process = True
    await broker.startup()
    receiver = Receiver(broker, max_async_tasks=told["concurrency"], run_startup=False)
    await receiver.listen(asyncio.Event())


async def run(broker: PullBasedJetStreamBroker, tasks: int) -> float:
    task = broker.find_task("nothing")
    assert task is not None
    left = tasks

    async def sender() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await task.kiq(PAYLOAD)

    began = time.time()
    await asyncio.gather(*(sender() for _ in range(SUBMITTERS)))
    while True:
        info = await broker.js.consumer_info(broker.stream_name, broker.durable)
        if not info.num_pending and not info.num_ack_pending:
            return tasks / (time.time() - began)
        if time.time() - began > 120:
            raise SystemExit("taskiq: not done in time")
        await asyncio.sleep(0.02)


async def bench(told: dict[str, Any]) -> list[dict[str, Any]]:
    broker = make_broker(told)
    await broker.startup()
    found = []
    for workers, concurrency, batch in told["tries"]:
        more = {"concurrency": concurrency, "batch": batch}
        children = start_workers(told, workers, **more)
        await run(broker, told["tasks"] // 4)
        rates = [await run(broker, told["tasks"]) for _ in range(told["runs"])]
        settings = {"workers": workers, **more}
        found.append(report("taskiq-nats, one by one", settings, rates, told["tasks"]))
        stop(children)
    await broker.shutdown()
    return found


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    told = order()
    print_or_none = asyncio.run(work(told) if told["role"] == "work" else bench(told))
    if print_or_none is not None:
        print(json.dumps(print_or_none))
