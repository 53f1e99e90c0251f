"""Looking at Postgres and NATS directly, past every proxy: where proofs of timing come from.

`rows` waits for a database that is being restarted; `try_rows` says None at once.
"""

import asyncio
import contextlib
import time
from typing import Any

import asyncpg
import nats
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError
from wfhub_common import subjects

from chaos.cluster import Cluster
from chaos.nodes import OBSERVER

ROWS_S_MAX = 60.0
LIVE = "('leased', 'running', 'verifying')"
DOWN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)


class Observer:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pg: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()
        self._nats: Client | None = None

    async def close(self) -> None:
        if self._pg is not None:
            await self._pg.close(timeout=5)
        if self._nats is not None:
            await self._nats.close()

    async def rows(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        deadline = time.monotonic() + ROWS_S_MAX
        while True:
            try:
                return await self._fetch(sql, *arguments)
            except DOWN as e:
                if isinstance(e, asyncpg.PostgresSyntaxError) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def try_rows(self, sql: str, *arguments: Any) -> list[asyncpg.Record] | None:
        try:
            return await self._fetch(sql, *arguments)
        except DOWN:
            return None

    async def value(self, sql: str, *arguments: Any) -> Any:
        rows = await self.rows(sql, *arguments)
        return rows[0][0] if rows else None

    async def _fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self._lock:
            if self._pg is None or self._pg.is_closed():
                self._pg = await asyncpg.connect(
                    self._cluster.admin_url,
                    timeout=5,
                    command_timeout=30,
                    server_settings={"application_name": "chaos-observer"},
                )
            try:
                return list(await self._pg.fetch(sql, *arguments))
            except DOWN:
                if self._pg.is_closed():
                    self._pg = None
                raise

    async def jetstream(self) -> JetStreamContext:
        if self._nats is None or self._nats.is_closed:
            self._nats = await nats.connect(
                self._cluster.nats_url,
                user=OBSERVER,
                password=self._cluster.passwords[OBSERVER],
                inbox_prefix=f"_INBOX.{OBSERVER}".encode(),
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,
                connect_timeout=2,
                error_cb=_quiet,
            )
        return self._nats.jetstream(timeout=2)

    async def stream_end(self, stream: str = subjects.EVENTS_STREAM) -> tuple[int, int] | None:
        """(last sequence, messages), or None while it cannot be had."""
        with contextlib.suppress(nats.errors.Error, JetStreamError, OSError, TimeoutError):
            state = (await (await self.jetstream()).stream_info(stream)).state
            return state.last_seq, state.messages
        return None

    # --- what faults ask ------------------------------------------------------------------------

    async def live_attempts(self, runner_id: str, *, states: str = LIVE) -> list[asyncpg.Record]:
        return await self.rows(
            "SELECT attempt_id, task_id, kind, state FROM sched.attempt"
            f" WHERE runner_id = $1 AND state IN {states}",
            runner_id,
        )

    async def attempt_states(self, attempt_ids: list[str]) -> dict[str, str]:
        rows = await self.rows(
            "SELECT attempt_id, state FROM sched.attempt WHERE attempt_id = ANY($1::text[])",
            attempt_ids,
        )
        return {row["attempt_id"]: row["state"] for row in rows}

    async def open_transactions(self, ports: set[int]) -> list[dict[str, Any]]:
        """Of the sessions behind these client ports: the ones inside a transaction that has
        written or locked something."""
        rows = await self.try_rows(
            """
            SELECT pid, client_port, state, query, backend_xid::text AS xid,
                   extract(epoch FROM clock_timestamp() - xact_start) AS age_s
              FROM pg_stat_activity
             WHERE application_name = 'wfhub-scheduler' AND xact_start IS NOT NULL
               AND client_port = ANY($1::int[])
            """,
            list(ports),
        )
        return [
            {
                **dict(row),
                "query": " ".join(row["query"].split())[:300],
                "age_s": float(row["age_s"]),
            }
            for row in rows or []
        ]

    async def published(self, task_id: str) -> bool:
        return bool(
            await self.value(
                "SELECT state = 'succeeded' FROM sched.task WHERE task_id = $1", task_id
            )
        )

    async def live_tasks(self) -> int:
        return int(
            await self.value(
                "SELECT count(*) FROM sched.task"
                " WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"
            )
        )


async def _quiet(_error: Exception) -> None:
    return None
