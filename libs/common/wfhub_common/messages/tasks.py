"""A task as it is submitted: repository, agent, verification, limits."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from wfhub_common import limits, workspace_folders
from wfhub_common.egress import ENTRY_CHARS_MAX, canonical
from wfhub_common.messages.base import Command
from wfhub_common.messages.budgets import Budget
from wfhub_common.messages.run_limits import LimitsAsked

ShellCommand = Annotated[
    str, StringConstraints(min_length=1, max_length=limits.COMMAND_CHARS_MAX, pattern=r"^[^\x00]+$")
]
LABEL_PATTERN = r"^[a-z0-9][a-z0-9._=-]{0,62}$"
Label = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]
Reason = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9:-]{0,62}$")]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]

ArgvWord = Annotated[
    str, StringConstraints(max_length=limits.COMMAND_CHARS_MAX, pattern=r"^[^\x00]*$")
]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
EgressEntry = Annotated[
    str, StringConstraints(max_length=ENTRY_CHARS_MAX), AfterValidator(canonical)
]


def _in_utc(at: datetime) -> datetime:
    """Whoever reads it, a database too, counts in UTC."""
    try:
        at.astimezone(UTC)
    except OverflowError as e:
        raise ValueError("lies outside of the years 1 to 9999 in UTC") from e
    return at


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class McpServer(Command):
    """A program inside the sandbox that speaks MCP on its standard input and output."""

    argv: tuple[ArgvWord, ...] = Field(min_length=1, max_length=limits.ARGV_MAX)
    env: dict[VariableName, ArgvWord] = Field(
        default_factory=dict, max_length=limits.MCP_VARIABLES_MAX
    )


class AgentSpec(Command):
    """Which agent: a name from the runner's table, or `argv`, any program, run as the agent."""

    name: Slug = "builtin"
    argv: tuple[str, ...] | None = Field(None, min_length=1, max_length=limits.ARGV_MAX)
    model: str | None = Field(None, min_length=1, max_length=200)
    max_steps: int = Field(50, ge=1, le=1000)
    # By name. The agent is told of them in its own configuration; they run in its sandbox.
    mcp: dict[Slug, McpServer] = Field(default_factory=dict, max_length=limits.MCP_SERVERS_MAX)


class CassetteUse(Command):
    """Model exchanges of a task, kept to a file of the gateway's (`record`: what is answered is
    appended) or taken from it (`replay`: no model is asked). The file is the project's."""

    mode: Literal["record", "replay"]
    name: Slug


class Retry(Command):
    """When an attempt that ended by itself is tried again, and how long after.

    The n-th wait is `backoff_ms` × `factor`^(n-1), at most `backoff_max_ms`; `jitter_percent` of
    it is random. `on` names the reasons that are tried again (None: every retryable one).
    """

    attempts_max: int = Field(1, ge=1, le=20)  # lost infrastructure is not counted
    backoff_ms: int = Field(2_000, ge=0, le=3_600_000)
    factor: int = Field(2, ge=1, le=10)
    backoff_max_ms: int = Field(300_000, ge=0, le=86_400_000)
    jitter_percent: int = Field(50, ge=0, le=100)
    on: tuple[Reason, ...] | None = Field(None, min_length=1, max_length=32)


class PullRequest(Command):
    """Opened from the published branch, once; that it fails does not undo the publication."""

    target: str | None = Field(None, min_length=1, max_length=limits.REF_CHARS_MAX)
    title: str = Field("", max_length=limits.TITLE_CHARS_MAX)  # empty: the commit's subject
    body: str = Field("", max_length=limits.PULL_REQUEST_CHARS_MAX)
    draft: bool = False


class TaskSpec(Command):
    """A task as submitted. `repo` is a remote, a path or `file://` URL on the runner's side, or a
    folder below its WORKSPACE_ROOT: `mount:<path>`, a repository, or `directory:<path>`."""

    repo: str = Field(min_length=1, max_length=limits.URL_CHARS_MAX, pattern=r"^[^\x00-\x1f]+$")
    base: str | None = Field(None, min_length=1, max_length=limits.REF_CHARS_MAX)  # None: HEAD
    prompt: str = Field("", max_length=limits.PROMPT_BYTES_MAX)
    title: str = Field("", max_length=limits.TITLE_CHARS_MAX)
    agent: AgentSpec = AgentSpec()
    # Run on the base commit before the agent, once: what they add is kept for later attempts of the
    # project on that commit, below agent and verification. They may also connect to `setup_egress`.
    setup: tuple[ShellCommand, ...] = Field((), max_length=limits.SETUP_COMMANDS_MAX)
    setup_egress: tuple[EgressEntry, ...] = Field((), max_length=limits.EGRESS_HOSTS_MAX)
    verify: tuple[ShellCommand, ...] = Field((), max_length=limits.VERIFY_COMMANDS_MAX)
    verify_base: bool = False  # also run `verify` on the base commit, for a before and after
    labels: tuple[Label, ...] = Field((), max_length=limits.LABELS_MAX)  # its runner has them all
    # host:port that the agent may connect to, if the runner's operator allows them; sandboxes of
    # verification never get any.
    egress: tuple[EgressEntry, ...] = Field((), max_length=limits.EGRESS_HOSTS_MAX)
    # What its sandboxes are made of, if its runner has images and lets the project use this one.
    image: str = Field("", max_length=limits.URL_CHARS_MAX, pattern=r"^[A-Za-z0-9._/:@-]*$")
    limits: LimitsAsked = LimitsAsked()  # the others are its project's
    retry: Retry = Retry()
    queue_s: int | None = Field(None, ge=1, le=30 * 86_400)  # longest wait for its first runner
    run_at: Instant | None = None  # not started before
    deadline_at: Instant | None = None  # its publication begins by then, or never
    # How long a person has to approve the sealed result; None: it is published at once. Said only
    # where it is wanted: an earlier runner or scheduler, which could not keep it, refuses the task,
    # and a key that was used before an upgrade still names the same task after it.
    review_s: int | None = Field(None, ge=1, le=30 * 86_400, exclude_if=lambda s: s is None)
    budget: Budget = Budget()  # of all its attempts together
    attempt_budget: Budget = Budget()  # of each attempt
    budget_tokens: int | None = Field(None, ge=1)  # older spelling of attempt_budget.tokens
    cassette: CassetteUse | None = None  # None: as the project says
    priority: int = Field(0, ge=-100, le=100)
    pool: Slug = "default"
    pull_request: PullRequest | None = None
    apply: bool = False  # the result is also written into the folder itself

    @field_validator("repo")
    @classmethod
    def _one_spelling(cls, repo: str) -> str:
        """A task is stored and shown: what opens a repository belongs to the runner."""
        if folder := workspace_folders.parse(repo):
            return str(folder)
        parts = urlsplit(repo) if "://" in repo else None
        if parts and (parts.password or (parts.scheme.startswith("http") and parts.username)):
            raise ValueError(
                "a password or token in a URL would be stored; give it to the runner instead"
            )
        return repo

    @model_validator(mode="after")
    def _fits_the_folder(self) -> Self:
        folder = workspace_folders.parse(self.repo)
        if self.apply and folder is None:
            raise ValueError("apply: needs a folder, repo mount:<path> or directory:<path>")
        if folder is not None and folder.kind == workspace_folders.DIRECTORY:
            if self.base is not None:
                raise ValueError("base: a plain folder has no branches; leave it out")
            if self.pull_request is not None:
                raise ValueError("pull_request: a plain folder has none; leave it out")
        return self
