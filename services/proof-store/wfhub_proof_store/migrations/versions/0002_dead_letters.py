"""Dead letters that count, and can be replayed or discarded; the API sees them."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP TABLE proofs.dead_letter",
    # The same columns as every service's (wfhub_common.dead_letters).
    """
    CREATE TABLE proofs.dead_letter (
        dead_letter_id  text PRIMARY KEY,
        source          text NOT NULL,  -- ingest, rpc
        sender          text NOT NULL,
        subject         text NOT NULL,
        digest          text NOT NULL,
        code            text NOT NULL,
        error           text NOT NULL,
        body            text NOT NULL,
        body_is_base64  boolean NOT NULL,
        whole           boolean NOT NULL,  -- not cut, nothing taken out
        failures        integer NOT NULL DEFAULT 1 CHECK (failures > 0),
        state           text NOT NULL CHECK (state IN ('counting', 'open', 'replayed', 'discarded')),
        first_at        timestamptz NOT NULL DEFAULT now(),
        last_at         timestamptz NOT NULL DEFAULT now(),
        decided_at      timestamptz,
        decided_by      text,
        outcome         text NOT NULL DEFAULT '',
        CHECK ((state IN ('replayed', 'discarded')) = (decided_at IS NOT NULL))
    )
    """,
    """
    CREATE UNIQUE INDEX dead_letter_live ON proofs.dead_letter (source, digest)
     WHERE state IN ('counting', 'open')
    """,
    """
    CREATE INDEX dead_letter_share ON proofs.dead_letter (source, sender)
     WHERE state IN ('counting', 'open')
    """,
    """
    CREATE VIEW proofs.api_dead_letter AS
    SELECT dead_letter_id, source, sender, subject, code, error, body, body_is_base64, whole,
           failures, state, first_at, last_at, decided_at, decided_by, outcome
      FROM proofs.dead_letter WHERE state <> 'counting'
    """,
    """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'wfhub_api') THEN
            GRANT USAGE ON SCHEMA proofs TO wfhub_api;
            GRANT SELECT ON proofs.api_dead_letter TO wfhub_api;
        END IF;
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
