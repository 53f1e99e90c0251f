"""The configuration of our NATS server, made from wfhub_common.identities.

One user per service, runner and subscriber, each with the subjects it may publish and hear, in the
account of its kind; nobody without a password. The configuration holds the passwords, so it is the
server's alone (0600). JetStream is the services' account's; its files are below the store folder.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wfhub_common import identities, limits
from wfhub_common.identities import ACCOUNTS, HUB, RUNNERS, SUBSCRIBERS, Account, Permissions

from wfhub_admin.subscribers import Subscriber

STORE_BYTES_MAX = 16 * 1024**3
MEMORY_BYTES_MAX = 64 * 1024**2  # every stream of ours is on disk


def configuration(
    *,
    listen: str,
    store: Path,
    passwords: Mapping[str, str],
    subscribers: Mapping[Subscriber, str] | None = None,
    monitor: str = "",
    sync_always: bool = False,
    server_name: str = "wfhub-local",
    more: Mapping[str, Any] | None = None,
) -> str:
    """A nats-server configuration (JSON is one of its spellings). `passwords` are of services, by
    name, and of runners, by id; without any, everybody may do everything. `subscribers`: their
    passwords. `monitor` is where its health can be asked for, `sync_always` has each message on
    disk before it is acknowledged."""
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
            "ping_interval": f"{limits.BROKER_PING_S}s",
            "ping_max": limits.BROKER_PINGS_MAX,
            "jetstream": jetstream,
            **({"accounts": _accounts(passwords, subscribers or {})} if passwords else {}),
            **(more or {}),
        },
        indent=1,
    )


def _accounts(
    passwords: Mapping[str, str], subscribers: Mapping[Subscriber, str]
) -> dict[str, dict[str, Any]]:
    users: dict[str, list[dict[str, Any]]] = {name: [] for name in ACCOUNTS}
    for name, password in passwords.items():
        may = identities.SERVICES.get(name)
        account = RUNNERS if may is None else HUB
        users[account].append(_user(name, password, may or identities.runner(name)))
    for each, password in subscribers.items():
        may = identities.subscriber(each.projects)
        users[SUBSCRIBERS].append(_user(each.name, password, may))
    return {
        name: {
            **({"jetstream": "enabled"} if name == HUB else {}),
            "users": users[name],
            "exports": _exports(account),
            "imports": _imports(name),
        }
        for name, account in ACCOUNTS.items()
    }


def _exports(account: Account) -> list[dict[str, Any]]:
    offered = (("service", account.answers), ("stream", account.tells))
    return [
        {kind: subject, "accounts": [to]}
        for kind, by_account in offered
        for to, subjects in by_account.items()
        for subject in subjects
    ]


def _imports(into: str) -> list[dict[str, Any]]:
    return [
        {kind: {"account": name, "subject": subject}}
        for name, account in ACCOUNTS.items()
        for kind, by_account in (("service", account.answers), ("stream", account.tells))
        for subject in by_account.get(into, ())
    ]


def _user(name: str, password: str, may: Permissions) -> dict[str, Any]:
    publish = {"allow": list(may.publish)} if may.publish else {"deny": [">"]}
    permissions: dict[str, Any] = {
        "publish": publish,
        "subscribe": {"allow": list(may.subscribe)},
    }
    if may.responds:
        permissions["allow_responses"] = True  # one reply to each request that it heard
    return {"user": name, "password": password, "permissions": permissions}
