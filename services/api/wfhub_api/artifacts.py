"""What an attempt left, by name: its runner's artifacts, and its exchanges with models.

    exchanges/0001.request    as the gateway stored it: without what looks like a secret
    exchanges/0001.response   not there when no answer came
    exchanges/0001.record     canonical JSON; its digest is a link of the chain in the proof

Raises: Rejected (404 `artifact-not-found`); RetryLater, from `find` only.
"""

from collections.abc import Iterator

from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.messages import Exchange, Exchanges, ExchangesOf

from wfhub_api import views
from wfhub_api.hub import Hub
from wfhub_api.shapes import Artifact, ArtifactList, Attempt

FOLDER = "exchanges"


async def of_attempt(hub: Hub, task_id: str, attempt_id: str) -> ArtifactList:
    """The runner's first. Without a gateway that answers, those alone."""
    stored = _stored(await _attempt(hub, task_id, attempt_id))
    try:
        exchanges = await _exchanges(hub, attempt_id)
    except RetryLater:
        return ArtifactList(artifacts=stored, complete=False)
    return ArtifactList(artifacts=[*stored, *exchanges])


async def find(hub: Hub, task_id: str, attempt_id: str, name: str) -> Artifact:
    found = _stored(await _attempt(hub, task_id, attempt_id))
    if name.startswith(f"{FOLDER}/"):  # the gateway's word goes before a runner's
        found = [*await _exchanges(hub, attempt_id), *found]
    for artifact in found:
        if artifact.name == name:
            return artifact
    raise _not_found(attempt_id)


async def _attempt(hub: Hub, task_id: str, attempt_id: str) -> Attempt:
    for attempt in await views.attempts(hub.engine, task_id):
        if attempt.attempt_id == attempt_id:
            return attempt
    raise _not_found(attempt_id)


def _stored(attempt: Attempt) -> list[Artifact]:
    return [Artifact(name=r.name, digest=r.digest, size=r.size) for r in attempt.artifacts]


async def _exchanges(hub: Hub, attempt_id: str) -> list[Artifact]:
    found = await hub.ask("exchanges", ExchangesOf(attempt_id=attempt_id), Exchanges)
    return [each for exchange in found.exchanges for each in named(exchange)]


def _not_found(attempt_id: str) -> Rejected:
    message = f"attempt {attempt_id} has no such artifact, or the task no such attempt"
    return Rejected("artifact-not-found", message, status=404)


def named(exchange: Exchange) -> Iterator[Artifact]:
    digests = {
        "request": exchange.request_digest,
        "response": exchange.response_digest,
        "record": exchange.record_digest,
    }
    for part, digest in digests.items():
        if digest:
            yield Artifact(name=f"{FOLDER}/{exchange.seq:04}.{part}", digest=digest)
