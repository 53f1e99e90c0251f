"""The ledger: one row an attempt (its budget), one row an exchange."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
CREATE TABLE gateway.attempt (
    attempt_id      text PRIMARY KEY,
    task_id         text NOT NULL,
    project_id      text NOT NULL,
    exchange_count  int NOT NULL DEFAULT 0,
    -- Tokens: charged for settled exchanges, and held by open ones.
    used_tokens     bigint NOT NULL DEFAULT 0,
    reserved_tokens bigint NOT NULL DEFAULT 0 CHECK (reserved_tokens >= 0),
    created_at      timestamptz NOT NULL DEFAULT now()
)""")
    op.execute("CREATE INDEX attempt_task ON gateway.attempt (task_id)")
    op.execute("""
CREATE TABLE gateway.exchange (
    attempt_id        text NOT NULL REFERENCES gateway.attempt,
    seq               int NOT NULL,
    task_id           text NOT NULL,
    project_id        text NOT NULL,
    state             text NOT NULL CHECK (state IN ('open', 'settled')),
    provider          text NOT NULL,
    model             text NOT NULL,
    replayed          boolean NOT NULL,
    stream            boolean NOT NULL,
    status            int NOT NULL DEFAULT 0,
    code              text NOT NULL DEFAULT '',
    request_digest    text NOT NULL,
    response_digest   text NOT NULL DEFAULT '',
    request_bytes     bigint NOT NULL,
    response_bytes    bigint NOT NULL DEFAULT 0,
    -- As the model server reported them; null when it reported none.
    prompt_tokens     int,
    completion_tokens int,
    reserved_tokens   bigint NOT NULL,
    charged_tokens    bigint NOT NULL DEFAULT 0,
    started_at        timestamptz NOT NULL,
    first_byte_ms     int,
    duration_ms       int NOT NULL DEFAULT 0,
    note              text NOT NULL DEFAULT '',
    PRIMARY KEY (attempt_id, seq)
)""")
    op.execute("CREATE INDEX exchange_task ON gateway.exchange (task_id)")
