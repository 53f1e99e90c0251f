"""Backup and restore of a whole installation, wherever it runs: database, blobs, log, keys.

A backup is taken while everything runs: pg_dump reads one snapshot, then the blobs are copied
(archive.py says why that order is enough). The transparency log is part of the database; the event
stream is not in it, since the relay writes it anew from the database.
A restore makes an installation of empty parts: the same keys, so that proofs verify and runners
are known; an attempt that was at work is lost to its lease and done again; what was published
after the backup is found by its marker and not published twice.
Raises: SystemExit with what stands in the way.
"""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from wfhub_admin import archive, rest
from wfhub_admin.archive import BLOB, Contents
from wfhub_admin.database import DATABASE, Plan, carry_out, make_roles
from wfhub_admin.outlay import Truth
from wfhub_admin.postgres import binaries

VIEWERS = "wfhub_api"  # reads the views that begin with api_
TOOL_S_MAX = 6 * 3600.0


def backup(path: Path, *, plan: Plan, blobs: Path, truth: Truth, passphrase: str) -> Contents:
    if path.exists():
        raise SystemExit(f"{path} exists: choose another name, a backup is never overwritten")
    if not (blobs / "sha256").is_dir():
        raise SystemExit(f"{blobs} has no blobs: is it the proof-store's folder?")
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".wfhub-backup-") as name:
        dump = Path(name) / archive.DUMP
        schemas = [f"--schema={schema.name}" for schema in plan.schemas]
        _tool("pg_dump", _url(plan), "--format=custom", f"--file={dump}", *schemas)
        return archive.write(path, dump=dump, blobs=blobs, truth=truth, passphrase=passphrase)


def restore_database(path: Path, plan: Plan) -> None:
    """Into a server that has no tasks of ours."""
    asyncio.run(_make_room(plan))
    with tempfile.TemporaryDirectory(prefix="wfhub-restore-") as name:
        dump = Path(name) / archive.DUMP
        with archive.member_of(path, archive.DUMP) as content, dump.open("wb") as file:
            while chunk := content.read(archive.CHUNK_BYTES):
                file.write(chunk)
        for schema in plan.schemas:
            if schema.name == rest.SCHEMA and plan.admin_url:
                asyncio.run(_grant_views(plan))  # its views are over the others'
            # Each by the role that is to own it, whatever the roles were called where it was made.
            own = [f"--role={schema.role}"] if schema.role else []
            options = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"]
            target = f"--dbname={_url(plan)}"
            _tool("pg_restore", target, *options, *own, f"--schema={schema.name}", str(dump))
    if plan.admin_url:
        asyncio.run(_grant_views(plan))
        # What an older backup does not have yet, and what is granted for good.
        carry_out(plan)


def restore_blobs(path: Path, root: Path, *, uid: int) -> int:
    """How many; each checked by `archive.check` before, each whole or not there."""
    count = 0
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    _own(root, uid)  # a new volume belongs to root
    with archive.members(path) as each:
        for member, content in each:
            if BLOB.fullmatch(member.name) is not None:
                _put(content, root / Path(member.name).relative_to("blobs"), root, uid)
                count += 1
    return count


def _put(content: IO[bytes], target: Path, root: Path, uid: int) -> None:
    _own_folders(target.parent, root, uid)
    new = target.with_suffix(".new")
    with new.open("wb") as file:
        while chunk := content.read(archive.CHUNK_BYTES):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    _own(new, uid)
    new.replace(target)


def passphrase_of(file: Path | None, value: str, ask: Callable[[], str]) -> str:
    """Of a file, else of the environment, else asked."""
    if file is not None:
        try:
            return file.read_text().rstrip("\r\n")
        except OSError as e:
            raise SystemExit(f"cannot read the passphrase from {file}: {e.strerror}") from e
    return value or ask()


def _own_folders(folder: Path, root: Path, uid: int) -> None:
    if not folder.is_dir():
        if folder != root:
            _own_folders(folder.parent, root, uid)
        folder.mkdir(mode=0o700)
        _own(folder, uid)


def _own(path: Path, uid: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, uid)


def _url(plan: Plan) -> str:
    return f"{plan.admin_url}/{DATABASE}" if plan.admin_url else plan.schemas[0].url


async def _make_room(plan: Plan) -> None:
    import asyncpg

    if plan.admin_url:
        await make_roles(plan)
    connection = await asyncpg.connect(_url(plan))
    try:
        for schema in plan.schemas:
            if await connection.fetchval(
                "SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace($1) LIMIT 1",
                schema.name,
            ):
                raise SystemExit(
                    f"the database has a schema {schema.name} with something in it: a backup is"
                    " restored into an empty database only"
                )
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema.name}")
    finally:
        await connection.close()


async def _grant_views(plan: Plan) -> None:
    import asyncpg

    connection = await asyncpg.connect(_url(plan))
    try:
        for schema in plan.schemas:
            if schema.role == VIEWERS:
                continue
            views = await connection.fetch(
                "SELECT viewname FROM pg_views WHERE schemaname = $1 AND viewname LIKE 'api\\_%'",
                schema.name,
            )
            if views:
                names = ", ".join(f"{schema.name}.{row['viewname']}" for row in views)
                await connection.execute(
                    f"GRANT USAGE ON SCHEMA {schema.name} TO {VIEWERS};"
                    f"GRANT SELECT ON {names} TO {VIEWERS}"
                )
    finally:
        await connection.close()


def _tool(name: str, *arguments: str) -> None:
    """The URL has a password: the tools take it from an argument, and hide it from others by
    themselves only as an environment variable; so it goes there."""
    options, environment = _without_passwords(arguments)
    done = subprocess.run(
        [str(binaries() / name), *options],
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TOOL_S_MAX,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr.strip()[-2000:]}")


def _without_passwords(arguments: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    from sqlalchemy.engine import make_url

    options, environment = [], {}
    for argument in arguments:
        prefix, at = ("--dbname=", 9) if argument.startswith("--dbname=") else ("", 0)
        if argument[at:].startswith(("postgresql://", "postgres://")):
            url = make_url(argument[at:])
            environment["PGPASSWORD"] = url.password or ""
            argument = prefix + url._replace(password=None).render_as_string()
        options.append(argument)
    return options, environment
