"""HTTP: what an agent (through its relay) may ask.

POST /v1/chat/completions, GET /v1/models: Bearer is the attempt's token.
GET /healthz: the process is up; /readyz: it reaches its database and the broker.
Errors have OpenAI's shape (chat.py).
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.log import get_logger

from wfhub_llm_gateway import chat
from wfhub_llm_gateway.exchange import Exchanger, ExchangeResponse

REQUEST_BYTES_MAX = 16 * 1024 * 1024

log = get_logger(__name__)


def make_app(
    exchanger: Exchanger,
    *,
    default_model: str,
    ready: Callable[[], Awaitable[str]],
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """`ready()` says what is not reachable, or nothing."""

    async def chat_completions(request: Request) -> ExchangeResponse:
        digest, info = await exchanger.tokens.check(request.headers.get("authorization"))
        exchanger.streams.check_room(info.attempt_id)
        asked = chat.parse(await _body(request), default_model=default_model)
        chat.check_model(asked, info.models)
        entry = await exchanger.open(asked, info)
        return ExchangeResponse(exchanger, asked, digest, info, entry)

    async def models(request: Request) -> Response:
        _, info = await exchanger.tokens.check(request.headers.get("authorization"))
        found = await exchanger.provider.models()
        allowed = [m for m in found if info.models is None or m["id"] in info.models]
        return JSONResponse({"object": "list", "data": allowed})

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        missing = await ready()
        return PlainTextResponse(missing or "ok\n", status_code=503 if missing else 200)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ],
        exception_handlers={WfhubError: _known, HTTPException: _http, Exception: _unknown},
        lifespan=lifespan,
    )


async def _body(request: Request) -> bytes:
    """Raises: Rejected (413)."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > REQUEST_BYTES_MAX:
                raise Rejected(
                    "request-too-large",
                    f"the request is over {REQUEST_BYTES_MAX} bytes, the most that is accepted",
                    status=413,
                )
    except ClientDisconnect as e:
        raise Rejected("client-gone", "the client left before its request was read") from e
    return bytes(body)


async def _known(_request: Request, error: Exception) -> Response:
    assert isinstance(error, WfhubError)
    return chat.error_response(error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return chat.error_response(Rejected("http-error", message, status=error.status_code))


async def _unknown(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.url.path, exc_info=error)
    return chat.error_response(Rejected("internal", "the gateway failed; see its log", status=500))
