"""Session: a client for the service that is meant: WFHUB_URL, or a local stack of our own.

The stack comes from the entry point group `wfhub.stack`, name `local`: a context manager
`ephemeral(notify=…)` that yields an object with `.url` and `.token`. The client imports nothing
of it. Raises: Usage when there is neither.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from wfhub_client import trust
from wfhub_client.client import Client
from wfhub_client.errors import Usage
from wfhub_client.settings import ClientSettings

CALL_PATIENCE_S = 5.0  # a person waits at the prompt
STACK_GROUP, STACK_NAME = "wfhub.stack", "local"

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Session:
    client: Client
    settings: ClientSettings
    local: bool  # a stack on this machine that WFHUB_URL did not name

    @property
    def trust_name(self) -> str:
        return trust.LOCAL if self.local else trust.name_of(self.client.url)


@contextmanager
def connected(notify: Notify) -> Iterator[Session]:
    settings = ClientSettings.from_env(os.environ)
    if settings.url:
        with Client(settings.url, settings.token, patience_s=CALL_PATIENCE_S) as client:
            yield Session(client, settings, local=False)
        return
    with (
        _ephemeral()(notify=notify) as stack,
        Client(stack.url, stack.token, patience_s=CALL_PATIENCE_S) as client,
    ):
        yield Session(client, settings, local=True)


def _ephemeral() -> Any:
    from importlib.metadata import entry_points

    found = list(entry_points(group=STACK_GROUP, name=STACK_NAME))
    if not found:
        raise Usage("set WFHUB_URL and WFHUB_TOKEN to say where the service is")
    try:
        return found[0].load()
    except ImportError as e:
        raise Usage(
            f"no local stack here ({e}): install the `local` extra, or set WFHUB_URL"
        ) from e
