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
    return JSONResponse(
        _document(status, code, detail, fields),
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )


def of_error(error: WfhubError) -> JSONResponse:
    after_s = retry_after_s(error)
    headers = None if after_s is None else {"Retry-After": str(after_s)}
    return problem(status_of(error), error.code, error.message, headers=headers, **_told(error))


def document_of(error: WfhubError) -> dict[str, Any]:
    """The problem document alone, for an answer that holds several."""
    return _document(status_of(error), error.code, error.message, _told(error))


def status_of(error: WfhubError) -> int:
    match error:
        case Rejected():
            return error.status
        case RetryLater():
            return 503
        case LeaseLost():
            return 409
    return 500


def retry_after_s(error: WfhubError) -> int | None:
    """When to ask again, for what says so: at least a second."""
    after_s = error.retry_after_s if isinstance(error, RetryLater) else None
    if isinstance(error, Rejected):
        after_s = error.fields.get("retry_after_s")
    return None if after_s is None else max(1, round(after_s))


def _told(error: WfhubError) -> dict[str, Any]:
    known = isinstance(error, Rejected | RetryLater | LeaseLost | Corrupt)
    return error.fields if known else {}


def _document(status: int, code: str, detail: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": f"urn:wfhub:problem:{code}",
        "title": code.replace("-", " "),
        "status": status,
        "detail": detail,
        "code": code,
        **{name: value for name, value in fields.items() if name not in _RESERVED},
    }


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
