"""The schema `rest` as its reader sees it: real SQL, as `wfhub_reader`, on a provisioned server."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from wfhub_admin import credentials, database, rest
from wfhub_admin.credentials import Credentials
from wfhub_common import subjects
from wfhub_common.messages import LimitsAsked, TaskSpec

CANARY = "canary-" + secrets.token_hex(8)
VIEWS = ("tasks", "attempts", "artifacts", "proofs")


@pytest.fixture(scope="module")
async def reader(postgres_server: str) -> AsyncIterator[asyncpg.Connection]:
    """Beside a task, an attempt, an artifact and a proof whose every free text is CANARY."""
    host, port = postgres_server.rpartition("@")[2].split(":")
    have: Credentials = credentials.with_identities(credentials.new(), 1)
    plan = replace(database.own(have, host, int(port)), admin_url=postgres_server)
    await asyncio.to_thread(database.carry_out, plan)
    await asyncio.to_thread(database.carry_out, plan)  # again: nothing to do
    limits = LimitsAsked.model_validate(LimitsAsked().in_force().model_dump())
    spec = TaskSpec(repo="/repo", prompt=CANARY, limits=limits).model_dump_json()
    admin = await asyncpg.connect(f"{postgres_server}/{database.DATABASE}")
    await admin.execute(
        f"""
        INSERT INTO sched.task (task_id, project_id, state, spec, title, message, submitted_by)
        SELECT 'tsk_x', project_id, 'ready', '{spec}', '{CANARY}', '{CANARY}',
               '{CANARY}' FROM sched.project LIMIT 1;
        INSERT INTO proofs.artifact (attempt_id, name, digest, size, media_type, sender, receipt)
        VALUES ('att_x', 'agent.log', 'sha256:0', 1, 'text/plain', 'rnr_x', '"{CANARY}"');
        INSERT INTO proofs.proof (proof_id, attempt_id, task_id, envelope, envelope_digest, tokens)
        VALUES ('prf_x', 'att_x', 'tsk_x', '{CANARY}', 'sha256:0', 5)
        """
    )
    await admin.close()
    url = database.server_url(rest.READER, have.database[rest.READER], host, int(port))
    connection = await asyncpg.connect(f"{url}/{database.DATABASE}")
    yield connection
    await connection.close()
    server = await asyncpg.connect(f"{postgres_server}/postgres")
    await server.execute(f"DROP DATABASE {database.DATABASE} WITH (FORCE)")
    for role in (*credentials.DATABASE_ROLES.values(), rest.READER):
        await server.execute(f"DROP ROLE {role}")
    await server.close()


async def test_it_reads_tasks_attempts_artifacts_and_proofs(reader: asyncpg.Connection) -> None:
    (task,) = await reader.fetch("SELECT * FROM rest.tasks")
    assert (task["task_id"], task["project"], task["state"]) == ("tsk_x", "default", "ready")
    (artifact,) = await reader.fetch("SELECT * FROM rest.artifacts")
    assert (artifact["name"], artifact["sender"]) == ("agent.log", "rnr_x")
    joined = "SELECT p.tokens FROM rest.tasks t JOIN rest.proofs p USING (task_id)"
    assert await reader.fetchval(joined) == 5
    assert await reader.fetch("SELECT * FROM rest.attempts") == []


async def test_no_word_of_a_task_and_no_body_is_in_any_view(reader: asyncpg.Connection) -> None:
    for view in VIEWS:
        rows = await reader.fetch(f"SELECT v::text FROM rest.{view} v")
        assert CANARY not in repr(rows), view


async def test_every_other_relation_of_ours_is_closed(reader: asyncpg.Connection) -> None:
    relations = await reader.fetch(
        "SELECT n.nspname AS schema, c.relname AS name, c.oid FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = ANY($1) AND c.relkind IN ('r', 'v', 'S', 'm', 'p')",
        [*(schema for schema, _ in database.SCHEMAS.values()), rest.SCHEMA],
    )
    assert len(relations) > 30
    open_ = set()
    for each in relations:
        try:
            await reader.fetch(f"SELECT 1 FROM {each['schema']}.{each['name']} LIMIT 1")
        except asyncpg.InsufficientPrivilegeError:
            continue
        open_.add((each["schema"], each["name"]))
    assert open_ == {(rest.SCHEMA, view) for view in VIEWS}


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO rest.tasks (task_id) VALUES ('tsk_y')",
        "UPDATE rest.artifacts SET name = 'x'",
        "DELETE FROM rest.artifacts",
        "TRUNCATE proofs.proof",
        "CREATE TABLE rest.mine (x int)",
        "CREATE TABLE public.mine (x int)",
        "CREATE TEMPORARY TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "SET ROLE wfhub_api",
        "SET SESSION AUTHORIZATION wfhub_scheduler",
        "COPY rest.tasks TO '/tmp/tasks'",
        "SELECT pg_read_file('/etc/passwd')",
        "ALTER VIEW rest.tasks RENAME TO mine",
        "SELECT * FROM pg_authid",
    ],
)
async def test_it_changes_nothing_also_when_it_takes_off_read_only(
    reader: asyncpg.Connection, statement: str
) -> None:
    await reader.execute("SET default_transaction_read_only = off")
    with pytest.raises(
        (asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError)
    ):
        await reader.execute(statement)


async def test_the_reader_is_an_ordinary_role_within_limits(reader: asyncpg.Connection) -> None:
    (role,) = await reader.fetch(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolinherit,"
        " rolconnlimit, rolconfig FROM pg_roles WHERE rolname = current_user"
    )
    assert not any(list(role.values())[:6])
    assert role["rolconnlimit"] == rest.CONNECTIONS_MAX
    assert "default_transaction_read_only=on" in role["rolconfig"]
    option = "SELECT has_table_privilege('rest.tasks', 'SELECT WITH GRANT OPTION')"
    assert await reader.fetchval(option) is False
    memberships = "SELECT count(*) FROM pg_auth_members WHERE member = current_user::regrole"
    assert await reader.fetchval(memberships) == 0


def test_the_api_reads_through_the_role_that_owns_the_views() -> None:
    plan = database.own(credentials.with_identities(credentials.new(), 1), "h", 1)
    assert plan.schemas[-1].name == rest.SCHEMA
    assert plan.schemas[-1].role == credentials.DATABASE_ROLES[subjects.API]
