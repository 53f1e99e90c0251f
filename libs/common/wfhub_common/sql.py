"""Statements on a connection of SQLAlchemy's pool, run by asyncpg itself.

The pool, the connections' set-up, `:name` in statements and the errors are SQLAlchemy's; between
them and the driver there is nothing: its cursors, results and greenlets were a third of what a
busy scheduler did (ADR 20). A statement is prepared once a connection.

`Connection.execute(text("… :name …"), {"name": value})` → `Result`; its rows give columns by name
and by number. JSON columns come back decoded and are given as text.
Raises: sqlalchemy.exc.DBAPIError as SQLAlchemy does (`orig` has `sqlstate`); TimeoutError and
OSError, after which the connection is not used again.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from operator import itemgetter
from typing import Any, cast

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy import TextClause, text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DBAPIError, MultipleResultsFound, NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

STATEMENTS_MAX = 500  # kept prepared a connection, and translated a process
_PREPARED = "prepared"
_NOTHING: Mapping[str, Any] = {}
_OUTDATED = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
# The server's word, or said before anything was sent; else nobody knows the state of the session.
_HARMLESS = (asyncpg.PostgresError, asyncpg.InterfaceError, KeyError, TypeError, ValueError)


class Row(asyncpg.Record):  # type: ignore[misc]
    """`row.column`, `row[0]`, iteration over the values."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as e:
            raise AttributeError(name) from e

    @classmethod
    def knows(cls, columns: Iterable[str]) -> None:
        """From now on these are looked up without an exception, and without Python: to find out
        first that a row has no such attribute of its own was a twelfth of a busy scheduler."""
        for column in columns:
            if not hasattr(cls, column):
                setattr(cls, column, property(itemgetter(column)))


class Result:
    """The rows of one statement, all of them here."""

    __slots__ = ("_rows", "_status")

    def __init__(self, rows: list[Row], status: str) -> None:
        self._rows = rows
        self._status = status

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def all(self) -> list[Row]:
        return self._rows

    def first(self) -> Row | None:
        return self._rows[0] if self._rows else None

    def one(self) -> Row:
        """Raises: NoResultFound, MultipleResultsFound."""
        if (row := self.one_or_none()) is None:
            raise NoResultFound("a row was needed, and there is none")
        return row

    def one_or_none(self) -> Row | None:
        if len(self._rows) > 1:
            raise MultipleResultsFound("one row at most was expected")
        return self.first()

    def scalars(self) -> list[Any]:
        return [row[0] for row in self._rows]

    def scalar(self) -> Any:
        """The first row's first column; None without a row."""
        return self._rows[0][0] if self._rows else None

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        row = self.one_or_none()
        return None if row is None else row[0]

    @property
    def rowcount(self) -> int:
        """Rows that were read or changed; -1 for a statement that has none."""
        last = self._status.rpartition(" ")[2]
        return int(last) if last.isdecimal() else -1


class Connection:
    """One at work at a time. Outside of `begin` each statement is a transaction."""

    def __init__(self, pooled: PoolProxiedConnection, dialect: PGDialect_asyncpg) -> None:
        self._pooled = pooled
        self._dialect = dialect
        self._driver: asyncpg.Connection = cast(asyncpg.Connection, pooled.driver_connection)
        self._prepared: dict[str, PreparedStatement] = pooled.info.setdefault(_PREPARED, {})

    async def execute(self, statement: TextClause, values: Mapping[str, Any] = _NOTHING) -> Result:
        query, names = translated(statement.text)
        try:
            prepared = self._prepared.get(query) or await self._prepare(query)
            rows = await prepared.fetch(*[values[name] for name in names])
            return Result(rows, prepared.get_statusmsg() or "")
        except BaseException as e:
            raise await self._told(e) from e

    async def command(self, sql: str) -> str:
        """Without values and rows: BEGIN, SET and the like. As the server answers: `COMMIT`."""
        try:
            return str(await self._driver.execute(sql))
        except BaseException as e:
            raise await self._told(e) from e

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        """A transaction; rolled back on any error."""
        await self.command("BEGIN")
        try:
            yield
        except BaseException:
            await self._undo("ROLLBACK")
            raise
        if (said := await self.command("COMMIT")) != "COMMIT":
            raise RuntimeError(
                f"a transaction with a failed statement was ended as if well: {said}"
            )

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        """Part of a transaction: an error undoes this alone."""
        await self.command("SAVEPOINT part")
        try:
            yield
        except BaseException:
            await self._undo("ROLLBACK TO SAVEPOINT part")
            raise
        await self.command("RELEASE SAVEPOINT part")

    async def invalidate(self) -> None:
        """It is closed, and what hangs on its session is let go."""
        if self._pooled.is_valid:
            await greenlet_spawn(self._pooled.invalidate)

    async def _undo(self, sql: str) -> None:
        """Where that fails, the end of the session does it."""
        if not self._pooled.is_valid:
            return
        try:
            await self._driver.execute(sql)
        except Exception:  # noqa: BLE001 - told of is what went wrong before
            await self.invalidate()
        except BaseException:  # a cancellation is not lost
            await self.invalidate()
            raise

    async def _prepare(self, query: str) -> PreparedStatement:
        prepared = await self._driver.prepare(query, record_class=Row)
        if len(self._prepared) >= STATEMENTS_MAX:
            del self._prepared[next(iter(self._prepared))]
        self._prepared[query] = prepared
        Row.knows(column.name for column in prepared.get_attributes())
        return prepared

    async def _told(self, error: BaseException) -> BaseException:
        """As SQLAlchemy says it; a session whose state is not known is not used again."""
        if isinstance(error, _OUTDATED):
            self._prepared.clear()  # a migration changed what they give
        lost = self._driver.is_closed()
        if lost or not isinstance(error, _HARMLESS):
            await self.invalidate()
        return as_sqlalchemy(error, self._dialect, lost=lost)


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """A connection of the pool; given back in the end."""
    dialect = cast(PGDialect_asyncpg, engine.dialect)
    try:
        pooled = await engine.raw_connection()
    except dialect.loaded_dbapi.Error as e:
        raise as_sqlalchemy(e, dialect, lost=False) from e  # there was none
    try:
        yield Connection(pooled, dialect)
    finally:
        await greenlet_spawn(pooled.close)


@lru_cache(maxsize=STATEMENTS_MAX)
def translated(statement: str) -> tuple[str, tuple[str, ...]]:
    """With `$1` for `:name`, and the names in that order."""
    compiled = text(statement).compile(dialect=_DIALECT)
    names: Sequence[str] = compiled.positiontup or ()
    return compiled.string, tuple(names)


def as_sqlalchemy(error: BaseException, dialect: PGDialect_asyncpg, *, lost: bool) -> BaseException:
    """What is no word of the driver's stays what it is."""
    dbapi: Any = dialect.loaded_dbapi
    if not isinstance(error, dbapi.Error):
        kinds = dbapi._asyncpg_error_translate  # private, of a pinned version; test_sql.py has it
        kind = next((kinds[each] for each in type(error).__mro__ if each in kinds), None)
        if kind is None:
            return error
        error = kind(str(error), error)
    return DBAPIError.instance(
        None,
        None,
        error,
        dbapi.Error,
        hide_parameters=True,
        connection_invalidated=lost,
        dialect=dialect,
    )


_DIALECT = PGDialect_asyncpg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
