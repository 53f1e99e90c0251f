"""Messages: frozen, versioned (v1, additive) shapes of everything that crosses a process.

Commands are imperative, replies are nouns, events past tense. Times are aware UTC (`*_at`) or
integer milliseconds (`*_ms`), so that a message has one canonical JSON form; sizes are bytes.
Unknown fields are ignored on replies and events (additive), refused on commands (typing errors).
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from wfhub_common import limits


class Fact(BaseModel):
    """A reply, event or record: additive within v1."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Command(BaseModel):
    """Something asked for: an unknown field is an error, since it was meant to do something."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- states -----------------------------------------------------------------------------


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


# --- what a task is ---------------------------------------------------------------------

ShellCommand = Annotated[
    str, StringConstraints(min_length=1, max_length=limits.COMMAND_CHARS_MAX, pattern=r"^[^\x00]+$")
]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Limits(Command):
    """What one attempt may use; exceeding one ends it with the reason `limit:<name>`."""

    run_s: int = Field(3600, ge=1, le=86_400)
    verify_s: int = Field(1800, ge=1, le=86_400)
    memory_bytes: int = Field(4 * 1024**3, ge=64 * 1024**2)
    processes: int = Field(512, ge=8, le=65_536)
    disk_bytes: int = Field(4 * 1024**3, ge=1024**2)  # written to the workspace and /tmp
    file_bytes: int = Field(1024**3, ge=1024)
    output_bytes: int = Field(64 * 1024**2, ge=1024)  # read of stdout and stderr before it ends
    open_files: int = Field(4096, ge=64, le=1_048_576)


class AgentSpec(Command):
    """Which agent: a name from the runner's table, or `argv`, any program, run as the agent."""

    name: Slug = "builtin"
    argv: tuple[str, ...] | None = Field(None, min_length=1, max_length=limits.ARGV_MAX)
    model: str | None = Field(None, min_length=1, max_length=200)
    max_steps: int = Field(50, ge=1, le=1000)


class TaskSpec(Command):
    """A task as submitted. `repo` is a path or `file://` URL on the runner's side, or a remote."""

    repo: str = Field(min_length=1, max_length=limits.URL_CHARS_MAX, pattern=r"^[^\x00-\x1f]+$")
    base: str | None = Field(None, min_length=1, max_length=limits.REF_CHARS_MAX)  # None: HEAD
    prompt: str = Field("", max_length=limits.PROMPT_BYTES_MAX)
    title: str = Field("", max_length=limits.TITLE_CHARS_MAX)
    agent: AgentSpec = AgentSpec()
    verify: tuple[ShellCommand, ...] = Field((), max_length=limits.VERIFY_COMMANDS_MAX)
    verify_base: bool = False  # also run `verify` on the base commit, for a before and after
    limits: Limits = Limits()
    attempts_max: int = Field(1, ge=1, le=20)  # agent attempts; lost infrastructure is not counted
    budget_tokens: int | None = Field(None, ge=1)  # model tokens an attempt may use
    priority: int = Field(0, ge=-100, le=100)
    pool: Slug = "default"

    @field_validator("repo")
    @classmethod
    def _no_password(cls, repo: str) -> str:
        """A task is stored and shown: what opens a repository belongs to the runner."""
        if "://" in repo and urlsplit(repo).password:
            raise ValueError("a password in a URL would be stored; give it to the runner instead")
        return repo


# --- api → scheduler ----------------------------------------------------------------------


class CreateProject(Command):
    name: Slug
    running_limit: int = Field(100, ge=1, le=100_000)
    weight: int = Field(1, ge=1, le=1000)


class Project(Fact):
    project_id: str
    name: str
    running_limit: int
    weight: int
    created_at: datetime
    created: bool = False  # False: it was there already, with the same settings


class SubmitTask(Command):
    """`project` is a name or id. Same key and same spec: the same task again; another: Rejected."""

    project: str
    spec: TaskSpec
    idempotency_key: str | None = Field(None, min_length=1, max_length=200)
    submitted_by: str = ""


class Submitted(Fact):
    task_id: str
    project_id: str
    state: TaskState
    created: bool


class CancelTask(Command):
    task_id: str
    reason: str = Field("cancelled", max_length=limits.MESSAGE_CHARS_MAX)


class Cancelled(Fact):
    """`accepted` False: too late (publishing, or final); `state` is the task's state now."""

    accepted: bool
    state: TaskState


# --- runner → scheduler -------------------------------------------------------------------


class Register(Command):
    """First call of a runner process. Attempts of its earlier incarnations are lost at once."""

    incarnation: str  # random per process start
    name: str
    slots: int = Field(ge=1, le=1000)
    labels: tuple[str, ...] = ()
    backend: str = "bwrap"
    version: str = ""


class Registered(Fact):
    heartbeat_s: float
    lease_ttl_s: float


class Claim(Command):
    """Asks for up to `slots` units, waiting up to `wait_s`. A repeat with the same claim_id gets
    the same attempts (a lost reply loses nothing)."""

    claim_id: str
    incarnation: str
    slots: int = Field(ge=1, le=100)
    pool: Slug = "default"
    kinds: tuple[UnitKind, ...] = (UnitKind.AGENT, UnitKind.PUBLISH)
    wait_s: float = Field(0.0, ge=0, le=limits.CLAIM_WAIT_S_MAX)


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


class Claimed(Fact):
    assignments: tuple[Assignment, ...] = ()


class Heartbeat(Command):
    incarnation: str
    attempts: tuple[str, ...] = Field((), max_length=1000)


class HeartbeatReply(Fact):
    """Per attempt asked about: renewed (`lease_until`), to cancel, or no longer current."""

    lease_until: dict[str, datetime] = {}
    cancel: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class Report(Command):
    """Progress of a live attempt: an optional new state and one named step, both become events."""

    attempt_id: str
    state: Literal[AttemptState.RUNNING, AttemptState.VERIFYING] | None = None
    step: str = Field(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9-]*$")
    fields: dict[str, Any] = {}


class Reported(Fact):
    cancel: bool = False  # a cancel is waiting: stop, keep the evidence, complete as cancelled


class CommandResult(Fact):
    """One verification command. exit_code None: it did not end by itself (see `outcome`)."""

    command: str
    exit_code: int | None
    outcome: str  # exited | timed-out | limit:<name> | cannot-start | killed
    duration_ms: int
    log: str  # artifact name


class Verdict(Fact):
    status: VerdictStatus
    commands: tuple[CommandResult, ...] = ()


class Change(Fact):
    path: str  # UTF-8, undecodable bytes as \\xNN
    change: Literal["added", "modified", "deleted"]


class Receipt(Fact):
    """The proof-store's signed word that it holds these bytes for this attempt.

    `signature` is base64 Ed25519 over the DSSE pre-authentication encoding of
    type RECEIPT_TYPE and the canonical JSON of all other fields but `key_id`.
    """

    attempt_id: str
    name: str
    digest: str
    size: int
    media_type: str
    sender: str  # the runner whose subject announced it
    stored_at: str  # RFC 3339
    key_id: str = ""
    signature: str = ""


class RunnerObservations(Fact):
    """What the runner saw of an agent attempt; copied into the proof under `runner`."""

    runner_id: str
    agent: str
    agent_argv: tuple[str, ...] = ()
    model: str | None = None
    agent_outcome: str = ""  # exited:0 | timed-out | limit:… | cancelled
    base_commit: str = ""
    base_tree: str = ""
    commit: str = ""
    tree: str = ""
    changes: tuple[Change, ...] = ()
    changes_total: int = 0
    tests_changed: tuple[str, ...] = ()
    verdict: Verdict = Verdict(status=VerdictStatus.NONE)
    base_verdict: Verdict | None = None
    sandbox: dict[str, Any] = {}
    workspace: dict[str, Any] = {}
    started_at: str = ""
    finished_at: str = ""


BUNDLE_ARTIFACT = "result.bundle"  # the name under which an attempt's git bundle is stored


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


# --- scheduler → gateway and proof-store ---------------------------------------------------


class Introspect(Command):
    """Asked by the gateway: whose token is this, and until when? (RFC 7662 in spirit.)"""

    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class TokenInfo(Fact):
    active: bool
    attempt_id: str = ""
    task_id: str = ""
    project_id: str = ""
    models: tuple[str, ...] | None = None  # None: any the gateway serves
    budget_tokens: int | None = None
    valid_until: datetime | None = None


class AttemptEnded(Fact):
    """Hint to the gateway: the attempt's token is dead from now on."""

    attempt_id: str


class ExchangesOf(Command):
    attempt_id: str


class Exchange(Fact):
    """One request to a model as the gateway recorded it."""

    seq: int
    provider: str
    model: str
    replayed: bool
    status: int  # HTTP status given to the agent
    request_digest: str
    response_digest: str
    prompt_tokens: int
    completion_tokens: int
    started_at: str
    duration_ms: int
    note: str = ""  # e.g. that a replayed cassette was written by hand


class Exchanges(Fact):
    attempt_id: str
    exchanges: tuple[Exchange, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0


class UsageOf(Command):
    task_id: str


class Usage(Fact):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0


class ArtifactStored(Command):
    """On WFHUB_INGEST after a blob was PUT: these bytes are this attempt's artifact `name`."""

    attempt_id: str
    name: str = Field(min_length=1, max_length=limits.ARTIFACT_NAME_CHARS_MAX)
    digest: str
    size: int = Field(ge=0, le=limits.BLOB_BYTES_MAX)
    media_type: str = Field("application/octet-stream", max_length=100)


class ReceiptsOf(Command):
    """Asked by a runner; waits up to `wait_s` until all `names` have a receipt."""

    attempt_id: str
    names: tuple[str, ...] = Field(max_length=limits.ARTIFACTS_MAX)
    wait_s: float = Field(0.0, ge=0, le=limits.CLAIM_WAIT_S_MAX)


class Receipts(Fact):
    receipts: tuple[Receipt, ...] = ()
    refused: dict[str, str] = {}  # name → why no receipt will come (size or digest is wrong)


class SchedulerObservations(Fact):
    """What the scheduler saw; copied into the proof under `scheduler`."""

    task_id: str
    project_id: str
    project: str
    attempt_id: str
    attempt_number: int
    runner_id: str
    prompt_digest: str
    spec: dict[str, Any]
    submitted_by: str = ""
    submitted_at: str = ""
    claimed_at: str = ""
    completed_at: str = ""


class SealProof(Command):
    """Asks the proof-store to sign a proof for a won attempt. Idempotent by attempt_id."""

    scheduler: SchedulerObservations
    runner: RunnerObservations
    receipts: tuple[Receipt, ...]


class Sealed(Fact):
    proof_id: str
    envelope_digest: str
    leaf_index: int
    tokens: int


# --- public events --------------------------------------------------------------------------


class CloudEvent(Fact):
    """CloudEvents 1.0, structured JSON. Extension attributes: wfhubpos, wfhubgeneration."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str = "/wfhub/scheduler"
    type: str  # e.g. task.state_changed, attempt.state_changed, attempt.step
    subject: str  # the entity's id
    time: datetime
    datacontenttype: Literal["application/json"] = "application/json"
    data: dict[str, Any]
    wfhubproject: str
    wfhubpos: int
    wfhubgeneration: int
