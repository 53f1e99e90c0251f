"""An exchange that is opened in one statement: when all that it asks for is there.

Most are: their scopes have accounts, and room for all that is asked. Then locking, deciding
and reserving is one trip to Postgres and one commit, where step by step it would be six. 0 rows
mean that it has to be decided with care: a scope is limited for the first time, part of what is
asked may be granted, or nothing. Nothing has changed then.
Its commit is not waited for to reach the disk, which is most of what it would cost: a gateway that
is killed loses nothing by that, a Postgres that crashes may lose the last moments' openings. The
gateway notices (its row is gone) and charges all the same: ledger.py, ADR 34.
Locks: attempt, then accounts in the order of the limits, as everywhere.
"""

from collections.abc import Sequence
from typing import Any

from wfhub_common.messages import SpendingLimit
from wfhub_common.statements import Statement

from wfhub_llm_gateway.budgets.accounts import Subjects
from wfhub_llm_gateway.budgets.grants import UNLIMITED, Amount

# Only for the transaction that it stands in, which is the statement.
NOT_AWAITED = "soon AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))"

OPEN_AT_ONCE = Statement(f"""
WITH {NOT_AWAITED}, own AS MATERIALIZED (
    SELECT attempt_id FROM gateway.attempt
     WHERE attempt_id = :attempt_id AND exchange_count < :exchanges_max FOR UPDATE),
held AS MATERIALIZED (
    SELECT a.scope, a.subject,
           a.used_tokens + a.reserved_tokens + :tokens <= asked.tokens
           AND a.used_nusd + a.reserved_nusd + :nusd <= asked.nusd
           AND a.used_wall_ms + a.reserved_wall_ms + :wall_ms <= asked.wall_ms
           AND a.used_requests + :requests <= asked.requests AS fits
      FROM own, unnest(CAST(:scopes AS text[]), CAST(:subjects AS text[]),
                       CAST(:tokens_max AS bigint[]), CAST(:nusd_max AS bigint[]),
                       CAST(:wall_ms_max AS bigint[]), CAST(:requests_max AS bigint[]))
                WITH ORDINALITY AS asked (scope, subject, tokens, nusd, wall_ms, requests, rank)
      JOIN gateway.account a USING (scope, subject)
     ORDER BY asked.rank FOR UPDATE OF a),
all_fit AS MATERIALIZED (
    SELECT 1 FROM held HAVING count(*) = cardinality(CAST(:scopes AS text[])) AND bool_and(fits)),
numbered AS (
    UPDATE gateway.attempt SET exchange_count = exchange_count + 1
     WHERE attempt_id = :attempt_id AND EXISTS (SELECT FROM all_fit)
    RETURNING exchange_count AS seq),
holding AS (
    UPDATE gateway.account a
       SET reserved_tokens = a.reserved_tokens + :tokens,
           reserved_nusd = a.reserved_nusd + :nusd,
           reserved_wall_ms = a.reserved_wall_ms + :wall_ms,
           used_requests = a.used_requests + :requests
      FROM held, numbered WHERE a.scope = held.scope AND a.subject = held.subject)
INSERT INTO gateway.exchange (attempt_id, seq, task_id, project_id, state, provider, model,
    replayed, stream, request_digest, request_bytes, started_at, instance_id, accounts,
    reserved_tokens, reserved_nusd, reserved_wall_ms)
SELECT :attempt_id, seq, :task_id, :project_id, 'open', :provider, :model,
    :replayed, :stream, :request_digest, :request_bytes, :started_at, :instance_id,
    CAST(:accounts AS text[]), :tokens, :nusd, :wall_ms
  FROM numbered, soon RETURNING seq
""")  # noqa: S608 - our own text


def values_of(
    limits: Sequence[SpendingLimit], subjects: Subjects, amount: Amount
) -> dict[str, Any]:
    return {
        "scopes": [limit.scope for limit in limits],
        "subjects": [subjects.of(limit.scope) for limit in limits],
        "accounts": [subjects.key(limit.scope) for limit in limits],
        "tokens_max": [_max(limit.tokens) for limit in limits],
        "nusd_max": [_max(limit.nusd) for limit in limits],
        "wall_ms_max": [_max(limit.wall_ms) for limit in limits],
        "requests_max": [_max(limit.requests) for limit in limits],
        **vars(amount),
    }


def _max(limit: int | None) -> int:
    return UNLIMITED if limit is None else limit
