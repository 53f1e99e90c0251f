"""A project says what its tasks get, and may ask for."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    "ALTER TABLE sched.project ADD COLUMN limits jsonb NOT NULL DEFAULT '{}'",
    """
    CREATE OR REPLACE VIEW sched.api_project AS
    SELECT project_id, name, running_limit, weight, created_at, queue_limit, paused, limits
      FROM sched.project
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
