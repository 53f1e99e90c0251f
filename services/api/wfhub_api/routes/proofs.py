"""Proofs and artifacts: handed through from the proof-store; artifacts only as downloads."""

import re
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from wfhub_api import artifacts
from wfhub_api.held_streams import primed
from wfhub_api.hub import HubDep
from wfhub_api.openapi import errors
from wfhub_api.shapes import ArtifactList, AttemptId, ProofId, TaskId

_PEM = "application/x-pem-file"

router = APIRouter(prefix="/v1", tags=["proofs"])


@router.get(
    "/proofs/public-key",
    summary="The key that proofs are signed with, PEM",
    response_class=Response,
    responses={200: {"content": {_PEM: {"schema": {"type": "string"}}}}, **errors()},
)
async def public_key(hub: HubDep) -> Response:
    return Response(await hub.proof_store.public_key(), media_type=_PEM)


@router.get(
    "/proofs/{proof_id}",
    summary="A proof with all that checking it offline needs",
    responses=errors(404),
)
async def proof(hub: HubDep, proof_id: ProofId) -> dict[str, Any]:
    exported: dict[str, Any] = await hub.proof_store.export(proof_id)
    return exported


@router.get(
    "/artifacts/{task_id}/{attempt_id}",
    summary="What an attempt left: its artifacts, and its exchanges with models",
    responses=errors(404),
)
async def list_artifacts(hub: HubDep, task_id: TaskId, attempt_id: AttemptId) -> ArtifactList:
    return await artifacts.of_attempt(hub, task_id, attempt_id)


@router.get(
    "/artifacts/{task_id}/{attempt_id}/{name:path}",
    summary="Download an artifact of an attempt",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            }
        },
        **errors(404),
    },
)
async def artifact(
    hub: HubDep, task_id: TaskId, attempt_id: AttemptId, name: str
) -> StreamingResponse:
    found = await artifacts.find(hub, task_id, attempt_id, name)
    chunks: AsyncGenerator[bytes, None] = hub.proof_store.blob(found.digest)
    length = {} if found.size is None else {"Content-Length": str(found.size)}
    return StreamingResponse(
        await primed(chunks),
        media_type="application/octet-stream",  # never what the agent says it is
        headers={
            "Content-Disposition": disposition(name),
            "Digest-Sha256": found.digest,
            **length,
        },
    )


def disposition(name: str) -> str:
    """An attachment under the name's last part (RFC 6266)."""
    last = name.rsplit("/", 1)[-1] or "artifact"
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", last)
    encoded = quote(last.encode("utf-8", "replace"), safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
