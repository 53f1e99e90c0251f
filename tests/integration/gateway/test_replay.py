"""Replay and recording, through the gateway."""

import json
from pathlib import Path
from typing import Any

import pytest
from wfhub_llm_gateway import cassette

USER = {"role": "user", "content": "hello there"}


def write(path: Path, header: dict[str, Any], *exchanges: tuple[dict, dict]) -> str:
    lines = [{"wfhub_cassette": 1, **header}]
    lines += [{"request": request, "response": response} for request, response in exchanges]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def whole(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"stream": False, "body": {"model": "tape", "choices": choices, "usage": usage}}


def texts(stream: bytes) -> list[str]:
    events = [line.removeprefix("data: ") for line in stream.decode().split("\n\n") if line]
    assert events[-1] == "[DONE]"
    deltas = [choice["delta"] for e in events[:-1] for choice in json.loads(e)["choices"]]
    return [delta["content"] for delta in deltas if "content" in delta]


@pytest.mark.parametrize("by_hand", [False, True])
async def test_a_replayed_answer_is_called_so_in_the_ledger(
    start_gateway, scheduler, post, tmp_path, by_hand
):
    tape = write(
        tmp_path / "c.jsonl", {"handwritten": by_hand}, ({"messages": [USER]}, whole("hi"))
    )
    gateway = await start_gateway(llm_provider="replay", llm_cassette=tape)
    token, info = scheduler.grant()
    answer = await post(gateway, token)
    assert answer.json()["choices"][0]["message"]["content"] == "hi"
    streamed = await post(gateway, token, stream=True, stream_options={"include_usage": True})
    assert texts(streamed.content) == ["hi"]

    record = await scheduler.exchanges(info.attempt_id)
    assert [e.note for e in record.exchanges] == [
        "replayed cassette written by hand" if by_hand else "replayed cassette"
    ] * 2
    first = record.exchanges[0]
    assert (first.replayed, first.provider, first.model) == (True, "replay", "tape")
    assert (record.prompt_tokens, record.completion_tokens) == (6, 4)


async def test_equal_requests_are_answered_in_recorded_order_by_each_attempt(
    start_gateway, scheduler, post, tmp_path
):
    exchanges = [({"messages": [USER]}, whole(text)) for text in ("one", "two")]
    gateway = await start_gateway(
        llm_provider="replay", llm_cassette=write(tmp_path / "c.jsonl", {}, *exchanges)
    )
    for _ in range(2):
        token, _ = scheduler.grant()
        answers = [(await post(gateway, token)).json() for _ in range(3)]
        said = [answer["choices"][0]["message"]["content"] for answer in answers]
        assert said == ["one", "two", "two"]


async def test_a_request_that_nothing_matches_is_told_the_nearest_and_the_difference(
    start_gateway, scheduler, post, tmp_path
):
    far = {"messages": [{"role": "system", "content": "another thing"}, USER]}
    near = {"messages": [{"role": "user", "content": "hello where"}]}
    tape = write(tmp_path / "c.jsonl", {}, (far, whole("a")), (near, whole("b")))
    gateway = await start_gateway(llm_provider="replay", llm_cassette=tape)
    token, info = scheduler.grant()
    answer = await post(gateway, token)
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert error["code"] == "no-recorded-exchange"
    assert "line 3" in error["message"]
    assert '-   "content": "hello where"' in error["message"]
    assert '+   "content": "hello there"' in error["message"]
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert (exchange.status, exchange.note) == (409, "replayed cassette; no-recorded-exchange")


@pytest.mark.parametrize("behaviour", ["ok", "stream"])
async def test_what_was_recorded_replays_the_same_and_holds_no_secret(
    start_gateway, scheduler, upstream, post, tmp_path, behaviour
):
    tape = tmp_path / "recorded.jsonl"
    token, _ = scheduler.grant()
    streamed = behaviour == "stream"
    said = [{"role": "user", "content": f"my key is sk-canary-key, my token {token}"}]
    live = await start_gateway(
        llm_base_url=upstream.url(behaviour), openai_api_key="sk-canary-key", llm_record=str(tape)
    )
    first = await post(live, token, stream=streamed, messages=said)
    text = tape.read_text()
    assert "canary" not in text
    assert token not in text
    assert tape.stat().st_mode & 0o777 == 0o600
    recorded = cassette.load(tape)
    assert recorded.header.recorded_from == upstream.url(behaviour) + "/v1"
    assert [e.response.stream for e in recorded.exchanges] == [streamed]

    replaying = await start_gateway(llm_provider="replay", llm_cassette=str(tape))
    said[0]["content"] = said[0]["content"].replace("sk-canary-key", "<key>")
    again = await post(replaying, token, stream=streamed, messages=said)
    if not streamed:
        assert again.json() == first.json()
    else:
        assert texts(again.content) == ["a  b"]
        other = await post(replaying, token, stream=False, messages=said)
        assert other.json()["choices"][0]["message"]["content"] == "a  b"


async def test_an_answer_that_broke_off_is_not_recorded(
    start_gateway, scheduler, upstream, post, tmp_path
):
    tape = tmp_path / "recorded.jsonl"
    gateway = await start_gateway(
        llm_base_url=upstream.url("stream-disconnect"), llm_record=str(tape)
    )
    token, _ = scheduler.grant()
    await post(gateway, token, stream=True)
    assert cassette.load(tape).exchanges == ()
    assert len(tape.read_text().splitlines()) == 1


async def test_replay_lists_the_models_of_the_cassette(start_gateway, scheduler, tmp_path):
    tape = write(tmp_path / "c.jsonl", {}, ({"messages": [USER]}, whole("hi")))
    gateway = await start_gateway(llm_provider="replay", llm_cassette=tape)
    token, _ = scheduler.grant()
    answer = await gateway.get("/v1/models", headers={"authorization": f"Bearer {token}"})
    assert [model["id"] for model in answer.json()["data"]] == ["tape"]


async def test_a_task_records_and_another_of_its_project_replays(
    start_gateway, scheduler, upstream, post, tmp_path
):
    gateway = await start_gateway(
        llm_base_url=upstream.url("ok"), llm_cassettes=str(tmp_path / "tapes")
    )
    recording, _ = scheduler.grant(project="app", cassette_mode="record", cassette="nightly")
    replaying, info = scheduler.grant(project="app", cassette_mode="replay", cassette="nightly")
    early = await post(gateway, replaying)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "cassette-unusable")
    first = await post(gateway, recording)
    assert len(upstream.requests) == 1
    assert (await post(gateway, replaying)).json() == first.json()
    unknown = await post(gateway, replaying, messages=[{"role": "user", "content": "hello you"}])
    assert unknown.status_code == 409
    assert '-   "content": "hello there"' in unknown.json()["error"]["message"]
    assert len(upstream.requests) == 1
    assert [e.replayed for e in (await scheduler.exchanges(info.attempt_id)).exchanges] == [
        True
    ] * 2
    # What is recorded later is replayed too, by the same gateway.
    await post(gateway, recording, messages=[{"role": "user", "content": "hello you"}])
    again = await post(gateway, replaying, messages=[{"role": "user", "content": "hello you"}])
    assert again.status_code == 200


async def test_no_task_reaches_another_projects_cassettes(
    start_gateway, scheduler, upstream, post, tmp_path
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"), llm_cassettes=str(tmp_path))
    mine, _ = scheduler.grant(project="mine", cassette_mode="record", cassette="tape")
    await post(gateway, mine)
    assert (tmp_path / "mine" / "tape.jsonl").exists()
    for project, name in (("other", "tape"), ("other", "../mine/tape"), ("..", "tape")):
        token, _ = scheduler.grant(project=project, cassette_mode="replay", cassette=name)
        answer = await post(gateway, token)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "cassette-unusable")


async def test_a_gateway_without_a_folder_for_cassettes_says_so(
    start_gateway, scheduler, upstream, post
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, _ = scheduler.grant(project="p", cassette_mode="record", cassette="tape")
    answer = await post(gateway, token)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "cassettes-off")
    assert upstream.heads == []
