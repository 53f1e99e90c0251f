"""Ids: a readable prefix, an underscore, 24 lower-case base32 characters (120 bits).

Every id but an attempt's begins with 40 bits of milliseconds (it wraps after 34 years),
so that ids sort roughly by age; an attempt id is random throughout, because it is the
fencing token: never reused, never guessed from its neighbour.
Ids are safe as NATS subject tokens, path segments and git ref components.
Raises: Rejected (code `id-malformed`).
"""

import base64
import os
import re
import time
from typing import NewType

from wfhub_common.errors import Rejected

ProjectId = NewType("ProjectId", str)
TaskId = NewType("TaskId", str)
AttemptId = NewType("AttemptId", str)
RunnerId = NewType("RunnerId", str)
ProofId = NewType("ProofId", str)
ClaimId = NewType("ClaimId", str)
ScheduleId = NewType("ScheduleId", str)
WorkflowId = NewType("WorkflowId", str)
DeadLetterId = NewType("DeadLetterId", str)
WebhookId = NewType("WebhookId", str)

PREFIXES = {
    "prj": "project",
    "tsk": "task",
    "unt": "dispatch unit",
    "att": "attempt",
    "rnr": "runner",
    "prf": "proof",
    "evt": "event",
    "clm": "claim",
    "sch": "schedule",
    "wfl": "workflow",
    "dlt": "dead letter",
    "whk": "webhook",
}
_RANDOM_ONLY = {"att"}
_BODY = re.compile(r"[a-z2-7]{24}\Z")
_BODY_CHARS = 24
_TIME_BYTES = 5
_CHARS = b"abcdefghijklmnopqrstuvwxyz234567"
_OF_BYTE = bytes(_CHARS[byte & 31] for byte in range(256))  # five bits of it, each as likely


def _new(prefix: str) -> str:
    return _new_many(prefix, 1)[0]


def _stamp() -> str:
    """The low 40 bits of the milliseconds since 1970."""
    now_ms = (time.time_ns() // 1_000_000) & ((1 << (8 * _TIME_BYTES)) - 1)
    return base64.b32encode(now_ms.to_bytes(_TIME_BYTES, "big")).decode().lower()


def new_project_id() -> ProjectId:
    return ProjectId(_new("prj"))


def new_task_id() -> TaskId:
    return TaskId(_new("tsk"))


def new_attempt_id() -> AttemptId:
    return AttemptId(_new("att"))


def new_runner_id() -> RunnerId:
    return RunnerId(_new("rnr"))


def new_proof_id() -> ProofId:
    return ProofId(_new("prf"))


def new_event_ids(count: int) -> list[str]:
    """Many at once: one draw of randomness."""
    return _new_many("evt", count)


def new_task_ids(count: int) -> list[str]:
    return _new_many("tsk", count)


def new_attempt_ids(count: int) -> list[str]:
    return _new_many("att", count)


def new_unit_ids(count: int) -> list[str]:
    return _new_many("unt", count)


def _new_many(prefix: str, count: int) -> list[str]:
    head = "" if prefix in _RANDOM_ONLY else _stamp()
    size = _BODY_CHARS - len(head)
    drawn = os.urandom(size * count).translate(_OF_BYTE).decode()
    return [f"{prefix}_{head}{drawn[at : at + size]}" for at in range(0, size * count, size)]


def new_claim_id() -> ClaimId:
    return ClaimId(_new("clm"))


def new_schedule_id() -> ScheduleId:
    return ScheduleId(_new("sch"))


def new_workflow_id() -> WorkflowId:
    return WorkflowId(_new("wfl"))


def new_dead_letter_id() -> DeadLetterId:
    return DeadLetterId(_new("dlt"))


def new_webhook_id() -> WebhookId:
    return WebhookId(_new("whk"))


def is_id(value: str, prefix: str) -> bool:
    head, _, body = value.partition("_")
    return head == prefix and _BODY.match(body) is not None


def checked(value: str, prefix: str) -> str:
    """`value` if it is an id of that prefix. Raises: Rejected."""
    if not is_id(value, prefix):
        noun = PREFIXES[prefix]
        raise Rejected(
            "id-malformed",
            f"{value[:64]!r} is not a {noun} id; one looks like {prefix}_ and 24 letters or digits",
            value=value[:64],
        )
    return value
