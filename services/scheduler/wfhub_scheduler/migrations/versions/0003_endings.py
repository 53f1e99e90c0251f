"""Endings: when a task has waited or run for too long, and since when its runner is told to stop.

What the spec says of times is generated from it, so that no insert can forget it.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # A cast to timestamptz depends on the session's settings, but not for a text that names its
    # offset, as those in a spec do. Strict: a task without such times pays nothing.
    """
    CREATE FUNCTION sched.instant(said text) RETURNS timestamptz
    IMMUTABLE STRICT PARALLEL SAFE LANGUAGE sql AS 'SELECT CAST(said AS timestamptz)'
    """,
    """
    CREATE FUNCTION sched.waits_until(since timestamptz, run_at text, wait_s integer)
    RETURNS timestamptz IMMUTABLE STRICT PARALLEL SAFE LANGUAGE sql
    AS 'SELECT greatest(since, CAST(run_at AS timestamptz)) + make_interval(secs => wait_s)'
    """,
    """
    ALTER TABLE sched.task
        ADD COLUMN queued_at timestamptz NOT NULL DEFAULT now(),  -- or when it was released
        ADD COLUMN stopping_since timestamptz,
        ADD COLUMN deadline_at timestamptz
            GENERATED ALWAYS AS (sched.instant(spec ->> 'deadline_at')) STORED,
        ADD COLUMN queue_until timestamptz GENERATED ALWAYS AS (sched.waits_until(
            queued_at, coalesce(spec ->> 'run_at', '-infinity'),
            CAST(spec ->> 'queue_s' AS integer))) STORED,
        -- The longest that an agent attempt may take by the task's own limits.
        ADD COLUMN attempt_s integer NOT NULL GENERATED ALWAYS AS (
            CAST(spec #>> '{limits,run_s}' AS integer)
            + CAST(spec #>> '{limits,verify_s}' AS integer)
              * jsonb_array_length(spec -> 'verify')
              * CASE WHEN CAST(spec ->> 'verify_base' AS boolean) THEN 2 ELSE 1 END) STORED,
        ADD CHECK (stopping_since IS NULL OR state = 'running')
    """,
    """
    CREATE INDEX task_deadline ON sched.task (deadline_at)
     WHERE deadline_at IS NOT NULL AND stopping_since IS NULL
       AND state IN ('blocked', 'ready', 'running', 'sealing')
    """,
    # A lease is renewed every few seconds: with no index on it and room in the page, a renewal
    # writes the row alone. What ran out is found among the live ones (attempt_live_runner).
    "DROP INDEX sched.attempt_live_lease",
    "ALTER TABLE sched.attempt SET (fillfactor = 50)",
    """
    CREATE INDEX task_queue_until ON sched.task (queue_until)
     WHERE queue_until IS NOT NULL AND state = 'ready' AND attempts_used + infra_losses = 0
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
