"""Dead letters: what failed again and again, visible and replayable. And a leaner outbox."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    "DROP TABLE sched.dead_letter",
    # `digest` names one and the same failure: it has one live row, which counts. A row is
    # `counting`, and nobody's concern, until it failed often enough (wfhub_common.dead_letters).
    """
    CREATE TABLE sched.dead_letter (
        dead_letter_id  text PRIMARY KEY,
        source          text NOT NULL,  -- rpc, seal, or the name of a turn
        sender          text NOT NULL,
        subject         text NOT NULL,  -- the request's subject, or the id of what failed
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
    CREATE UNIQUE INDEX dead_letter_live ON sched.dead_letter (source, digest)
     WHERE state IN ('counting', 'open')
    """,
    """
    CREATE INDEX dead_letter_share ON sched.dead_letter (source, sender)
     WHERE state IN ('counting', 'open')
    """,
    "CREATE INDEX dead_letter_aside ON sched.dead_letter (source, subject) WHERE state = 'open'",
    """
    CREATE VIEW sched.api_dead_letter AS
    SELECT dead_letter_id, source, sender, subject, code, error, body, body_is_base64, whole,
           failures, state, first_at, last_at, decided_at, decided_by, outcome
      FROM sched.dead_letter WHERE state <> 'counting'
    """,
    """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'wfhub_api') THEN
            GRANT SELECT ON sched.api_dead_letter TO wfhub_api;
        END IF;
    END $$
    """,
    # A row is written once and placed once; each index costs twice, and what is not placed is in
    # none that is read by position. Ids are random; the log's order is near enough that of time.
    """
    ALTER TABLE sched.event DROP CONSTRAINT event_event_id_key,
                            DROP CONSTRAINT event_generation_pos_key
    """,
    "DROP INDEX sched.event_by_time, sched.event_by_task",
    """
    CREATE UNIQUE INDEX event_position ON sched.event (generation, pos) WHERE pos IS NOT NULL
    """,
    """
    CREATE INDEX event_by_task ON sched.event (task_id, generation, pos) WHERE pos IS NOT NULL
    """,
    # Which database the positions were given in: a copy or a restored one is another.
    "ALTER TABLE sched.relay ADD COLUMN database text NOT NULL DEFAULT ''",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
