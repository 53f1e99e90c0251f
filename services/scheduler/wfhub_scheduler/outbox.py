"""The outbox: an event is a row, written in the transaction that it tells of.

The relay gives rows their position and publishes them (relay.py). `type` is the public name,
`<kind>.<what>`; `entity_id` is whose event it is. Data is JSON; times are aware UTC.
"""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from wfhub_common import ids

from wfhub_scheduler import stored_json

_INSERT = text("""
INSERT INTO sched.event (event_id, project_id, task_id, kind, entity_id, type, data)
VALUES (:event_id, :project_id, :task_id, :kind, :entity_id, :type, CAST(:data AS jsonb))
""")


async def emit(
    connection: AsyncConnection,
    type_: str,
    entity_id: str,
    data: dict[str, Any],
    *,
    project_id: str,
    task_id: str,
) -> None:
    await connection.execute(
        _INSERT,
        {
            "event_id": ids.new_event_id(),
            "project_id": project_id,
            "task_id": task_id,
            "kind": type_.partition(".")[0],
            "entity_id": entity_id,
            "type": type_,
            "data": stored_json.dumped(data),
        },
    )
