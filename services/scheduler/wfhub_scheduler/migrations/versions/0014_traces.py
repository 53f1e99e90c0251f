"""A task knows the trace that it belongs to, where it belongs to one."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    "ALTER TABLE sched.task ADD COLUMN traceparent text",
    # The view as it is by now, and one column more.
    """
    DO $$ BEGIN
        EXECUTE format(
            'CREATE OR REPLACE VIEW sched.api_task AS'
            ' SELECT %s, substr(t.traceparent, 4, 32) AS trace_id'
            ' FROM sched.task t JOIN sched.project p USING (project_id)',
            (SELECT string_agg(
                        CASE attname WHEN 'project' THEN 'p.name AS project'
                        ELSE format('t.%I', attname) END, ', ' ORDER BY attnum)
               FROM pg_attribute
              WHERE attrelid = 'sched.api_task'::regclass AND attnum > 0 AND NOT attisdropped));
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
