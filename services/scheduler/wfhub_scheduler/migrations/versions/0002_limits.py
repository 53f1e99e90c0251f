"""Limits: queue caps, pauses, pools, lanes of labels, drains.

What runs is counted from leased units, under a lock of its pool and project; there is no counter
that could drift. project_queue.bound is never below a project's ready and blocked tasks.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    """
    ALTER TABLE sched.project
        ADD COLUMN queue_limit integer NOT NULL DEFAULT 10000 CHECK (queue_limit > 0),
        ADD COLUMN paused boolean NOT NULL DEFAULT false
    """,
    "ALTER TABLE sched.runner ADD COLUMN draining boolean NOT NULL DEFAULT false",
    # vtime: the pool's virtual clock, the start of the last turn that was given.
    """
    CREATE TABLE sched.pool (
        pool           text PRIMARY KEY,
        running_limit  integer CHECK (running_limit >= 0),
        paused         boolean NOT NULL DEFAULT false,
        vtime          double precision NOT NULL DEFAULT 0,
        created_at     timestamptz NOT NULL DEFAULT now()
    ) WITH (fillfactor = 50)
    """,
    """
    INSERT INTO sched.pool (pool, vtime)
    SELECT pool, max(vtime) FROM sched.pool_project GROUP BY pool
    """,
    """
    ALTER TABLE sched.pool_project
        DROP COLUMN running, DROP COLUMN running_limit, DROP COLUMN weight,
        SET (fillfactor = 50)
    """,
    "CREATE INDEX pool_project_by_project ON sched.pool_project (project_id)",
    # A lane is what units that the same runners may take wait in.
    """
    CREATE TABLE sched.lane (
        lane_id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        pool        text NOT NULL REFERENCES sched.pool,
        project_id  text NOT NULL REFERENCES sched.project,
        labels      text[] NOT NULL,
        UNIQUE (pool, project_id, labels)
    )
    """,
    """
    INSERT INTO sched.lane (pool, project_id, labels)
    SELECT DISTINCT pool, project_id, '{}'::text[] FROM sched.unit
    """,
    # due false: run_at is ahead, and no claim has to look at it.
    """
    ALTER TABLE sched.unit
        ADD COLUMN lane_id integer,
        ADD COLUMN due boolean NOT NULL DEFAULT true,
        ALTER COLUMN created_at SET DEFAULT clock_timestamp()
    """,
    """
    UPDATE sched.unit u SET lane_id = l.lane_id FROM sched.lane l
     WHERE l.pool = u.pool AND l.project_id = u.project_id
    """,
    "ALTER TABLE sched.unit ALTER COLUMN lane_id SET NOT NULL",
    "DROP INDEX sched.unit_ready",
    """
    CREATE INDEX unit_ready ON sched.unit (lane_id, kind, priority DESC, created_at)
        WHERE state = 'ready' AND due
    """,
    "CREATE INDEX unit_later ON sched.unit (pool, run_at) WHERE state = 'ready' AND NOT due",
    "CREATE INDEX unit_leased ON sched.unit (pool, project_id) WHERE state = 'leased'",
    """
    CREATE TABLE sched.project_queue (
        project_id  text PRIMARY KEY REFERENCES sched.project,
        bound       bigint NOT NULL DEFAULT 0 CHECK (bound >= 0)
    ) WITH (fillfactor = 50)
    """,
    """
    INSERT INTO sched.project_queue (project_id, bound)
    SELECT p.project_id, (SELECT count(*) FROM sched.task t
                           WHERE t.project_id = p.project_id AND t.state IN ('ready', 'blocked'))
      FROM sched.project p
    """,
    "CREATE INDEX task_queued ON sched.task (project_id) WHERE state IN ('ready', 'blocked')",
    """
    CREATE OR REPLACE VIEW sched.api_project AS
    SELECT project_id, name, running_limit, weight, created_at, queue_limit, paused
      FROM sched.project
    """,
    # Counts of one project: asked with its id, never for all of them.
    """
    CREATE VIEW sched.api_project_load AS
    SELECT p.project_id,
           (SELECT count(*) FROM sched.unit u JOIN sched.pool_project pp USING (pool, project_id)
             WHERE pp.project_id = p.project_id AND u.state = 'leased')::integer AS running,
           (SELECT count(*) FROM sched.task t WHERE t.project_id = p.project_id
               AND t.state IN ('ready', 'blocked'))::integer AS queued
      FROM sched.project p
    """,
    """
    CREATE VIEW sched.api_pool AS
    SELECT pool, running_limit, paused, created_at,
           (SELECT count(*) FROM sched.unit u
             WHERE u.pool = p.pool AND u.state = 'leased')::integer AS running
      FROM sched.pool p
    """,
    """
    CREATE VIEW sched.api_runner AS
    SELECT runner_id, name, slots, labels, backend, version, draining, registered_at, seen_at,
           (SELECT count(*) FROM sched.attempt a WHERE a.runner_id = r.runner_id
               AND a.state IN ('leased', 'running', 'verifying'))::integer AS running
      FROM sched.runner r
    """,
    """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'wfhub_api') THEN
            GRANT SELECT ON sched.api_project_load, sched.api_pool, sched.api_runner
                TO wfhub_api;
        END IF;
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
