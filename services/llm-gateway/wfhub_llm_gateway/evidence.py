"""What others are told of the ledger: an attempt's exchanges (for its proof), a task's usage."""

import asyncio
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import messages
from wfhub_common.db import transaction

from wfhub_llm_gateway.ledger import NOT_SETTLED
from wfhub_llm_gateway.settlements import stamp

SETTLED_WAIT_S = 2.0  # `exchanges` waits so long for streams that were cut a moment ago
_SETTLED_POLL_S = 0.1

_EXCHANGES = text("""
SELECT seq, state, provider, model, replayed, status, request_digest, response_digest,
       coalesce(prompt_tokens, 0) AS prompt_tokens,
       coalesce(completion_tokens, 0) AS completion_tokens, cached_tokens, charged_nusd AS nusd,
       started_at, coalesce(first_byte_ms, -1) AS first_byte_ms, duration_ms, note,
       link, record_digest, chain_digest
  FROM gateway.exchange WHERE attempt_id = :attempt_id ORDER BY seq
""")
_USAGE = text("""
SELECT coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
       coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens, count(*) AS requests,
       coalesce(sum(charged_nusd), 0)::bigint AS nusd
  FROM gateway.exchange WHERE task_id = :task_id
""")


class Evidence:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def exchanges(self, attempt_id: str) -> messages.Exchanges:
        """Of an attempt, in order; open ones get a moment to be settled."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLED_WAIT_S
        while True:
            async with transaction(self._engine) as connection:
                result = await connection.execute(_EXCHANGES, {"attempt_id": attempt_id})
                rows = result.all()
            if loop.time() > deadline or all(row["state"] == "settled" for row in rows):
                break
            await asyncio.sleep(_SETTLED_POLL_S)
        ends = {row["link"]: row["chain_digest"] for row in rows}
        exchanges = tuple(_exchange(dict(row)) for row in rows)
        return messages.Exchanges(
            attempt_id=attempt_id,
            exchanges=exchanges,
            prompt_tokens=sum(e.prompt_tokens for e in exchanges),
            completion_tokens=sum(e.completion_tokens for e in exchanges),
            nusd=sum(e.nusd for e in exchanges),
            chain_digest=ends[max(ends)] if ends else "",
        )

    async def usage(self, task_id: str) -> messages.Usage:
        async with transaction(self._engine) as connection:
            row = (await connection.execute(_USAGE, {"task_id": task_id})).one()
        return messages.Usage.model_validate(dict(row))


def _exchange(row: dict[str, Any]) -> messages.Exchange:
    del row["chain_digest"]
    started_at: datetime = row.pop("started_at")
    if row.pop("state") == "open":
        row["note"] = NOT_SETTLED
    return messages.Exchange(**row, started_at=stamp(started_at))
