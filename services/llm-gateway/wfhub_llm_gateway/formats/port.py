"""What a wire format must be able to do.

`look` reads one JSON object of an answer: a whole one, or the data of an event. `outgoing` is the
body for a server of the same format: the client's bytes, unless something has to be put in.
Errors: `error_value` is the JSON body; `error_event` one last event of a stream of which `tap`
saw the rest.
"""

from typing import Any, Protocol

from wfhub_common.errors import WfhubError
from wfhub_common.model_paths import Format

from wfhub_llm_gateway.formats.asked import Asked, Head
from wfhub_llm_gateway.usage import Seen, Tap


class WireFormat(Protocol):
    name: Format

    def parse(self, raw: bytes, head: Head, *, default_model: str) -> Asked:
        """Raises: Rejected (400)."""
        ...

    def target(self, asked: Asked) -> str:
        """Path and query below a server's base URL, which ends with the version."""
        ...

    def outgoing(self, asked: Asked) -> bytes: ...

    def look(self, value: dict[str, Any]) -> Seen: ...

    def count_value(self, tokens: int) -> dict[str, Any]:
        """The answer to a `count`; formats without one raise Rejected."""
        ...

    def models_value(self, models: list[dict[str, Any]]) -> dict[str, Any]:
        """Of the models as Chat Completions lists them."""
        ...

    def error_value(self, error: WfhubError) -> dict[str, Any]: ...

    def error_event(self, error: WfhubError, tap: Tap) -> bytes: ...
