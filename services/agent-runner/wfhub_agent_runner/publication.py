"""One publish attempt: from the sealed bundle alone to two refs, created once and never moved.

The outcome is observed, not assumed: after an unknown one the next attempt looks for the marker
before it does anything. Conflict and refusal are final; all else is tried again.
"""

import tempfile
from pathlib import Path
from typing import assert_never

from wfhub_common import limits, messages
from wfhub_common.errors import LeaseLost, Rejected, WfhubError
from wfhub_common.log import get_logger
from wfhub_common.messages import AttemptState

from wfhub_agent_runner.attempt import Parts
from wfhub_agent_runner.gitwork.outcomes import (
    Already,
    Conflict,
    Published,
    PublishResult,
    Refused,
)
from wfhub_agent_runner.leases import Held

log = get_logger(__name__)


async def publish(parts: Parts, assignment: messages.Assignment, held: Held) -> None:
    order = assignment.publish
    assert order is not None, "a publish unit has an order"
    try:
        complete = await _published(parts, assignment, order, held)
        done = await parts.link.complete(held, complete)
    except LeaseLost as e:
        log.warning("publication dropped", attempt_id=held.attempt_id, reason=e.message)
    else:
        log.info(
            "publication ended",
            attempt_id=held.attempt_id,
            outcome=complete.outcome,
            task_state=done.task_state.value,
        )


async def _published(
    parts: Parts, assignment: messages.Assignment, order: messages.PublishOrder, held: Held
) -> messages.Complete:
    await parts.link.step(held, "publish-started", state=AttemptState.RUNNING, ref=order.branch_ref)
    try:
        with tempfile.TemporaryDirectory(dir=parts.scratch) as scratch:
            bundle = Path(scratch) / messages.BUNDLE_ARTIFACT
            bundle.write_bytes(await parts.delivery.fetch(order.bundle_digest))
            result = await parts.workspaces.publish(assignment.spec.repo, bundle, order)
    except Rejected as e:
        return _complete(held, AttemptState.REJECTED, e.code, e.message)
    except (WfhubError, OSError) as e:
        code = e.code if isinstance(e, WfhubError) else "runner-error"
        return _complete(held, AttemptState.FAILED, code, str(e))
    return _of_result(held, order, result)


def _of_result(
    held: Held, order: messages.PublishOrder, result: PublishResult
) -> messages.Complete:
    match result:
        case Published():
            return _complete(held, AttemptState.WON, "published", "")
        case Already():
            return _complete(held, AttemptState.WON, "already-published", "")
        case Conflict(ref, found):
            message = f"{ref} exists with another commit ({found}); nothing was changed"
            return _complete(held, AttemptState.REJECTED, "publish-conflict", message)
        case Refused(code, message):
            return _complete(held, AttemptState.REJECTED, f"publish-refused:{code}", message)
        case _:
            assert_never(result)


def _complete(held: Held, outcome: AttemptState, reason: str, message: str) -> messages.Complete:
    return messages.Complete(
        attempt_id=held.attempt_id,
        outcome=outcome,
        reason=reason[:200],
        message=message[: limits.MESSAGE_CHARS_MAX],
    )
