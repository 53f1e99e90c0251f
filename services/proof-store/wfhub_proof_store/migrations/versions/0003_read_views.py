"""What is read of artifacts and proofs by others: views for the API's role (`rest`, its 0002)."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    """
    CREATE VIEW proofs.api_artifact AS
    SELECT attempt_id, name, digest, size, media_type, sender FROM proofs.artifact
    """,
    """
    CREATE VIEW proofs.api_proof AS
    SELECT p.proof_id, p.task_id, p.attempt_id, p.envelope_digest, l.leaf_index, p.tokens,
           p.sealed_at
      FROM proofs.proof p LEFT JOIN proofs.leaf l USING (proof_id)
    """,
    """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'wfhub_api') THEN
            GRANT USAGE ON SCHEMA proofs TO wfhub_api;
            GRANT SELECT ON proofs.api_artifact, proofs.api_proof TO wfhub_api;
        END IF;
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
