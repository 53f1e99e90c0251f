"""What a client call can end in: refused by the service, or the service not reached."""

from typing import Any


class ClientError(Exception):
    """Root; its text is one sentence for people."""


class Refused(ClientError):
    """The service answered no: a problem document (RFC 9457)."""

    def __init__(self, status: int, code: str, detail: str, fields: dict[str, Any]) -> None:
        super().__init__(detail)
        self.status, self.code, self.fields = status, code, fields


class Unreachable(ClientError):
    """Nobody answered, or only "later", for as long as we were ready to wait."""


class Usage(ClientError):
    """The call cannot be right: nothing was sent."""
