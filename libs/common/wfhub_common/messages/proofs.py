"""To the proof-store: artifacts, receipts, and the sealing of proofs."""

from typing import Any

from pydantic import Field

from wfhub_common import limits
from wfhub_common.messages.base import Command, Fact, Name
from wfhub_common.messages.results import Receipt, RunnerObservations


class ArtifactStored(Command):
    """On WFHUB_INGEST after a blob was PUT: these bytes are this attempt's artifact `name`."""

    attempt_id: str
    name: str = Field(min_length=1, max_length=limits.ARTIFACT_NAME_CHARS_MAX)
    digest: str
    size: int = Field(ge=0, le=limits.BLOB_BYTES_MAX)
    media_type: str = Field("application/octet-stream", max_length=100)


class ReceiptsOf(Command):
    """Asked by a runner; waits up to `wait_s` until all `names` have a receipt."""

    attempt_id: Name
    names: tuple[Name, ...] = Field(max_length=limits.ARTIFACTS_MAX)
    wait_s: float = Field(0.0, ge=0, le=limits.CLAIM_WAIT_S_MAX)


class Receipts(Fact):
    receipts: tuple[Receipt, ...] = ()
    refused: dict[str, str] = Field(
        default_factory=dict
    )  # name → why no receipt will come (size or digest is wrong)


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
    traceparent: str = ""  # of the task, where it belongs to a trace


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


class SealMany(Command):
    """Many at once, each answered for itself: one that is refused takes none with it."""

    proofs: tuple[SealProof, ...] = Field(min_length=1, max_length=limits.BATCH_SEALS_MAX)


class SealResult(Fact):
    """What became of one of them: `sealed`, or the `error` (as errors.to_wire)."""

    sealed: Sealed | None = None
    error: dict[str, Any] | None = None


class SealedMany(Fact):
    """In the order they were given."""

    results: tuple[SealResult, ...]
