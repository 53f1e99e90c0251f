"""The gateway before a real model server: llama.cpp's, with a small Gemma model, on this machine.

The model is too weak for tasks, and right for the protocol: streaming, usage, cancellation.
"""

import json
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.real_model

# Greedy, and never the model's own end: the same long answer each time.
STEADY = {"temperature": 0, "seed": 1, "ignore_eos": True}


async def idle(llama: httpx.AsyncClient) -> bool:
    slots = (await llama.get("/slots")).json()
    return not any(slot["is_processing"] for slot in slots)


def events(body: bytes) -> list[dict[str, Any]]:
    data = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
    assert data[-1] == b"[DONE]"
    return [json.loads(part) for part in data[:-1]]


def text_of(chunks: list[dict[str, Any]]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def test_usage_is_what_the_server_said_streamed_and_not(
    start_gateway, scheduler, llama, post
):
    gateway = await start_gateway(llm_base_url=str(llama.base_url))
    token, info = scheduler.grant(budget_tokens=1000)
    whole = await post(gateway, token, max_tokens=12, **STEADY)
    assert whole.status_code == 200
    streamed = await post(gateway, token, max_tokens=12, stream=True, **STEADY)
    chunks = events(streamed.content)
    said = whole.json()["choices"][0]["message"]["content"]
    assert said
    assert text_of(chunks) == said

    usages = [whole.json()["usage"], chunks[-1]["usage"]]
    assert usages[0]["completion_tokens"] == usages[1]["completion_tokens"] == 12
    record = await scheduler.exchanges(info.attempt_id)
    assert [(e.prompt_tokens, e.completion_tokens) for e in record.exchanges] == [
        (usage["prompt_tokens"], usage["completion_tokens"]) for usage in usages
    ]
    assert all(e.note == "" and not e.replayed for e in record.exchanges)
    # The same as without a gateway.
    body = json.loads(whole.request.content)
    direct = (await llama.post("/v1/chat/completions", json=body)).json()
    assert direct["choices"][0]["message"]["content"] == said
    assert direct["usage"]["prompt_tokens"] == usages[0]["prompt_tokens"]


async def test_models_are_the_servers(start_gateway, scheduler, llama):
    gateway = await start_gateway(llm_base_url=f"{llama.base_url}/v1/")
    token, _ = scheduler.grant()
    answer = await gateway.get("/v1/models", headers={"authorization": f"Bearer {token}"})
    assert [model["id"] for model in answer.json()["data"]] == ["gemma"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_recorded_answer_replays_as_it_was(
    start_gateway, scheduler, llama, post, tmp_path, streamed
):
    tape = str(tmp_path / "tape.jsonl")
    live = await start_gateway(llm_base_url=str(llama.base_url), llm_record=tape)
    token, info = scheduler.grant()
    first = await post(live, token, max_tokens=10, stream=streamed, **STEADY)
    replaying = await start_gateway(llm_provider="replay", llm_cassette=tape)
    again = await post(replaying, token, max_tokens=10, stream=streamed, **STEADY)
    other = await post(replaying, token, max_tokens=10, stream=not streamed, **STEADY)
    if streamed:
        assert again.content == first.content
        said = text_of(events(first.content))
        assert other.json()["choices"][0]["message"]["content"] == said
    else:
        assert again.json() == first.json()
        said = first.json()["choices"][0]["message"]["content"]
        assert text_of(events(other.content)) == said
    record = await scheduler.exchanges(info.attempt_id)
    assert [e.replayed for e in record.exchanges] == [False, True, True]
    assert record.exchanges[1].completion_tokens == 10


async def test_a_client_that_leaves_stops_the_generation(
    start_gateway, scheduler, llama, opened, wait_until
):
    gateway = await start_gateway(llm_base_url=str(llama.base_url))
    token, info = scheduler.grant()
    async with opened(gateway, token, max_tokens=1500, **STEADY) as response:
        await anext(response.aiter_bytes())
        assert not await idle(llama)
    await wait_until(lambda: idle(llama))
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert exchange.note == "client-gone; usage not reported"


async def test_an_ended_attempt_loses_its_open_stream_and_the_model_is_free(
    start_gateway, scheduler, llama, opened, wait_until
):
    gateway = await start_gateway(llm_base_url=str(llama.base_url))
    token, info = scheduler.grant()
    async with opened(gateway, token, max_tokens=1500, **STEADY) as response:
        received = response.aiter_bytes()
        body = await anext(received)
        await scheduler.end(info.attempt_id)
        async for part in received:
            body += part
    assert body.startswith(b"data: {")
    last = json.loads(body.rstrip().rpartition(b"data: ")[2])
    assert last["error"]["code"] == "token-inactive"
    await wait_until(lambda: idle(llama))


async def test_a_budget_cuts_the_stream_of_a_real_model(
    start_gateway, scheduler, llama, opened, post, wait_until
):
    gateway = await start_gateway(llm_base_url=str(llama.base_url))
    token, _ = scheduler.grant(budget_tokens=60)
    answer = await post(gateway, token, stream=True, **STEADY)
    assert b"budget-exceeded" in answer.content
    # An estimate: a delta is one token at least, the prompt was counted by its length.
    assert 20 < answer.content.count(b"data: ") < 60
    await wait_until(lambda: idle(llama))
    assert (await post(gateway, token)).status_code == 429
