"""The servers of a run: Postgres as the local stack starts it, and nats-server; both private.

Postgres runs with the stack's own settings (deploy/local), so with fsync and synchronous_commit
on; `durable()` reads that back from the server itself. Ports are free ones; data is in the run's
own folder.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from wfhub_local import nats_server, ports, postgres

from control_plane_parts.processes import NOBODY, STOP_S_MAX, Child, Family, run, until

PG_EXTRA = {"max_connections": "200", "log_checkpoints": "off"}


class Postgres:
    def __init__(self, family: Family) -> None:
        self._root = family.folder / "postgres"
        self._root.mkdir()
        if os.geteuid() == 0:
            os.chown(self._root, NOBODY, NOBODY)
        data, self.port = self._root / "data", ports.free_port()
        bins = postgres.binaries()
        initdb = [bins / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-instructions"]
        locale = ["--encoding", "UTF8", "--locale-provider", "builtin", "--locale", "C.UTF-8"]
        run([*initdb, *locale], as_nobody=True)
        extra = [part for k, v in PG_EXTRA.items() for part in ("-c", f"{k}={v}")]
        argv = [*postgres.argv(self._root, self.port), *extra]
        self.child = family.start("postgres", argv, as_nobody=True, stop_signal=signal.SIGINT)
        self.wait()

    def wait(self) -> None:
        until(lambda: postgres.is_up(self._root), "Postgres is up", child=self.child)

    def crash(self) -> None:
        """kill -9 of the server and all that serve connections, which would keep another from
        starting until each has seen that the server is gone."""
        serving = psutil.Process(self.child.pid).children()
        self.child.kill()
        for process in serving:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, left = psutil.wait_procs(serving, timeout=STOP_S_MAX)
        assert not left, left

    def restart(self) -> None:
        postgres.clear_old(self._root)
        self.child.restart()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@{ports.HOST}:{self.port}/{database}"

    def create(self, name: str, template: str = "template1") -> str:
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def drop(self, name: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, *statements: str, database: str = "postgres") -> None:
        async def work() -> None:
            connection = await asyncpg.connect(self.url(database))
            for statement in statements:
                await connection.execute(statement, timeout=900)
            await connection.close()

        asyncio.run(work())

    def fetch(self, query: str, *args: Any, database: str = "postgres") -> list[asyncpg.Record]:
        async def work() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.url(database))
            rows = await connection.fetch(query, *args)
            await connection.close()
            return list(rows)

        return asyncio.run(work())

    def value(self, query: str, *args: Any, database: str = "postgres") -> Any:
        return self.fetch(query, *args, database=database)[0][0]

    def wal_bytes(self) -> int:
        return int(self.value("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))

    def durable(self) -> dict[str, str]:
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_level")
        return {name: str(self.value(f"SHOW {name}")) for name in names}


class Nats:
    """`users` None: nobody needs a password (the peers' own server)."""

    def __init__(
        self,
        family: Family,
        name: str,
        *,
        users: Mapping[str, str] | None = None,
        sync_always: bool = False,
    ) -> None:
        self.port = ports.free_port()
        self.store = family.folder / f"{name}-store"
        config = json.loads(
            nats_server.configuration(port=self.port, store=self.store, passwords=users or {})
        )
        if sync_always:
            config["jetstream"]["sync_interval"] = "always"
        file = family.folder / f"{name}.conf"
        file.write_text(json.dumps(config))
        file.chmod(0o600)
        self.child: Child = family.start(name, [nats_server.binary(), "-c", file])
        self.url = f"nats://{ports.HOST}:{self.port}"
        self.wait()

    def wait(self) -> None:
        until(lambda: nats_server.is_up(self.port), "NATS is up", child=self.child)


def versions() -> dict[str, str]:
    said = run([nats_server.binary(), "--version"]).split()[-1]
    return {"nats_server": said, "postgres_wheel": Path(postgres.binaries()).parent.name}
