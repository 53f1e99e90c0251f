"""What an agent gets through the gateway, and what the ledger says of it afterwards."""

import asyncio
import hashlib
import json

from wfhub_common import exchange_chain


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def test_a_whole_answer_is_passed_on_and_its_usage_recorded(
    start_gateway, scheduler, upstream, post
):
    gateway = await start_gateway(
        llm_base_url=upstream.url("ok"), openai_api_key="sk-canary", llm_model="m1"
    )
    token, info = scheduler.grant()
    answer = await post(gateway, token, model="default")
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "hello"
    assert upstream.requests[0]["model"] == "m1"
    assert "authorization: bearer sk-canary" in upstream.heads[0].lower()
    assert token not in upstream.heads[0]

    record = await scheduler.exchanges(info.attempt_id)
    assert (record.prompt_tokens, record.completion_tokens) == (7, 5)
    (exchange,) = record.exchanges
    assert (exchange.seq, exchange.provider, exchange.model) == (1, "openai", "m1")
    assert (exchange.status, exchange.replayed, exchange.note) == (200, False, "")
    assert exchange.request_digest == sha256(answer.request.content)
    assert exchange.response_digest == sha256(answer.content)
    usage = await scheduler.usage(info.task_id)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.requests) == (7, 5, 1)


async def test_a_stream_is_passed_on_byte_for_byte_and_its_usage_asked_for(
    start_gateway, scheduler, upstream, post
):
    gateway = await start_gateway(llm_base_url=upstream.url("stream"))
    token, info = scheduler.grant()
    answer = await post(gateway, token, stream=True, temperature=0.25, odd={"kept": None})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.content == upstream.odd_stream
    sent = upstream.requests[0]
    assert sent.pop("stream_options") == {"include_usage": True}
    assert sent == json.loads(answer.request.content)
    record = await scheduler.exchanges(info.attempt_id)
    assert (record.prompt_tokens, record.completion_tokens) == (7, 5)
    assert record.exchanges[0].response_digest == sha256(upstream.odd_stream)


async def test_an_answer_without_usage_counts_nothing_and_says_so(
    start_gateway, scheduler, upstream, post
):
    gateway = await start_gateway(llm_base_url=upstream.url("no-usage"))
    token, info = scheduler.grant()
    assert (await post(gateway, token)).status_code == 200
    record = await scheduler.exchanges(info.attempt_id)
    assert (record.prompt_tokens, record.completion_tokens) == (0, 0)
    assert record.exchanges[0].note == "usage not reported"
    assert record.exchanges[0].model == "double"


async def test_models_are_the_servers_as_far_as_the_attempt_may_use_them(
    start_gateway, scheduler, upstream
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    for allowed, expected in ((None, ["m1", "m2"]), (("m2",), ["m2"])):
        token, _ = scheduler.grant(models=allowed)
        answer = await gateway.get("/v1/models", headers={"authorization": f"Bearer {token}"})
        assert [model["id"] for model in answer.json()["data"]] == expected


async def test_health_needs_no_token_and_an_unknown_path_is_an_error_of_the_right_shape(
    start_gateway, upstream
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    assert (await gateway.get("/healthz")).text == "ok\n"
    answer = await gateway.get("/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "http-error"


async def test_bodies_reach_the_proof_store_under_their_digests(
    start_gateway, scheduler, upstream, post, wait_until, tmp_path
):
    gateway = await start_gateway(
        llm_base_url=upstream.url("ok"),
        proofs_url=f"http://127.0.0.1:{upstream.port}/",
        service_token="wst_canary",
    )
    token, info = scheduler.grant()
    answer = await post(gateway, token)

    async def stored() -> bool:
        return len(upstream.blobs) == 3 and not list((tmp_path / "spool").iterdir())

    await wait_until(stored)
    for body in (answer.request.content, answer.content):
        assert upstream.blobs[sha256(body).removeprefix("sha256:")] == body
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    record = json.loads(upstream.blobs[exchange.record_digest.removeprefix("sha256:")])
    assert record["response_digest"] == sha256(answer.content)
    put = next(head for head in upstream.heads if head.startswith("PUT"))
    assert put.startswith("PUT /blobs/sha256/")
    assert "wst_canary" in put


async def test_bodies_wait_on_disk_for_a_proof_store_that_is_down(
    start_gateway, scheduler, upstream, post, wait_until, tmp_path, free_port
):
    gateway = await start_gateway(
        llm_base_url=upstream.url("ok"), proofs_url=f"http://127.0.0.1:{free_port()}"
    )
    token, info = scheduler.grant()
    answer = await post(gateway, token)
    assert answer.status_code == 200
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    names = {file.name for file in (tmp_path / "spool").iterdir()}
    digests = (sha256(answer.request.content), sha256(answer.content), exchange.record_digest)
    assert names == {digest.removeprefix("sha256:") for digest in digests}
    # The next gateway with that spool delivers them.
    await start_gateway(
        llm_base_url=upstream.url("ok"), proofs_url=f"http://127.0.0.1:{upstream.port}"
    )

    async def stored() -> bool:
        return set(upstream.blobs) == names

    await wait_until(stored)


async def test_exchanges_of_an_attempt_are_a_chain_in_the_order_of_their_ends(
    start_gateway, scheduler, upstream, opened, post
):
    gateways = [
        await start_gateway(llm_base_url=upstream.url(how)) for how in ("stream-hang", "ok")
    ]
    token, info = scheduler.grant()
    async with opened(gateways[0], token) as first:
        assert first.status_code == 200
        assert (await post(gateways[1], token)).status_code == 200
    await asyncio.gather(*(post(gateways[1], token) for _ in range(6)))
    record = await scheduler.exchanges(info.attempt_id)
    assert exchange_chain.check(record) == 8
    assert record.exchanges[0].link > record.exchanges[1].link


async def test_what_is_stored_of_an_exchange_holds_no_secret(
    start_gateway, scheduler, upstream, post, wait_until, tmp_path
):
    gateway = await start_gateway(
        llm_base_url=upstream.url("ok"),
        proofs_url=f"http://127.0.0.1:{upstream.port}/",
        openai_api_key="a-key-of-no-known-shape",
    )
    token, info = scheduler.grant()
    said = f"my token is {token}, the key a-key-of-no-known-shape, other ghp_{'x' * 36}"
    await post(gateway, token, messages=[{"role": "user", "content": said}])
    assert upstream.requests[-1]["messages"][0]["content"] == said  # what is sent is as it was

    async def stored() -> bool:
        return len(upstream.blobs) == 3

    await wait_until(stored)
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    body = upstream.blobs[exchange.request_digest.removeprefix("sha256:")]
    kept = json.loads(body)["messages"][0]["content"]
    assert kept == "my token is [redacted], the key [redacted], other [redacted]"
    assert sha256(body) == exchange.request_digest
