"""Submits tasks, as the API does on the wire, or over the REST API.

Closed loop (`rate` 0): `count` tasks, `width` requests in flight, each of `batch` tasks.
Open loop: at `rate` tasks a second for `seconds`, at moments drawn beforehand (Poisson, seeded);
a request goes out at its moment whatever became of the earlier ones, and latencies count from
that moment, so that a stall is charged to everyone who had to wait for it.

Told by one JSON argument (`Told`); says `ready`, waits for a line, and answers with one JSON line;
`trace` gets a line `i <monotonic ns> <task id>` a task, the moment it was meant to be sent.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TextIO
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client
from wfhub_common import subjects
from wfhub_common.messages import SubmitTask, SubmitTasks, TaskSpec

from control_plane_parts import wire
from control_plane_parts.hub import PROJECT

SEED = 20261124
AGAIN_S = 0.1
PATIENT_S = 3.0
PROMPT = "Make the failing test of the parser pass without changing the test itself.\n" * 4
SPEC = TaskSpec(repo="/srv/repositories/demo", prompt=PROMPT, title="parser: fix the test")


@dataclass
class Told:
    nats_url: str = ""
    passwords: dict[str, str] | None = None
    key_file: str = ""
    rest_url: str = ""  # http://host:port: over the REST API instead
    token: str = ""
    count: int = 0
    width: int = 64
    batch: int = 1
    rate: float = 0.0
    seconds: float = 0.0
    trace: str = ""
    patient: bool = False  # ask again while servers are away


Send = Callable[[], Awaitable[list[str]]]  # the ids of the tasks that were accepted


async def over_nats(told: Told) -> Send:
    assert told.passwords is not None
    connection = await wire.connect(told.nats_url, subjects.API, told.passwords[subjects.API])
    if told.batch > 1:
        return batch_send(connection, told.batch)
    return single_send(connection, PATIENT_S if told.patient else wire.RPC_TIMEOUT_S)


def single_send(connection: Client, timeout_s: float) -> Send:
    body = SubmitTask(project=PROJECT, spec=SPEC, submitted_by="bench").model_dump_json().encode()

    async def send() -> list[str]:
        answer = await wire.ask(connection, subjects.API, "submit_task", body, timeout_s=timeout_s)
        return [str(answer["task_id"])]

    return send


def batch_send(connection: Client, size: int) -> Send:
    one = SubmitTask(project=PROJECT, spec=SPEC, submitted_by="bench")
    request = SubmitTasks(tasks=(one,) * size)
    body = request.model_dump_json().encode()

    async def send() -> list[str]:
        answer = await wire.ask(connection, subjects.API, "submit_tasks", body)
        return [str(each["submitted"]["task_id"]) for each in answer["results"]]

    return send


def over_rest(told: Told) -> Send:
    """HTTP/1.1 on kept connections; a connection is used by one request at a time."""
    parts = urlsplit(told.rest_url)
    body = json.dumps({"project": PROJECT, **SPEC.model_dump(mode="json")}).encode()
    head = (
        f"POST /v1/tasks HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {told.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send() -> list[str]:
        reader, writer = (
            idle.pop() if idle else await asyncio.open_connection(parts.hostname, parts.port)
        )
        writer.write(request)
        header = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(header.split("content-length:")[1].split("\r\n")[0])
        answer = json.loads(await reader.readexactly(length))
        if " 201 " not in header.split("\r\n")[0]:
            raise SystemExit(f"REST: {header.splitlines()[0]} {answer}")
        idle.append((reader, writer))
        return [str(answer["task_id"])]

    return send


async def closed(told: Told, send: Send) -> dict[str, float]:
    left = told.count

    async def sender() -> None:
        nonlocal left
        while left > 0:
            left -= told.batch
            await send()

    began = time.monotonic_ns()
    await asyncio.gather(*(sender() for _ in range(told.width)))
    return {"began_ns": began, "ended_ns": time.monotonic_ns(), "submitted": told.count}


async def open_loop(told: Told, send: Send, trace: TextIO) -> dict[str, float]:
    luck = random.Random(SEED)
    waiting: set[asyncio.Task[None]] = set()
    began = time.monotonic_ns() + 50_000_000
    due, end = float(began), began + told.seconds * 1e9
    submitted = 0

    async def one(meant_ns: int) -> None:
        while True:
            try:
                task_ids = await send()
            except (wire.Refused, TimeoutError, nats.errors.Error, OSError):
                if not told.patient:
                    raise
                await asyncio.sleep(AGAIN_S)
            else:
                break
        for task_id in task_ids:
            trace.write(f"i {meant_ns} {task_id}\n")
        if told.patient:
            trace.flush()

    while due < end:
        wait_s = (due - time.monotonic_ns()) / 1e9
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        task = asyncio.create_task(one(int(due)))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        submitted += told.batch
        due += luck.expovariate(told.rate / told.batch) * 1e9
    last_sent = time.monotonic_ns()
    await asyncio.gather(*waiting)
    trace.flush()
    return {"began_ns": began, "ended_ns": last_sent, "submitted": submitted}


async def main(told: Told) -> None:
    send = over_rest(told) if told.rest_url else await over_nats(told)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    if told.rate:
        with open(told.trace, "a") as trace:  # noqa: ASYNC230 - this process does nothing else
            result = await open_loop(told, send, trace)
    else:
        result = await closed(told, send)
    print(json.dumps(result), flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(Told(**json.loads(sys.argv[1]))))
