"""What a runner saw of an attempt, and the proof-store's word for its artifacts."""

from typing import Any, Literal

from pydantic import Field

from wfhub_common.messages.base import Fact
from wfhub_common.messages.states import VerdictStatus


class CommandResult(Fact):
    """One verification command. exit_code None: it did not end by itself (see `outcome`)."""

    command: str
    exit_code: int | None
    outcome: str  # exited | timed-out | limit:<name> | cannot-start | killed
    figure: int | None = None  # of a limit that was exceeded: what was measured
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
    agent_version: str = ""  # as its program told it in the sandbox; the built-in's own
    agent_argv: tuple[str, ...] = ()
    agent_details: dict[str, Any] = Field(default_factory=dict)  # wire, context files, MCP servers
    model: str | None = None
    agent_outcome: str = ""  # exited:0 | timed-out | limit:… | cancelled
    base_commit: str = ""
    base_tree: str = ""
    commit: str = ""
    tree: str = ""
    changes: tuple[Change, ...] = ()
    changes_total: int = 0
    tests_changed: tuple[str, ...] = ()  # of `tests_changed_total`
    tests_changed_total: int = 0  # a runner of the version before counts none
    # Changed paths that a CI system reads (wfhub_common.ci_files) or that CI files bring in, of
    # `ci_files_total`. None: a runner of the version before, which does not look.
    ci_files: tuple[str, ...] | None = None
    ci_files_total: int = 0
    ci_files_unclear: str = ""  # why there may be others: nobody can tell what CI files bring in
    verdict: Verdict = Verdict(status=VerdictStatus.NONE)
    base_verdict: Verdict | None = None
    sandbox: dict[str, Any] = Field(default_factory=dict)
    workspace: dict[str, Any] = Field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""


BUNDLE_ARTIFACT = "result.bundle"  # the name under which an attempt's git bundle is stored
