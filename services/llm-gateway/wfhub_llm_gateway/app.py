"""HTTP: what an agent (through its relay) may ask, in whichever of the wire formats.

POST and GET on the paths of wfhub_common.model_paths; the attempt's token is where the format's
clients put their key: Bearer, x-api-key, x-goog-api-key, or `?key=`.
GET /healthz: the process is up; /readyz: it reaches its database and the broker; /metrics.
Errors have the shape of the path's format. What leads to a model goes past Starlette's router and
its layers, which it has no use for (ADR 38).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from wfhub_common import model_paths
from wfhub_common.errors import Rejected, RetryLater, WfhubError
from wfhub_common.httpauth import ATTEMPT_TOKEN_PREFIX
from wfhub_common.log import get_logger
from wfhub_common.metrics import CONTENT_TYPE
from wfhub_common.tracing_http import Traced

from wfhub_llm_gateway import last_word
from wfhub_llm_gateway.exchange import ExchangeResponse
from wfhub_llm_gateway.exchanger import Exchanger
from wfhub_llm_gateway.formats import BY_NAME
from wfhub_llm_gateway.formats import asked as read
from wfhub_llm_gateway.formats.asked import Head

REQUEST_BYTES_MAX = 16 * 1024 * 1024
HEADER_CHARS_MAX = 2000  # of those that are passed on
_PASSED_HEADERS = {"messages": ("anthropic-version", "anthropic-beta")}

log = get_logger(__name__)


def make_app(
    exchanger: Exchanger,
    *,
    default_model: str,
    entered: Callable[[], bool],
    ready: Callable[[], Awaitable[str]],
) -> Traced:
    """An ASGI application. `entered()`: database and broker were there, requests are taken;
    `ready()` says what is not reachable, or nothing."""

    async def ask(request: Request, path: model_paths.ModelPath) -> ExchangeResponse | Response:
        digest, info = await exchanger.tokens.check(_authorization(request))
        if path.operation == "models":
            return await models(request, path, info.models)
        exchanger.streams.check_room(info.attempt_id)
        spoken = BY_NAME[path.format]
        head = _head(request, path)
        body = await _body(request)
        try:
            asked = spoken.parse(body, head, default_model=default_model)
        except RecursionError as e:
            raise read.too_deep() from e
        read.check_model(asked, info.models)
        word = last_word.read(request.headers.get(model_paths.HAND_IN_HEADER))
        opened = await exchanger.open(asked, info, word)
        return ExchangeResponse(exchanger, opened, digest, info)

    async def models(
        request: Request, path: model_paths.ModelPath, allowed: tuple[str, ...] | None
    ) -> Response:
        found = await exchanger.provider.models()
        shown = [m for m in found if allowed is None or m["id"] in allowed]
        name = _lister(request, path)
        if not path.model:
            return _json(BY_NAME[name].models_value(shown))
        for model in shown:
            if model["id"] == path.model:
                listed = BY_NAME[name].models_value([model])
                return _json((listed.get("data") or listed["models"])[0])
        raise Rejected("model-not-found", f"there is no model {path.model!r} here", status=404)

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        missing = await ready()
        return PlainTextResponse(missing or "ok\n", status_code=503 if missing else 200)

    async def metrics(request: Request) -> Response:
        # Relays add the attempt's token to whatever an agent asks for: this is not for agents.
        if _authorization(request):
            raise Rejected("not-for-agents", "metrics are for the operator", status=403)
        return Response(exchanger.metrics.text(), media_type=CONTENT_TYPE)

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, WfhubError)
        exchanger.metrics.refused(error.code)
        return _refusal(request, error)

    async def elsewhere(request: Request) -> Response:
        path = request.scope["path"]
        found = model_paths.recognised(path)
        if found is None or (found.model and request.method == "POST"):
            message = f"{request.method} {path}: there is only {model_paths.SHOWN}"
            raise Rejected("http-error", message, status=404)
        message = f"{request.method} {path}: use {found.method}"
        raise Rejected("http-error", message, status=405)

    others = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/{path:path}", elsewhere, methods=["GET", "POST"]),
        ],
        exception_handlers={WfhubError: known, HTTPException: _http, Exception: _unknown},
    )

    async def front(scope: Any, receive: Any, send: Any) -> None:
        path = model_paths.recognised(scope["path"]) if scope["type"] == "http" else None
        if path is None or scope["method"] != path.method:
            await others(scope, receive, send)
            return
        request = Request(scope, receive, send)
        response: ExchangeResponse | Response
        try:
            if not entered():
                raise RetryLater("starting", "the gateway is starting: ask again")
            response = await ask(request, path)
        except WfhubError as e:
            response = await known(request, e)
        except Exception as e:  # noqa: BLE001 - logged, and the client is told
            response = await _unknown(request, e)
        await response(scope, receive, send)

    return Traced(front, spans=False)  # an exchange makes its own


def _lister(request: Request, path: model_paths.ModelPath) -> str:
    """Three formats share GET /v1/models: clients of two of them say in a header who they are."""
    if "anthropic-version" in request.headers:
        return "messages"
    return "gemini" if "x-goog-api-client" in request.headers else path.format


def _authorization(request: Request) -> str | None:
    """As `Authorization: Bearer` has it, from wherever the token is."""
    given = request.headers.get("authorization")
    if given is not None and ATTEMPT_TOKEN_PREFIX in given:
        return given
    keys = (
        request.headers.get("x-api-key"),
        request.headers.get("x-goog-api-key"),
        # Only where Google's own clients put it: a URL is written into logs more easily.
        request.query_params.get("key") if request.scope["path"].startswith("/v1beta") else None,
    )
    token = next((key for key in keys if key), None)
    return f"Bearer {token}" if token else given


def _head(request: Request, path: model_paths.ModelPath) -> Head:
    passed = {
        name: value[:HEADER_CHARS_MAX]
        for name in _PASSED_HEADERS.get(path.format, ())
        if (value := request.headers.get(name)) is not None
    }
    beta = request.query_params.get("beta") == "true"
    return Head(path, request.query_params.get("alt", ""), passed, "beta=true" if beta else "")


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


def _refusal(request: Request, error: WfhubError) -> Response:
    spoken = BY_NAME[model_paths.format_of(request.scope["path"])]
    return _json(spoken.error_value(error), read.status_of(error), read.error_headers(error))


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(read.json_bytes(value), status, headers, "application/json")


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.scope['path']}: {error.detail}"
    return _refusal(request, Rejected("http-error", message, status=error.status_code))


async def _unknown(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.scope["path"], exc_info=error)
    return _refusal(request, Rejected("internal", "the gateway failed; see its log", status=500))
