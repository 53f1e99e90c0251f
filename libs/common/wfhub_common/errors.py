"""Errors: few kinds, one root; each carries a code, a sentence that says what to do, and fields.

kind         | HTTP | a message's fate      | meaning
Rejected     | 4xx  | terminate             | bad input or timing; asking again is no use
RetryLater   | 503  | nak with delay        | something needed is down or full; ask again
LeaseLost    | 409  | drop the work         | the writer is not the current attempt
Corrupt      | 500  | stop and alert        | stored data does not match its digest or signature
"""

from typing import Any, ClassVar


class WfhubError(Exception):
    """Root. `code` is stable and kebab-case; `message` is for people; `fields` for machines."""

    kind: ClassVar[str] = "error"

    def __init__(self, code: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Rejected(WfhubError):
    kind = "rejected"

    def __init__(self, code: str, message: str, *, status: int = 422, **fields: Any) -> None:
        super().__init__(code, message, **fields)
        self.status = status  # the HTTP status an edge answers with


class RetryLater(WfhubError):
    kind = "retry-later"

    def __init__(self, code: str, message: str, *, retry_after_s: float = 1.0, **f: Any) -> None:
        super().__init__(code, message, **f)
        self.retry_after_s = retry_after_s


class LeaseLost(WfhubError):
    kind = "lease-lost"


class Corrupt(WfhubError):
    kind = "corrupt"


def to_wire(error: WfhubError) -> dict[str, Any]:
    """The error as the JSON object that an RPC reply carries."""
    wire: dict[str, Any] = {
        "kind": error.kind,
        "code": error.code,
        "message": error.message,
        "fields": error.fields,
    }
    if isinstance(error, Rejected):
        wire["status"] = error.status
    if isinstance(error, RetryLater):
        wire["retry_after_s"] = error.retry_after_s
    return wire


def from_wire(wire: dict[str, Any]) -> WfhubError:
    """The inverse of `to_wire`; an unknown kind becomes RetryLater, the harmless reading."""
    code, message = str(wire.get("code", "unknown")), str(wire.get("message", ""))
    fields = wire.get("fields") or {}
    match wire.get("kind"):
        case Rejected.kind:
            return Rejected(code, message, status=int(wire.get("status", 422)), **fields)
        case LeaseLost.kind:
            return LeaseLost(code, message, **fields)
        case Corrupt.kind:
            return Corrupt(code, message, **fields)
        case _:
            after = float(wire.get("retry_after_s", 1.0))
            return RetryLater(code, message, retry_after_s=after, **fields)
