"""Who may do what over HTTP: every caller is a service with a token; few may write. Pure.

Raises: Rejected (401 `unauthenticated`, 403 `not-allowed`).
"""

from wfhub_common import httpauth, subjects
from wfhub_common.errors import Rejected

# Everyone else in SERVICE_TOKENS_FILE is a runner, by its id.
READ_ONLY = frozenset({subjects.API, subjects.SCHEDULER, subjects.PROOF_STORE})


def sender(authorization: str | None, accepted: dict[str, str]) -> str:
    found = httpauth.sender_of(httpauth.bearer(authorization), accepted)
    if found is None:
        raise Rejected(
            "unauthenticated",
            "send `Authorization: Bearer` with a service token that the proof-store accepts",
            status=401,
        )
    return found


def check_may_write(sender: str) -> None:
    if sender in READ_ONLY:
        raise Rejected("not-allowed", f"{sender} may read blobs, not store them", status=403)
