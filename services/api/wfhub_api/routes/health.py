"""Health: alive (`/healthz`), and ready to serve (`/readyz`, which names what is not)."""

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response
from wfhub_common.errors import WfhubError
from wfhub_common.problems import problem

from wfhub_api import views
from wfhub_api.hub import Hub, HubDep
from wfhub_api.openapi import problem_response

PING_TIMEOUT_S = 1.0

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process answers")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Everything needed to serve is there",
    responses={503: problem_response("`not_ready` names what is not, and why")},
)
async def readyz(hub: HubDep) -> Response:
    reasons = await not_ready(hub)
    if not reasons:
        return JSONResponse({"status": "ready"})
    detail = "; ".join(f"{what}: {why}" for what, why in reasons.items())
    return problem(503, "not-ready", detail, headers={"Retry-After": "1"}, not_ready=reasons)


async def not_ready(hub: Hub) -> dict[str, str]:
    """What is not ready, each with a sentence."""
    reasons: dict[str, str] = {}
    try:
        if sentence := await views.missing(hub.engine):
            reasons["database"] = sentence
    except WfhubError as e:
        reasons["database"] = e.message
    if not hub.broker_up.is_set():
        reasons["nats"] = "not connected yet"
    elif not await hub.broker.ping(PING_TIMEOUT_S):
        reasons["nats"] = "the connection was lost; reconnecting"
    return reasons
