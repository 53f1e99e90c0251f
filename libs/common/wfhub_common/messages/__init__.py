"""Messages: frozen, versioned (v1, additive) shapes of everything that crosses a process.

Commands are imperative, replies are nouns, events past tense. Times are aware UTC (`*_at`) or
integer milliseconds (`*_ms`), so that a message has one canonical JSON form; sizes are bytes.
Unknown fields are ignored on replies and events (additive), refused on commands (typing errors).
"""

from wfhub_common.messages.base import Command, Fact
from wfhub_common.messages.events import CloudEvent
from wfhub_common.messages.gateway import (
    AttemptEnded,
    Exchange,
    Exchanges,
    ExchangesOf,
    Introspect,
    TokenInfo,
    Usage,
    UsageOf,
)
from wfhub_common.messages.proofs import (
    ArtifactStored,
    Receipts,
    ReceiptsOf,
    SchedulerObservations,
    Sealed,
    SealProof,
)
from wfhub_common.messages.results import (
    BUNDLE_ARTIFACT,
    Change,
    CommandResult,
    Receipt,
    RunnerObservations,
    Verdict,
)
from wfhub_common.messages.runners import (
    Assignment,
    Claim,
    Claimed,
    Complete,
    Completed,
    Heartbeat,
    HeartbeatReply,
    PublishOrder,
    Register,
    Registered,
    Report,
    Reported,
)
from wfhub_common.messages.states import (
    FINAL_TASK_STATES,
    LIVE_ATTEMPT_STATES,
    AttemptState,
    TaskState,
    UnitKind,
    VerdictStatus,
)
from wfhub_common.messages.submission import (
    Cancelled,
    CancelTask,
    CreateProject,
    Project,
    SubmitTask,
    Submitted,
)
from wfhub_common.messages.tasks import AgentSpec, Limits, ShellCommand, Slug, TaskSpec

__all__ = [
    "BUNDLE_ARTIFACT",
    "FINAL_TASK_STATES",
    "LIVE_ATTEMPT_STATES",
    "AgentSpec",
    "ArtifactStored",
    "Assignment",
    "AttemptEnded",
    "AttemptState",
    "CancelTask",
    "Cancelled",
    "Change",
    "Claim",
    "Claimed",
    "CloudEvent",
    "Command",
    "CommandResult",
    "Complete",
    "Completed",
    "CreateProject",
    "Exchange",
    "Exchanges",
    "ExchangesOf",
    "Fact",
    "Heartbeat",
    "HeartbeatReply",
    "Introspect",
    "Limits",
    "Project",
    "PublishOrder",
    "Receipt",
    "Receipts",
    "ReceiptsOf",
    "Register",
    "Registered",
    "Report",
    "Reported",
    "RunnerObservations",
    "SchedulerObservations",
    "SealProof",
    "Sealed",
    "ShellCommand",
    "Slug",
    "SubmitTask",
    "Submitted",
    "TaskSpec",
    "TaskState",
    "TokenInfo",
    "UnitKind",
    "Usage",
    "UsageOf",
    "Verdict",
    "VerdictStatus",
]
