"""Where the services' database is, and that its roles, schemas and migrations are up to date.

The embedded one has a role per service; an external one is used as the URL says, by all.
"""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wfhub_admin import database as provision
from wfhub_admin import rest
from wfhub_admin.credentials import Credentials
from wfhub_admin.database import SCHEMAS, Plan
from wfhub_admin.files import private_file

from wfhub_local import ports, processes
from wfhub_local.layout import Layout
from wfhub_local.processes import Process


@dataclass(frozen=True)
class Database:
    urls: dict[str, str]  # service → URL
    plan: Plan
    embedded: bool


def external(url: str) -> Database:
    return Database(dict.fromkeys(SCHEMAS, url), provision.external(url), embedded=False)


def embedded(credentials: Credentials, port: int) -> Database:
    urls = {each: provision.service_url(credentials, each, ports.HOST, port) for each in SCHEMAS}
    return Database(urls, provision.own(credentials, ports.HOST, port), embedded=True)


def is_current(database: Database, layout: Layout, credentials: Credentials) -> bool:
    """Whether this very database was brought to these very migrations before. An external one
    is asked each time: it may have been restored from a backup."""
    mark = _mark(layout)
    return database.embedded and mark.exists() and mark.read_text() == _marked(credentials)


def bring_up_to_date(
    database: Database,
    layout: Layout,
    credentials: Credentials,
    *,
    uid: int,
    say: Callable[[str], None],
) -> None:
    """Raises: SystemExit with the end of the log."""
    say("bringing the database up to date")
    log = layout.log("migrate")
    process = Process(
        name="migrate",
        argv=(sys.executable, "-P", "-m", provision.__name__),
        log=log,
        uid=uid,
    )
    processes.rotate(log)
    code = processes.run(process, database.plan.to_json())
    if code:
        raise SystemExit(
            f"bringing the database up to date failed; the end of {log}:\n{processes.tail(log)}"
        )
    if database.embedded:
        # In the database's own folder: who removes that, removes the mark.
        private_file(_mark(layout), _marked(credentials), uid)


def _mark(layout: Layout) -> Path:
    return layout.postgres / "migrated"


def _marked(credentials: Credentials) -> str:
    packages = (*(package for _, package in SCHEMAS.values()), rest.PACKAGE)
    passwords = repr(sorted(credentials.database.items()))
    return f"{provision.fingerprint(packages)} {hashlib.sha256(passwords.encode()).hexdigest()}\n"
