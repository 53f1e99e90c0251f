"""Commands `introspect` and `introspect_many`: whose attempt token this is, and until when (asked
by the gateway).

A token is good while its attempt is live, current, and its lease lies ahead.
"""

from collections.abc import Sequence

from sqlalchemy import text
from wfhub_common import db
from wfhub_common.messages import (
    CassetteUse,
    Introspect,
    IntrospectMany,
    ProjectBudget,
    TaskSpec,
    TokenInfo,
    TokenInfos,
    limits_of,
)
from wfhub_common.sql import Row

from wfhub_scheduler.core import Core

_TOKENS = text("""
SELECT a.token_sha256, a.attempt_id, a.task_id, a.project_id, a.lease_until, t.spec, p.name,
       p.budget, p.cassette, extract(epoch FROM a.lease_until - now())::float8 AS valid_for_s
  FROM sched.attempt a JOIN sched.task t ON t.current_attempt = a.attempt_id
  JOIN sched.project p ON p.project_id = a.project_id
 WHERE a.token_sha256 = ANY(CAST(:token_sha256s AS text[]))
   AND a.state IN ('leased', 'running', 'verifying') AND a.lease_until > now()
""")


async def introspect(core: Core, command: Introspect) -> TokenInfo:
    return (await _infos(core, (command.token_sha256,)))[0]


async def introspect_many(core: Core, command: IntrospectMany) -> TokenInfos:
    return TokenInfos(tokens=await _infos(core, command.token_sha256s))


async def _infos(core: Core, digests: Sequence[str]) -> tuple[TokenInfo, ...]:
    """In the order of the digests."""
    async with db.transaction(core.engine) as connection:
        rows = await connection.execute(_TOKENS, {"token_sha256s": list(digests)})
    known = {row.token_sha256: _info(row) for row in rows}
    return tuple(known.get(digest) or TokenInfo(active=False) for digest in digests)


def _info(row: Row) -> TokenInfo:
    spec = TaskSpec.model_validate(row.spec)
    cassette = spec.cassette or (row.cassette and CassetteUse.model_validate(row.cassette))
    attempt = spec.attempt_budget
    if attempt.tokens is None:
        attempt = attempt.model_copy(update={"tokens": spec.budget_tokens})
    return TokenInfo(
        active=True,
        attempt_id=row.attempt_id,
        task_id=row.task_id,
        project_id=row.project_id,
        models=None if spec.agent.model is None else (spec.agent.model,),
        budget_tokens=attempt.tokens,
        project=row.name,
        limits=limits_of(
            attempt=attempt, task=spec.budget, project=ProjectBudget.model_validate(row.budget)
        ),
        cassette_mode=cassette.mode if cassette else "",
        cassette=cassette.name if cassette else "",
        valid_until=row.lease_until,
        valid_for_s=row.valid_for_s,
    )
