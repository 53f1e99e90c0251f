"""Lists of tasks, newest first, read no more than they show, however many there ever were.

Those that have not ended are few among many: they have an index of their own.
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    "CREATE INDEX task_newest ON sched.task (created_at DESC, task_id DESC)",
    """
    CREATE INDEX task_open ON sched.task (created_at DESC, task_id DESC)
     WHERE state NOT IN ('succeeded', 'failed', 'cancelled')
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
