"""Deliveries over TLS: to the address that was checked, with the certificate of the name."""

import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import receiver as receivers
from certificates import certificate_for
from wfhub_api.webhooks import retries, sending, targets
from wfhub_common import standard_webhooks
from wfhub_common.messages import CloudEvent

NAME = "hooks.example"
SECRET = standard_webhooks.new_secret()


async def outcome(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, *, trusted: bool = True
) -> tuple[retries.Outcome, list[receivers.Received]]:
    certificate, key = certificate_for(NAME, folder)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(certificate, key)
    rules = targets.Rules(private_hosts=frozenset({name}))
    async with receivers.receiving(ssl=served) as receiver:
        port = int(receiver.url.rpartition(":")[2])
        found: Any = [(2, 1, 6, "", ("127.0.0.1", port))]
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
        with ThreadPoolExecutor(1) as threads:
            channel = sending.Channel(
                targets.parse(f"https://{name}:{port}/in", rules),
                rules,
                threads=threads,
                trusted=sending.trusting(certificate if trusted else None),
                timeout_s=20,
            )
            try:
                return await channel.send(_event(), [SECRET]), receiver.received["/in"]
            finally:
                await channel.close()


def _event() -> CloudEvent:
    return CloudEvent(
        id="evt_x",
        type="task.submitted",
        subject="tsk_x",
        time=datetime.now(UTC),
        data={},
        wfhubproject="prj_x",
        wfhubpos=1,
        wfhubgeneration=1,
    )


async def test_the_certificate_of_the_name_is_believed_at_the_address_of_the_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, received = await outcome(monkeypatch, tmp_path, NAME)
    assert told == retries.Delivered(200)
    assert received[0].headers["host"].startswith(f"{NAME}:")


async def test_another_names_certificate_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, received = await outcome(monkeypatch, tmp_path, "other.example")
    assert told.outcome == "unreachable"
    assert received == []


async def test_an_authority_that_nobody_named_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, received = await outcome(monkeypatch, tmp_path, NAME, trusted=False)
    assert told.outcome == "unreachable"
    assert received == []
