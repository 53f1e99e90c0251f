"""HTTP errors as RFC 9457 `application/problem+json`, for any Starlette or FastAPI app.

Shape: {type, title, status, detail, code, …fields}. `code` is the error's stable code.
"""

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from wfhub_common.errors import Corrupt, LeaseLost, Rejected, RetryLater, WfhubError
from wfhub_common.log import get_logger

log = get_logger(__name__)
_RESERVED = {"type", "title", "status", "detail", "code"}


def problem(
    status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **fields: Any
) -> JSONResponse:
    body = {
        "type": f"urn:wfhub:problem:{code}",
        "title": code.replace("-", " "),
        "status": status,
        "detail": detail,
        "code": code,
        **{name: value for name, value in fields.items() if name not in _RESERVED},
    }
    return JSONResponse(
        body, status_code=status, media_type="application/problem+json", headers=headers
    )


def of_error(error: WfhubError) -> JSONResponse:
    match error:
        case Rejected():
            return problem(error.status, error.code, error.message, **error.fields)
        case RetryLater():
            after = {"Retry-After": str(max(1, round(error.retry_after_s)))}
            return problem(503, error.code, error.message, headers=after, **error.fields)
        case LeaseLost():
            return problem(409, error.code, error.message, **error.fields)
        case Corrupt():
            return problem(500, error.code, error.message, **error.fields)
    return problem(500, error.code, error.message)


def install(app: Starlette) -> None:
    """Answer every error of `app` as a problem document."""

    async def known(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, WfhubError)
        return of_error(error)

    async def http(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "not-found", 405: "method-not-allowed", 401: "unauthenticated"}.get(
            error.status_code, "http-error"
        )
        headers = dict(error.headers) if error.headers else None
        return problem(error.status_code, code, str(error.detail), headers=headers)

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        log.error("unexpected error", path=request.url.path, exc_info=error)
        return problem(500, "internal", "something failed here; it is in the service's log")

    app.add_exception_handler(WfhubError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unknown)
