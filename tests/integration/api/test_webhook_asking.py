"""Webhooks over REST and at the prompt: what is asked for, shown, refused."""

import json
from typing import Any

import pytest
from receiver import Receiver
from webhook_lab import LOCAL, PATH, made, shown, signed_by
from wfhub_client.webhooks import verify

MALFORMED: tuple[Any, ...] = (
    {},
    {"url": "http://hooks.example/"},
    {"url": "https://169.254.169.254/"},
    {"url": "https://10.0.0.1/"},
    {"url": "https://[::1]/"},
    {"url": "https://h.example/\x00"},
    {"url": "https://h.example/" + "x" * 3000},
    {"url": 7},
    {"url": "https://h.example/", "events": []},
    {"url": "https://h.example/", "events": ["task."]},
    {"url": "https://h.example/", "events": ["task.\x00"]},
    {"url": "https://h.example/", "events": ["a"] * 33},
    {"url": "https://h.example/", "after": "x"},
    {"url": "https://h.example/", "after": "9-1"},
    {"url": "https://h.example/", "secret": "mine"},
    {"url": "https://h.example/", "project": "\x00"},
)


@pytest.fixture
def api_settings() -> dict[str, Any]:
    return LOCAL


async def test_a_secret_is_shown_once(hub: Any, receiver: Receiver) -> None:
    hook = await made(hub, receiver)
    at = f"/v1/webhooks/{hook['webhook_id']}"
    for answer in (
        await hub.http.get(at),
        await hub.http.get("/v1/webhooks"),
        await hub.http.post(f"{at}/pause"),
        await hub.http.post(f"{at}/resume"),
        await hub.http.post(f"{at}/test"),
    ):
        assert answer.status_code == 200
        assert "whsec_" not in answer.text


async def test_a_key_makes_one_webhook_and_shows_its_secret_once(
    hub: Any, receiver: Receiver
) -> None:
    body, headers = {"url": receiver.url + PATH}, {"Idempotency-Key": "k1"}
    first = await hub.http.post("/v1/webhooks", json=body, headers=headers)
    again = await hub.http.post("/v1/webhooks", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["webhook_id"] == first.json()["webhook_id"]
    assert again.json()["secret"] is None
    other = {**body, "events": ["task.*"]}
    conflict = await hub.http.post("/v1/webhooks", json=other, headers=headers)
    assert (conflict.status_code, conflict.json()["code"]) == (409, "idempotency-conflict")
    assert len((await hub.http.get("/v1/webhooks")).json()["webhooks"]) == 1


async def test_a_test_event_says_how_it_went(hub: Any, receiver: Receiver) -> None:
    hook = await made(hub, receiver, events=["proof.sealed"])
    at = f"/v1/webhooks/{hook['webhook_id']}"
    receiver.answers[PATH].extend([204, 418])
    told = (await hub.http.post(f"{at}/test")).json()
    assert (told["outcome"], told["status"]) == ("delivered", 204)
    (one,) = receiver.received[PATH]
    assert (one.event["type"], one.event["id"]) == ("webhook.test", told["event_id"])
    assert signed_by(hook["secret"], one)
    assert (await hub.http.post(f"{at}/test")).json()["status"] == 418
    row = await shown(hub, hook["webhook_id"])
    assert (row["position"], row["failures"]) == (hook["position"], 0)
    assert row["tested_at"] is not None


async def test_what_is_malformed_is_refused(hub: Any) -> None:
    for body in MALFORMED:
        answer = await hub.http.post("/v1/webhooks", json=body)
        assert answer.status_code == 422, (body, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await hub.http.get("/v1/webhooks")).json()["webhooks"] == []


async def test_limits_and_pages(hub: Any, receiver: Receiver) -> None:
    unknown = await hub.http.post("/v1/webhooks", json={"url": receiver.url, "project": "none"})
    assert unknown.status_code == 404
    hooks = [(await made(hub, receiver, project="default"))["webhook_id"] for _ in range(16)]
    full = await hub.http.post("/v1/webhooks", json={"url": receiver.url, "project": "default"})
    assert (full.status_code, full.json()["code"]) == (409, "too-many-webhooks")
    await made(hub, receiver)
    found, cursor = [], None
    while True:
        params = {"limit": 5, "project": "default", **({"cursor": cursor} if cursor else {})}
        page = (await hub.http.get("/v1/webhooks", params=params)).json()
        found += [one["webhook_id"] for one in page["webhooks"]]
        if not (cursor := page["next_cursor"]):
            break
    assert found == hooks[::-1]
    assert (await hub.http.get("/v1/webhooks", params={"cursor": "x"})).status_code == 422


async def test_the_command_line_does_all_of_it(hub: Any, receiver: Receiver) -> None:
    url = receiver.url + PATH
    added = await hub.cli("webhook", "add", url, "--project", "default", "--event", "task.*")
    webhook_id, secret = added.out.split()
    assert (added.code, secret.startswith("whsec_")) == (0, True)
    receiver.answers[PATH].extend([200, 500])
    sent = await hub.cli("webhook", "test", webhook_id)
    assert (sent.code, sent.out) == (0, "delivered 200\n")
    sent = await hub.cli("webhook", "test", webhook_id, "--json")
    assert (sent.code, json.loads(sent.out)["status"]) == (1, 500)
    event = verify(receiver.received[PATH][0].headers, receiver.received[PATH][0].body, [secret])
    assert event["type"] == "webhook.test"
    rotated = await hub.cli("webhook", "rotate", webhook_id, "--json")
    assert json.loads(rotated.out)["secret"] not in (None, secret)
    assert "paused" in (await hub.cli("webhook", "pause", webhook_id)).out
    assert "active" in (await hub.cli("webhook", "resume", webhook_id)).out
    listed = await hub.cli("webhook", "list", "--json")
    assert json.loads(listed.out)["url"] == url
    shown_ = await hub.cli("webhook", "show", webhook_id)
    assert "whsec_" not in listed.out + shown_.out
    assert url in shown_.out
    assert (await hub.cli("webhook", "remove", webhook_id)).code == 0
    gone = await hub.cli("webhook", "show", webhook_id)
    assert (gone.code, "there is no webhook" in gone.err) == (1, True)


class TestOff:
    @pytest.fixture
    def api_settings(self) -> dict[str, Any]:
        return {"webhooks_enabled": False}

    async def test_off_none_is_made(self, hub: Any) -> None:
        answer = await hub.http.post("/v1/webhooks", json={"url": "https://hooks.example/"})
        assert (answer.status_code, answer.json()["code"]) == (409, "webhooks-off")
