"""Projects have budgets of model use, and cassettes."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # A ProjectBudget; keys that are not there are not limited.
    "ALTER TABLE sched.project ADD COLUMN budget jsonb NOT NULL DEFAULT '{}'",
    # A CassetteUse, or null: none.
    "ALTER TABLE sched.project ADD COLUMN cassette jsonb NOT NULL DEFAULT 'null'",
    # The view gets two more columns, whichever it has by now.
    """
    DO $$ BEGIN
        EXECUTE format(
            'CREATE OR REPLACE VIEW sched.api_project AS SELECT %s, budget, cassette'
            ' FROM sched.project',
            (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
              WHERE attrelid = 'sched.api_project'::regclass AND attnum > 0));
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
