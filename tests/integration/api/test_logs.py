"""Logs: live from the stream, afterwards from the artifacts, always safe to show."""

import json
from typing import Any

import pytest
from wfhub_api import held_streams, log_sources
from wfhub_common import limits, subjects

EVENTS = {"Accept": "text/event-stream"}


async def say(
    hub: Any,
    task_id: str,
    attempt_id: str,
    data: bytes,
    log: str = "agent",
    at: int | None = None,
) -> None:
    """`at`: as a runner says it; one of the version before does not."""
    to = subjects.AttemptSubject("rnr_x", "prj_x", task_id, attempt_id)
    headers = {subjects.LOG_HEADER: log}
    if at is not None:
        headers[subjects.LOG_AT_HEADER] = str(at)
    await hub.nats.jetstream().publish(subjects.log(to), data, headers=headers)


async def told(hub: Any, task_id: str, after: str = "", **params: str) -> list[dict[str, Any]]:
    """All events of the log, behind `after`."""
    headers = EVENTS | ({"Last-Event-ID": after} if after else {})
    answer = await hub.http.get(f"/v1/tasks/{task_id}/logs", headers=headers, params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if fields:
            found.append({**fields, **json.loads(fields["data"])})
    return found


def texts(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    assert events[-1]["event"] == "end"
    return [(event["log"], event["text"]) for event in events[:-1]]


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


@pytest.mark.parametrize("says_where", [True, False])
async def test_events_of_a_log_are_taken_up_behind_each_place(hub: Any, says_where: bool) -> None:
    task_id = await hub.scheduler.task(state="running")
    attempt_id = await hub.scheduler.attempt(task_id)
    said = (
        ("agent", b"one\n\x1b["),
        ("setup", b"s\xc3"),
        ("agent", b"31mtwo\n"),
        ("setup", b"\xa4"),
    )
    given = {"agent": 0, "setup": 0}
    for log, data in said:
        await say(hub, task_id, attempt_id, data, log, given[log] if says_where else None)
        given[log] += len(data)
    whole = await told(hub, task_id)
    assert texts(whole) == [
        ("agent", "one\n"),
        ("setup", "s"),
        ("agent", "two\n"),
        ("setup", "ä"),
    ]
    for count, event in enumerate(whole[:-1]):
        assert texts(await told(hub, task_id, event["id"])) == texts(whole[count + 1 :])


async def test_a_place_in_a_live_log_holds_in_the_stored_one(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    attempt_id = await hub.scheduler.attempt(task_id)
    await say(hub, task_id, attempt_id, b"one\ntw", at=0)
    await say(hub, task_id, attempt_id, b"v", "verify", at=0)
    *_, last, _ = await told(hub, task_id)
    artifacts = [
        hub.proof_store.receipt(attempt_id, "verify.log", b"verified"),
        hub.proof_store.receipt(attempt_id, "agent.log", b"one\ntwo\n"),
    ]
    await hub.scheduler.update("api_attempt", attempt_id, artifacts=artifacts, state="won")
    await hub.scheduler.finish(task_id, "succeeded")
    for follow in ("true", "false"):
        again = texts(await told(hub, task_id, last["id"], follow=follow))
        assert again == [("agent", "o\n"), ("verify", "erified")]


async def test_a_log_that_lost_its_beginning_is_taken_up_by_where_its_runner_was(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    attempt_id = await hub.scheduler.attempt(task_id)
    await say(hub, task_id, attempt_id, b"later\n", at=5000)
    await say(hub, task_id, attempt_id, b"more\n", at=5006)
    after = f"{attempt_id}:agent=5006"
    assert texts(await told(hub, task_id, after)) == [("agent", "more\n")]


async def test_of_a_log_too_long_to_be_kept_the_last_part_comes_again(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOG_BYTES_MAX", 8)
    task_id = await hub.scheduler.task(state="succeeded")
    attempt_id = await hub.scheduler.attempt(task_id, state="won")
    artifact = hub.proof_store.receipt(attempt_id, "agent.log", b"head[left out]tail")
    await hub.scheduler.update("api_attempt", attempt_id, artifacts=[artifact])
    again = texts(await told(hub, task_id, f"{attempt_id}:agent=999"))
    assert "".join(text for _, text in again) == "[left out]tail"


async def test_events_go_on_in_later_attempts_and_those_between(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    attempts = []
    for number in (1, 2, 3):
        attempts.append(await hub.scheduler.attempt(task_id, number=number, state="lost"))
        await say(hub, task_id, attempts[-1], b"a\nb%d\n" % number, at=0)
    assert texts(await told(hub, task_id)) == [("agent", "a\nb3\n")]
    after = f"{attempts[0]}:agent=2"
    rest = [("agent", "b1\n"), ("agent", "a\nb2\n"), ("agent", "a\nb3\n")]
    assert texts(await told(hub, task_id, after)) == rest


async def test_a_quiet_log_is_kept_alive_by_comments(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_streams, "KEEP_ALIVE_S", 0.01)
    monkeypatch.setattr(log_sources, "POLL_S", 60.0)
    task_id = await hub.scheduler.task(state="running")
    await hub.scheduler.attempt(task_id)
    comments = 0
    path, params = f"/v1/tasks/{task_id}/logs", {"follow": "true"}
    async with hub.http.stream("GET", path, params=params, headers=EVENTS) as response:
        async for line in response.aiter_lines():
            comments += line.startswith(":")
            if comments == 3:
                return


@pytest.mark.parametrize("place", ["1-2", "att_x:agent=1", "", "att_" + "a" * 24 + ":agent=-1"])
async def test_what_is_no_place_is_refused(hub: Any, place: str) -> None:
    task_id = await hub.scheduler.task()
    headers = EVENTS | {"Last-Event-ID": place}
    answer = await hub.http.get(f"/v1/tasks/{task_id}/logs", headers=headers)
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] == "place-malformed"
