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
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from wfhub_common import sealed

from wfhub_admin import archive, rest, restoring
from wfhub_admin.archive import BLOB, Contents
from wfhub_admin.database import DATABASE, Plan, carry_out, make_roles, wait
from wfhub_admin.files import as_owner
from wfhub_admin.outlay import Truth
from wfhub_admin.postgres import binaries

if TYPE_CHECKING:
    import asyncpg

VIEWERS = "wfhub_api"  # reads the views that begin with api_
TOOL_S_MAX = 6 * 3600.0


def backup(path: Path, *, plan: Plan, blobs: Path, truth: Truth, passphrase: str) -> Contents:
    archive.insist_on(passphrase)
    if path.exists():
        raise SystemExit(f"{path} exists: choose another name, a backup is never overwritten")
    wait(plan)  # a cluster lets a new pod through to it a moment after its start
    if not archive.has_blobs(blobs) and asyncio.run(_names_blobs(plan)):
        raise SystemExit(
            f"{blobs} has no blobs, and the database names some: is it the proof-store's folder?"
        )
    if (
        missing := asyncio.run(_sealed_under(plan))
        - sealed.keys(truth.sealing_keys).by_number.keys()
    ):
        raise SystemExit(
            f"secrets in the database are sealed under key {min(missing)}, which is not among the"
            " installation's sealing keys: give the backup the sealing-keys.json that belongs to it"
        )
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".wfhub-backup-") as name:
        dump = Path(name) / archive.DUMP
        schemas = [f"--schema={schema.name}" for schema in plan.schemas]
        _tool("pg_dump", _url(plan), "--format=custom", f"--file={dump}", *schemas)
        return archive.write(path, dump=dump, blobs=blobs, truth=truth, passphrase=passphrase)


def restore(path: Path, contents: Contents, *, plan: Plan, blobs: Path, uid: int) -> bool:
    """Of a backup that was checked, into a server that has no tasks of ours. False: it was restored
    before, and nothing was done. One that was broken off is gone on with."""
    if not asyncio.run(_begin(plan, contents.digest)):
        return False
    # The blobs first: who finds its schema may ask for any of them.
    _restore_blobs(path, blobs, uid=uid)
    _restore_database(path, contents, plan)
    asyncio.run(_end(plan, contents.digest))
    return True


def _restore_database(path: Path, contents: Contents, plan: Plan) -> None:
    with tempfile.TemporaryDirectory(prefix="wfhub-restore-") as name:
        dump = Path(name) / archive.DUMP
        with dump.open("wb") as file:
            archive.write_dump(path, contents, file)
        for schema in plan.schemas:
            if asyncio.run(_is_filled(plan, schema.name)):
                continue  # by a try that was broken off
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
        carry_out(plan, restoring=True)


def _restore_blobs(path: Path, root: Path, *, uid: int) -> None:
    """Each checked by `archive.check` before, each whole or not there."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        _own(root, uid)  # a new volume belongs to root
    except PermissionError as e:
        raise SystemExit(
            f"{root} cannot be given to uid {uid}: where it is a share, give it to that on its"
            " server, and restore again"
        ) from e
    with archive.members(path) as each, as_owner(root):
        for member, content in each:
            if BLOB.fullmatch(member.name) is not None:
                _put(content, root / Path(member.name).relative_to("blobs"), root, uid)


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
    if os.geteuid() == 0 and path.stat().st_uid != uid:
        os.chown(path, uid, uid)


def _url(plan: Plan) -> str:
    return f"{plan.admin_url}/{DATABASE}" if plan.admin_url else plan.schemas[0].url


@asynccontextmanager
async def _connected(plan: Plan) -> "AsyncIterator[asyncpg.Connection]":
    import asyncpg

    connection = await asyncpg.connect(_url(plan))
    try:
        yield connection
    finally:
        await connection.close()


async def _names_blobs(plan: Plan) -> bool:
    async with _connected(plan) as connection:
        if await connection.fetchval("SELECT to_regclass('proofs.artifact')") is None:
            return False
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM proofs.artifact)"))


async def _sealed_under(plan: Plan) -> set[int]:
    """The numbers of the keys without which something in it is lost."""
    async with _connected(plan) as connection:
        if await connection.fetchval("SELECT to_regclass('api.webhook')") is None:
            return set()
        rows = await connection.fetch(
            "SELECT unnest(ARRAY[secret, secret_before]) FROM api.webhook"
        )
    numbers = (sealed.number_of(row[0]) for row in rows if row[0])
    return {number for number in numbers if number is not None}


async def _begin(plan: Plan, digest: str) -> bool:
    if plan.admin_url:
        await make_roles(plan)
    async with _connected(plan) as connection:
        return await restoring.begin(connection, plan, digest)


async def _is_filled(plan: Plan, schema: str) -> bool:
    async with _connected(plan) as connection:
        return await restoring.is_filled(connection, schema)


async def _end(plan: Plan, digest: str) -> None:
    async with _connected(plan) as connection:
        await restoring.end(connection, plan, digest)


async def _grant_views(plan: Plan) -> None:
    async with _connected(plan) as connection:
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
