"""Events in batches, which are placed as a whole; and fewer checks and indexes to keep.

An event's row is written once and never again: its position is that of its batch and its number in
it. A batch is what one statement wrote, so that placing a hundred events changes one small row.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # up_to: the position of its last event; its first one's is up_to - events + 1.
    """
    CREATE TABLE sched.event_batch (
        batch_id    bigserial PRIMARY KEY,
        events      integer NOT NULL DEFAULT 1 CHECK (events > 0),
        time        timestamptz NOT NULL DEFAULT clock_timestamp(),
        generation  integer,
        up_to       bigint,
        CHECK ((generation IS NULL) = (up_to IS NULL))
    )
    """,
    """
    INSERT INTO sched.event_batch (batch_id, events, time, generation, up_to)
    SELECT id, 1, time, generation, pos FROM sched.event
    """,
    """
    SELECT setval('sched.event_batch_batch_id_seq', last_value, is_called) FROM sched.event_id_seq
    """,
    "CREATE INDEX event_batch_unplaced ON sched.event_batch (batch_id) WHERE up_to IS NULL",
    """
    CREATE UNIQUE INDEX event_batch_position ON sched.event_batch (generation, up_to)
     WHERE up_to IS NOT NULL
    """,
    "DROP VIEW sched.api_event",
    "DROP INDEX sched.event_by_task",
    "ALTER TABLE sched.event DROP CONSTRAINT event_pkey",
    "ALTER TABLE sched.event RENAME COLUMN id TO batch_id",
    # json: written and read as it is, never taken apart on the way.
    """
    ALTER TABLE sched.event
        ALTER COLUMN batch_id DROP DEFAULT,
        ADD COLUMN n integer NOT NULL DEFAULT 1 CHECK (n > 0),
        DROP COLUMN generation, DROP COLUMN pos, DROP COLUMN time,
        ALTER COLUMN data TYPE json
    """,
    "DROP SEQUENCE IF EXISTS sched.event_id_seq",
    "ALTER TABLE sched.event ADD PRIMARY KEY (batch_id, n)",
    "CREATE INDEX event_by_task ON sched.event (task_id, batch_id, n)",
    # Read in the log's order by (generation, up_to), which has an index, and then by pos.
    """
    CREATE VIEW sched.api_event AS
    SELECT b.generation, b.up_to - b.events + e.n AS pos, e.event_id, e.project_id, e.task_id,
           e.kind, e.entity_id, e.type, b.time, e.data, b.up_to
      FROM sched.event_batch b JOIN sched.event e USING (batch_id)
     WHERE b.up_to IS NOT NULL
    """,
    """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'wfhub_api') THEN
            GRANT SELECT ON sched.api_event TO wfhub_api;
        END IF;
    END $$
    """,
    # The one writer makes a unit together with its task, and an attempt out of the unit and task
    # that the same statement moved, under the lock of the runner. No row of these is ever deleted.
    # To look each of them up once more, and lock it, was an eighth of what a task cost Postgres.
    """
    ALTER TABLE sched.unit
        DROP CONSTRAINT unit_task_id_fkey, DROP CONSTRAINT unit_project_id_fkey
    """,
    """
    ALTER TABLE sched.attempt
        DROP CONSTRAINT attempt_unit_id_fkey, DROP CONSTRAINT attempt_task_id_fkey,
        DROP CONSTRAINT attempt_project_id_fkey, DROP CONSTRAINT attempt_runner_id_fkey
    """,
    # One index for both: a task has one unit of a kind.
    "ALTER TABLE sched.attempt DROP CONSTRAINT attempt_unit_id_number_key",
    "DROP INDEX sched.attempt_by_task",
    "CREATE UNIQUE INDEX attempt_of_task ON sched.attempt (task_id, kind, number)",
    # A token is good, and looked for, while its attempt lives.
    "ALTER TABLE sched.attempt DROP CONSTRAINT attempt_token_sha256_key",
    """
    CREATE UNIQUE INDEX attempt_live_token ON sched.attempt (token_sha256)
     WHERE state IN ('leased', 'running', 'verifying') AND token_sha256 IS NOT NULL
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
