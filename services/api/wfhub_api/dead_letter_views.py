"""Dead letters of every service that keeps them, from the read-only views <schema>.api_dead_letter.

A service that is not migrated (or not part of this deployment) has none.
Raises: RetryLater as views.py; Rejected (404 `dead-letter-unknown`).
"""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common.errors import Rejected

from wfhub_api import views
from wfhub_api.dead_letter_shapes import DeadLetter, DeadLetterDetail, DeadLetterState, Service

_VIEWS = {
    Service.SCHEDULER: "sched.api_dead_letter",
    Service.PROOF_STORE: "proofs.api_dead_letter",
}
_COLUMNS = """dead_letter_id, source, sender, subject, code, error, failures, state, whole,
    first_at, last_at, decided_at, decided_by, outcome"""


async def page(
    engine: AsyncEngine,
    *,
    state: DeadLetterState | None,
    source: str | None,
    before: str | None,
    limit: int,
) -> list[DeadLetter]:
    """Newest first; `before` is the id of the last one of the page before."""
    letters = await _letters(engine, _COLUMNS)
    if letters is None:
        return []
    conditions, values = ["true"], dict[str, Any](limit=limit)
    for name, value in (("state", state), ("source", source)):
        if value is not None:
            conditions.append(f"{name} = :{name}")
            values[name] = str(value)
    if before is not None:
        conditions.append(
            "(first_at, dead_letter_id) <"
            " (SELECT first_at, dead_letter_id FROM letters WHERE dead_letter_id = :before)"
        )
        values["before"] = before
    rows = await views.select(
        engine,
        f"WITH letters AS ({letters}) SELECT * FROM letters WHERE {' AND '.join(conditions)}"  # noqa: S608 - constant parts, values are bound
        " ORDER BY first_at DESC, dead_letter_id DESC LIMIT :limit",
        **values,
    )
    return [DeadLetter.model_validate(dict(row)) for row in rows]


async def one(engine: AsyncEngine, dead_letter_id: str) -> DeadLetterDetail:
    letters = await _letters(engine, f"{_COLUMNS}, body, body_is_base64")
    rows = (
        await views.select(
            engine,
            f"WITH letters AS ({letters}) SELECT * FROM letters WHERE dead_letter_id = :id",  # noqa: S608 - constant parts
            id=dead_letter_id,
        )
        if letters is not None
        else []
    )
    if not rows:
        raise Rejected(
            "dead-letter-unknown", f"there is no dead letter {dead_letter_id}", status=404
        )
    return DeadLetterDetail.model_validate(dict(rows[0]))


async def _letters(engine: AsyncEngine, columns: str) -> str | None:
    """One statement over the views that are there."""
    rows = await views.select(
        engine,
        "SELECT name FROM unnest(CAST(:names AS text[])) name WHERE to_regclass(name) IS NOT NULL",
        names=list(_VIEWS.values()),
    )
    there = {row.name for row in rows}
    parts = [
        f"SELECT '{service.value}' AS service, {columns} FROM {view}"  # noqa: S608 - constants
        for service, view in _VIEWS.items()
        if view in there
    ]
    return " UNION ALL ".join(parts) or None
