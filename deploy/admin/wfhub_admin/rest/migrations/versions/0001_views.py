"""Tasks, attempts, artifacts, proofs: only what names, counts and places them.

No prompt, title, command, environment, message or log: a task's own words may hold whatever somebody
put there.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    """
    CREATE VIEW rest.tasks AS
    SELECT task_id, project_id, project, workflow_id, state, reason, branch, commit_id, verdict,
           proof_id, attempts_used, cancel_requested, created_at, updated_at, finished_at
      FROM sched.api_task
    """,
    """
    CREATE VIEW rest.attempts AS
    SELECT attempt_id, task_id, project_id, kind, number, state, reason, runner_id, base_commit,
           commit_id, created_at, started_at, finished_at
      FROM sched.api_attempt
    """,
    """
    CREATE VIEW rest.artifacts AS
    SELECT attempt_id, name, digest, size, media_type, sender FROM proofs.api_artifact
    """,
    """
    CREATE VIEW rest.proofs AS
    SELECT proof_id, task_id, attempt_id, envelope_digest, leaf_index, tokens, sealed_at
      FROM proofs.api_proof
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
