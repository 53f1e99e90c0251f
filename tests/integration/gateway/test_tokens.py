"""Who is let in, for how long, and how an open stream ends when its attempt does."""

import asyncio
import json

import pytest


def last_event(body: bytes) -> dict:
    assert body.endswith(b"\n\n")
    return json.loads(body.rstrip().rpartition(b"data: ")[2])


@pytest.fixture
async def hanging(start_gateway, upstream):
    return await start_gateway(llm_base_url=upstream.url("stream-hang"))


@pytest.mark.parametrize("header", [None, "Bearer sk-foreign", "Basic d2F0Xw==", "Bearer wat_no"])
@pytest.mark.hostile(19)
async def test_without_a_live_token_nobody_reaches_the_model(
    start_gateway, scheduler, upstream, header
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    headers = {"authorization": header} if header else {}
    body = {"messages": [{"role": "user", "content": "x"}]}
    for answer in (
        await gateway.post("/v1/chat/completions", json=body, headers=headers),
        await gateway.get("/v1/models", headers=headers),
    ):
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
    assert upstream.heads == []


@pytest.mark.hostile(19)
async def test_a_token_is_asked_about_once_in_a_while_and_an_ended_attempt_is_out_at_once(
    start_gateway, scheduler, upstream, post, wait_until
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, info = scheduler.grant()
    for _ in range(3):
        assert (await post(gateway, token)).status_code == 200
    assert scheduler.asked == 1
    await scheduler.end(info.attempt_id)

    async def refused() -> bool:
        return (await post(gateway, token)).status_code == 401

    await wait_until(refused)
    assert scheduler.asked == 1


@pytest.mark.hostile(19)
async def test_an_open_stream_is_cut_with_an_error_event_when_its_attempt_ends(
    hanging, scheduler, upstream, opened
):
    token, info = scheduler.grant()
    async with opened(hanging, token) as response:
        assert response.status_code == 200
        await upstream.hanging.wait()
        await scheduler.end(info.attempt_id)
        body = await response.aread()
    assert body.startswith(b'data: {"choices"')
    assert last_event(body)["error"]["code"] == "token-inactive"
    await asyncio.wait_for(upstream.hung_up.wait(), 10)
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert exchange.status == 401
    assert exchange.note == "token-inactive; usage not reported"


@pytest.mark.hostile(19)
async def test_a_request_that_waits_for_its_answer_is_cut_too(
    start_gateway, scheduler, upstream, post
):
    gateway = await start_gateway(llm_base_url=upstream.url("hang"))
    token, info = scheduler.grant()
    asking = asyncio.create_task(post(gateway, token))
    await upstream.hanging.wait()
    await scheduler.end(info.attempt_id)
    answer = await asking
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "token-inactive"
    await asyncio.wait_for(upstream.hung_up.wait(), 10)


@pytest.mark.hostile(19)
async def test_a_stream_outlives_its_lease_only_when_it_was_renewed(
    hanging, scheduler, upstream, opened, wait_until
):
    token, _ = scheduler.grant(lease_s=3)
    async with opened(hanging, token) as response:
        await upstream.hanging.wait()
        scheduler.renew(token, 6)

        async def asked_again() -> bool:
            return scheduler.asked == 2

        await wait_until(asked_again)
        assert not upstream.hung_up.is_set()
        body = await response.aread()  # it is not renewed a second time
    assert last_event(body)["error"]["code"] == "token-inactive"
    assert 3 <= scheduler.asked <= 4  # once more where an answer came late: its lease began before
    await asyncio.wait_for(upstream.hung_up.wait(), 10)


@pytest.mark.hostile(19)
async def test_without_a_scheduler_nobody_is_let_in_and_the_client_may_try_again(
    start_gateway, scheduler, upstream, post
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, _ = scheduler.grant()
    await scheduler.broker.stop()
    answer = await post(gateway, token)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "no-responders"
    assert upstream.heads == []


@pytest.mark.hostile(19)
async def test_a_model_that_the_attempt_may_not_use_is_refused(
    start_gateway, scheduler, upstream, post
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"), llm_model="m1")
    token, _ = scheduler.grant(models=("m1",))
    assert (await post(gateway, token, model="m1")).status_code == 200
    assert (await post(gateway, token, model="default")).status_code == 200
    answer = await post(gateway, token, model="m2")
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "model-not-allowed"
    assert "m1" in answer.json()["error"]["message"]


@pytest.mark.hostile(19)
async def test_one_attempt_cannot_hold_any_number_of_streams(
    hanging, scheduler, opened, post, monkeypatch
):
    monkeypatch.setattr("wfhub_llm_gateway.cuts.STREAMS_PER_ATTEMPT_MAX", 1)
    token, _ = scheduler.grant()
    other, _ = scheduler.grant()
    async with opened(hanging, token) as response:
        assert response.status_code == 200
        answer = await post(hanging, token, stream=True)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too-many-streams")
        async with opened(hanging, other) as unharmed:
            assert unharmed.status_code == 200
