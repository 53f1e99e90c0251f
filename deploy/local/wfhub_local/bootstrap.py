"""Roles, schemas and migrations in one short-lived process: `python -m wfhub_local.bootstrap`.

Reads a Plan as JSON from standard input (it holds passwords) and ends with 0 when every schema is
at its newest revision. Idempotent. Services are found by name and not imported: only their
migrations are read. A process of its own because Alembic is heavy and migrations are not the
supervisor's to run.
"""

import asyncio
import hashlib
import importlib.util
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DATABASE = "wfhub"


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
    import asyncpg

    database = await asyncpg.connect(f"{plan.admin_url}/{DATABASE}")
    try:
        for schema in plan.schemas:
            await database.execute(f"REVOKE CREATE ON DATABASE {DATABASE} FROM {schema.role}")
    finally:
        await database.close()


def carry_out(plan: Plan) -> None:
    from wfhub_common import db

    if plan.admin_url:
        asyncio.run(make_roles(plan))
    for schema in plan.schemas:
        folder = migrations(schema.package)
        if folder is not None:
            db.migrate(schema.url, schema=schema.name, migrations=folder)
    if plan.admin_url:
        asyncio.run(end_creating(plan))


def _quoted(value: Any) -> str:
    return str(value).replace("'", "''")


if __name__ == "__main__":
    carry_out(Plan.from_json(sys.stdin.read()))
