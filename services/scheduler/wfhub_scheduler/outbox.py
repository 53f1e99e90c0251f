"""The outbox: an event is a row, written in the transaction that it tells of.

The relay gives rows their position and publishes them (relay.py); events of one call keep their
order. `type_` is the public name, `<kind>.<what>`; `entity_id` is whose event it is; `task_id` is
None for what concerns no single task. Data is JSON; times are aware UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from wfhub_common import ids

from wfhub_scheduler import stored_json

_INSERT = text("""
INSERT INTO sched.event (event_id, project_id, task_id, kind, entity_id, type, data)
SELECT event_id, project_id, task_id, split_part(type, '.', 1), entity_id, type,
       CAST(data AS jsonb)
  FROM unnest(CAST(:event_ids AS text[]), CAST(:project_ids AS text[]), CAST(:task_ids AS text[]),
              CAST(:entity_ids AS text[]), CAST(:types AS text[]), CAST(:datas AS text[]))
       WITH ORDINALITY AS e (event_id, project_id, task_id, entity_id, type, data, n)
 ORDER BY n
""")


@dataclass(frozen=True)
class Event:
    type_: str
    entity_id: str
    data: dict[str, Any]
    project_id: str
    task_id: str | None = None


async def emit_many(connection: AsyncConnection, events: Sequence[Event]) -> None:
    """All of them in one statement; none is no statement."""
    if not events:
        return
    await connection.execute(
        _INSERT,
        {
            "event_ids": [ids.new_event_id() for _ in events],
            "project_ids": [event.project_id for event in events],
            "task_ids": [event.task_id for event in events],
            "entity_ids": [event.entity_id for event in events],
            "types": [event.type_ for event in events],
            "datas": [stored_json.dumped(event.data) for event in events],
        },
    )


async def emit(
    connection: AsyncConnection,
    type_: str,
    entity_id: str,
    data: dict[str, Any],
    *,
    project_id: str,
    task_id: str | None = None,
) -> None:
    await emit_many(connection, [Event(type_, entity_id, data, project_id, task_id)])
