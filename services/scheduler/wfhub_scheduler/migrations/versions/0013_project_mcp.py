"""Projects have MCP servers for their agents."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # McpServer by name.
    "ALTER TABLE sched.project ADD COLUMN mcp jsonb NOT NULL DEFAULT '{}'",
    # The view gets one more column, whichever it has by now.
    """
    DO $$ BEGIN
        EXECUTE format(
            'CREATE OR REPLACE VIEW sched.api_project AS SELECT %s, mcp FROM sched.project',
            (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
              WHERE attrelid = 'sched.api_project'::regclass AND attnum > 0));
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
