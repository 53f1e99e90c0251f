"""The outbox: an event is a row, written in the transaction that it tells of.

What one statement writes is a batch: the relay gives batches their positions (ledger.py), so that
an event's row is written once. Events of one call keep their order. `type_` is the public name,
`<kind>.<what>`; `entity_id` is whose event it is; `task_id` is None for what concerns no single
task. Data is JSON; times are aware UTC.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from wfhub_common import ids
from wfhub_common.sql import Connection

from wfhub_scheduler import stored_json

# A batch is published as a whole: it has to fit into one of the stream's (batches.py).
BATCH_EVENTS_MAX = 500
BATCH_CHARS_MAX = 1024 * 1024

_INSERT = text("""
WITH batch AS (
    INSERT INTO sched.event_batch (events) VALUES (CAST(:count AS integer)) RETURNING batch_id)
INSERT INTO sched.event (batch_id, n, event_id, project_id, task_id, kind, entity_id, type, data)
SELECT batch_id, n, event_id, project_id, task_id, split_part(type, '.', 1), entity_id, type,
       CAST(data AS json)
  FROM batch, unnest(CAST(:event_ids AS text[]), CAST(:project_ids AS text[]),
                     CAST(:task_ids AS text[]), CAST(:entity_ids AS text[]),
                     CAST(:types AS text[]), CAST(:datas AS text[]))
       WITH ORDINALITY AS e (event_id, project_id, task_id, entity_id, type, data, n)
""")


@dataclass(frozen=True, slots=True)
class Event:
    type_: str
    entity_id: str
    data: dict[str, Any]
    project_id: str
    task_id: str | None = None


async def emit_many(connection: Connection, events: Sequence[Event]) -> None:
    """All of them in one statement, or a few if they are many; none is no statement."""
    datas = [stored_json.dumped(event.data) for event in events]
    for first, end in _batches(datas):
        batch = events[first:end]
        await connection.execute(
            _INSERT,
            {
                "count": len(batch),
                "event_ids": ids.new_event_ids(len(batch)),
                "project_ids": [event.project_id for event in batch],
                "task_ids": [event.task_id for event in batch],
                "entity_ids": [event.entity_id for event in batch],
                "types": [event.type_ for event in batch],
                "datas": datas[first:end],
            },
        )


def _batches(datas: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where each batch begins and ends; one that is too large has a batch of its own."""
    first = chars = 0
    for n, data in enumerate(datas):
        full = n - first == BATCH_EVENTS_MAX or chars + len(data) > BATCH_CHARS_MAX
        if full and n > first:
            yield first, n
            first, chars = n, 0
        chars += len(data)
    if datas:
        yield first, len(datas)


async def emit(
    connection: Connection,
    type_: str,
    entity_id: str,
    data: dict[str, Any],
    *,
    project_id: str,
    task_id: str | None = None,
) -> None:
    await emit_many(connection, [Event(type_, entity_id, data, project_id, task_id)])
