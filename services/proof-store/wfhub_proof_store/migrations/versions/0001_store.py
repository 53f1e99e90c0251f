"""Artifacts and their receipts, refusals, dead letters, proofs, and the log they are leaves of."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE proofs.artifact (
            artifact_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            attempt_id  text NOT NULL,
            name        text NOT NULL,
            digest      text NOT NULL,
            size        bigint NOT NULL,
            media_type  text NOT NULL,
            sender      text NOT NULL,
            receipt     jsonb NOT NULL,
            UNIQUE (attempt_id, name, sender, digest)
        )
    """)
    # An announcement that will never get a receipt: the runner that waits for one reads why.
    op.execute("""
        CREATE TABLE proofs.refusal (
            attempt_id  text NOT NULL,
            name        text NOT NULL,
            sender      text NOT NULL,
            reason      text NOT NULL,
            refused_at  timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (attempt_id, name, sender)
        )
    """)
    # One row a message, however often it is delivered: (stream_seq, published_at) names it.
    op.execute("""
        CREATE TABLE proofs.dead_letter (
            dead_letter_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            stream_seq   bigint NOT NULL,
            published_at timestamptz NOT NULL,
            subject      text NOT NULL,
            body         bytea NOT NULL,
            code         text NOT NULL,
            reason       text NOT NULL,
            received_at  timestamptz NOT NULL DEFAULT now(),
            UNIQUE (stream_seq, published_at)
        )
    """)
    # `envelope` is the canonical JSON whose hash is the leaf: bytes, never jsonb.
    op.execute("""
        CREATE TABLE proofs.proof (
            proof_id        text PRIMARY KEY,
            attempt_id      text NOT NULL UNIQUE,
            task_id         text NOT NULL,
            envelope        bytea NOT NULL,
            envelope_digest text NOT NULL,
            tokens          bigint NOT NULL,
            sealed_at       timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("CREATE INDEX proof_task ON proofs.proof (task_id)")
    op.execute("""
        CREATE TABLE proofs.leaf (
            leaf_index bigint PRIMARY KEY CHECK (leaf_index >= 0),
            proof_id   text NOT NULL UNIQUE REFERENCES proofs.proof
        )
    """)
    # Complete subtrees of the log (level 0: leaf hashes); a row never changes.
    op.execute("""
        CREATE TABLE proofs.node (
            level      smallint NOT NULL,
            node_index bigint NOT NULL,
            hash       bytea NOT NULL CHECK (length(hash) = 32),
            PRIMARY KEY (level, node_index)
        )
    """)
    # The one row whose lock makes leaf indexes dense. `origin` names this log for good.
    op.execute("""
        CREATE TABLE proofs.tree (
            only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
            origin     text NOT NULL,
            size       bigint NOT NULL,
            root       bytea NOT NULL CHECK (length(root) = 32),
            checkpoint text NOT NULL
        )
    """)
    op.execute("""
        INSERT INTO proofs.tree (origin, size, root, checkpoint)
        VALUES ('workflow-hub.dev/log/' || replace(gen_random_uuid()::text, '-', ''),
                0, sha256(''::bytea), '')
    """)
