"""The states of tasks and attempts, the kinds of units, and what a verification said."""

from enum import StrEnum


class TaskState(StrEnum):
    BLOCKED = "blocked"
    READY = "ready"
    RUNNING = "running"
    SEALING = "sealing"
    REVIEW = "review"
    PUBLISHING = "publishing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ReviewDecision(StrEnum):
    APPROVED = "approved"
    DECLINED = "declined"


FINAL_TASK_STATES = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED})


class AttemptState(StrEnum):
    LEASED = "leased"
    RUNNING = "running"
    VERIFYING = "verifying"
    WON = "won"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


LIVE_ATTEMPT_STATES = frozenset({AttemptState.LEASED, AttemptState.RUNNING, AttemptState.VERIFYING})


class UnitKind(StrEnum):
    """What a runner can be asked to do; all share one table, claim, lease and sweeper."""

    AGENT = "agent"
    VERIFY = "verify"
    PUBLISH = "publish"


class VerdictStatus(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"  # a command could not start, or was stopped by a limit
    NONE = "none"  # no verification was asked for
