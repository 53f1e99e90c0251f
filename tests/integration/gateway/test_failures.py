"""Model servers that are down, refuse, fail, hang or break off; clients that leave."""

import asyncio
import json

import pytest


async def test_a_server_that_is_down_is_a_502_that_says_what_to_check(
    start_gateway, scheduler, post, free_port
):
    url = f"http://user:canary@127.0.0.1:{free_port()}"
    gateway = await start_gateway(llm_base_url=url)
    token, info = scheduler.grant(budget_tokens=10_000)
    for stream in (False, True):
        answer = await post(gateway, token, stream=stream)
        assert answer.status_code == 502
        error = answer.json()["error"]
        assert error["code"] == "upstream-unreachable"
        assert "LLM_BASE_URL" in error["message"]
        assert "canary" not in error["message"]
    record = await scheduler.exchanges(info.attempt_id)
    assert [e.status for e in record.exchanges] == [502, 502]
    assert record.exchanges[0].note == "upstream-unreachable"


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        ("unauthorized", 502, "upstream-auth"),
        ("failing", 502, "upstream-error"),
        ("hang", 504, "upstream-timeout"),
    ],
)
async def test_a_server_that_fails_is_named_with_its_failure(
    start_gateway, scheduler, upstream, post, behaviour, status, code
):
    own = {"upstream_first_byte_s": 0.5} if behaviour == "hang" else {}
    gateway = await start_gateway(llm_base_url=upstream.url(behaviour), **own)
    token, info = scheduler.grant()
    answer = await post(gateway, token)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == (code, "server_error")
    assert "sk-secret" not in error["message"]
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert (exchange.status, exchange.prompt_tokens) == (status, 0)


async def test_a_server_that_finds_fault_with_the_request_is_passed_on(
    start_gateway, scheduler, upstream, post
):
    gateway = await start_gateway(llm_base_url=upstream.url("bad-request"))
    token, info = scheduler.grant()
    answer = await post(gateway, token, stream=True)
    assert answer.status_code == 400
    assert answer.json() == {"error": {"message": "context length exceeded"}}
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert (exchange.status, exchange.note) == (400, "")


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [("stream-hang", "upstream-idle"), ("stream-disconnect", "upstream-disconnected")],
)
async def test_a_stream_that_breaks_off_ends_with_an_error_event_after_whole_events(
    start_gateway, scheduler, upstream, post, behaviour, code
):
    own = {"upstream_idle_s": 0.5} if behaviour == "stream-hang" else {}
    gateway = await start_gateway(llm_base_url=upstream.url(behaviour), **own)
    token, info = scheduler.grant()
    answer = await post(gateway, token, stream=True)
    assert answer.status_code == 200
    first, last, rest = answer.content.split(b"\n\n")
    assert json.loads(first.removeprefix(b"data: "))["choices"][0]["delta"]["content"] == "one"
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == code
    assert rest == b""
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert exchange.note == f"{code}; usage not reported"


@pytest.mark.parametrize("behaviour", ["hang", "stream-hang"])
async def test_a_client_that_leaves_ends_the_work_upstream(
    start_gateway, scheduler, upstream, post, behaviour
):
    gateway = await start_gateway(llm_base_url=upstream.url(behaviour))
    token, info = scheduler.grant()
    asking = asyncio.create_task(post(gateway, token, stream=True))
    await upstream.hanging.wait()
    asking.cancel()
    await asyncio.wait_for(upstream.hung_up.wait(), 10)
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert exchange.status == 499
    assert exchange.note == "client-gone; usage not reported"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"messages": []}',
        b'{"messages": ["x"]}',
        b'{"messages": [{}], "model": 3}',
        b'{"messages": [{}], "stream": "yes"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
async def test_a_malformed_request_is_a_400_and_goes_nowhere(
    start_gateway, scheduler, upstream, body
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, info = scheduler.grant()
    answer = await gateway.post(
        "/v1/chat/completions", content=body, headers={"authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "request-malformed"
    assert upstream.heads == []
    assert (await scheduler.exchanges(info.attempt_id)).exchanges == ()


async def test_a_request_over_the_limit_is_refused(
    start_gateway, scheduler, upstream, post, monkeypatch
):
    monkeypatch.setattr("wfhub_llm_gateway.app.REQUEST_BYTES_MAX", 1000)
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, _ = scheduler.grant()
    answer = await post(gateway, token, padding="x" * 1000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request-too-large")


@pytest.mark.parametrize("behaviour", ["ok", "stream-endless"])
async def test_an_answer_over_the_limit_is_not_passed_on(
    start_gateway, scheduler, upstream, post, monkeypatch, behaviour
):
    monkeypatch.setattr("wfhub_llm_gateway.exchange.RESPONSE_BYTES_MAX", 100)
    gateway = await start_gateway(llm_base_url=upstream.url(behaviour))
    token, _ = scheduler.grant()
    answer = await post(gateway, token, stream=True)
    assert b"response-too-large" in answer.content
    assert answer.status_code == (502 if behaviour == "ok" else 200)


async def test_a_client_that_does_not_read_holds_up_its_server_and_is_let_go_in_the_end(
    start_gateway, scheduler, upstream, opened, monkeypatch
):
    monkeypatch.setattr("wfhub_llm_gateway.exchange.CLIENT_STALL_S", 1.0)
    gateway = await start_gateway(llm_base_url=upstream.url("stream-flood"))
    token, info = scheduler.grant()
    async with opened(gateway, token) as response:
        assert response.status_code == 200
        await asyncio.wait_for(upstream.hung_up.wait(), 60)
        # What fits in the sockets between them, and no more: nothing piles up in the gateway.
        assert upstream.flooded_bytes < 40 * 1024 * 1024
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert exchange.note.startswith("client-stalled")
