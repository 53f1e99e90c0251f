"""NATS subjects and streams: every name is made and taken apart here, nowhere else.

A subject that a service or runner publishes names its sender right after the verb, so that the
broker's permissions, not our code, decide who may speak as whom (ADR 0004):

wfhub.v1.rpc.<sender>.<command>                               core request and reply
wfhub.v1.ingest.<runner>.<project>.<task>.<attempt>.<kind>    work queue, to the proof-store
wfhub.v1.log.<runner>.<project>.<task>.<attempt>              live tail
wfhub.v1.evt.<project>.<kind>.<id>.<type>                     public events, the relay's alone
wfhub.v1.dlq.<service>                                        poison messages
wfhub.v1.wake, wfhub.v1.ctl.<name>                            hints; losing one costs time only
wfhub.v1.ctl.<runner>.steer                                   scheduler → runner: request and reply
"""

from dataclasses import dataclass

from wfhub_common.errors import Rejected

ROOT = "wfhub.v1"
WAKE = f"{ROOT}.wake"
CTL_ATTEMPT_ENDED = f"{ROOT}.ctl.attempt_ended"  # scheduler → gateway: revoke, cut open streams
CTL_ATTEMPTS_ENDED = f"{ROOT}.ctl.attempts_ended"  # the same of several

EVENTS_STREAM = "WFHUB_EVENTS"
INGEST_STREAM = "WFHUB_INGEST"
LOGS_STREAM = "WFHUB_LOGS"
LOG_HEADER = "wfhub-log"  # which of an attempt's logs a chunk is of: agent | setup | verify | …
LOG_AT_HEADER = "wfhub-log-at"  # how many bytes of that log came before the chunk
DLQ_STREAM = "WFHUB_DLQ"

EVENTS_FILTER = f"{ROOT}.evt.>"
INGEST_FILTER = f"{ROOT}.ingest.>"
LOGS_FILTER = f"{ROOT}.log.>"
DLQ_FILTER = f"{ROOT}.dlq.>"

# Senders that are not runners; a runner's sender is its runner id.
API, SCHEDULER, PROOF_STORE, GATEWAY = "api", "scheduler", "proof-store", "gateway"
SERVICES = frozenset({API, SCHEDULER, PROOF_STORE, GATEWAY})

RUNNER_COMMANDS = (
    "register",
    "claim",
    "heartbeat",
    "report",
    "complete",
    "complete_many",
    "receipts",
)
API_COMMANDS = (
    "create_project",
    "update_project",
    "update_pool",
    "submit_task",
    "submit_tasks",
    "cancel_task",
    "review_task",
    "steer_task",
    "drain_runner",
    "submit_workflow",
    "cancel_workflow",
    "put_schedule",
    "pause_schedule",
    "preview_schedule",
    "delete_schedule",
    "fire_schedule",
    "replay_dead_letter",
    "discard_dead_letter",
    "replay_ingest_letter",
    "discard_ingest_letter",
    "usage",
    "exchanges",
)


def rpc(sender: str, command: str) -> str:
    return f"{ROOT}.rpc.{sender}.{command}"


def rpc_filter(command: str) -> str:
    """What a server subscribes to, to hear a command from any sender."""
    return f"{ROOT}.rpc.*.{command}"


def steering(runner_id: str) -> str:
    """What the scheduler asks one runner at."""
    return f"{ROOT}.ctl.{runner_id}.steer"


def rpc_sender(subject: str) -> str:
    parts = subject.split(".")
    if len(parts) != 5:
        raise Rejected("subject-malformed", f"not an RPC subject: {subject[:200]!r}")
    return parts[3]


@dataclass(frozen=True)
class AttemptSubject:
    """The tokens of an ingest or log subject. `kind` is empty for logs."""

    runner_id: str
    project_id: str
    task_id: str
    attempt_id: str
    kind: str = ""


def ingest(at: AttemptSubject) -> str:
    return f"{ROOT}.ingest.{at.runner_id}.{at.project_id}.{at.task_id}.{at.attempt_id}.{at.kind}"


def parse_ingest(subject: str) -> AttemptSubject:
    parts = subject.split(".")
    if len(parts) != 8:
        raise Rejected("subject-malformed", f"not an ingest subject: {subject[:200]!r}")
    return AttemptSubject(*parts[3:8])


def log(at: AttemptSubject) -> str:
    return f"{ROOT}.log.{at.runner_id}.{at.project_id}.{at.task_id}.{at.attempt_id}"


def log_filter(attempt_id: str) -> str:
    return f"{ROOT}.log.*.*.*.{attempt_id}"


def event(project_id: str, kind: str, entity_id: str, type_: str) -> str:
    return f"{ROOT}.evt.{project_id}.{kind}.{entity_id}.{type_}"


def dlq(service: str) -> str:
    return f"{ROOT}.dlq.{service}"
