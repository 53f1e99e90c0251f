"""Runners say which pool they take work of; null: one that did not say, as those before do not."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    "ALTER TABLE sched.runner ADD COLUMN pool text",
    # As in 0002, and one column more.
    """
    CREATE OR REPLACE VIEW sched.api_runner AS
    SELECT runner_id, name, slots, labels, backend, version, draining, registered_at, seen_at,
           (SELECT count(*) FROM sched.attempt a WHERE a.runner_id = r.runner_id
               AND a.state IN ('leased', 'running', 'verifying'))::integer AS running,
           pool
      FROM sched.runner r
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
