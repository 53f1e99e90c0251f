"""Hub: what a request handler may use, made once in `app.py`.

Writes are asked of the scheduler (`Hub.ask`); reads come from its views (`views.py`).
Raises: RetryLater when a neighbour does not answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from faststream.nats import NatsBroker
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import subjects
from wfhub_common.broker import ask
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.httpauth import bearer
from wfhub_common.service import Stop

from wfhub_api import tokens
from wfhub_api.held_streams import Streams
from wfhub_api.metrics import Metrics
from wfhub_api.proof_store import ProofStore
from wfhub_api.settings import ApiSettings
from wfhub_api.wakeups import Wakeups
from wfhub_api.webhooks.deliverer import Deliverer

RPC_TIMEOUT_S = 10.0

Reply = TypeVar("Reply", bound=BaseModel)


@dataclass
class Hub:
    settings: ApiSettings
    engine: AsyncEngine
    broker: NatsBroker
    proof_store: ProofStore
    wakeups: Wakeups
    stop: Stop
    streams: Streams = field(default_factory=Streams)
    broker_up: asyncio.Event = field(default_factory=asyncio.Event)  # connected once
    metrics: Metrics = field(default_factory=Metrics)
    webhooks: Deliverer = field(init=False)

    def __post_init__(self) -> None:
        self.webhooks = Deliverer(self.engine, self.wakeups, self.stop, self.settings, self.metrics)
        text = "Event and log streams that are open."
        self.metrics.watch("open_streams", text, lambda: self.streams.open)

    async def caller_of(self, authorization: str | None) -> str | None:
        """The name behind an Authorization header's live token, or None."""
        admin_sha256 = self.settings.admin_token_sha256
        return await tokens.caller_of(self.engine, bearer(authorization), admin_sha256)

    async def ask(
        self,
        command: str,
        request: BaseModel,
        reply_type: type[Reply],
        *,
        timeout_s: float = RPC_TIMEOUT_S,
    ) -> Reply:
        if not self.broker_up.is_set():
            raise RetryLater("broker-down", f"not connected to the broker yet, for {command}")
        return await ask(
            self.broker, subjects.API, command, request, reply_type, timeout_s=timeout_s
        )


def _hub(request: Request) -> Hub:
    hub: Hub = request.app.state.hub
    return hub


def _caller(request: Request) -> str:
    """Who asks; the edge (edge.py) has let nobody through without a token."""
    return str(request.scope["wfhub_caller"])


def _still_allowed(request: Request) -> Callable[[], Awaitable[bool]]:
    """Asks whether the caller's token is live."""
    hub, given = _hub(request), request.headers.get("authorization")

    async def asked() -> bool:
        return await hub.caller_of(given) is not None

    return asked


def _admin(request: Request) -> str:
    """Who asks. Raises: Rejected (403) for whoever has not the bootstrap token."""
    admin_sha256 = _hub(request).settings.admin_token_sha256
    if not tokens.is_admin(bearer(request.headers.get("authorization")), admin_sha256):
        raise Rejected("admins-only", "this is for the admin's own token alone", status=403)
    return _caller(request)


HubDep = Annotated[Hub, Depends(_hub)]
Caller = Annotated[str, Depends(_caller)]
Admin = Annotated[str, Depends(_admin)]
StillAllowed = Annotated[Callable[[], Awaitable[bool]], Depends(_still_allowed)]
