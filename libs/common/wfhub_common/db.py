"""Postgres: an engine per service, its schema, its migrations, and transactions that retry.

Each service owns one schema and connects with its own role where the operator made one.
Lock order everywhere: project → task → attempt, ids sorted; what still deadlocks is retried.
Raises: RetryLater when the database cannot be reached.
"""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import event, text
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from wfhub_common import sql
from wfhub_common.errors import RetryLater
from wfhub_common.log import get_logger
from wfhub_common.sql import Connection

POOL_CONNECTIONS = 10
POOL_OVERFLOW = 10
POOL_WAIT_S = 10
CONNECT_TIMEOUT_S = 5
PING_IDLE_S = 1.0
COMMAND_TIMEOUT_S = 30
# A process that stands still in a transaction holds its locks no longer than this; a peer that
# is cut off is given up after this.
IDLE_IN_TRANSACTION_S = 15
PEER_SILENT_S = 15
DEADLOCK_RETRIES_MAX = 5
# Of a migration: how long it, and whoever comes after it, waits for a table; the pause before it
# tries again; and when it gives up (a backup reads all tables in one transaction).
LOCK_WAIT_S = 2
LOCK_PAUSE_S = 3.0
LOCKED_S_MAX = 600.0
# Of sessions whose statements are each written for one plan, into an index: it is made once, and is
# the same whatever the statistics say (a queue may be analysed while it is empty and full a minute
# later, or the other way). To make plans anew was a fifth of what a task cost Postgres.
ONE_PLAN = {
    "plan_cache_mode": "force_generic_plan",
    **dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off"),
    "enable_memoize": "off",  # what is looked up is another row each time
}
AUTOCOMMIT = "AUTOCOMMIT"
# Deadlock detected, serialization failure, a prepared statement that a migration made another.
_RETRIED = {"40P01", "40001", "0A000"}
_LOCKED = _RETRIED | {"55P03"}  # lock not available
# Shut down, crashed, starting up, idle for too long; no connection, disk or memory left; I/O error;
# read-only, as a standby is.
_DOWN = {
    *("57P01", "57P02", "57P03", "57P05", "25P03"),
    *("53000", "53100", "53200", "53300", "58030", "25006"),
}

log = get_logger(__name__)
T = TypeVar("T")


def async_url(url: str) -> str:
    """The URL with the asyncpg driver named, whichever of the usual spellings came in."""
    for head in ("postgresql+asyncpg://", "postgresql://", "postgres://"):
        if url.startswith(head):
            # The driver's own name for libpq's.
            rest = re.sub(r"(?<=[?&])sslmode=", "ssl=", url.removeprefix(head))
            return f"postgresql+asyncpg://{rest}"
    raise SystemExit("bad settings: DATABASE_URL must begin with postgresql://")


def make_engine(
    url: str, *, application: str, settings: Mapping[str, str] | None = None
) -> AsyncEngine:
    """`settings`: of Postgres, for each session."""
    engine = create_async_engine(
        async_url(url),
        pool_size=POOL_CONNECTIONS,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_WAIT_S,
        hide_parameters=True,  # an error goes to the log; what people sent does not
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": COMMAND_TIMEOUT_S,
            "server_settings": {
                "application_name": application,
                "timezone": "UTC",
                # Whatever the database's default is: what is counted behind a lock is read anew.
                "default_transaction_isolation": "read committed",
                "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
                "tcp_user_timeout": f"{PEER_SILENT_S}s",
                "tcp_keepalives_idle": f"{PEER_SILENT_S}",
                **(settings or {}),
            },
        },
    )
    _ping_idle(engine)
    return engine


def _ping_idle(engine: AsyncEngine) -> None:
    """A connection that was not used for a while is tried before it is given out. One that was is
    not: a round trip for each transaction would cost more than asking again after a restart."""
    dialect = engine.sync_engine.dialect

    def checked_in(_: Any, record: ConnectionPoolEntry) -> None:
        record.info["used_at"] = time.monotonic()

    def checked_out(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        used_at = record.info.get("used_at")
        if used_at is None or time.monotonic() - used_at < PING_IDLE_S:
            return
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as e:
            if dialect.is_disconnect(e, connection, None):
                raise InvalidatePoolError from e
            raise

    event.listen(engine.sync_engine, "checkin", checked_in)
    event.listen(engine.sync_engine, "checkout", checked_out)


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """One transaction; commit at the end, roll back on any error."""
    alone = engine.sync_engine.get_execution_options().get("isolation_level") == AUTOCOMMIT
    try:
        async with sql.connected(engine) as connection:
            if alone:
                yield connection
            else:
                async with connection.begin():
                    yield connection
    except (DBAPIError, PoolTimeoutError, ConnectionError, TimeoutError) as e:
        if not _is_down(e):
            raise
        why = str(e) or type(e).__name__  # a timeout has no words
        raise RetryLater("database-down", f"the database did not answer: {why}") from e


async def retried(engine: AsyncEngine, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `work` in a transaction of its own, again when it lost a deadlock, or a migration made
    one of its statements another."""
    for turn in range(DEADLOCK_RETRIES_MAX):
        try:
            async with transaction(engine) as connection:
                return await work(connection)
        except DBAPIError as e:
            if sqlstate(e) not in _RETRIED or turn == DEADLOCK_RETRIES_MAX - 1:
                raise
            log.warning("transaction retried", sqlstate=sqlstate(e), turn=turn)
            await asyncio.sleep(random.uniform(0.005, 0.05) * 2**turn)  # noqa: S311 - jitter
    raise AssertionError("unreachable")


def autocommitting(engine: AsyncEngine) -> AsyncEngine:
    """The same connections, for statements that are a transaction each: no trips to begin and to
    commit. With `retried`."""
    return engine.execution_options(isolation_level=AUTOCOMMIT)


def migrate(url: str, *, schema: str, migrations: Path) -> None:
    """Bring `schema` to the newest revision in `migrations` (Alembic). Blocking; safe to run
    from several processes at once (an advisory lock is held) and beside services at work.
    Idempotent. Raises: RetryLater when somebody keeps a table for LOCKED_S_MAX."""
    asyncio.run(_migrate(url, schema, migrations))


async def _migrate(url: str, schema: str, migrations: Path) -> None:
    """A transaction for each revision: what one locks is free again before the next begins."""
    from alembic.config import Config  # heavy: only a migrating process pays
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(migrations))
    script = ScriptDirectory.from_config(config)
    engine = create_async_engine(async_url(url), poolclass=NullPool)
    deadline = time.monotonic() + LOCKED_S_MAX
    try:
        more = True
        while more:
            try:
                async with engine.begin() as connection:
                    more = await connection.run_sync(_one_revision, schema, config, script)
            except DBAPIError as e:
                if sqlstate(e) not in _LOCKED:
                    raise
                if time.monotonic() > deadline:
                    raise RetryLater("schema-busy", f"{schema} is in use for too long: {e}") from e
                log.warning("migration put off: a table is in use", schema=schema, why=str(e.orig))
                await asyncio.sleep(LOCK_PAUSE_S)
    finally:
        await engine.dispose()


def _one_revision(connection: SyncConnection, schema: str, config: Any, script: Any) -> bool:
    """The next one, if there is one. An open transaction of somebody else may keep us from a table,
    and whoever comes after us waits behind us: so we wait briefly, let them pass, and try again."""
    from alembic.runtime.environment import EnvironmentContext

    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
        {"name": f"wfhub-migrate-{schema}"},
    )
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'"))
    connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
    steps: list[Any] = []

    def next_one(revision: Any, _context: Any) -> list[Any]:
        steps.extend(script._upgrade_revs("head", revision)[:1])
        return steps

    with EnvironmentContext(config, script, fn=next_one) as environment:
        environment.configure(
            connection=connection, version_table="migration", version_table_schema=schema
        )
        environment.run_migrations()
    return bool(steps)


def is_unready(error: BaseException) -> bool:
    """The schema or our rights in it are not what this code needs: no fault of what is done."""
    return isinstance(error, DBAPIError) and sqlstate(error).startswith(("42", "3F"))


def _is_down(error: BaseException) -> bool:
    """Is the server gone, going or coming up? The driver reports some of that as a plain error."""
    code = sqlstate(error)
    if code in _RETRIED:
        return False
    if not isinstance(error, DBAPIError):  # the network itself, or no free connection in the pool
        return True
    gone = isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated
    return gone or code in _DOWN or code.startswith("08")


def sqlstate(error: BaseException) -> str:
    """Empty for what is not Postgres's word."""
    said = (getattr(error, "orig", error), error.__cause__)
    return next((str(state) for each in said if (state := getattr(each, "sqlstate", ""))), "")
