"""Requests that do not fit, as problem documents: 422 with each field's path and a sentence
about it, also where the body could not be read at all, and 405 with the methods that there are.

The input itself is not repeated: it may hold a secret, or be huge.
"""

import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match
from wfhub_common import problems

ERRORS_LISTED_MAX = 20
_ID = re.compile(r"\^([a-z]{3})_\[a-z2-7\]\{(\d+)\}\$")
_UNREAD: dict[type[BaseException], str] = {
    RecursionError: "its lists and objects are nested too deeply",
    ValueError: "it has a number of more digits than can be read",  # else it were malformed JSON
}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def install(app: FastAPI) -> None:
    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = field_errors(error.errors())
        if found[0]["field"] == "body" and not _is_json(request):
            # What curl sends as a form: read as a text, which fits nothing.
            found[0]["message"] = "send JSON, and say so: `Content-Type: application/json`"
        first = found[0]
        return problems.problem(
            422, "request-invalid", f"{first['field']}: {first['message']}", errors=found
        )

    async def method_not_allowed(request: Request, _error: Exception) -> JSONResponse:
        # Starlette names the methods of one route; a path here may have several routes.
        allowed = [method for method in _METHODS if _answers(app, request, method)]
        detail = f"this path answers {', '.join(allowed)}"
        headers = {"Allow": ", ".join(allowed)}
        return problems.problem(405, "method-not-allowed", detail, headers=headers)

    async def unread(request: Request, error: Exception) -> JSONResponse:
        # FastAPI's, of a body that its JSON reader gives up without calling it malformed.
        assert isinstance(error, HTTPException)
        message = _UNREAD.get(type(error.__cause__ or error), str(error.detail))
        errors = [{"field": "body", "message": message}]
        return problems.problem(422, "request-invalid", f"body: {message}", errors=errors)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(400, unread)
    app.add_exception_handler(405, method_not_allowed)


def _answers(app: FastAPI, request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in app.routes)


def field_errors(errors: Sequence[Any]) -> list[dict[str, str]]:
    """`[{field: "body.limits.run_s", message: …}]`."""
    return [
        {"field": ".".join(_printable(part) for part in error["loc"]), "message": _sentence(error)}
        for error in errors[:ERRORS_LISTED_MAX]
    ]


def _sentence(error: Any) -> str:
    pattern = error.get("ctx", {}).get("pattern", "")
    if error["type"] == "string_pattern_mismatch" and (found := _ID.match(pattern)):
        return f"this is no id: one looks like {found[1]}_ and {found[2]} more letters and digits"
    if error["type"] == "extra_forbidden":
        return "there is no such field; /openapi.json has those that there are"
    return str(error["msg"]).removeprefix("Value error, ")


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _printable(part: Any) -> str:
    return str(part)[:100].encode("utf-8", "backslashreplace").decode()
