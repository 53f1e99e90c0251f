"""Failures: what an error in the runner comes to for the attempt that it ended.

Every error is an ending with a reason, so that no attempt is left to run out its lease in silence.
LeaseLost is not: such an attempt is nobody's any more.
"""

import errno
from pathlib import Path

from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.log import get_logger
from wfhub_common.messages import AttemptState

from wfhub_agent_runner.outcomes import Decision

log = get_logger(__name__)


def decision(error: Exception, *, attempt_id: str, disk: Path) -> Decision:
    """`disk`: what is full when the error does not say."""
    match error:
        case Rejected():
            return Decision(AttemptState.FAILED, error.code, error.message, retryable=False)
        case WfhubError():
            return Decision(AttemptState.FAILED, error.code, error.message)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            where = error.filename or disk
            message = f"the runner's disk is full ({where}); free space under RUNNER_HOME"
            return Decision(AttemptState.FAILED, "disk-full", message)
    log.error("attempt failed", attempt_id=attempt_id, exc_info=error)
    said = (
        str(error) if isinstance(error, OSError) else f"unexpected error in the runner: {error!r}"
    )
    return Decision(AttemptState.FAILED, "runner-error", said)
