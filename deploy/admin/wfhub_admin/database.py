"""Roles, schemas and migrations in one short-lived process: `python -m wfhub_admin.database`.

Reads a Plan as JSON from standard input (it holds passwords) and ends with 0 when every schema is
at its newest revision. Idempotent. Services are found by name and not imported: only their
migrations are read. A process of its own because Alembic is heavy and migrations are not the
supervisor's to run.
Raises: SystemExit when the server does not answer within the time it was given, or somebody keeps a
table from its migration.
"""

import asyncio
import hashlib
import importlib.util
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wfhub_common import subjects
from wfhub_common.errors import RetryLater

from wfhub_admin import rest
from wfhub_admin.credentials import DATABASE_ADMIN, DATABASE_ROLES, Credentials
from wfhub_admin.restoring import refuse_half

DATABASE = "wfhub"
WAIT_S_MAX = 300.0  # for a server that starts at the same time, recovery after a kill included
WAIT_POLL_S = 0.5

# service → (schema, package), in the order of their migrations: the scheduler's views are
# granted to the API's role.
SCHEMAS = {
    subjects.SCHEDULER: ("sched", "wfhub_scheduler"),
    subjects.PROOF_STORE: ("proofs", "wfhub_proof_store"),
    subjects.GATEWAY: ("gateway", "wfhub_llm_gateway"),
    subjects.API: ("api", "wfhub_api"),
}


@dataclass(frozen=True)
class Schema:
    name: str
    package: str
    url: str
    role: str = ""  # empty: an external database, whose roles are its operator's


@dataclass(frozen=True)
class Plan:
    schemas: tuple[Schema, ...]  # the scheduler's first: the API reads its views
    admin_url: str = ""  # empty: an external database
    passwords: dict[str, str] | None = None  # role → password

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Plan":
        found = json.loads(text)
        return Plan(**{**found, "schemas": tuple(Schema(**s) for s in found["schemas"])})


def server_url(role: str, password: str, host: str, port: int) -> str:
    """Without a database name."""
    return f"postgresql://{role}:{password}@{host}:{port}"


def service_url(credentials: Credentials, service: str, host: str, port: int) -> str:
    role = DATABASE_ROLES[service]
    return f"{server_url(role, credentials.database[role], host, port)}/{DATABASE}"


def own(credentials: Credentials, host: str, port: int) -> Plan:
    """Of a server that is ours: a role for each service."""
    passwords = credentials.database

    def url(service: str) -> str:
        return service_url(credentials, service, host, port)

    schemas = [
        Schema(schema, package, url(service), DATABASE_ROLES[service])
        for service, (schema, package) in SCHEMAS.items()
    ]
    return Plan(
        schemas=(*schemas, _rest(url(subjects.API), DATABASE_ROLES[subjects.API])),
        admin_url=server_url(DATABASE_ADMIN, passwords[DATABASE_ADMIN], host, port),
        passwords={role: passwords[role] for role in (*DATABASE_ROLES.values(), rest.READER)},
    )


def external(url: str) -> Plan:
    """Of a server that is its operator's: used as the URL says, by all."""
    schemas = (Schema(schema, package, url) for schema, package in SCHEMAS.values())
    return Plan((*schemas, _rest(url)))


def _rest(url: str, owner: str = "") -> Schema:
    """Of views over the others' views, so it comes last."""
    return Schema(rest.SCHEMA, rest.PACKAGE, url, owner)


def migrations(package: str) -> Path | None:
    """A service's migrations folder, without importing the service."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "migrations"
    return folder if (folder / "versions").is_dir() else None


def fingerprint(packages: tuple[str, ...]) -> str:
    """Changes when any revision of any of these services does."""
    state = hashlib.sha256(Path(__file__).read_bytes())
    for package in packages:
        for file in sorted((migrations(package) or Path("/nonexistent")).glob("versions/*.py")):
            state.update(f"{package}/{file.name}\n".encode() + file.read_bytes())
    return state.hexdigest()


async def make_roles(plan: Plan) -> None:
    """Each role is an ordinary one and owns its schema. It may create schemas for as long as
    migrations run, since `CREATE SCHEMA IF NOT EXISTS` asks for that even when there is one."""
    import asyncpg

    passwords = plan.passwords or {}
    server = await asyncpg.connect(f"{plan.admin_url}/postgres")
    try:
        have = {row["rolname"] for row in await server.fetch("SELECT rolname FROM pg_roles")}
        for role, password in passwords.items():
            verb = "ALTER" if role in have else "CREATE"
            await server.execute(f"{verb} ROLE {role} LOGIN PASSWORD '{_quoted(password)}'")
        if not await server.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
            await server.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await server.close()
    database = await asyncpg.connect(f"{plan.admin_url}/{DATABASE}")
    try:
        await database.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
        await database.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        for schema in plan.schemas:
            await database.execute(
                f"GRANT CONNECT, CREATE ON DATABASE {DATABASE} TO {schema.role};"
                f"CREATE SCHEMA IF NOT EXISTS {schema.name} AUTHORIZATION {schema.role}"
            )
    finally:
        await database.close()


async def end_creating(plan: Plan) -> None:
    """And what is granted for good."""
    import asyncpg

    database = await asyncpg.connect(f"{plan.admin_url}/{DATABASE}")
    try:
        if rest.READER in (plan.passwords or {}):
            await database.execute(f"{rest.role_sql()};{rest.grants_sql(DATABASE)}")
        for schema in plan.schemas:
            await database.execute(f"REVOKE CREATE ON DATABASE {DATABASE} FROM {schema.role}")
    finally:
        await database.close()


async def _answers(url: str) -> str:
    """Empty, or why it does not. A wrong password is final."""
    import asyncpg

    try:
        await (await asyncpg.connect(url, timeout=WAIT_POLL_S * 10)).close()
    except asyncpg.InvalidAuthorizationSpecificationError as e:
        raise SystemExit(f"the database refuses the password that was given: {e}") from e
    except (OSError, TimeoutError, asyncpg.PostgresError) as e:
        return str(e) or type(e).__name__
    return ""


def wait(plan: Plan, *, within_s: float = WAIT_S_MAX) -> None:
    """Raises: SystemExit."""
    url = f"{plan.admin_url}/postgres" if plan.admin_url else plan.schemas[0].url
    deadline = time.monotonic() + within_s
    while why := asyncio.run(_answers(url)):
        if time.monotonic() > deadline:
            raise SystemExit(f"the database did not answer within {within_s:.0f} s: {why}")
        time.sleep(WAIT_POLL_S)


def carry_out(plan: Plan, *, restoring: bool = False) -> None:
    """`restoring`: as the end of a restore, before which nothing is migrated."""
    from wfhub_common import db

    if plan.admin_url:
        asyncio.run(make_roles(plan))
    if not restoring:
        asyncio.run(_refuse_half_restored(plan))
    for schema in plan.schemas:
        folder = migrations(schema.package)
        if folder is None:
            continue
        try:
            db.migrate(schema.url, schema=schema.name, migrations=folder)
        except RetryLater as e:
            raise SystemExit(f"not migrated: {e}; what was done stays, run it again") from e
    if plan.admin_url:
        asyncio.run(end_creating(plan))


async def _refuse_half_restored(plan: Plan) -> None:
    import asyncpg

    url = f"{plan.admin_url}/{DATABASE}" if plan.admin_url else plan.schemas[0].url
    connection = await asyncpg.connect(url)
    try:
        await refuse_half(connection, plan)
    finally:
        await connection.close()


def _quoted(value: Any) -> str:
    return str(value).replace("'", "''")


if __name__ == "__main__":
    carry_out(Plan.from_json(sys.stdin.read()))
