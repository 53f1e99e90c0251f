"""The port to a model: what answers a request, live (upstream.py) or recorded (replay.py).

A provider is asked in a format that it `speaks` only; translation.asking sees to that.

`ask` is a context manager: leaving it, by cancellation too, ends the work upstream. It yields an
Answer as soon as the status is known; `chunks` are the body's bytes as they come.
Raises: UpstreamFailed, Rejected; both from `ask` and from `chunks`.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from wfhub_common.model_paths import Format

from wfhub_llm_gateway.formats.asked import Asked


@dataclass(frozen=True)
class Answer:
    status: int
    stream: bool  # the body is server-sent events
    chunks: AsyncIterator[bytes]
    headers: dict[str, str] = field(default_factory=dict)  # content-type, retry-after


class Provider(Protocol):
    name: str
    replayed: bool
    note: str  # stands in the ledger with each exchange
    speaks: tuple[Format, ...]  # the first is what other formats are translated to

    def ask(self, asked: Asked, *, attempt_id: str) -> AbstractAsyncContextManager[Answer]: ...

    async def models(self) -> list[dict[str, Any]]:
        """As in the `data` of GET /v1/models, whatever the provider speaks."""
        ...

    def forget(self, attempt_id: str) -> None:
        """The attempt ended: what is kept for it may go."""
        ...

    async def close(self) -> None: ...
