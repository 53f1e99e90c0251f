"""Lanes: units of one pool and project that ask for the same labels wait in one lane.

A claim looks only into lanes whose labels its runner has, so that a million units for others cost
it nothing. Lanes are few and stay; the first task of a lane makes it, and its pool.
Raises: Rejected (422 `label-sets-full`).
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import text
from wfhub_common.errors import Rejected
from wfhub_common.messages import TaskSpec
from wfhub_common.sql import Connection

LANES_OF_A_PROJECT_MAX = 1000  # pools and sets of labels that its tasks ever named

_WANTED = """
  FROM (SELECT pool, project_id, string_to_array(labels, ',') AS labels
          FROM unnest(CAST(:pools AS text[]), CAST(:projects AS text[]), CAST(:labels AS text[]))
               AS w (pool, project_id, labels)) w
"""
_FIND = text(f"""
SELECT w.pool, w.project_id, w.labels, l.lane_id {_WANTED}
  JOIN sched.lane l ON l.pool = w.pool AND l.project_id = w.project_id AND l.labels = w.labels
""")
_NEW_POOLS = text("""
INSERT INTO sched.pool (pool) SELECT DISTINCT unnest(CAST(:pools AS text[])) ORDER BY 1
ON CONFLICT DO NOTHING
""")
_NEW_MEMBERS = text(f"""
INSERT INTO sched.pool_project (pool, project_id)
SELECT DISTINCT w.pool, w.project_id {_WANTED} ORDER BY 1, 2 ON CONFLICT DO NOTHING
""")
_NEW_LANES = text(f"""
INSERT INTO sched.lane (pool, project_id, labels)
SELECT w.pool, w.project_id, w.labels {_WANTED} ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING
""")
_COUNT = text("""
SELECT project_id FROM sched.lane WHERE project_id = ANY(CAST(:projects AS text[]))
 GROUP BY project_id HAVING count(*) > :most LIMIT 1
""")


@dataclass(frozen=True)
class Lane:
    pool: str
    project_id: str
    labels: tuple[str, ...]  # sorted, each once


def lane_of(project_id: str, spec: TaskSpec) -> Lane:
    return Lane(spec.pool, project_id, tuple(sorted(set(spec.labels))))


async def lane_ids(connection: Connection, wanted: Collection[Lane]) -> dict[Lane, int]:
    """The ids of all `wanted`; those that were not there are made."""
    found = await _find(connection, wanted)
    missing = set(wanted) - found.keys()
    if missing:
        await _make(connection, missing)
        found |= await _find(connection, missing)
    return found


async def _find(connection: Connection, wanted: Collection[Lane]) -> dict[Lane, int]:
    rows = await connection.execute(_FIND, _columns(wanted))
    return {Lane(row.pool, row.project_id, tuple(row.labels)): row.lane_id for row in rows}


async def _make(connection: Connection, lanes: Collection[Lane]) -> None:
    columns = _columns(lanes)
    await connection.execute(_NEW_POOLS, {"pools": columns["pools"]})
    await connection.execute(_NEW_MEMBERS, columns)
    await connection.execute(_NEW_LANES, columns)
    of = {"projects": columns["projects"], "most": LANES_OF_A_PROJECT_MAX}
    if (await connection.execute(_COUNT, of)).first() is not None:
        raise Rejected(
            "label-sets-full",
            f"this project's tasks have named {LANES_OF_A_PROJECT_MAX} combinations of pool and"
            " labels already: use one of them",
        )


def _columns(lanes: Collection[Lane]) -> dict[str, list[str]]:
    ordered = sorted(set(lanes), key=lambda lane: (lane.pool, lane.project_id, lane.labels))
    return {
        "pools": [lane.pool for lane in ordered],
        "projects": [lane.project_id for lane in ordered],
        "labels": [",".join(lane.labels) for lane in ordered],
    }
