"""Workflows: graphs of tasks. Each node is a task from the start, `blocked` until its needs are met.

What is true of a node's task is in sched.task alone; a node's row is its place in the graph, by
numbers in the order of the document. task.workflow_settled: its end has been counted.
Lock order: workflow → task → project_queue; whoever counts ends holds the workflow's row.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    """
    CREATE TABLE sched.workflow (
        workflow_id         text PRIMARY KEY,
        project_id          text NOT NULL REFERENCES sched.project,
        name                text NOT NULL,
        state               text NOT NULL DEFAULT 'running'
                            CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled')),
        on_failure          text NOT NULL CHECK (on_failure IN ('fail', 'continue')),
        document            json NOT NULL,  -- as it was submitted, its order kept
        document_sha256     text NOT NULL,
        idempotency_key     text,
        submitted_by        text NOT NULL DEFAULT '',
        cancel_requested    boolean NOT NULL DEFAULT false,
        cancel_reason       text NOT NULL DEFAULT '',
        task_count          integer NOT NULL CHECK (task_count > 0),
        open_count          integer NOT NULL CHECK (open_count >= 0),  -- ends not counted yet
        unsuccessful_count  integer NOT NULL DEFAULT 0 CHECK (unsuccessful_count >= 0),
        created_at          timestamptz NOT NULL DEFAULT now(),
        updated_at          timestamptz NOT NULL DEFAULT now(),
        finished_at         timestamptz,
        UNIQUE (project_id, idempotency_key),
        CHECK ((state = 'running') = (open_count > 0)),
        CHECK ((state = 'running') = (finished_at IS NULL))
    )
    """,
    "CREATE INDEX workflow_by_age ON sched.workflow (created_at DESC, workflow_id DESC)",
    """
    CREATE TABLE sched.workflow_node (
        workflow_id   text NOT NULL REFERENCES sched.workflow,
        number        integer NOT NULL CHECK (number >= 0),
        name          text NOT NULL,
        task_id       text NOT NULL REFERENCES sched.task,
        needs         integer[] NOT NULL,
        children      integer[] NOT NULL,
        continues     integer,  -- the need whose result it starts from
        needs_policy  text NOT NULL CHECK (needs_policy IN ('all_succeeded', 'all_done')),
        on_failure    text NOT NULL CHECK (on_failure IN ('fail', 'continue')),
        needs_left    integer NOT NULL CHECK (needs_left >= 0),
        PRIMARY KEY (workflow_id, number),
        UNIQUE (workflow_id, name),
        UNIQUE (task_id)
    )
    """,
    """
    ALTER TABLE sched.task
        ADD COLUMN workflow_id text REFERENCES sched.workflow,
        ADD COLUMN workflow_settled boolean NOT NULL DEFAULT false
    """,
    """
    CREATE INDEX task_to_settle ON sched.task (workflow_id)
     WHERE workflow_id IS NOT NULL AND NOT workflow_settled
       AND state IN ('succeeded', 'failed', 'cancelled')
    """,
    """
    CREATE VIEW sched.api_workflow AS
    SELECT w.workflow_id, w.project_id, p.name AS project, w.name, w.state, w.on_failure,
           w.document, w.submitted_by, w.cancel_requested, w.cancel_reason, w.task_count,
           w.open_count, w.unsuccessful_count, w.created_at, w.updated_at, w.finished_at
      FROM sched.workflow w JOIN sched.project p USING (project_id)
    """,
    """
    CREATE VIEW sched.api_workflow_node AS
    SELECT n.workflow_id, n.number, n.name, n.task_id, n.needs, n.needs_policy, n.on_failure,
           t.state, t.reason, t.message, t.branch, t.commit_id, t.verdict, t.proof_id,
           t.finished_at
      FROM sched.workflow_node n JOIN sched.task t USING (task_id)
    """,
    """
    CREATE OR REPLACE VIEW sched.api_task AS
    SELECT t.task_id, t.project_id, p.name AS project, t.state, t.reason, t.message, t.title,
           t.spec, t.branch, t.commit_id, t.verdict, t.proof_id, t.attempts_used,
           t.current_attempt, t.cancel_requested, t.created_at, t.updated_at, t.finished_at,
           t.workflow_id
      FROM sched.task t JOIN sched.project p USING (project_id)
    """,
    """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'wfhub_api') THEN
            GRANT SELECT ON sched.api_workflow, sched.api_workflow_node TO wfhub_api;
        END IF;
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
