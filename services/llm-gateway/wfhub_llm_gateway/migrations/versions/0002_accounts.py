"""Budgets of any scope, the gateways that hold reservations, and the chain of a record."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # A scope that is limited: what of its limit is used, and held by open exchanges. The limit
    # itself is the scheduler's and comes with each token.
    """
    CREATE TABLE gateway.account (
        scope             text NOT NULL,   -- project, day, minute, task, attempt
        subject           text NOT NULL,   -- its id; of a day or minute also its beginning
        used_tokens       bigint NOT NULL DEFAULT 0,
        used_nusd         bigint NOT NULL DEFAULT 0,
        used_wall_ms      bigint NOT NULL DEFAULT 0,
        used_requests     bigint NOT NULL DEFAULT 0,
        reserved_tokens   bigint NOT NULL DEFAULT 0 CHECK (reserved_tokens >= 0),
        reserved_nusd     bigint NOT NULL DEFAULT 0 CHECK (reserved_nusd >= 0),
        reserved_wall_ms  bigint NOT NULL DEFAULT 0 CHECK (reserved_wall_ms >= 0),
        created_at        timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (scope, subject)
    )
    """,
    # A gateway's process. When its lease is over, others settle what it left open.
    """
    CREATE TABLE gateway.instance (
        instance_id  text PRIMARY KEY,
        lease_until  timestamptz NOT NULL
    )
    """,
    "ALTER TABLE gateway.attempt DROP COLUMN used_tokens, DROP COLUMN reserved_tokens",
    # The chain: of the exchanges that were settled, in that order.
    """
    ALTER TABLE gateway.attempt
        ADD COLUMN chain_count integer NOT NULL DEFAULT 0,
        ADD COLUMN chain_digest text NOT NULL DEFAULT ''
    """,
    """
    ALTER TABLE gateway.exchange
        ADD COLUMN instance_id text NOT NULL DEFAULT '',
        ADD COLUMN accounts text[] NOT NULL DEFAULT '{}',   -- "scope subject" that it is held in
        ADD COLUMN reserved_nusd bigint NOT NULL DEFAULT 0,
        ADD COLUMN reserved_wall_ms bigint NOT NULL DEFAULT 0,
        ADD COLUMN charged_nusd bigint NOT NULL DEFAULT 0,
        ADD COLUMN cached_tokens integer NOT NULL DEFAULT 0,
        ADD COLUMN record_digest text NOT NULL DEFAULT '',
        ADD COLUMN link integer NOT NULL DEFAULT 0,
        ADD COLUMN chain_digest text NOT NULL DEFAULT ''
    """,
    "CREATE INDEX exchange_open ON gateway.exchange (instance_id) WHERE state = 'open'",
    "CREATE INDEX exchange_project ON gateway.exchange (project_id, started_at)",
    "CREATE INDEX account_minute ON gateway.account (created_at) WHERE scope = 'minute'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
