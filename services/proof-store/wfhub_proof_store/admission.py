"""Which announced artifacts get a receipt. Pure rules over the subject, the message and the disk.

The subject names who speaks (the broker enforces it), so the message may claim no other attempt.
Raises: Rejected (`attempt-mismatch`, `artifact-name`, `media-type`, `digest-malformed`): no later
delivery of the same message would fare better.
"""

from dataclasses import dataclass

from wfhub_common import digests, ids
from wfhub_common.errors import Rejected
from wfhub_common.messages import ArtifactStored
from wfhub_common.subjects import AttemptSubject

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0


@dataclass(frozen=True)
class Admitted:
    """The blob is here, as announced."""


@dataclass(frozen=True)
class Refused:
    """No receipt will come."""

    reason: str


@dataclass(frozen=True)
class NotYet:
    """The blob may still arrive."""

    retry_after_s: float


Decision = Admitted | Refused | NotYet


def check_claim(at: AttemptSubject, message: ArtifactStored) -> None:
    ids.checked(at.attempt_id, "att")
    if message.attempt_id != at.attempt_id:
        raise Rejected(
            "attempt-mismatch",
            f"the subject speaks for {at.attempt_id}, the message for {message.attempt_id[:64]!r}",
        )


def check_fields(message: ArtifactStored) -> None:
    digests.parse(message.digest)
    parts = message.name.split("/")
    if not message.name.isprintable() or "\\" in message.name or {"", ".", ".."} & set(parts):
        raise Rejected(
            "artifact-name",
            f"{message.name!r} is no artifact name: use a relative path of printable characters",
        )
    if not (message.media_type.isascii() and message.media_type.isprintable()):
        raise Rejected("media-type", f"{message.media_type!r} is no media type")


def decide(
    message: ArtifactStored,
    *,
    stored_bytes: int | None,
    age_s: float,
    deliveries: int,
    blob_wait_s: float,
) -> Decision:
    """`age_s` since the announcement was queued; `deliveries` counts this one."""
    if stored_bytes == message.size:
        return Admitted()
    if stored_bytes is not None:
        return Refused(f"{message.size} bytes were announced, the blob has {stored_bytes}")
    if age_s >= blob_wait_s:
        return Refused(f"the blob {message.digest} was not uploaded within {blob_wait_s:g} s")
    return NotYet(backoff_s(deliveries))


def backoff_s(deliveries: int) -> float:
    return min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(deliveries - 1, 10))
