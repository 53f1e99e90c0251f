"""Limits that more than one service must agree on; the unit is the last word of the name."""

PROMPT_BYTES_MAX = 256 * 1024  # a prompt larger than this belongs in a file of the repository
VERIFY_COMMANDS_MAX = 32
SETUP_COMMANDS_MAX = 32
COMMAND_CHARS_MAX = 8 * 1024
ARGV_MAX = 256
STEERING_CHARS_MAX = 16 * 1024  # of one message to an agent
MCP_SERVERS_MAX = 16
MCP_VARIABLES_MAX = 64  # of one server
PROJECT_MCP_BYTES_MAX = 16 * 1024  # as JSON: each assignment of the project carries it
TITLE_CHARS_MAX = 200
LABELS_MAX = 16
EGRESS_HOSTS_MAX = 64  # host:port entries of one task
PULL_REQUEST_CHARS_MAX = 20_000  # of its text; GitHub takes 65,536
BATCH_TASKS_MAX = 500  # submitted by one request; its bytes have a limit too
QUEUED_TASKS_MAX = 10_000_000  # the most that a project's queue_limit can be
URL_CHARS_MAX = 2048
REF_CHARS_MAX = 255

WORKFLOW_TASKS_MAX = 2000
WORKFLOW_TASK_NEEDS_MAX = 2000  # of one task: a fan-in of all others
WORKFLOW_NEEDS_MAX = 20_000  # of all tasks together
WORKFLOW_BYTES_MAX = 700 * 1024  # of the document as JSON: it crosses in one message
WORKFLOW_SPECS_BYTES_MAX = 32 * 1024**2  # of all tasks, each with the document's defaults

BATCH_COMPLETIONS_MAX = 100
BATCH_SEALS_MAX = 100
RPC_BYTES_MAX = 768 * 1024  # below the broker's max_payload of 1 MiB, with room for headers
BROKER_PAYLOAD_BYTES_MAX = 1024 * 1024
# What a proof is made of crosses in one message: both of these, and the receipts. A task's commands
# are in it up to three times: in its spec, in its verdict, in that of the base commit.
SPEC_BYTES_MAX = 128 * 1024  # of a task as JSON, without its prompt
OBSERVED_BYTES_MAX = 512 * 1024  # of what a runner saw of an attempt, as JSON
# Of a connection that does not read: then the broker closes it, and holds nothing for it any more.
BROKER_PENDING_BYTES_MAX = 64 * 1024 * 1024
BROKER_WRITE_S_MAX = 10
# Of one that does not answer, as all of a machine without power: what is handed to it is lost,
# so it is let go (after 15 s) while a heartbeat is left of a lease. Unsaid, it is minutes.
BROKER_PING_S = 5
BROKER_PINGS_MAX = 2  # unanswered ones

ARTIFACTS_MAX = 256  # artifacts of one attempt
ARTIFACT_NAME_CHARS_MAX = 200
BLOB_BYTES_MAX = 2 * 1024**3
LOG_BYTES_MAX = 8 * 1024 * 1024  # kept of one log: head and tail
LOG_CHUNK_BYTES_MAX = 64 * 1024
CHANGES_LISTED_MAX = 1000  # changed paths named in a report; the bundle has them all
TESTS_LISTED_MAX = 1000  # of those, which are tests
CI_FILES_LISTED_MAX = 100  # of those, which a CI system reads
MESSAGE_CHARS_MAX = 2000

CLAIM_WAIT_S_MAX = 25.0
LEASE_TTL_S = 30.0  # 3 heartbeats: one lost beat is not a lost task
HEARTBEAT_S = 10.0
