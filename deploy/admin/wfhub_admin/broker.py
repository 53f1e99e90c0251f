"""The configuration of our NATS server, made from wfhub_common.identities.

One user per service and per runner, each with the subjects it may publish and hear; nobody
without a password. The configuration holds the passwords, so it is the server's alone (0600).
JetStream keeps its files below the store folder.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wfhub_common import identities, limits
from wfhub_common.identities import Permissions

STORE_BYTES_MAX = 16 * 1024**3
MEMORY_BYTES_MAX = 64 * 1024**2  # every stream of ours is on disk


def permissions_of(user: str) -> Permissions:
    return identities.SERVICES.get(user) or identities.runner(user)


def configuration(
    *,
    listen: str,
    store: Path,
    passwords: Mapping[str, str],
    monitor: str = "",
    sync_always: bool = False,
    server_name: str = "wfhub-local",
    more: Mapping[str, Any] | None = None,
) -> str:
    """A nats-server configuration (JSON is one of its spellings). `monitor` is where its health can
    be asked for, `sync_always` has each message on disk before it is acknowledged."""
    jetstream: dict[str, Any] = {
        "store_dir": str(store),
        "max_file_store": STORE_BYTES_MAX,
        "max_memory_store": MEMORY_BYTES_MAX,
    }
    if sync_always:
        jetstream["sync_interval"] = "always"
    return json.dumps(
        {
            "server_name": server_name,
            "listen": listen,
            **({"http": monitor} if monitor else {}),
            "max_payload": limits.BROKER_PAYLOAD_BYTES_MAX,
            "max_pending": limits.BROKER_PENDING_BYTES_MAX,
            "write_deadline": f"{limits.BROKER_WRITE_S_MAX}s",
            "jetstream": jetstream,
            "authorization": {
                "users": [_user(user, password) for user, password in passwords.items()]
            },
            **(more or {}),
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
