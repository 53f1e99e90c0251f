"""The embedded NATS server: where its program is, its configuration here, and when it is up.

It listens on loopback and has no monitoring port; wfhub_admin.broker has its users.
"""

import sysconfig
from collections.abc import Mapping
from pathlib import Path

from wfhub_admin import broker
from wfhub_admin.subscribers import Subscriber

from wfhub_local import ports


def binary() -> Path:
    """Raises: SystemExit when the extra is not installed."""
    found = Path(sysconfig.get_path("scripts")) / "nats-server"
    if not found.exists():
        raise SystemExit(
            f"no nats-server in {found.parent}: install workflow-hub[local], or give --nats-url"
        )
    return found


def configuration(
    *,
    port: int,
    store: Path,
    passwords: Mapping[str, str],
    subscribers: Mapping[Subscriber, str] | None = None,
) -> str:
    listen = f"{ports.HOST}:{port}"
    return broker.configuration(
        listen=listen, store=store, passwords=passwords, subscribers=subscribers
    )


def is_up(port: int) -> bool:
    """It greets only after JetStream has recovered."""
    return ports.answers(ports.HOST, port, expect=b"INFO ")
