"""What a service insists on before it works, and how it says what is wrong.

A server that is not there is waited for. One that is there and cannot be used (it refuses us, its
schema is older than this code, its clock is another) is waited for START_WAIT_S, since somebody may
be at it, and is then the end: one line that says what is wrong and what to do, and status 1.
A schema that is newer than this code is used: a rolling upgrade has begun (docs/upgrading.md).
Units: seconds. Raises: SystemExit.
"""

import asyncio
import errno
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import nats.errors
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from wfhub_common import db, shares
from wfhub_common.errors import RetryLater
from wfhub_common.log import get_logger
from wfhub_common.service import Stop
from wfhub_common.settings import BrokerSettings

RETRY_S = (0.1, 2.0)  # first and longest wait between two looks
REFUSED = "28"  # SQLSTATE class: a password or a role that is not known
NONE = "3D000"  # no such database

log = get_logger(__name__)


async def database(
    engine: AsyncEngine,
    settings: BrokerSettings,
    stop: Stop,
    program: str,
    *,
    schema: str,
    migrations: Path,
) -> None:
    """Returns when it can be used; else `stop` is set, and it stays until it is cancelled.
    `program`: whose `migrate` brings the schema up to date."""
    mend = f"run `{program} migrate` (compose, chart and `wfhub up` do that at each start)"
    ends_at = 0.0
    pause_s = RETRY_S[0]
    while True:
        try:
            why = await _unusable(engine, settings, schema, migrations, mend)
            ends_at = ends_at or time.monotonic() + settings.start_wait_s
        except RetryLater as e:
            why, ends_at = e.message, 0.0
        if not why:
            return
        if ends_at and time.monotonic() >= ends_at:
            await _end(stop, why)
        log.warning("waiting for the database", why=why)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, RETRY_S[1])


async def _unusable(
    engine: AsyncEngine, settings: BrokerSettings, schema: str, migrations: Path, mend: str
) -> str:
    try:
        async with db.transaction(engine) as connection:
            sql = f'SELECT version_num FROM "{schema}".migration'  # noqa: S608 - a constant of ours
            found = (await connection.execute(text(sql))).scalar()
            theirs = (await connection.execute(text("SELECT clock_timestamp()"))).scalar()
    except Exception as e:
        state, said = db.sqlstate(e), str(e).splitlines()[0]
        if state.startswith(REFUSED):
            return f"bad settings: DATABASE_URL: the database refuses its user or password: {said}"
        if state == NONE:
            return f"bad settings: DATABASE_URL: {said}: make it with `wfhub-admin database`"
        if not isinstance(e, DBAPIError):
            raise
        return f"the database has no schema {schema} for us: {mend}; {said}"
    newest = newest_revision(migrations)
    if found is None or found < newest:
        at = found or "nothing"
        return f"the schema {schema} is at {at}, but this version needs {newest}: {mend}"
    if found > newest:
        log.info("the schema is newer than this version", schema=schema, found=found, own=newest)
    return apart(theirs, settings.clock_skew_s_max, "the database's")


def newest_revision(migrations: Path) -> str:
    """By the files' names: each begins with its revision. Alembic is for those who migrate."""
    return max(file.name.partition("_")[0] for file in migrations.glob("versions/[0-9]*.py"))


def apart(theirs: datetime | None, at_most_s: float, whose: str) -> str:
    """What is wrong with our clock, or nothing."""
    if theirs is None:
        return ""
    ahead_s = (datetime.now(UTC) - theirs).total_seconds()
    if abs(ahead_s) <= at_most_s:
        return ""
    way = "ahead of" if ahead_s > 0 else "behind"
    return (
        f"this machine's clock is {abs(ahead_s):.0f} s {way} {whose}: keep both by NTP, or allow"
        f" more with CLOCK_SKEW_S_MAX (now {at_most_s:g})"
    )


def writable(folder: Path, setting: str) -> Path:
    """`folder`, made if it was not there, once a file could be written into it. A full disk is no
    reason not to start: what is there can be read, and room may come."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as e:
        if e.errno in {errno.ENOSPC, errno.EDQUOT} and folder.is_dir():
            log.warning("no room on the disk", setting=setting, folder=str(folder))
            return folder
        raise SystemExit(
            f"bad settings: {setting}: cannot write to {folder}: {e.strerror}: let it belong to uid"
            f" {os.geteuid()}, on a file system that is mounted for writing and has room"
        ) from e
    return folder


def warn_of_share(folder: Path, setting: str) -> None:
    """What is dangerous about how a network file system is mounted is in the log."""
    share = shares.holding(folder)
    for danger in shares.dangers(share) if share else ():
        log.warning("a share may lose work", setting=setting, share=str(folder), danger=danger)


def insist_on_modes(folder: Path, setting: str) -> None:
    """A checkout without permission bits would show a change of mode wherever there is one."""
    share = shares.holding(folder)
    if share and not share.has_modes:
        raise SystemExit(
            f"bad settings: {setting}: {folder} is on SMB, which keeps no permissions of files:"
            " put it on a local disk"
        )


async def _end(stop: Stop, why: str) -> None:
    """For a task of the service: who waits for what it makes is to be cancelled, not to go on."""
    stop.fatally(why)
    await asyncio.Event().wait()


@asynccontextmanager
async def entering(stop: Stop | None) -> AsyncIterator[None]:
    """Around a first connection to NATS, which tries until a server answers. `stop` for a task of
    the service; None where a SystemExit is heard."""
    try:
        yield
    except nats.errors.Error as e:
        if "uthorization" not in str(e):
            raise
        why = (
            "bad settings: NATS_PASSWORD: the server at NATS_URL refuses NATS_USER with it: give"
            " each service what `wfhub-admin secrets` made, and restart NATS when users were added"
        )
        if stop is None:
            raise SystemExit(why) from e
        await _end(stop, why)
