"""What a service's start leaves out, and that it is there for who asks for it."""

import subprocess
import sys

import pytest
from wfhub_common.settings import BrokerSettings

SCRIPT = """
import wfhub_proof_store.main, sys
print(sorted({"aiohttp", "rich"} & set(sys.modules)))
import aiohttp, nats.aio.transport, rich.traceback
print(nats.aio.transport.aiohttp, aiohttp.ClientSession.__name__)
"""


def test_a_service_starts_without_what_it_does_not_use() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "None ClientSession"]


def test_a_broker_by_websocket_is_refused_with_what_to_set() -> None:
    with pytest.raises(SystemExit, match=r"NATS_URL: not by WebSocket; set nats://"):
        BrokerSettings.from_env({"NATS_URL": "wss://broker:443"})
