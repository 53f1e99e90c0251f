"""Where the services' database is, and that its roles, schemas and migrations are up to date.

The embedded one has a role per service; an external one is used as the URL says, by all.
"""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wfhub_common import subjects

from wfhub_local import bootstrap, postgres, processes
from wfhub_local.bootstrap import Plan, Schema
from wfhub_local.credentials import DATABASE_ADMIN, DATABASE_ROLES, Credentials
from wfhub_local.layout import Layout, private_file
from wfhub_local.processes import Process

# service → (schema, package), in the order of their migrations: the scheduler's views are
# granted to the API's role.
SCHEMAS = {
    subjects.SCHEDULER: ("sched", "wfhub_scheduler"),
    subjects.PROOF_STORE: ("proofs", "wfhub_proof_store"),
    subjects.GATEWAY: ("gateway", "wfhub_llm_gateway"),
    subjects.API: ("api", "wfhub_api"),
}


@dataclass(frozen=True)
class Database:
    urls: dict[str, str]  # service → URL
    plan: Plan
    embedded: bool


def external(url: str) -> Database:
    urls = dict.fromkeys(SCHEMAS, url)
    schemas = tuple(Schema(schema, package, url) for schema, package in SCHEMAS.values())
    return Database(urls, Plan(schemas), embedded=False)


def embedded(credentials: Credentials, port: int) -> Database:
    passwords = credentials.database
    urls = {
        service: postgres.url(role, passwords[role], port)
        for service, role in DATABASE_ROLES.items()
    }
    schemas = tuple(
        Schema(schema, package, urls[service], DATABASE_ROLES[service])
        for service, (schema, package) in SCHEMAS.items()
    )
    return Database(
        urls,
        Plan(
            schemas,
            admin_url=postgres.server_url(DATABASE_ADMIN, passwords[DATABASE_ADMIN], port),
            passwords={role: passwords[role] for role in DATABASE_ROLES.values()},
        ),
        embedded=True,
    )


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
        argv=(sys.executable, "-P", "-m", bootstrap.__name__),
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
    packages = tuple(package for _, package in SCHEMAS.values())
    passwords = repr(sorted(credentials.database.items()))
    return f"{bootstrap.fingerprint(packages)} {hashlib.sha256(passwords.encode()).hexdigest()}\n"
