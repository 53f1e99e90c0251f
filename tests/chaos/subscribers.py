"""Subscribers: the event log as outsiders see it, over NATS and over HTTP.

Each writes what it received, in the order it did, one JSON list a line:
[t, via, stream_seq, generation, pos, event_id]. via: nats | fill (a gap, read from the API) | http.
The NATS one keeps a durable consumer, dedupes on the id and checkpoints (generation, pos), as the
design asks of consumers; a consumer that is gone (its stream was) is made anew, from the start.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import nats
import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import Error as JetStreamError
from wfhub_common import subjects

from chaos.cluster import Cluster
from chaos.history import History
from chaos.nodes import WATCHER

DURABLE = "chaos-watcher"
FETCH = 500
PAGE = 1000
_LOST = (nats.errors.Error, JetStreamError, OSError, TimeoutError)


class Notes:
    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._now = now

    def add(self, via: str, seq: int, generation: int, pos: int, event_id: str) -> None:
        line = [round(self._now(), 3), via, seq, generation, pos, event_id]
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")


class HttpSubscriber:
    """Pages of GET /v1/events, at either API."""

    def __init__(self, cluster: Cluster, history: History, folder: Path) -> None:
        self._cluster = cluster
        self._notes = Notes(folder / "events-http.jsonl", history.now)
        self.at = (0, 0)

    async def run(self) -> None:
        turn = 0
        async with _clients(self._cluster) as clients:
            while True:
                turn += 1
                page = await _page(clients[turn % len(clients)], self.at)
                for event in page:
                    self.at = (event["wfhubgeneration"], event["wfhubpos"])
                    self._notes.add("http", 0, *self.at, event["id"])
                if len(page) < PAGE:
                    await asyncio.sleep(0.5)


class NatsSubscriber:
    def __init__(self, cluster: Cluster, history: History, folder: Path) -> None:
        self._cluster, self._history = cluster, history
        self._notes = Notes(folder / "events-nats.jsonl", history.now)
        self._seen: set[str] = set()
        self.at = (0, 0)
        self.received = self.doubles = self.fills = 0

    async def run(self) -> None:
        """Until cancelled."""
        async with _clients(self._cluster) as clients:
            while True:
                try:
                    await self._session(clients)
                except _LOST as e:
                    self._history.note("watcher", "again", error=repr(e)[:120])
                await asyncio.sleep(0.5)

    async def _session(self, clients: list[httpx.AsyncClient]) -> None:
        url = f"nats://127.0.0.1:{self._cluster.nats_proxies[WATCHER].port}"
        client = await nats.connect(
            url,
            user=WATCHER,
            password=self._cluster.passwords[WATCHER],
            inbox_prefix=f"_INBOX.{WATCHER}".encode(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.3,
            ping_interval=5,
            connect_timeout=2,
            error_cb=_quiet,
        )
        try:
            js = client.jetstream(timeout=3)
            config = ConsumerConfig(
                durable_name=DURABLE,
                deliver_policy=DeliverPolicy.ALL,
                ack_policy=AckPolicy.ALL,
                max_deliver=-1,
                ack_wait=10,
                max_ack_pending=5 * FETCH,
            )
            with contextlib.suppress(JetStreamError):
                await js.add_consumer(subjects.EVENTS_STREAM, config)
            subscription = await js.pull_subscribe_bind(
                DURABLE, stream=subjects.EVENTS_STREAM, inbox_prefix=f"_INBOX.{WATCHER}.".encode()
            )
            while True:
                try:
                    messages = await subscription.fetch(FETCH, timeout=1.0)
                except (TimeoutError, nats.errors.TimeoutError):
                    await js.consumer_info(subjects.EVENTS_STREAM, DURABLE)  # raises: it is gone
                    continue
                for message in messages:
                    await self._take(message, clients)
                if messages:
                    await messages[-1].ack()
        finally:
            with contextlib.suppress(*_LOST):
                await client.close()

    async def _take(self, message: Any, clients: list[httpx.AsyncClient]) -> None:
        event = json.loads(message.data)
        at = (event["wfhubgeneration"], event["wfhubpos"])
        self.received += 1
        if event["id"] in self._seen:
            self.doubles += 1
            return
        expected = self.at[1] + 1 if at[0] == self.at[0] else 1
        if at[1] > expected:  # a hole: what the API has for it comes first
            await self._fill(at, clients)
        if event["id"] not in self._seen:
            self._note("nats", int(message.metadata.sequence.stream), at, event["id"])

    async def _fill(self, until: tuple[int, int], clients: list[httpx.AsyncClient]) -> None:
        self.fills += 1
        self._history.note("watcher", "gap", after=self.at, until=until)
        turn = 0
        while self.at < until:
            turn += 1
            page = await _page(clients[turn % len(clients)], self.at)
            for event in page:
                at = (event["wfhubgeneration"], event["wfhubpos"])
                if at < until and event["id"] not in self._seen:
                    self._note("fill", 0, at, event["id"])
            reached = (
                bool(page)
                and (
                    page[-1]["wfhubgeneration"],
                    page[-1]["wfhubpos"],
                )
                >= until
            )
            if reached:
                return
            await asyncio.sleep(0.3)

    def _note(self, via: str, seq: int, at: tuple[int, int], event_id: str) -> None:
        self._seen.add(event_id)
        self.at = at
        self._notes.add(via, seq, *at, event_id)


@contextlib.asynccontextmanager
async def _clients(cluster: Cluster) -> Any:
    headers = {"Authorization": f"Bearer {cluster.credentials.admin_token}"}
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, headers=headers, timeout=10.0)
            )
            for url in cluster.api_urls.values()
        ]


async def _page(http: httpx.AsyncClient, after: tuple[int, int]) -> list[dict[str, Any]]:
    with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
        at = f"{after[0]}-{after[1]}"
        reply = await http.get("/v1/events", params={"after": at, "limit": PAGE})
        if reply.status_code == 200:
            found: list[dict[str, Any]] = reply.json()["events"]
            return found
    return []


async def _quiet(_error: Exception) -> None:
    return None


def heard(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What each subscriber has, in the order that it has it: a gap that was filled is in place."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("events-*.jsonl")):
        lines = (json.loads(line) for line in path.read_text().splitlines())
        found[path.stem] = [
            {"generation": generation, "pos": pos, "id": event_id}
            for _, _, _, generation, pos, event_id in lines
        ]
    return found
