"""Rows of webhooks: made, looked at, paused, resumed, given another secret, deleted.

Nothing here touches a lease; resuming ends the wait for the next try. Secrets leave in clear by
`create` and `rotate` alone, and as they are stored by `secrets_for_test`.
Raises: Rejected; as views.py.
"""

import hashlib
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, ids, standard_webhooks
from wfhub_common.errors import Rejected
from wfhub_common.sealed import Keys
from wfhub_common.sql import Connection, Row

from wfhub_api import sealing
from wfhub_api.positions import START, Cursor, Position, parse_position
from wfhub_api.views import select
from wfhub_api.webhooks.shapes import NewWebhook, Webhook, WebhookWithSecret

# What one process can work on at once (deliverer.py), so that none waits for another's receiver.
WEBHOOKS_MAX = 128
WEBHOOKS_PER_PROJECT_MAX = 16  # and as many of all projects

_SELECT = """
SELECT w.webhook_id, w.project_id, p.name AS project, w.url, w.events, w.paused, w.disabled,
       c.generation, c.pos, c.failures, c.failing_since, c.next_try_at, c.last_outcome,
       c.last_status, c.last_at, c.note, c.note_at, w.tested_at, w.created_by, w.created_at,
       w.updated_at,
       CASE WHEN w.secret_before_until > clock_timestamp() THEN w.secret_before_until END
           AS secret_before_until
  FROM api.webhook w JOIN api.webhook_cursor c USING (webhook_id)
  LEFT JOIN sched.api_project p ON p.project_id = w.project_id
"""


async def create(
    engine: AsyncEngine, keys: Keys, new: NewWebhook, *, created_by: str, key: str | None
) -> tuple[WebhookWithSecret, bool]:
    """And whether it is new: the same key and body again is the same one, without its secret."""

    async def made(connection: Connection) -> tuple[str, str | None]:
        # One at a time: limits are counted, and a key is looked for, before the row is there.
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('wfhub-webhook'))"))
        before = await _of_key(connection, created_by, key)
        if before is not None:
            if before.body_sha256 != _digest(new):
                raise Rejected(
                    "idempotency-conflict", "this key made another webhook before", status=409
                )
            return str(before.webhook_id), None
        project_id = None if new.project is None else await _project(connection, new.project)
        await _check_limits(connection, project_id)
        return await _insert(connection, keys, new, project_id, created_by, key)

    webhook_id, secret = await db.retried(engine, made)
    found = await get(engine, webhook_id)
    return WebhookWithSecret(**dict(found), secret=secret), secret is not None


async def get(engine: AsyncEngine, webhook_id: str) -> Webhook:
    rows = await select(engine, _SELECT + " WHERE w.webhook_id = :id", id=webhook_id)
    if not rows:
        raise _unknown(webhook_id)
    return _webhook(rows[0])


async def every(
    engine: AsyncEngine, *, project: str | None, before: Cursor | None, limit: int
) -> list[Webhook]:
    """Newest first. `project` is a name or an id; None: those of any, and of all."""
    conditions, values = ["true"], dict[str, Any](limit=limit)
    if project is not None:
        conditions.append("(p.name = :project OR w.project_id = :project)")
        values["project"] = project
    if before is not None:
        conditions.append("(w.created_at, w.webhook_id) < (:at, :webhook_id)")
        values.update(at=before.created_at, webhook_id=before.entity_id)
    rows = await select(
        engine,
        f"{_SELECT} WHERE {' AND '.join(conditions)}"
        " ORDER BY w.created_at DESC, w.webhook_id DESC LIMIT :limit",
        **values,
    )
    return [_webhook(row) for row in rows]


async def pause(engine: AsyncEngine, webhook_id: str) -> Webhook:
    await _update(engine, "paused = true", webhook_id)
    return await get(engine, webhook_id)


async def resume(engine: AsyncEngine, webhook_id: str) -> Webhook:
    """Paused or disabled before: it goes on where it was, at once."""

    async def resumed(connection: Connection) -> None:
        await _updated(connection, "paused = false, disabled = NULL", webhook_id)
        sql = """
            UPDATE api.webhook_cursor
               SET failures = 0, failing_since = NULL, next_try_at = clock_timestamp()
             WHERE webhook_id = :id
        """
        await connection.execute(text(sql), {"id": webhook_id})

    await db.retried(engine, resumed)
    return await get(engine, webhook_id)


async def rotate(
    engine: AsyncEngine, keys: Keys, webhook_id: str, overlap_s: int
) -> WebhookWithSecret:
    """The secret so far signs for `overlap_s` more; one that was replaced before it, not."""
    secret = standard_webhooks.new_secret()

    async def rotated(connection: Connection) -> None:
        await _updated(
            connection,
            "secret_before = secret, secret = :secret, secret_before_until ="
            " clock_timestamp() + make_interval(secs => CAST(:overlap_s AS double precision))",
            webhook_id,
            secret=await sealing.to_store(connection, keys, webhook_id, secret),
            overlap_s=float(overlap_s),
        )

    await db.retried(engine, rotated)
    return WebhookWithSecret(**dict(await get(engine, webhook_id)), secret=secret)


async def delete(engine: AsyncEngine, webhook_id: str) -> None:
    async with db.transaction(engine) as connection:
        sql = "DELETE FROM api.webhook WHERE webhook_id = :id RETURNING webhook_id"
        if (await connection.execute(text(sql), {"id": webhook_id})).first() is None:
            raise _unknown(webhook_id)


async def secrets_for_test(engine: AsyncEngine, webhook_id: str) -> list[str]:
    """Notes that it is tested."""
    row = await _update(engine, "tested_at = clock_timestamp()", webhook_id)
    return stored_secrets(row)


def stored_secrets(row: Row) -> list[str]:
    """Those that sign: `secret`, and `secret_before`, which is null when it is over."""
    return [secret for secret in (row.secret, row.secret_before) if secret]


async def _update(engine: AsyncEngine, sets: str, webhook_id: str) -> Row:
    async def updated(connection: Connection) -> Row:
        return await _updated(connection, sets, webhook_id)

    return await db.retried(engine, updated)


async def _updated(connection: Connection, sets: str, webhook_id: str, **values: Any) -> Row:
    sql = f"""
        UPDATE api.webhook SET {sets}, updated_at = clock_timestamp() WHERE webhook_id = :id
        RETURNING secret, CASE WHEN secret_before_until > clock_timestamp() THEN secret_before END
            AS secret_before
    """  # noqa: S608 - constant parts, values are bound
    row = (await connection.execute(text(sql), {"id": webhook_id, **values})).first()
    if row is None:
        raise _unknown(webhook_id)
    return row


async def _of_key(connection: Connection, created_by: str, key: str | None) -> Row | None:
    if key is None:
        return None
    sql = """
        SELECT webhook_id, body_sha256 FROM api.webhook
         WHERE created_by = :by AND idempotency_key = :key
    """
    return (await connection.execute(text(sql), {"by": created_by, "key": key})).first()


async def _project(connection: Connection, ref: str) -> str:
    sql = "SELECT project_id FROM sched.api_project WHERE name = :ref OR project_id = :ref"
    found = (await connection.execute(text(sql), {"ref": ref})).scalar()
    if found is None:
        raise Rejected("project-unknown", f"there is no project {ref!r}", status=404)
    return str(found)


async def _check_limits(connection: Connection, project_id: str | None) -> None:
    sql = """
        SELECT count(*) AS total, count(*) FILTER (WHERE project_id IS NOT DISTINCT FROM :project)
            AS own FROM api.webhook
    """
    counted = (await connection.execute(text(sql), {"project": project_id})).one()
    if counted.total >= WEBHOOKS_MAX or counted.own >= WEBHOOKS_PER_PROJECT_MAX:
        raise Rejected(
            "too-many-webhooks",
            f"there may be {WEBHOOKS_PER_PROJECT_MAX} webhooks of a project (and of all), and"
            f" {WEBHOOKS_MAX} in all: delete one",
            status=409,
        )


async def _insert(
    connection: Connection,
    keys: Keys,
    new: NewWebhook,
    project_id: str | None,
    created_by: str,
    key: str | None,
) -> tuple[str, str]:
    webhook_id, secret = ids.new_webhook_id(), standard_webhooks.new_secret()
    await connection.execute(
        text("""
        INSERT INTO api.webhook (webhook_id, project_id, url, events, secret, created_by,
                                 idempotency_key, body_sha256)
        VALUES (:id, :project, :url, :events, :secret, :by, :key, :digest)
        """),
        {
            "id": webhook_id,
            "project": project_id,
            "url": new.url,
            "events": list(new.events),
            "secret": await sealing.to_store(connection, keys, webhook_id, secret),
            "by": created_by,
            "key": key,
            "digest": _digest(new),
        },
    )
    start = await _start(connection, new.after)
    await connection.execute(
        text("""
        INSERT INTO api.webhook_cursor (webhook_id, generation, pos) VALUES (:id, :generation, :pos)
        """),
        {"id": webhook_id, "generation": start.generation, "pos": start.pos},
    )
    return webhook_id, secret


async def _start(connection: Connection, after: str | None) -> Position:
    end = await _end_of_log(connection)
    if after is not None and (asked := parse_position(after)) > end:
        raise Rejected("position-unknown", f"after: {asked} is beyond the end of the log, {end}")
    return end if after is None else asked


async def _end_of_log(connection: Connection) -> Position:
    sql = """
        SELECT generation, up_to FROM sched.api_event ORDER BY generation DESC, up_to DESC LIMIT 1
    """
    row = (await connection.execute(text(sql))).first()
    return START if row is None else Position(row.generation, row.up_to)


def _digest(new: NewWebhook) -> str:
    return hashlib.sha256(new.model_dump_json().encode()).hexdigest()


def _unknown(webhook_id: str) -> Rejected:
    return Rejected("webhook-unknown", f"there is no webhook {webhook_id}", status=404)


def _webhook(row: Row) -> Webhook:
    values = dict(row)
    disabled, paused = values.pop("disabled"), values.pop("paused")
    state = "paused" if paused else "disabled" if disabled else "active"
    position = str(Position(values.pop("generation"), values.pop("pos")))
    if state != "active" or not row.failures:
        values["next_try_at"] = None
    return Webhook.model_validate(
        {**values, "state": state, "reason": disabled, "position": position}
    )
