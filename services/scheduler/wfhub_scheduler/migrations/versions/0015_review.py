"""A task may wait for a person: until when, what was decided, and by whom."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    """
    ALTER TABLE sched.task
        ADD COLUMN review_until timestamptz,
        ADD COLUMN review text CHECK (review IN ('approved', 'declined')),
        ADD COLUMN reviewed_by text,
        ADD CHECK ((state = 'review') = (review_until IS NOT NULL))
    """,
    "CREATE INDEX task_review_until ON sched.task (review_until) WHERE state = 'review'",
    # The view as it is by now, and three columns more.
    """
    DO $$ BEGIN
        EXECUTE format(
            'CREATE OR REPLACE VIEW sched.api_task AS'
            ' SELECT %s, t.review_until, t.review, t.reviewed_by'
            ' FROM sched.task t JOIN sched.project p USING (project_id)',
            (SELECT string_agg(
                        CASE attname WHEN 'project' THEN 'p.name AS project'
                        WHEN 'trace_id' THEN 'substr(t.traceparent, 4, 32) AS trace_id'
                        ELSE format('t.%I', attname) END, ', ' ORDER BY attnum)
               FROM pg_attribute
              WHERE attrelid = 'sched.api_task'::regclass AND attnum > 0 AND NOT attisdropped));
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
