"""Webhooks: what was asked for, and, in a table of its own, how far each has come.

The second changes with each delivery and belongs to who holds its lease; the first to people.
A secret signs, so it is kept as it is (ADR 0044).
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE api.webhook (
            webhook_id          text PRIMARY KEY,
            project_id          text,  -- NULL: all of them
            url                 text NOT NULL CHECK (length(url) <= 2048),
            events              text[] NOT NULL,
            secret              text NOT NULL,
            secret_before       text,
            secret_before_until timestamptz,
            paused              boolean NOT NULL DEFAULT false,
            disabled            text,
            tested_at           timestamptz,
            created_by          text NOT NULL,
            created_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
            updated_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
            idempotency_key     text,
            body_sha256         text NOT NULL,
            UNIQUE (created_by, idempotency_key)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE api.webhook_cursor (
            webhook_id    text PRIMARY KEY REFERENCES api.webhook ON DELETE CASCADE,
            generation    integer NOT NULL,
            pos           bigint NOT NULL,
            lease         text,
            lease_until   timestamptz,
            failures      integer NOT NULL DEFAULT 0,
            failing_since timestamptz,
            next_try_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
            last_outcome  text,
            last_status   integer,
            last_at       timestamptz,
            note          text,
            note_at       timestamptz
        )
        """
    )
