"""The gateway as a process of its own: bad settings, an orderly stop, a kill."""

import asyncio
import signal
import sysconfig
from pathlib import Path

import asyncpg
import httpx
import pytest


async def test_it_migrates_serves_and_stops_when_told_to(start_process, upstream, wait_until):
    for _ in range(2):  # a second migration has nothing to do
        migrating, _ = await start_process("migrate")
        assert await migrating.wait() == 0
    process, url = await start_process(LLM_BASE_URL=upstream.url("ok"))
    await wait_until(lambda: ready(url))
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0
    assert b'"event": "stopped"' in log


async def test_it_waits_for_its_migration_and_can_be_stopped_meanwhile(
    start_process, upstream, wait_until
):
    process, url = await start_process(LLM_BASE_URL=upstream.url("ok"))
    while b"wfhub-llm-gateway migrate" not in (line := await process.stderr.readline()):
        assert line, "the process ended"
    await wait_until(lambda: alive(url))
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        missing = await client.get("/readyz")
        refused = await client.post("/v1/chat/completions", json={})
    assert missing.status_code == 503
    assert "database: no table gateway.exchange: run `wfhub-llm-gateway migrate`" in missing.text
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "starting")
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0
    assert b"serving" not in log


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"LLM_PROVIDER": "gpt"}, b"LLM_PROVIDER"),
        ({"LLM_BASE_URL": "localhost:8080"}, b"LLM_BASE_URL"),
        ({"LLM_PROVIDER": "replay"}, b"LLM_CASSETTE"),
        ({"LLM_PROVIDER": "replay", "LLM_CASSETTE": "/nowhere"}, b"LLM_CASSETTE"),
        ({"LLM_CASSETTE": "/nowhere"}, b"LLM_CASSETTE: only LLM_PROVIDER=replay"),
        ({"LLM_PROVIDER": "ollama", "LLM_CASSETTE": "/nowhere"}, b"LLM_CASSETTE: only"),
        ({"LLM_CASSETTES": "/dev/null/in"}, b"LLM_CASSETTES: cannot write to /dev/null/in"),
        ({"PROOFS_URL": "proofs:8080"}, b"PROOFS_URL"),
        ({"LLM_RECORD": "/nowhere/file"}, b"LLM_RECORD"),
        ({"LLM_CONFIG": "/nowhere"}, b"LLM_CONFIG"),
        ({"LLM_PRICES": "/nowhere"}, b"LLM_PRICES"),
    ],
)
async def test_bad_settings_end_it_with_one_line_that_names_them(start_process, env, named):
    process, _ = await start_process(**env)
    _, log = await process.communicate()
    assert process.returncode == 1
    last = log.strip().split(b"\n")[-1]
    assert last.startswith(b"bad settings: " + named)
    assert b"Traceback" not in log


async def test_a_killed_gateway_leaves_the_exchange_in_the_ledger(
    start_process, scheduler, upstream, wait_until, database_url, post
):
    migrating, _ = await start_process("migrate")
    assert await migrating.wait() == 0
    process, url = await start_process(LLM_BASE_URL=upstream.url("hang"))
    await wait_until(lambda: ready(url))
    token, info = scheduler.grant(budget_tokens=1000)
    async with httpx.AsyncClient(base_url=url) as client:
        asking = asyncio.create_task(post(client, token))
        await upstream.hanging.wait()
        process.kill()
        with pytest.raises(httpx.TransportError):
            await asking
    connection = await asyncpg.connect(database_url)
    row = await connection.fetchrow("SELECT state, request_digest FROM gateway.exchange")
    await connection.close()
    assert row["state"] == "open"
    again, url = await start_process(LLM_BASE_URL=upstream.url("ok"))
    await wait_until(lambda: ready(url))
    (exchange,) = (await scheduler.told_exchanges(info.attempt_id)).exchanges
    assert exchange.request_digest == row["request_digest"]
    assert exchange.note.startswith("never settled")
    assert (exchange.status, exchange.response_digest) == (0, "")
    again.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(again.wait(), 15) == 0


async def test_it_waits_for_nats_says_when_it_is_gone_and_stops_without_it(
    start_process, gateway_database, upstream, wait_until, free_port
):
    port = free_port()
    process, url = await start_process(
        LLM_BASE_URL=upstream.url("ok"), NATS_URL=f"nats://127.0.0.1:{port}"
    )
    broker = await asyncio.create_subprocess_exec(
        Path(sysconfig.get_path("scripts")) / "nats-server",
        *("-a", "127.0.0.1", "-p", str(port)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    await wait_until(lambda: ready(url))
    broker.kill()
    await broker.wait()

    async def noticed() -> httpx.Response | None:  # it may read the question first
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{url}/readyz")
        return answer if answer.status_code != 200 else None

    answer = await wait_until(noticed)
    assert (answer.status_code, answer.text) == (503, "nats: not connected\n")
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0


async def test_it_is_alive_before_anything_else_is_and_says_what_it_waits_for(
    start_process, upstream, wait_until, free_port
):
    nobody = free_port()
    process, url = await start_process(
        LLM_BASE_URL=upstream.url("ok"),
        DATABASE_URL=f"postgresql://x@127.0.0.1:{nobody}/x",
        NATS_URL=f"nats://127.0.0.1:{nobody}",
    )
    await wait_until(lambda: alive(url))
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        missing = await client.get("/readyz")
    assert missing.status_code == 503
    assert "database: " in missing.text
    assert "nats: not connected" in missing.text
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0


async def test_a_stop_ends_an_open_stream_with_an_error_event_and_settles_it(
    start_process, scheduler, upstream, wait_until, database_url, opened
):
    migrating, _ = await start_process("migrate")
    assert await migrating.wait() == 0
    process, url = await start_process(LLM_BASE_URL=upstream.url("stream-hang"))
    await wait_until(lambda: ready(url))
    token, _ = scheduler.grant()
    client = httpx.AsyncClient(base_url=url, timeout=20)
    async with client, opened(client, token) as response:
        await upstream.hanging.wait()
        process.send_signal(signal.SIGTERM)
        body = await response.aread()
    assert b"gateway-stopping" in body.split(b"\n\n")[-2]
    assert await asyncio.wait_for(process.wait(), 15) == 0
    connection = await asyncpg.connect(database_url)
    row = await connection.fetchrow("SELECT state, status FROM gateway.exchange")
    await connection.close()
    assert tuple(row) == ("settled", 503)


async def test_a_drained_gateway_lets_its_streams_end_while_another_one_takes_what_comes(
    start_process, scheduler, upstream, wait_until, gateway_database, opened, post
):
    others = await instances(gateway_database)  # gateways that earlier tests killed
    (first, one), (second, two) = [
        await start_process(LLM_BASE_URL=upstream.url("stream-held")) for _ in range(2)
    ]
    for url in (one, two):
        await wait_until(lambda url=url: ready(url))
    token, info = scheduler.grant(budget_tokens=10_000)
    client = httpx.AsyncClient(base_url=one, timeout=60)
    async with client, opened(client, token) as response:
        await upstream.hanging.wait()
        first.send_signal(signal.SIGTERM)
        await wait_until(lambda: refuses(one))
        upstream.release.set()
        body = await response.aread()
        assert body.endswith(b"data: [DONE]\n\n")
        async with httpx.AsyncClient(base_url=two, timeout=60) as other:
            assert (await post(other, token, stream=True)).status_code == 200
    assert await asyncio.wait_for(first.wait(), 15) == 0
    record = await scheduler.exchanges(info.attempt_id)
    assert [(e.status, e.note, e.link) for e in record.exchanges] == [(200, "", 1), (200, "", 2)]
    assert len(await instances(gateway_database) - others) == 1
    second.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(second.wait(), 15) == 0


async def instances(database_url: str) -> set[str]:
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("SELECT instance_id FROM gateway.instance")
    await connection.close()
    return {row["instance_id"] for row in rows}


async def refuses(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            await client.get(f"{url}/healthz")
        except httpx.TransportError:
            return True
        return False


async def ready(url: str) -> bool:
    return await answers(f"{url}/readyz")


async def alive(url: str) -> bool:
    return await answers(f"{url}/healthz")


async def answers(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(url)).status_code == 200
        except httpx.TransportError:
            return False
