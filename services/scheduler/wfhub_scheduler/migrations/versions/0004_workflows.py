"""Workflows: graphs of tasks."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = ("ALTER TABLE sched.task ADD COLUMN workflow_id text",)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
