"""Exclusive leases: one unit at a time writes into a folder."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # What the unit must have for itself alone while it is leased (leasing.py).
    "ALTER TABLE sched.unit ADD COLUMN exclusive text",
    # Two writers of one folder cannot be, whatever the code does.
    """
    CREATE UNIQUE INDEX unit_exclusive_once ON sched.unit (exclusive)
     WHERE state = 'leased' AND exclusive IS NOT NULL
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
