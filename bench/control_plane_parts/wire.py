"""The project's RPC, as thin as a load generator should be: nats-py and JSON, nothing else.

Subjects and envelopes are the product's own (wfhub_common.subjects, broker.py); what is spared is
the client library's work, which is not what is measured.
Raises: Refused (an error in the reply), TimeoutError and nats.errors as they come.
"""

import json
from typing import Any
from weakref import WeakKeyDictionary

import nats
from nats.aio.client import Client
from wfhub_common import subjects
from wfhub_common.broker import Losses

RPC_TIMEOUT_S = 30.0
_losses: WeakKeyDictionary[Client, Losses] = WeakKeyDictionary()


class Refused(Exception):
    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('kind')}/{error.get('code')}: {error.get('message')}")
        self.kind, self.code = str(error.get("kind")), str(error.get("code"))


async def connect(url: str, user: str, password: str) -> Client:
    async def quiet(_error: Exception) -> None:
        pass  # reconnects are expected where servers are killed

    losses = Losses()

    async def lost() -> None:
        losses.happened()

    connection = await nats.connect(
        url,
        user=user,
        password=password,
        inbox_prefix=f"_INBOX.{user}".encode(),
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        ping_interval=5,
        error_cb=quiet,
        disconnected_cb=lost,
        pending_size=64 * 1024**2,
    )
    _losses[connection] = losses
    return connection


async def ask(
    connection: Client, sender: str, command: str, body: bytes, *, timeout_s: float = RPC_TIMEOUT_S
) -> dict[str, Any]:
    asking = connection.request(subjects.rpc(sender, command), body, timeout=timeout_s)
    long_poll = command == "claim"
    reply = await (_losses[connection].cut_short(asking) if long_poll else asking)
    answer = json.loads(reply.data)
    if answer.get("error"):
        raise Refused(answer["error"])
    return dict(answer["ok"])
