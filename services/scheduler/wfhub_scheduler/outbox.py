"""The outbox: an event is a row, written in the transaction that it tells of.

What one statement writes is a batch: the relay gives batches their positions (ledger.py), so that
an event's row is written once. Events of one call keep their order. `type_` is the public name,
`<kind>.<what>`; `entity_id` is whose event it is; `task_id` is None for what concerns no single
task. Data is JSON; times are aware UTC.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import TextClause, text
from wfhub_common import ids
from wfhub_common.sql import Connection, Result

from wfhub_scheduler import stored_json

# A batch is published as a whole: it has to fit into one of the stream's (batches.py).
BATCH_EVENTS_MAX = 500
BATCH_CHARS_MAX = 1024 * 1024

# Parts of a WITH, for a statement that changes what they tell of; their values are a batch's.
EVENTS = """
batch AS (
    INSERT INTO sched.event_batch (events)
    SELECT CAST(:event_count AS integer) WHERE CAST(:event_count AS integer) > 0
    RETURNING batch_id),
told AS (
    INSERT INTO sched.event
           (batch_id, n, event_id, project_id, task_id, kind, entity_id, type, data)
    SELECT batch_id, n, event_id, project_id, task_id, split_part(type, '.', 1), entity_id, type,
           CAST(data AS json)
      FROM batch, unnest(CAST(:event_ids AS text[]), CAST(:event_projects AS text[]),
                         CAST(:event_tasks AS text[]), CAST(:event_entities AS text[]),
                         CAST(:event_types AS text[]), CAST(:event_datas AS text[]))
           WITH ORDINALITY AS e (event_id, project_id, task_id, entity_id, type, data, n))
"""
_INSERT = text(f"WITH {EVENTS} SELECT FROM batch")


class Event(NamedTuple):
    type_: str
    entity_id: str
    data: dict[str, Any]
    project_id: str
    task_id: str | None = None


async def emit_many(connection: Connection, events: Sequence[Event]) -> None:
    """All of them in one statement, or a few if they are many; none is no statement."""
    for batch in batches(events):
        await connection.execute(_INSERT, batch)


async def execute_telling(
    connection: Connection,
    statement: TextClause,
    values: Mapping[str, Any],
    events: Sequence[Event],
) -> Result:
    """A statement that has EVENTS among its parts, with as many of them as it takes; the others
    in statements of their own."""
    first, *others = batches(events) or [_values((), ())]
    result = await connection.execute(statement, {**values, **first})
    for batch in others:
        await connection.execute(_INSERT, batch)
    return result


def batches(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The values of EVENTS, once for each batch."""
    datas = [stored_json.dumped(event.data) for event in events]
    return [_values(events[first:end], datas[first:end]) for first, end in _batches(datas)]


def _values(events: Sequence[Event], datas: Sequence[str]) -> dict[str, Any]:
    return {
        "event_count": len(events),
        "event_ids": ids.new_event_ids(len(events)),
        "event_projects": [event.project_id for event in events],
        "event_tasks": [event.task_id for event in events],
        "event_entities": [event.entity_id for event in events],
        "event_types": [event.type_ for event in events],
        "event_datas": datas,
    }


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
