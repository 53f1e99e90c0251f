"""How far the restore of a backup into a database came: the comment of its first schema.

None, or `wfhub restore of <backup's digest>: begun` or `: done`. It is begun in an empty database
only, and each schema is filled in one transaction: while it is begun, a schema that has something
in it is whole. So one that was broken off is gone on with when it is asked for again, and one that
is done is not done twice. Migrations are refused before its end: what they made would be taken for
restored.
Raises: SystemExit with what stands in the way.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

    from wfhub_admin.database import Plan

BEGUN, DONE = "begun", "done"
_PREFIX = "wfhub restore of "
_COMMENT = "SELECT obj_description(to_regnamespace($1), 'pg_namespace')"
_SOMETHING = "SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace($1) LIMIT 1"


async def begin(connection: "asyncpg.Connection", plan: "Plan", digest: str) -> bool:
    """Room for every schema; False: this backup was restored before."""
    comment = await connection.fetchval(_COMMENT, plan.schemas[0].name)
    if comment == _mark(digest, DONE):
        return False
    if comment != _mark(digest, BEGUN):
        await _refuse_what_is_there(connection, plan, comment or "")
    async with connection.transaction():
        for schema in plan.schemas:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema.name}")
        await _say(connection, plan, _mark(digest, BEGUN))
    return True


async def is_filled(connection: "asyncpg.Connection", schema: str) -> bool:
    return bool(await connection.fetchval(_SOMETHING, schema))


async def end(connection: "asyncpg.Connection", plan: "Plan", digest: str) -> None:
    await _say(connection, plan, _mark(digest, DONE))


async def refuse_half(connection: "asyncpg.Connection", plan: "Plan") -> None:
    comment = await connection.fetchval(_COMMENT, plan.schemas[0].name) or ""
    if comment.startswith(_PREFIX) and comment.endswith(BEGUN):
        raise SystemExit(
            "a restore into this database was begun and has not ended: run it again with the same"
            " backup (it goes on where it was), or begin with an empty database"
        )


async def _refuse_what_is_there(
    connection: "asyncpg.Connection", plan: "Plan", comment: str
) -> None:
    why = " (of another backup)" if comment.startswith(_PREFIX) else ""
    for schema in plan.schemas:
        if await is_filled(connection, schema.name):
            raise SystemExit(
                f"the database has a schema {schema.name} with something in it{why}: a backup is"
                " restored into an empty database only, and nothing was changed in this one"
            )


async def _say(connection: "asyncpg.Connection", plan: "Plan", mark: str) -> None:
    import asyncpg

    first = plan.schemas[0].name
    try:
        await connection.execute(f"COMMENT ON SCHEMA {first} IS '{mark}'")
    except asyncpg.InsufficientPrivilegeError as e:
        raise SystemExit(
            f"the schema {first} belongs to another role, and a restore needs its owner: {e}"
        ) from e


def _mark(digest: str, state: str) -> str:
    return f"{_PREFIX}{digest}: {state}"
