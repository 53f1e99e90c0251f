"""Projects, tasks, dispatch units, attempts, runners, the outbox, and the API's read-only views.

Every writer takes its row locks in one order: project → task → attempt → unit, and
pool_project last (a claim takes it first, but waits for none of the others: SKIP LOCKED).
"""

from alembic import op

from wfhub_common import ids

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE sched.project (
    project_id     text PRIMARY KEY,
    name           text NOT NULL UNIQUE,
    running_limit  integer NOT NULL CHECK (running_limit > 0),
    weight         integer NOT NULL CHECK (weight > 0),
    created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE sched.task (
    task_id          text PRIMARY KEY,
    project_id       text NOT NULL REFERENCES sched.project,
    state            text NOT NULL CHECK (state IN ('blocked', 'ready', 'running', 'sealing',
                         'review', 'publishing', 'succeeded', 'failed', 'cancelled')),
    reason           text NOT NULL DEFAULT '',
    message          text NOT NULL DEFAULT '',
    spec             jsonb NOT NULL,
    title            text NOT NULL DEFAULT '',
    submitted_by     text NOT NULL DEFAULT '',
    attempts_used    integer NOT NULL DEFAULT 0 CHECK (attempts_used >= 0),
    infra_losses     integer NOT NULL DEFAULT 0 CHECK (infra_losses >= 0),
    current_attempt  text,
    winner           text,
    verdict          text CHECK (verdict IN ('passed', 'failed', 'error', 'none')),
    branch           text,
    commit_id        text,
    base_commit      text,
    proof_id         text,
    seal_due_at      timestamptz,
    seal_tries       integer NOT NULL DEFAULT 0 CHECK (seal_tries >= 0),
    cancel_requested boolean NOT NULL DEFAULT false,
    cancel_reason    text NOT NULL DEFAULT '',
    tokens           bigint NOT NULL DEFAULT 0 CHECK (tokens >= 0),
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    finished_at      timestamptz,
    -- An attempt is current exactly while somebody may work on the task.
    CHECK (current_attempt IS NULL OR state IN ('running', 'publishing')),
    CHECK (state <> 'running' OR current_attempt IS NOT NULL),
    CHECK (state NOT IN ('sealing', 'review', 'publishing', 'succeeded') OR winner IS NOT NULL),
    CHECK ((state = 'sealing') = (seal_due_at IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
);
CREATE INDEX task_by_project ON sched.task (project_id, created_at DESC);
CREATE INDEX task_to_seal ON sched.task (seal_due_at) WHERE state = 'sealing';

CREATE TABLE sched.unit (
    unit_id     text PRIMARY KEY,
    task_id     text NOT NULL REFERENCES sched.task,
    project_id  text NOT NULL REFERENCES sched.project,
    kind        text NOT NULL CHECK (kind IN ('agent', 'verify', 'publish')),
    pool        text NOT NULL,
    priority    integer NOT NULL,
    run_at      timestamptz NOT NULL DEFAULT now(),
    state       text NOT NULL CHECK (state IN ('ready', 'leased', 'done', 'dead')),
    tries       integer NOT NULL DEFAULT 0 CHECK (tries >= 0),    -- attempts that ended by themselves
    losses      integer NOT NULL DEFAULT 0 CHECK (losses >= 0),   -- attempts lost with their runner
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (task_id, kind)
);
CREATE INDEX unit_ready ON sched.unit (pool, project_id, run_at) WHERE state = 'ready';

CREATE TABLE sched.runner (
    runner_id      text PRIMARY KEY,
    incarnation    text NOT NULL,
    name           text NOT NULL,
    slots          integer NOT NULL CHECK (slots > 0),
    labels         jsonb NOT NULL DEFAULT '[]',
    backend        text NOT NULL DEFAULT '',
    version        text NOT NULL DEFAULT '',
    registered_at  timestamptz NOT NULL DEFAULT now(),
    seen_at        timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE sched.attempt (
    attempt_id    text PRIMARY KEY,
    unit_id       text NOT NULL REFERENCES sched.unit,
    task_id       text NOT NULL REFERENCES sched.task,
    project_id    text NOT NULL REFERENCES sched.project,
    kind          text NOT NULL CHECK (kind IN ('agent', 'verify', 'publish')),
    number        integer NOT NULL CHECK (number > 0),
    runner_id     text NOT NULL REFERENCES sched.runner,
    incarnation   text NOT NULL,
    claim_id      text NOT NULL,
    claim_slot    integer NOT NULL CHECK (claim_slot >= 0),
    state         text NOT NULL CHECK (state IN ('leased', 'running', 'verifying', 'won',
                      'rejected', 'failed', 'cancelled', 'lost')),
    lease_until   timestamptz NOT NULL,
    token_sha256  text UNIQUE,
    reason        text NOT NULL DEFAULT '',
    message       text NOT NULL DEFAULT '',
    observed      jsonb,
    receipts      jsonb NOT NULL DEFAULT '[]',
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    finished_at   timestamptz,
    UNIQUE (runner_id, claim_id, claim_slot),
    UNIQUE (unit_id, number),
    CHECK ((state IN ('leased', 'running', 'verifying')) = (finished_at IS NULL))
);
-- Two live attempts of one unit cannot exist, whatever the code does.
CREATE UNIQUE INDEX attempt_live_once ON sched.attempt (unit_id)
    WHERE state IN ('leased', 'running', 'verifying');
CREATE INDEX attempt_by_task ON sched.attempt (task_id, created_at);
CREATE INDEX attempt_live_lease ON sched.attempt (lease_until)
    WHERE state IN ('leased', 'running', 'verifying');
CREATE INDEX attempt_live_runner ON sched.attempt (runner_id)
    WHERE state IN ('leased', 'running', 'verifying');

CREATE TABLE sched.idempotency (
    project_id      text NOT NULL REFERENCES sched.project,
    key             text NOT NULL,
    request_sha256  text NOT NULL,
    -- Deferred: the key is taken before the task is made, so that a rival waits here.
    task_id         text NOT NULL REFERENCES sched.task DEFERRABLE INITIALLY DEFERRED,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, key)
);

-- Fairness: the project with the lowest virtual time and room below its limit goes next.
CREATE TABLE sched.pool_project (
    pool           text NOT NULL,
    project_id     text NOT NULL REFERENCES sched.project,
    vtime          double precision NOT NULL DEFAULT 0,
    running        integer NOT NULL DEFAULT 0 CHECK (running >= 0),
    running_limit  integer NOT NULL CHECK (running_limit > 0),
    weight         integer NOT NULL CHECK (weight > 0),
    PRIMARY KEY (pool, project_id)
);

CREATE TABLE sched.event (
    id          bigserial PRIMARY KEY,
    event_id    text NOT NULL UNIQUE,
    generation  integer,
    pos         bigint,
    project_id  text NOT NULL,
    task_id     text,
    kind        text NOT NULL,
    entity_id   text NOT NULL,
    type        text NOT NULL,
    time        timestamptz NOT NULL DEFAULT clock_timestamp(),
    data        jsonb NOT NULL,
    UNIQUE (generation, pos),
    CHECK ((generation IS NULL) = (pos IS NULL))
);
CREATE INDEX event_unplaced ON sched.event (id) WHERE pos IS NULL;
CREATE INDEX event_by_task ON sched.event (task_id, generation, pos);
CREATE INDEX event_by_time ON sched.event (time);

-- One row. last_pos: given to an event; published_pos: known to be in the stream.
CREATE TABLE sched.relay (
    singleton      boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    generation     integer NOT NULL DEFAULT 1 CHECK (generation > 0),
    last_pos       bigint NOT NULL DEFAULT 0,
    published_pos  bigint NOT NULL DEFAULT 0,
    CHECK (published_pos <= last_pos)
);
INSERT INTO sched.relay DEFAULT VALUES;

CREATE TABLE sched.dead_letter (
    id          bigserial PRIMARY KEY,
    source      text NOT NULL,
    subject     text NOT NULL,
    error       text NOT NULL,
    body        jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
)
"""

VIEWS = """
CREATE VIEW sched.api_project AS
SELECT project_id, name, running_limit, weight, created_at FROM sched.project;

CREATE VIEW sched.api_task AS
SELECT t.task_id, t.project_id, p.name AS project, t.state, t.reason, t.message, t.title, t.spec,
       t.branch, t.commit_id, t.verdict, t.proof_id, t.attempts_used, t.current_attempt,
       t.cancel_requested, t.created_at, t.updated_at, t.finished_at
  FROM sched.task t JOIN sched.project p USING (project_id);

CREATE VIEW sched.api_attempt AS
SELECT attempt_id, task_id, project_id, kind, number, state, runner_id, reason, message,
       observed ->> 'base_commit' AS base_commit,
       observed ->> 'commit' AS commit_id,
       observed -> 'verdict' AS verdict,
       observed -> 'base_verdict' AS base_verdict,
       receipts AS artifacts,
       observed -> 'changes' AS changes,
       created_at, started_at, finished_at
  FROM sched.attempt;

CREATE VIEW sched.api_event AS
SELECT generation, pos, event_id, project_id, task_id, kind, entity_id, type, time, data
  FROM sched.event WHERE pos IS NOT NULL
"""

GRANTS = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'wfhub_api') THEN
        GRANT USAGE ON SCHEMA sched TO wfhub_api;
        GRANT SELECT ON sched.api_project, sched.api_task, sched.api_attempt, sched.api_event
            TO wfhub_api;
    END IF;
END $$
"""


def upgrade() -> None:
    for statement in (*TABLES.split(";\n"), *VIEWS.split(";\n"), GRANTS):
        op.execute(statement)
    op.execute(
        "INSERT INTO sched.project (project_id, name, running_limit, weight)"
        f" VALUES ('{ids.new_project_id()}', 'default', 100, 1)"
    )
