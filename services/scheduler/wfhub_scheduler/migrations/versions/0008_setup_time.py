"""An attempt may take as long as its set-up commands, too."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    "ALTER TABLE sched.task DROP COLUMN attempt_s",
    # The longest that an agent attempt may take by the task's own limits. Tasks that were
    # submitted before there were set-up commands have none.
    """
    ALTER TABLE sched.task
        ADD COLUMN attempt_s integer NOT NULL GENERATED ALWAYS AS (
            CAST(spec #>> '{limits,run_s}' AS integer)
            + CAST(spec #>> '{limits,verify_s}' AS integer)
              * jsonb_array_length(spec -> 'verify')
              * CASE WHEN CAST(spec ->> 'verify_base' AS boolean) THEN 2 ELSE 1 END
            + coalesce(CAST(spec #>> '{limits,setup_s}' AS integer), 0)
              * coalesce(jsonb_array_length(spec -> 'setup'), 0)) STORED
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
