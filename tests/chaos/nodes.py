"""The processes of the cluster: what they are called, and one of them as it is at a moment."""

import contextlib
import subprocess
from dataclasses import dataclass, field
from typing import Any

import psutil
from wfhub_common import subjects
from wfhub_local.processes import Process

SCHEDULERS = tuple(f"scheduler-{n}" for n in (1, 2, 3))
APIS = ("api-1", "api-2")
PROOF_STORES = ("proof-store-1", "proof-store-2")
GATEWAY = "gateway"
NATS, POSTGRES = "nats", "postgres"
REAL_RUNNER, FLOOD_RUNNER = "real-1", "flood-1"
WATCHER = "watcher"  # the NATS user of subscribers: events, and nothing else
OBSERVER = "observer"  # our own NATS user: may look at everything
REAL_POOL, FLOOD_POOL = "real", "flood"


@dataclass(eq=False)
class Node:
    """One process of the cluster. `wanted` False: a fault ended it and will bring it back."""

    name: str
    process: Process
    ready_line: bytes = b""
    running: subprocess.Popen[bytes] | None = None
    wanted: bool = True
    log_from: int = 0
    ends: list[float] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.running is not None, f"{self.name} was never started"
        return self.running.pid

    @property
    def alive(self) -> bool:
        return self.running is not None and self.running.poll() is None


def own_users(passwords: dict[str, str]) -> list[dict[str, Any]]:
    """Of NATS, beside the product's: one who reads events as a subscriber does, and ourselves."""
    stream = subjects.EVENTS_STREAM
    api = ("*.*.{}.>", "*.*.{}", "CONSUMER.>", "INFO")
    publish = [f"$JS.API.{each.format(stream)}" for each in api] + ["$JS.ACK.>", "$JS.FC.>"]
    permissions = {
        "publish": {"allow": publish},
        "subscribe": {"allow": [f"_INBOX.{WATCHER}.>", subjects.EVENTS_FILTER]},
    }
    return [
        {"user": WATCHER, "password": passwords[WATCHER], "permissions": permissions},
        {"user": OBSERVER, "password": passwords[OBSERVER]},
    ]


def service_of(name: str) -> str:
    head = name.rstrip("0123456789").rstrip("-")
    return {"gateway": subjects.GATEWAY}.get(head, head)


def kill_tree(node: Node) -> None:
    """The process and, where it is a server of several, its children: each has its own session."""
    assert node.running is not None
    children = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(node.running.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        node.running.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
