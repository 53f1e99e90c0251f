"""Schedules may start workflows: a firing has made a task or a workflow.

The document is a column of its own, as json: the order of its tasks is kept.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    "ALTER TABLE sched.schedule ADD COLUMN workflow json",  # NULL: spec has a task
    "ALTER TABLE sched.firing ADD COLUMN workflow_id text REFERENCES sched.workflow",
    "CREATE INDEX firing_by_workflow ON sched.firing (workflow_id) WHERE workflow_id IS NOT NULL",
    """
    DO $$ DECLARE fired_has_a_task text; BEGIN
        SELECT conname INTO STRICT fired_has_a_task FROM pg_constraint
         WHERE conrelid = 'sched.firing'::regclass AND contype = 'c'
           AND pg_get_constraintdef(oid) LIKE '%task_id IS NOT NULL%';
        EXECUTE format('ALTER TABLE sched.firing DROP CONSTRAINT %I', fired_has_a_task);
    END $$
    """,
    """
    ALTER TABLE sched.firing
        ADD CHECK (num_nonnulls(task_id, workflow_id) = CAST(outcome = 'fired' AS integer))
    """,
    """
    CREATE OR REPLACE VIEW sched.api_schedule AS
    SELECT s.schedule_id, s.project_id, p.name AS project, s.name, s.version, s.spec, s.paused,
           CASE WHEN NOT s.paused THEN s.next_fire_at END AS next_fire_at,
           CASE WHEN NOT s.paused THEN
               s.next_fire_at + s.next_jitter_ms * interval '1 millisecond' END AS next_due_at,
           s.changed_by, s.created_at, s.updated_at, s.workflow
      FROM sched.schedule s JOIN sched.project p USING (project_id)
    """,
    """
    CREATE OR REPLACE VIEW sched.api_firing AS
    SELECT f.schedule_id, f.fire_at, f.until_at, f.outcome, f.reason, f.message, f.task_id,
           t.state AS task_state, f.fired_by, f.created_at, f.workflow_id,
           w.state AS workflow_state
      FROM sched.firing f LEFT JOIN sched.task t USING (task_id)
      LEFT JOIN sched.workflow w ON w.workflow_id = f.workflow_id
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
