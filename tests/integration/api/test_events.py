"""Events: a stream per task that can be resumed and ends with the task, and pages of all."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from wfhub_api import held_streams, tokens
from wfhub_common import db, subjects


async def events_of(hub: Any, path: str, **options: Any) -> AsyncIterator[dict[str, Any]]:
    async with hub.http.stream("GET", path, **options) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if not line and "data" in fields:
                yield {**fields, "data": json.loads(fields["data"])}
                fields = {}
            elif line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value


async def test_a_finished_task_streams_its_events_and_ends(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    other = await hub.scheduler.task()
    await hub.scheduler.event(task_id, "task.submitted")
    await hub.scheduler.event(other, "task.submitted")
    await hub.scheduler.finish(task_id, "succeeded")
    events = [e async for e in events_of(hub, f"/v1/tasks/{task_id}/events")]
    assert [e["id"] for e in events] == ["1-1", "1-3"]
    assert [e["event"] for e in events] == ["task.submitted", "task.state_changed"]
    last = events[-1]["data"]
    assert last["specversion"] == "1.0"
    assert last["subject"] == task_id
    assert last["data"]["to"] == "succeeded"
    assert (last["wfhubgeneration"], last["wfhubpos"]) == (1, 3)


async def test_a_stream_follows_a_live_task_to_its_end(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    await hub.scheduler.event(task_id, "task.submitted")
    seen = []
    async for event in events_of(hub, f"/v1/tasks/{task_id}/events"):
        seen.append(event["event"])
        if event["event"] == "task.submitted":
            await hub.scheduler.event(task_id, "attempt.step", {"step": "agent-started"})
        if event["event"] == "attempt.step":
            await hub.scheduler.finish(task_id, "failed")
    assert seen == ["task.submitted", "attempt.step", "task.state_changed"]


async def test_an_event_whose_wake_up_was_lost_comes_with_the_next_poll(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    await hub.scheduler.event(task_id, "task.submitted")
    async for event in events_of(hub, f"/v1/tasks/{task_id}/events"):
        if event["event"] == "task.submitted":
            await hub.scheduler.event(task_id, "attempt.step", wake=False)
        else:
            return
    pytest.fail("the stream ended without the event")


@pytest.mark.parametrize("way", ["header", "query"])
async def test_a_stream_resumes_after_the_last_event_seen(hub: Any, way: str) -> None:
    task_id = await hub.scheduler.task(state="running")
    first = await hub.scheduler.event(task_id, "task.submitted")
    await hub.scheduler.finish(task_id, "cancelled")
    how = {"headers": {"Last-Event-ID": first}} if way == "header" else {"params": {"after": first}}
    events = [e async for e in events_of(hub, f"/v1/tasks/{task_id}/events", **how)]
    assert [e["id"] for e in events] == ["1-2"]


async def test_a_stream_resumed_behind_the_end_is_empty_and_ends(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    await hub.scheduler.finish(task_id, "cancelled")
    after = {"Last-Event-ID": "1-1"}
    events = [e async for e in events_of(hub, f"/v1/tasks/{task_id}/events", headers=after)]
    assert events == []


async def test_without_follow_a_stream_ends_with_what_there_is(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    await hub.scheduler.event(task_id, "task.submitted")
    path = f"/v1/tasks/{task_id}/events"
    assert len([e async for e in events_of(hub, path, params={"follow": "false"})]) == 1


async def test_a_quiet_stream_is_kept_alive_by_comments(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_streams, "KEEP_ALIVE_S", 0.0)
    task_id = await hub.scheduler.task(state="running")
    comments = 0
    async with hub.http.stream("GET", f"/v1/tasks/{task_id}/events") as response:
        async for line in response.aiter_lines():
            comments += line.startswith(":")
            if comments == 3:
                return


@pytest.fixture
async def revocable(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[dict[str, str], Callable[[], Awaitable[None]]]]:
    """Headers with a token, and what revokes it: seen at the next thing that is sent."""
    monkeypatch.setattr(held_streams, "ALLOWED_S", 0.0)
    engine = db.make_engine(hub.database_url, application="test")
    token_id, token = await tokens.create(engine, "laptop")
    yield {"Authorization": f"Bearer {token}"}, lambda: tokens.revoke(engine, token_id)
    await engine.dispose()


async def test_a_quiet_stream_ends_when_its_token_is_revoked(
    hub: Any, revocable: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_streams, "KEEP_ALIVE_S", 0.0)
    headers, revoke = revocable
    task_id = await hub.scheduler.task(state="running")
    async with asyncio.timeout(20):
        async with hub.http.stream(
            "GET", f"/v1/tasks/{task_id}/events", headers=headers
        ) as response:
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith(":")
            await revoke()
            async for _ in lines:
                pass


@pytest.mark.hostile(16)
async def test_a_busy_stream_shows_nothing_more_once_its_token_is_revoked(
    hub: Any, revocable: Any
) -> None:
    headers, revoke = revocable
    task_id = await hub.scheduler.task(state="running")
    attempt_id = await hub.scheduler.attempt(task_id)

    async def happens(what: str) -> None:
        await hub.scheduler.event(task_id, "attempt.step", {"step": what})
        at = subjects.AttemptSubject("rnr_x", "prj_x", task_id, attempt_id)
        js = hub.nats.jetstream()
        await js.publish(subjects.log(at), f"{what}\n".encode(), headers={"wfhub-log": "agent"})

    async def shown(path: str, seen: asyncio.Event) -> str:
        text = ""
        async with hub.http.stream("GET", path, headers=headers) as response:
            async for line in response.aiter_lines():
                text += line
                if "before" in text:
                    seen.set()
        return text

    seen = [asyncio.Event(), asyncio.Event()]
    paths = (f"/v1/tasks/{task_id}/events", f"/v1/tasks/{task_id}/logs?follow=true")
    async with asyncio.timeout(30):
        reading = [
            asyncio.create_task(shown(path, event)) for path, event in zip(paths, seen, strict=True)
        ]
        await happens("before")
        await asyncio.gather(*(event.wait() for event in seen))
        await revoke()
        await happens("after")
        for text in await asyncio.gather(*reading):  # both have ended
            assert "after" not in text


async def test_too_many_streams_are_refused_and_closed_ones_are_free_again(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_streams, "STREAMS_PER_CALLER_MAX", 1)
    path = f"/v1/tasks/{await hub.scheduler.task(state='running')}/events"
    async with hub.http.stream("GET", path) as response:
        assert response.status_code == 200
        refused = await hub.http.get(path)
        assert refused.status_code == 429
        assert refused.json()["code"] == "too-many-streams"
    async with asyncio.timeout(10):
        while True:  # the server learns of the closed connection a moment later
            async with hub.http.stream("GET", path, params={"follow": "false"}) as again:
                if again.status_code == 200:
                    return


async def test_gaps_are_filled_from_pages_of_all_events(hub: Any) -> None:
    task_id = await hub.scheduler.task()
    for _ in range(5):
        await hub.scheduler.event(task_id, "attempt.step")
    first = (await hub.http.get("/v1/events", params={"limit": 3})).json()
    assert [e["wfhubpos"] for e in first["events"]] == [1, 2, 3]
    rest = (await hub.http.get("/v1/events", params={"after": first["next_after"]})).json()
    assert [e["wfhubpos"] for e in rest["events"]] == [4, 5]
    none = (await hub.http.get("/v1/events", params={"after": rest["next_after"]})).json()
    assert (none["events"], none["next_after"]) == ([], "1-5")
    wrong = await hub.http.get("/v1/events", params={"after": "five"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "request-invalid")
