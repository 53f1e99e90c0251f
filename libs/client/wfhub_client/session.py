"""Session: a client for the service that is meant: WFHUB_URL, or a local stack of our own.

The stack comes from the entry point group `wfhub.stack`, name `local`: a context manager
`ephemeral(notify=…, make=…)` that yields an object with `.url`, `.token`, `.name` and `.outlives`.
The client imports nothing of it.
Raises: Usage when there is neither, Unreachable when the stack does not start.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from wfhub_client import trust
from wfhub_client.client import Client
from wfhub_client.errors import Unreachable, Usage
from wfhub_client.settings import ClientSettings, of_process

CALL_PATIENCE_S = 5.0  # a person waits at the prompt
STACK_GROUP, STACK_NAME = "wfhub.stack", "local"


@dataclass(frozen=True)
class Session:
    client: Client
    settings: ClientSettings
    local: bool  # a stack on this machine that WFHUB_URL did not name
    outlives: bool  # the service is there when this command has ended
    trust_name: str  # under which its proof key is kept


@contextmanager
def connected(*, make: bool = False) -> Iterator[Session]:
    """`make`: where no stack ever was, make one. Who only looks would take it for one in which
    nothing happened."""
    settings = of_process()
    if settings.url:
        with Client(settings.url, settings.token, patience_s=CALL_PATIENCE_S) as named:
            name = trust.name_of(named.url)
            yield Session(named, settings, local=False, outlives=True, trust_name=name)
        return
    with ExitStack() as at_end:
        try:
            stack = at_end.enter_context(_ephemeral()(notify=_say, make=make))
        except SystemExit as e:  # how a stack says that it cannot start
            raise Unreachable(f"no local stack: {e}") from e
        own = Client(stack.url, stack.token, patience_s=CALL_PATIENCE_S)
        at_end.enter_context(own)
        yield Session(own, settings, local=True, outlives=stack.outlives, trust_name=stack.name)


@contextmanager
def client() -> Iterator[Client]:
    """Where nothing else of the session matters."""
    with connected() as session:
        yield session.client


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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
