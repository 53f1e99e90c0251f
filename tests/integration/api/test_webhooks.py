"""Webhooks over real HTTP, Postgres and NATS: what is delivered, in what order, and to whom not."""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
import real_api
import receiver as receivers
from receiver import Receiver
from wfhub_client.webhooks import verify
from wfhub_common import ids, standard_webhooks, subjects
from wfhub_common.messages import CloudEvent, CreateProject

PATH = "/in"
LOCAL = {"webhook_private_hosts": "127.0.0.1", "webhook_http_hosts": "127.0.0.1"}


@pytest.fixture
def api_settings() -> dict[str, Any]:
    return {**LOCAL, "webhook_retry_base_s": 0.01}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receivers.receiving() as made:
        yield made


async def made(hub: Any, receiver: Receiver, path: str = PATH, **body: Any) -> Any:
    answer = await hub.http.post("/v1/webhooks", json={"url": receiver.url + path, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def shown(hub: Any, webhook_id: str) -> Any:
    answer = await hub.http.get(f"/v1/webhooks/{webhook_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def until(hub: Any, webhook_id: str, **wanted: Any) -> Any:
    """Its row, once it is so: it follows the receiver's answer by a moment."""
    async with asyncio.timeout(receivers.WAIT_S):
        while True:
            found = await shown(hub, webhook_id)
            if all(found[name] == value for name, value in wanted.items()):
                return found
            await asyncio.sleep(0.01)


async def events(hub: Any, count: int, type_: str = "task.state_changed", **more: Any) -> None:
    for number in range(count):
        await hub.scheduler.event(ids.new_task_id(), type_, {"n": number}, **more)


def delivered(hub: Any, outcome: str) -> float:
    metrics = hub.app.state.hub.metrics
    labels = {"outcome": outcome}
    return float(
        metrics.registry.get_sample_value("wfhub_api_webhook_deliveries_total", labels) or 0
    )


async def test_an_event_is_delivered_as_it_is_published_and_signed(
    hub: Any, receiver: Receiver
) -> None:
    await events(hub, 3)  # before it was made: not its
    hook = await made(hub, receiver)
    assert hook["webhook_id"].startswith("whk_")
    assert hook["state"] == "active"
    await events(hub, 1)
    (one,) = await receiver.got(PATH, 1)
    published = (await hub.http.get("/v1/events", params={"after": "1-3"})).json()["events"]
    assert one.event == published[0]
    assert CloudEvent.model_validate(one.event).wfhubpos == 4
    assert one.headers["content-type"] == "application/cloudevents+json"
    assert one.headers["webhook-id"] == published[0]["id"]
    assert abs(int(one.headers["webhook-timestamp"]) - time.time()) < 60
    assert (
        standard_webhooks.fault(
            one.headers, one.body, [hook["secret"]], now_s=time.time(), tolerance_s=60
        )
        is None
    )
    row = await until(hub, hook["webhook_id"], position="1-4")
    assert (row["last_outcome"], row["last_status"], row["failures"]) == ("delivered", 200, 0)
    assert delivered(hub, "delivered") == 1


async def test_many_events_come_in_order_over_one_connection(hub: Any, receiver: Receiver) -> None:
    await events(hub, 150, wake=False)
    await made(hub, receiver, after="0-0")
    await receiver.got(PATH, 150)
    assert receiver.positions(PATH) == list(range(1, 151))
    assert receiver.connections == 1


async def test_only_events_of_the_types_and_the_project_that_were_asked_for(
    hub: Any, receiver: Receiver
) -> None:
    other = await hub.scheduler.create_project("test", CreateProject(name="other"))
    hook = await made(hub, receiver, project="other", events=["task.*", "proof.sealed"])
    assert (hook["project"], hook["project_id"]) == ("other", other.project_id)
    everything = await made(hub, receiver, "/all")
    await events(hub, 2)  # of a project that is not its
    await events(hub, 1, "attempt.step", project_id=other.project_id)
    await events(hub, 1, "proof.sealed", project_id=other.project_id)
    await events(hub, 1, "task.submitted", project_id=other.project_id)
    await events(hub, 1)
    await receiver.got("/all", 6)
    await receiver.got(PATH, 2)
    assert receiver.positions(PATH) == [4, 5]
    await until(hub, hook["webhook_id"], position="1-6")
    await until(hub, everything["webhook_id"], position="1-6")


@pytest.mark.parametrize(
    "fault",
    [
        500,
        404,
        receivers.cut,
        receivers.reply(302, Location="http://127.0.0.1:1/elsewhere"),
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
        receivers.reply(503, Retry_After="0"),
    ],
    ids=["500", "404", "cut", "redirect", "no-http", "endless-head", "retry-after"],
)
async def test_what_fails_is_tried_again_and_nothing_overtakes_it(
    hub: Any, receiver: Receiver, fault: Any
) -> None:
    receiver.answers[PATH].extend([200, fault, fault])
    hook = await made(hub, receiver)
    await events(hub, 4)
    await receiver.got(PATH, 6)
    assert receiver.positions(PATH) == [1, 2, 2, 2, 3, 4]
    seen = receiver.received[PATH]
    assert len({one.headers["webhook-id"] for one in seen[1:4]}) == 1
    row = await until(hub, hook["webhook_id"], position="1-4")
    assert (row["failures"], row["failing_since"], row["next_try_at"]) == (0, None, None)
    assert set(receiver.received) == {PATH}


async def test_a_body_that_does_not_end_is_not_read_to_its_end(
    hub: Any, receiver: Receiver
) -> None:
    receiver.answers[PATH].append(receivers.endless_body)
    await made(hub, receiver)
    await events(hub, 2)
    await receiver.got(PATH, 2)
    assert receiver.positions(PATH) == [1, 2]
    assert receiver.connections == 2


async def test_a_receiver_that_hangs_holds_up_nobody_else(hub: Any, receiver: Receiver) -> None:
    free = asyncio.Event()
    for number in range(12):
        receiver.answers[f"/slow{number}"].append(receivers.held(free))
        await made(hub, receiver, f"/slow{number}")
    await made(hub, receiver)
    await events(hub, 20)
    await receiver.got(PATH, 20)
    for number in range(12):
        await receiver.got(f"/slow{number}", 1)
        assert receiver.positions(f"/slow{number}") == [1]
    free.set()
    for number in range(12):
        await receiver.got(f"/slow{number}", 20)
        assert receiver.positions(f"/slow{number}") == list(range(1, 21))


class TestImpatient:
    @pytest.fixture
    def api_settings(self) -> dict[str, Any]:
        return {**LOCAL, "webhook_retry_base_s": 0.01, "webhook_timeout_s": 0.3}

    async def test_no_answer_in_time_is_a_failure(self, hub: Any, receiver: Receiver) -> None:
        receiver.answers[PATH].append(receivers.hang)
        await made(hub, receiver)
        await events(hub, 1)
        await receiver.got(PATH, 2)
        assert delivered(hub, "timeout") >= 1


async def test_retry_after_is_waited_for(hub: Any, receiver: Receiver) -> None:
    receiver.answers[PATH].append(receivers.reply(503, Retry_After="3600"))
    hook = await made(hub, receiver)
    await events(hub, 1)
    row = await until(hub, hook["webhook_id"], failures=1)
    assert row["last_status"] == 503
    assert row["next_try_at"] > row["last_at"][:11]
    wait = await hub.scheduler.pool.fetchval(
        "SELECT extract(epoch FROM next_try_at - clock_timestamp()) FROM api.webhook_cursor"
    )
    assert 3500 < wait <= 3600
    resumed = (await hub.http.post(f"/v1/webhooks/{hook['webhook_id']}/resume")).json()
    assert (resumed["state"], resumed["failures"]) == ("active", 0)
    await receiver.got(PATH, 2)  # at once


async def test_410_disables_and_resuming_loses_nothing(hub: Any, receiver: Receiver) -> None:
    receiver.answers[PATH].append(410)
    hook = await made(hub, receiver)
    await events(hub, 2)
    row = await until(hub, hook["webhook_id"], state="disabled")
    assert "410" in row["reason"]
    assert row["position"] == "1-0" or row["position"] == "0-0"
    await events(hub, 1)
    await hub.http.post(f"/v1/webhooks/{hook['webhook_id']}/resume")
    await receiver.got(PATH, 4)
    assert receiver.positions(PATH) == [1, 1, 2, 3]


async def test_days_of_failures_disable(hub: Any, receiver: Receiver) -> None:
    receiver.answers[PATH].extend([receivers.reply(500, Retry_After="3600"), 500])
    hook = await made(hub, receiver)
    await events(hub, 1)
    await until(hub, hook["webhook_id"], failures=1)
    await hub.scheduler.pool.execute(
        "UPDATE api.webhook_cursor SET failing_since = now() - interval '6 days',"
        " next_try_at = now()"
    )
    row = await until(hub, hook["webhook_id"], state="disabled")
    assert "6 days" in row["reason"]


async def test_paused_it_sends_nothing_and_resumed_all(hub: Any, receiver: Receiver) -> None:
    hook = await made(hub, receiver)
    await events(hub, 1)
    await until(hub, hook["webhook_id"], position="1-1")
    at = f"/v1/webhooks/{hook['webhook_id']}"
    assert (await hub.http.post(f"{at}/pause")).json()["state"] == "paused"
    await made(hub, receiver, "/control")
    await events(hub, 2)
    await receiver.got("/control", 2)
    assert receiver.positions(PATH) == [1]
    await hub.http.post(f"{at}/resume")
    await receiver.got(PATH, 3)
    assert receiver.positions(PATH) == [1, 2, 3]


async def test_deleted_while_a_request_is_under_way_it_sends_no_more(
    hub: Any, receiver: Receiver
) -> None:
    free = asyncio.Event()
    receiver.answers[PATH].append(receivers.held(free))
    hook = await made(hub, receiver)
    await events(hub, 2)
    await receiver.got(PATH, 1)
    at = f"/v1/webhooks/{hook['webhook_id']}"
    assert (await hub.http.delete(at)).status_code == 204
    assert (await hub.http.get(at)).json()["code"] == "webhook-unknown"
    free.set()
    await made(hub, receiver, "/control", after="0-0")
    await receiver.got("/control", 2)
    assert receiver.positions(PATH) == [1]


async def test_a_rotated_secret_signs_beside_the_old_one_until_that_is_over(
    hub: Any, receiver: Receiver
) -> None:
    hook = await made(hub, receiver)
    at = f"/v1/webhooks/{hook['webhook_id']}"
    rotated = (await hub.http.post(f"{at}/rotate", json={"overlap_s": 600})).json()
    assert rotated["secret"] != hook["secret"]
    assert rotated["secret_before_until"] is not None
    await events(hub, 1)
    (one,) = await receiver.got(PATH, 1)
    assert len(one.headers["webhook-signature"].split()) == 2
    for secret in (hook["secret"], rotated["secret"]):
        assert _signed_by(secret, one)
    at_once = (await hub.http.post(f"{at}/rotate", json={"overlap_s": 0})).json()
    assert at_once["secret_before_until"] is None
    await events(hub, 1)
    two = (await receiver.got(PATH, 2))[1]
    assert _signed_by(at_once["secret"], two)
    assert not _signed_by(rotated["secret"], two)


def _signed_by(secret: str, one: receivers.Received) -> bool:
    given = {"now_s": time.time(), "tolerance_s": 60}
    return standard_webhooks.fault(one.headers, one.body, [secret], **given) is None


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
    assert _signed_by(hook["secret"], one)
    assert (await hub.http.post(f"{at}/test")).json()["status"] == 418
    row = await shown(hub, hook["webhook_id"])
    assert (row["position"], row["failures"]) == (hook["position"], 0)
    assert row["tested_at"] is not None


async def test_a_name_that_leads_inside_gets_nothing(hub: Any, receiver: Receiver) -> None:
    url = receiver.url.replace("127.0.0.1", "localhost").replace("http:", "https:")
    answer = await hub.http.post("/v1/webhooks", json={"url": url})
    hook = answer.json()
    told = (await hub.http.post(f"/v1/webhooks/{hook['webhook_id']}/test")).json()
    assert (told["outcome"], told["status"]) == ("forbidden-address", None)
    await events(hub, 1)
    row = await until(hub, hook["webhook_id"], last_outcome="forbidden-address")
    assert row["failures"] >= 1
    assert receiver.connections == 0


@pytest.mark.parametrize(
    "body",
    [
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
    ],
)
async def test_what_is_malformed_is_refused(hub: Any, body: Any) -> None:
    answer = await hub.http.post("/v1/webhooks", json=body)
    assert answer.status_code == 422, answer.text
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


async def test_events_that_are_gone_are_said_and_it_goes_on(hub: Any, receiver: Receiver) -> None:
    await events(hub, 1)
    hook = await made(hub, receiver)
    at = f"/v1/webhooks/{hook['webhook_id']}"
    await hub.http.post(f"{at}/pause")
    await events(hub, 5, wake=False)
    await hub.scheduler.pool.execute("DELETE FROM sched.api_event WHERE pos < 5")
    await hub.http.post(f"{at}/resume")
    await receiver.got(PATH, 2)
    assert receiver.positions(PATH) == [5, 6]
    row = await until(hub, hook["webhook_id"], position="1-6")
    assert "3 events after 1-1 were gone" in row["note"]
    assert row["note_at"] is not None


async def test_a_new_generation_is_said_and_delivered(hub: Any, receiver: Receiver) -> None:
    await events(hub, 2)
    hook = await made(hub, receiver)
    await events(hub, 1)
    await until(hub, hook["webhook_id"], position="1-3")
    await hub.scheduler.pool.execute(
        "INSERT INTO sched.api_event SELECT 2, pos - 1, event_id, project_id, task_id, kind,"
        " entity_id, type, time, data, up_to - 1 FROM sched.api_event WHERE pos > 1"
    )
    await receiver.got(PATH, 3)
    told = [(one.event["wfhubgeneration"], one.pos) for one in receiver.received[PATH]]
    assert told == [(1, 3), (2, 1), (2, 2)]
    row = await until(hub, hook["webhook_id"], position="2-2")
    assert "after 1-3 the log began generation 2" in row["note"]


async def test_figures_tell_of_states_and_lag(hub: Any, receiver: Receiver) -> None:
    receiver.answers[PATH].append(receivers.reply(500, Retry_After="3600"))
    hook = await made(hub, receiver)
    await events(hub, 1)
    await until(hub, hook["webhook_id"], failures=1)
    metrics = hub.app.state.hub.metrics
    await metrics.refresh()
    value = metrics.registry.get_sample_value
    assert value("wfhub_api_webhooks", {"state": "failing"}) == 1
    assert value("wfhub_api_webhooks", {"state": "disabled"}) == 0
    assert value("wfhub_api_webhook_lag_seconds") > 0
    assert value("wfhub_api_webhook_deliveries_total", {"outcome": "refused"}) == 1


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


async def test_it_is_the_event_that_the_scheduler_publishes(
    database_url: str, nats_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    loop = asyncio.get_running_loop()  # either way may be the faster one: each is waited for
    published: defaultdict[str, asyncio.Future[CloudEvent]] = defaultdict(loop.create_future)
    client = await nats.connect(nats_url)

    async def heard(message: Any) -> None:
        event = CloudEvent.model_validate_json(message.data)
        published[event.id].set_result(event)

    await client.subscribe(subjects.EVENTS_FILTER, cb=heard)
    await client.flush()
    async with real_api.serving(database_url, nats_url, tmp_path, **LOCAL) as http:
        body = {"url": receiver.url + PATH, "events": ["task.*"], "project": "default"}
        assert (await http.post("/v1/webhooks", json=body)).status_code == 201
        task = await http.post("/v1/tasks", json={"repo": "/srv/repo", "prompt": "p"})
        assert task.status_code == 201, task.text
        first = (await receiver.got(PATH, 1))[0]
        assert (first.event["type"], first.event["subject"]) == (
            "task.submitted",
            task.json()["task_id"],
        )
        await http.post(f"/v1/tasks/{task.json()['task_id']}/cancel")
        for one in await receiver.got(PATH, 2):
            same = await asyncio.wait_for(published[one.event["id"]], receivers.WAIT_S)
            assert CloudEvent.model_validate(one.event) == same
    await client.close()


class TestOff:
    @pytest.fixture
    def api_settings(self) -> dict[str, Any]:
        return {"webhooks_enabled": False}

    async def test_off_none_is_made(self, hub: Any) -> None:
        answer = await hub.http.post("/v1/webhooks", json={"url": "https://hooks.example/"})
        assert (answer.status_code, answer.json()["code"]) == (409, "webhooks-off")
