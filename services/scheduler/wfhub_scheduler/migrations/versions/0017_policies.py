"""Projects say what becomes of a result that changes CI files, and whether debuggers are allowed;
attempts show which CI files they changed.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    """
    ALTER TABLE sched.project
        ADD COLUMN ci_files text NOT NULL DEFAULT 'review'
            CHECK (ci_files IN ('review', 'allow')),
        ADD COLUMN debuggers text NOT NULL DEFAULT 'refuse'
            CHECK (debuggers IN ('refuse', 'allow'))
    """,
    # The view gets two more columns, whichever it has by now.
    """
    DO $$ BEGIN
        EXECUTE format(
            'CREATE OR REPLACE VIEW sched.api_project AS'
            ' SELECT %s, ci_files, debuggers FROM sched.project',
            (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
              WHERE attrelid = 'sched.api_project'::regclass AND attnum > 0));
    END $$
    """,
    # As in 0001, and one column more.
    """
    CREATE OR REPLACE VIEW sched.api_attempt AS
    SELECT attempt_id, task_id, project_id, kind, number, state, runner_id, reason, message,
           observed ->> 'base_commit' AS base_commit,
           observed ->> 'commit' AS commit_id,
           observed -> 'verdict' AS verdict,
           observed -> 'base_verdict' AS base_verdict,
           receipts AS artifacts,
           observed -> 'changes' AS changes,
           created_at, started_at, finished_at,
           observed -> 'ci_files' AS ci_files
      FROM sched.attempt
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
