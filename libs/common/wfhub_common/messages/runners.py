"""From a runner to the scheduler: register, claim, heartbeat, report, complete."""

from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, Field, SerializerFunctionWrapHandler, model_serializer

from wfhub_common import limits
from wfhub_common.messages.base import Command, Fact
from wfhub_common.messages.results import Receipt, RunnerObservations
from wfhub_common.messages.states import AttemptState, TaskState, UnitKind
from wfhub_common.messages.tasks import Label, McpServer, Slug, TaskSpec


class Register(Command):
    """First call of a runner process. Attempts of its earlier incarnations are lost at once, but
    those that it `holds`: finished, their results on its disk, and not told yet."""

    incarnation: str  # random per process start
    name: str
    slots: int = Field(ge=1, le=1000)
    labels: tuple[Label, ...] = Field((), max_length=limits.LABELS_MAX)
    backend: str = "bwrap"
    version: str = ""
    holds: tuple[str, ...] = Field((), max_length=1000)
    pool: Slug | None = None  # whose work it claims; for who looks, a claim says it itself

    @model_serializer(mode="wrap")
    def _without_an_empty_pool(self, as_it_is: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The version before refuses the field, also if nothing is in it."""
        fields: dict[str, Any] = as_it_is(self)
        if self.pool is None:
            del fields["pool"]
        return fields


class Registered(Fact):
    heartbeat_s: float
    lease_ttl_s: float
    kept: tuple[str, ...] = ()  # of what it holds: still its own
    time: AwareDatetime | None = None  # the scheduler's, when it answered
    takes_token_keys: bool = False  # a claim may have one; a scheduler of before refuses it


class Claim(Command):
    """Asks for up to `slots` units, waiting up to `wait_s`. A repeat with the same claim_id gets
    the same attempts (a lost reply loses nothing), and with the same `token_key`, a secret of this
    claim that nobody stores, their same tokens."""

    claim_id: str
    incarnation: str
    slots: int = Field(ge=1, le=100)
    pool: Slug = "default"
    kinds: tuple[UnitKind, ...] = (UnitKind.AGENT, UnitKind.PUBLISH)
    wait_s: float = Field(0.0, ge=0, le=limits.CLAIM_WAIT_S_MAX)
    token_key: str = Field("", pattern=r"^(wat_[A-Za-z0-9_-]{43})?$")

    @model_serializer(mode="wrap")
    def _without_an_empty_key(self, as_it_is: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The version before refuses the field, also if nothing is in it."""
        fields: dict[str, Any] = as_it_is(self)
        if not self.token_key:
            del fields["token_key"]
        return fields


class PublishOrder(Fact):
    """What a publish unit pushes: both refs are created only, never moved."""

    bundle_digest: str
    commit: str
    base_commit: str
    branch_ref: str  # refs/heads/wfhub/<task>
    marker_ref: str  # refs/wfhub/published/<task>


class Assignment(Fact):
    """One attempt, leased. `token` opens the LLM gateway for as long as the lease lives."""

    attempt_id: str
    task_id: str
    project_id: str
    project: str
    kind: UnitKind
    number: int  # 1 for the task's first attempt of that kind
    spec: TaskSpec
    lease_until: datetime
    token: str = ""
    publish: PublishOrder | None = None
    traceparent: str = ""  # of the task
    mcp: dict[str, McpServer] = Field(default_factory=dict)  # of the project, as it is now
    debuggers: bool = False  # likewise: programs in its sandboxes may trace each other


class Claimed(Fact):
    assignments: tuple[Assignment, ...] = ()


class Heartbeat(Command):
    incarnation: str
    attempts: tuple[str, ...] = Field((), max_length=1000)


class HeartbeatReply(Fact):
    """Per attempt asked about: renewed (`lease_until`), to cancel, or no longer current."""

    lease_until: dict[str, datetime] = Field(default_factory=dict)
    cancel: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class Report(Command):
    """Progress of a live attempt: an optional new state and one named step, both become events."""

    attempt_id: str
    state: Literal[AttemptState.RUNNING, AttemptState.VERIFYING] | None = None
    step: str = Field(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9-]*$")
    fields: dict[str, Any] = Field(default_factory=dict)


class Reported(Fact):
    cancel: bool = False  # a cancel is waiting: stop, keep the evidence, complete as cancelled


class Complete(Command):
    """Ends an attempt. Admitted only from the current attempt of the asking runner; `won` only
    with a receipt for each artifact, BUNDLE_ARTIFACT among them.

    Agent units: won | rejected | failed | cancelled. Publish units: won (published) | rejected
    (conflict or refused: observed, final) | failed (unknown or unreachable: tried again).
    """

    attempt_id: str
    outcome: Literal[
        AttemptState.WON, AttemptState.REJECTED, AttemptState.FAILED, AttemptState.CANCELLED
    ]
    reason: str = Field("", max_length=200)  # stable code, e.g. verification-failed
    message: str = Field("", max_length=limits.MESSAGE_CHARS_MAX)
    retryable: bool = True  # False: another attempt would end the same way (bad input)
    receipts: tuple[Receipt, ...] = Field((), max_length=limits.ARTIFACTS_MAX)
    observed: RunnerObservations | None = None


class Completed(Fact):
    task_state: TaskState
    repeated: bool = False  # the same completion had been admitted before


class CompleteMany(Command):
    """Many at once, each answered for itself: one that is refused takes none with it."""

    completions: tuple[Complete, ...] = Field(min_length=1, max_length=limits.BATCH_COMPLETIONS_MAX)


class CompleteResult(Fact):
    """What became of one of them: `completed`, or the `error` (as errors.to_wire)."""

    completed: Completed | None = None
    error: dict[str, Any] | None = None


class CompletedMany(Fact):
    """In the order they were given."""

    results: tuple[CompleteResult, ...]
