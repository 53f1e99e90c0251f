"""Webhooks over real HTTP, Postgres and NATS: what is delivered, in what order, and to whom not."""

import asyncio
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import nats
import pytest
import real_api
import receiver as receivers
from receiver import Receiver
from webhook_lab import LOCAL, PATH, delivered, events, made, signed_by, until
from wfhub_common import standard_webhooks, subjects
from wfhub_common.messages import CloudEvent, CreateProject


@pytest.fixture
def api_settings() -> dict[str, Any]:
    return {**LOCAL, "webhook_retry_base_s": 0.01}


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
        assert signed_by(secret, one)
    at_once = (await hub.http.post(f"{at}/rotate", json={"overlap_s": 0})).json()
    assert at_once["secret_before_until"] is None
    await events(hub, 1)
    two = (await receiver.got(PATH, 2))[1]
    assert signed_by(at_once["secret"], two)
    assert not signed_by(rotated["secret"], two)


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
