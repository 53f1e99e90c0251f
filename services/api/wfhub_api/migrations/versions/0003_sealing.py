"""Sealing: under which key a secret is written, if it is; one row, for all processes at once.

NULL: in clear, which the version before reads as well. Where no webhook is there yet, none could be
lost to a process of that version, so it begins with the first key (ADR 0053).
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE api.sealing (
            one        boolean PRIMARY KEY DEFAULT true CHECK (one),
            key_number integer CHECK (key_number >= 1)
        )
        """
    )
    op.execute(
        """
        INSERT INTO api.sealing (key_number)
        SELECT CASE WHEN EXISTS (SELECT FROM api.webhook) THEN NULL ELSE 1 END
        """
    )
