"""Schedules and their firings: at most one for an instant, whatever fires it.

schedule.next_fire_at is the instant waited for, next_jitter_ms how much later it is due; NULL: the
schedule has ended. A firing's row is of one instant, or of a range that was let go (until_at).
Lock order: schedule → task → project_queue.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    """
    CREATE TABLE sched.schedule (
        schedule_id     text PRIMARY KEY,
        project_id      text NOT NULL REFERENCES sched.project,
        name            text NOT NULL,
        version         integer NOT NULL DEFAULT 1 CHECK (version > 0),
        spec            jsonb NOT NULL,
        spec_sha256     text NOT NULL,
        paused          boolean NOT NULL,
        anchor_at       timestamptz NOT NULL,
        next_fire_at    timestamptz,
        next_jitter_ms  integer NOT NULL DEFAULT 0 CHECK (next_jitter_ms >= 0),
        changed_by      text NOT NULL DEFAULT '',
        created_at      timestamptz NOT NULL DEFAULT now(),
        updated_at      timestamptz NOT NULL DEFAULT now(),
        UNIQUE (project_id, name)
    )
    """,
    "CREATE INDEX schedule_due ON sched.schedule (next_fire_at) WHERE NOT paused",
    """
    CREATE TABLE sched.firing (
        schedule_id      text NOT NULL REFERENCES sched.schedule ON DELETE CASCADE,
        fire_at          timestamptz NOT NULL,
        until_at         timestamptz NOT NULL,
        outcome          text NOT NULL CHECK (outcome IN ('waiting', 'fired', 'skipped', 'missed')),
        reason           text NOT NULL DEFAULT '',
        message          text NOT NULL DEFAULT '',
        task_id          text REFERENCES sched.task,
        fired_by         text NOT NULL DEFAULT '',
        idempotency_key  text,
        tries            integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
        retry_at         timestamptz,
        -- Its task is not known to have ended.
        running          boolean NOT NULL DEFAULT false,
        created_at       timestamptz NOT NULL DEFAULT now(),
        UNIQUE (schedule_id, fire_at),
        UNIQUE (schedule_id, idempotency_key),
        CHECK (until_at >= fire_at),
        CHECK ((outcome = 'fired') = (task_id IS NOT NULL)),
        CHECK ((outcome = 'waiting') = (retry_at IS NOT NULL)),
        CHECK (NOT running OR outcome = 'fired')
    )
    """,
    "CREATE INDEX firing_waiting ON sched.firing (retry_at) WHERE outcome = 'waiting'",
    "CREATE INDEX firing_running ON sched.firing (schedule_id) WHERE running",
    "CREATE INDEX firing_by_task ON sched.firing (task_id)",
    """
    CREATE VIEW sched.api_schedule AS
    SELECT s.schedule_id, s.project_id, p.name AS project, s.name, s.version, s.spec, s.paused,
           CASE WHEN NOT s.paused THEN s.next_fire_at END AS next_fire_at,
           CASE WHEN NOT s.paused THEN
               s.next_fire_at + s.next_jitter_ms * interval '1 millisecond' END AS next_due_at,
           s.changed_by, s.created_at, s.updated_at
      FROM sched.schedule s JOIN sched.project p USING (project_id)
    """,
    """
    CREATE VIEW sched.api_firing AS
    SELECT f.schedule_id, f.fire_at, f.until_at, f.outcome, f.reason, f.message, f.task_id,
           t.state AS task_state, f.fired_by, f.created_at
      FROM sched.firing f LEFT JOIN sched.task t USING (task_id)
    """,
    """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'wfhub_api') THEN
            GRANT SELECT ON sched.api_schedule, sched.api_firing TO wfhub_api;
        END IF;
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
