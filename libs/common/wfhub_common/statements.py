"""Single statements on Postgres without SQLAlchemy, where a request waits for one: each is a
transaction of its own, on a pool of asyncpg's, and costs half of what it costs by way of an engine
(ADR 38). The SQL is written as everywhere, with `:name` for a value.

A connection is given back as it is, without a trip to clear it: only statements that leave nothing
behind in their session may run here.
Raises: RetryLater when the database cannot be reached.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.engine import make_url

from wfhub_common import db
from wfhub_common.errors import RetryLater
from wfhub_common.log import get_logger

CONNECTIONS_MAX = 6  # each is held for one statement
WAIT_S = 10  # for a free one
CLOSE_S = 2.0  # in order, else at once

_NAME = re.compile(r"(?<!:):([a-z_]+)")

log = get_logger(__name__)
T = TypeVar("T")


class Statement:
    """Its text with `$n` for `:name`, and the names in that order."""

    def __init__(self, text: str) -> None:
        self.names = tuple(dict.fromkeys(_NAME.findall(text)))
        place = {name: f"${n}" for n, name in enumerate(self.names, 1)}
        self.text = _NAME.sub(lambda found: place[found[1]], text)

    def values(self, values: Mapping[str, Any]) -> list[Any]:
        return [values[name] for name in self.names]


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    def get_reset_query(self) -> str:
        return ""


class Statements:
    """Connects when it is first asked."""

    def __init__(
        self, url: str, *, application: str, settings: Mapping[str, str] | None = None
    ) -> None:
        parsed = make_url(db.async_url(url))
        _, options = parsed.get_dialect()().create_connect_args(parsed)
        self._options = {**options, **db.connect_args(application, settings)}
        self._pool: Any = None
        self._opening = asyncio.Lock()

    async def value(self, statement: Statement, values: Mapping[str, Any]) -> Any:
        """The first value of the first row; None without one. Tried again when it lost a
        deadlock."""
        arguments = statement.values(values)
        return await self._retried(
            lambda connection: connection.fetchval(statement.text, *arguments)
        )

    async def close(self) -> None:
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    async def _retried(self, work: Callable[[Any], Awaitable[T]]) -> T:
        for turn in range(db.DEADLOCK_RETRIES_MAX):
            try:
                return await self._once(work)
            except asyncpg.PostgresError as e:
                if db.sqlstate(e) not in db.RETRIED or turn == db.DEADLOCK_RETRIES_MAX - 1:
                    raise
                log.warning("statement retried", sqlstate=db.sqlstate(e), turn=turn)
                await asyncio.sleep(random.uniform(0.005, 0.05) * 2**turn)  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    async def _once(self, work: Callable[[Any], Awaitable[T]]) -> T:
        try:
            async with (await self._opened()).acquire(timeout=WAIT_S) as connection:
                return await work(connection)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as e:
            said = isinstance(e, asyncpg.PostgresError) and not db.says_down(db.sqlstate(e))
            if said or isinstance(e, ValueError):  # our mistake, or the answer
                raise
            raise RetryLater("database-down", f"the database did not answer: {e}") from e

    async def _opened(self) -> Any:
        if self._pool is not None:
            return self._pool
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    **self._options,
                    min_size=0,
                    max_size=CONNECTIONS_MAX,
                    connection_class=_Connection,
                )
        return self._pool
