"""Logs: live from the stream, afterwards from the artifacts, always safe to show."""

from typing import Any

import pytest
from wfhub_common import subjects


async def say(hub: Any, task_id: str, attempt_id: str, data: bytes, log: str = "agent") -> None:
    at = subjects.AttemptSubject("rnr_x", "prj_x", task_id, attempt_id)
    js = hub.nats.jetstream()
    await js.publish(subjects.log(at), data, headers={"wfhub-log": log})


async def test_a_live_attempts_log_so_far_is_shown_under_headers(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    attempt_id = await hub.scheduler.attempt(task_id)
    await say(hub, task_id, attempt_id, b"one\n\x1b[31mtw")
    await say(hub, task_id, attempt_id, b"o\x1b[0m\n")
    await say(hub, task_id, attempt_id, b"tests\n", log="verify")
    answer = await hub.http.get(f"/v1/tasks/{task_id}/logs")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.text == "==> agent <==\none\ntwo\n==> verify <==\ntests\n"


async def test_following_shows_lines_as_they_come_until_the_attempt_and_task_end(
    hub: Any,
) -> None:
    task_id = await hub.scheduler.task(state="running")
    attempt_id = await hub.scheduler.attempt(task_id)
    await say(hub, task_id, attempt_id, b"first\n")
    path = f"/v1/tasks/{task_id}/logs"
    lines = []
    async with hub.http.stream("GET", path, params={"follow": "true"}) as response:
        async for line in response.aiter_lines():
            lines.append(line)
            if line == "first":
                await say(hub, task_id, attempt_id, b"second\n")
            if line == "second":
                await hub.scheduler.update("api_attempt", attempt_id, state="failed")
                retry = await hub.scheduler.attempt(task_id, number=2)
                await say(hub, task_id, retry, b"third\n")
            if line == "third":
                await hub.scheduler.update("api_attempt", retry, state="won")
                await hub.scheduler.finish(task_id, "succeeded")
    assert [line for line in lines if "==>" not in line] == ["first", "second", "third"]


async def test_an_ended_attempts_logs_come_from_the_proof_store(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="succeeded")
    attempt_id = await hub.scheduler.attempt(task_id, state="won")
    artifacts = [
        hub.proof_store.receipt(attempt_id, name, data)
        for name, data in (
            ("verify.log", b"passed"),
            ("agent.log", b"\x1b]0;evil\x07hello\r\n"),
            ("result.bundle", b"\x00\x01"),
        )
    ]
    await hub.scheduler.update("api_attempt", attempt_id, artifacts=artifacts)
    text = (await hub.http.get(f"/v1/tasks/{task_id}/logs")).text
    assert text == "==> agent.log <==\nhello\n==> verify.log <==\npassed"


async def test_an_attempt_is_chosen_by_number_or_id(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    first = await hub.scheduler.attempt(task_id, state="lost")
    second = await hub.scheduler.attempt(task_id, number=2)
    await say(hub, task_id, first, b"1\n")
    await say(hub, task_id, second, b"2\n")
    path = f"/v1/tasks/{task_id}/logs"
    for attempt, line in ((first, "1"), ("1", "1"), ("2", "2"), (None, "2")):
        params = {"attempt": attempt} if attempt else {}
        assert (await hub.http.get(path, params=params)).text == f"==> agent <==\n{line}\n"
    assert (await hub.http.get(path, params={"attempt": "9"})).status_code == 404


async def test_a_task_without_attempts_has_an_empty_log(hub: Any) -> None:
    task_id = await hub.scheduler.task()
    answer = await hub.http.get(f"/v1/tasks/{task_id}/logs")
    assert (answer.status_code, answer.text) == (200, "")


@pytest.mark.parametrize("follow", ["false", "true"])
async def test_a_lost_log_artifact_never_looks_like_a_whole_log(hub: Any, follow: str) -> None:
    task_id = await hub.scheduler.task(state="succeeded")
    attempt_id = await hub.scheduler.attempt(task_id, state="won")
    artifact = hub.proof_store.receipt(attempt_id, "agent.log", b"gone")
    hub.proof_store.blobs.clear()
    await hub.scheduler.update("api_attempt", attempt_id, artifacts=[artifact])
    path = f"/v1/tasks/{task_id}/logs"
    if follow == "false":
        answer = await hub.http.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    else:
        import httpx

        with pytest.raises(httpx.RemoteProtocolError):
            await hub.http.get(path, params={"follow": follow})
