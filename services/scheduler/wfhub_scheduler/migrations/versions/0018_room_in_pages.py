"""Room in the pages of tasks and units: what changes stays where it is.

Each is written anew several times in its life. Where a page is full the new row goes to another one
(and the old one is locked for that, in the log too), where it is not, it takes the place of one that
nobody sees any more; and a publication's claim, which changes nothing that an index has, writes none.
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # Of pages that are filled from now on.
    "ALTER TABLE sched.task SET (fillfactor = 50)",
    "ALTER TABLE sched.unit SET (fillfactor = 50)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
