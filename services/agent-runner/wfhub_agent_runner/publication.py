"""One publish attempt: from the sealed bundle alone to two refs, created once and never moved.

The outcome is observed, not assumed: after an unknown one the next attempt looks for the marker
before it does anything. Conflict and refusal are final; all else is tried again.
"""

import asyncio
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from wfhub_common import limits, messages
from wfhub_common.errors import LeaseLost, Rejected, RetryLater, WfhubError
from wfhub_common.log import get_logger
from wfhub_common.messages import AttemptState

from wfhub_agent_runner.gitwork import commit
from wfhub_agent_runner.gitwork.client import Use
from wfhub_agent_runner.gitwork.commit import About
from wfhub_agent_runner.gitwork.outcomes import (
    Already,
    Conflict,
    Published,
    PublishResult,
    Refused,
)
from wfhub_agent_runner.leases import Held
from wfhub_agent_runner.parts import Parts

PULL_REQUEST_TRIES = 3
PULL_REQUEST_PAUSE_S = 2.0

log = get_logger(__name__)


async def publish(parts: Parts, assignment: messages.Assignment, held: Held) -> None:
    order = assignment.publish
    assert order is not None, "a publish unit has an order"
    try:
        with parts.metrics.phase("publish"):
            complete = await _published(parts, assignment, order, held)
        done = await parts.link.complete(held, complete)
    except LeaseLost as e:
        parts.metrics.lost()
        log.warning("publication dropped", attempt_id=held.attempt_id, reason=e.message)
    else:
        parts.metrics.ended(assignment.kind, complete)
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
            await parts.delivery.fetch(order.bundle_digest, bundle)
            use = Use(assignment.project, apply=assignment.spec.apply)
            result = await parts.workspaces.publish(assignment.spec.repo, bundle, order, use)
    except Rejected as e:
        return _complete(held, AttemptState.REJECTED, e.code, e.message)
    except (WfhubError, OSError) as e:
        code = e.code if isinstance(e, WfhubError) else "runner-error"
        return _complete(held, AttemptState.FAILED, code, str(e))
    complete = _of_result(held, order, result)
    if complete.outcome is AttemptState.WON and assignment.spec.pull_request is not None:
        said = await _pull_request(parts, assignment, order, held)
        complete = complete.model_copy(update={"message": said[: limits.MESSAGE_CHARS_MAX]})
    return complete


async def _pull_request(
    parts: Parts, assignment: messages.Assignment, order: messages.PublishOrder, held: Held
) -> str:
    """Opened, or found; what came of it, in words. The branch stays published either way."""
    spec, asked = assignment.spec, assignment.spec.pull_request
    assert asked is not None
    about = About(
        assignment.task_id, assignment.attempt_id, spec.title, spec.prompt, datetime.now(UTC)
    )
    wanted = {
        "head": order.branch_ref.removeprefix("refs/heads/"),
        "target": asked.target or "",
        "title": asked.title or commit.subject(about),
        "body": asked.body or f"Made by Workflow Hub task {assignment.task_id}.",
        "draft": asked.draft,
    }
    failure: WfhubError | None = None
    for turn in range(PULL_REQUEST_TRIES):
        await asyncio.sleep(turn * PULL_REQUEST_PAUSE_S)
        try:
            made = await parts.workspaces.pull_request(spec.repo, wanted)
        except RetryLater as e:
            failure = e
        except Rejected as e:
            failure = e
            break
        else:
            await parts.link.step(
                held, "pull-request", page=made.page, number=made.number, created=made.created
            )
            return f"pull request {made.page}"
    assert failure is not None
    log.warning("no pull request", task_id=assignment.task_id, error=str(failure))
    await parts.link.step(held, "pull-request-failed", error=failure.code, reason=failure.message)
    return f"published, but without a pull request: {failure.message}"


def _of_result(
    held: Held, order: messages.PublishOrder, result: PublishResult
) -> messages.Complete:
    match result:
        case Published(note=note):
            return _complete(held, AttemptState.WON, "published", note)
        case Already(note=note):
            return _complete(held, AttemptState.WON, "already-published", note)
        case Conflict(ref, found, note):
            message = note or f"{ref} exists with another commit ({found}); nothing was changed"
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
