"""OpenAPI: every error response is documented as a problem document, the token as a scheme."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from wfhub_common.messages import WorkflowDocument

from wfhub_api.shapes import Problem

_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_SENTENCES = {
    401: "no valid token",
    403: "this is for the admin's token",
    404: "there is no such thing",
    405: "this path has no such method",
    409: "too late, or in conflict with what is there",
    413: "the body is too large",
    415: "the body is neither JSON nor YAML",
    422: "the request is malformed; `errors` names each field",
    429: "too many open streams, or a queue is full: `Retry-After` seconds",
    500: "something failed here",
    503: "something needed is down; `Retry-After` seconds",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route."""
    return {
        status: problem_response(_SENTENCES[status]) for status in (*statuses, 401, 422, 500, 503)
    }


def problem_response(description: str) -> dict[str, Any]:
    return {"description": description, "content": _CONTENT}


def install(app: FastAPI) -> None:
    def made() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            components = document.setdefault("components", {}).setdefault("schemas", {})
            for shape in (Problem, WorkflowDocument):
                schema = shape.model_json_schema(ref_template="#/components/schemas/{model}")
                components |= schema.pop("$defs", {})
                components[shape.__name__] = schema
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = made  # type: ignore[method-assign]  # FastAPI's documented way to extend it
