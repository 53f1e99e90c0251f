"""An agent that was told to hand in hears it as the next answer of its model, in its own format."""

import json
from typing import Any

import pytest
from wfhub_common.messages import SpendingLimit
from wfhub_common.model_paths import HAND_IN_HEADER
from wfhub_llm_gateway.last_word import SAID

HELLO = [{"role": "user", "content": "hello there"}]
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "hello there"}]}]}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"model": "m", "messages": HELLO}),
    "responses": ("/v1/responses", {"model": "m", "input": "hello there"}),
    "messages": ("/v1/messages", {"model": "m", "max_tokens": 50, "messages": HELLO}),
    "gemini": ("/v1beta/models/m:generateContent", GEMINI),
}
LAST_EVENT = {
    "chat": "[DONE]",
    "responses": "response.completed",
    "messages": "message_stop",
    "gemini": "STOP",
}


def headers(token: str, **word: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", HAND_IN_HEADER: json.dumps(word)}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("spoken", sorted(ASKED))
async def test_it_is_a_whole_answer_of_each_format_and_no_model_is_asked(
    start_gateway, scheduler, upstream, spoken, stream
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, info = scheduler.grant(budget_tokens=1000)
    path, body = ASKED[spoken]
    if spoken == "gemini" and stream:
        path = path.replace("generateContent", "streamGenerateContent?alt=sse")
    elif stream:
        body = {**body, "stream": True}
    answer = await gateway.post(path, json=body, headers=headers(token))
    assert answer.status_code == 200, answer.text
    assert SAID in answer.text
    if stream:
        assert LAST_EVENT[spoken] in answer.text.rstrip().splitlines()[-1]
    assert upstream.requests == []
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert (exchange.provider, exchange.status, exchange.nusd) == ("hand-in", 200, 0)
    assert "no model was asked" in exchange.note


async def test_it_is_said_by_a_call_where_the_agent_ends_by_one(start_gateway, scheduler, upstream):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, _ = scheduler.grant()
    word = {"tool": "bash", "arguments": {"command": "echo DONE"}}
    tool = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}
    path, body = ASKED["chat"]
    said = await gateway.post(path, json={**body, "tools": [tool]}, headers=headers(token, **word))
    (choice,) = said.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "bash"
    assert json.loads(call["function"]["arguments"]) == word["arguments"]
    without = await gateway.post(path, json=body, headers=headers(token, **word))
    assert without.json()["choices"][0]["finish_reason"] == "stop"


async def test_it_is_said_when_nothing_is_left_to_spend_and_costs_nothing(
    start_gateway, scheduler, upstream, post, standing
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, info = scheduler.grant(budget_tokens=20, limits=(SpendingLimit(scope="task", nusd=0),))
    assert (await post(gateway, token)).status_code == 403  # no price, and a budget in USD
    path, body = ASKED["chat"]
    for _ in range(3):
        answer = await gateway.post(path, json=body, headers=headers(token))
        assert answer.status_code == 200, answer.text
    row = await standing(info.attempt_id)
    assert (row["used_tokens"], row["reserved_tokens"]) == (0, 0)


async def test_what_cannot_be_read_of_the_word_means_words(start_gateway, scheduler, upstream):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, _ = scheduler.grant()
    path, body = ASKED["chat"]
    for odd in ("", "[]", "{", '{"arguments": 3}', "x" * 9000):
        given = {"authorization": f"Bearer {token}", HAND_IN_HEADER: odd}
        answer = await gateway.post(path, json=body, headers=given)
        assert answer.json()["choices"][0]["message"]["content"] == SAID
