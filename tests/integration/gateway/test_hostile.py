"""Hostile action 19 at depth: the gateway, asked by who may not, for what one may not, too much.

Each time the control is served, and what was refused reached no model, no ledger and no budget.
"""

import asyncio
import json

import asyncpg
import httpx
import pytest
from wfhub_agent_runner.relay import GatewayRelay

pytestmark = pytest.mark.hostile(19)

STREAMS = 100
SERVED_S_MAX = 5.0  # another attempt's request, while the flood goes on
BODY = {"messages": [{"role": "user", "content": "x"}]}
PATHS = (("POST", "/v1/chat/completions"), ("GET", "/v1/models"))


@pytest.fixture
async def ledger(gateway_database):
    """Rows of each table that a request may leave something in."""

    async def counts() -> dict[str, int]:
        connection = await asyncpg.connect(gateway_database)
        tables = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'gateway'"
            " AND tablename <> 'alembic_version'"
        )
        found = {
            name: await connection.fetchval(f'SELECT count(*) FROM gateway."{name}"')
            for (name,) in tables
        }
        await connection.close()
        return found

    return counts


async def test_every_path_is_for_live_attempts_alone(start_gateway, scheduler, upstream, ledger):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    live, _ = scheduler.grant()
    ended, info = scheduler.grant()
    expired, _ = scheduler.grant(lease_s=-1)
    await scheduler.end(info.attempt_id)
    scheduler.known[next(k for k, v in scheduler.known.items() if v is info)] = info.model_copy(
        update={"active": False}
    )
    before = await ledger()
    for headers in (
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": live},
        {"authorization": f"Basic {live}"},
        {"authorization": f"Bearer {live}x"},
        {"authorization": f"Bearer {live[:-1]}"},
        {"authorization": f"Bearer {live.upper()}"},
        {"authorization": "Bearer " + live.replace("wat_", "wht_")},
        {"authorization": "Bearer wat_" + "x" * 10_000},
        {"authorization": f"Bearer {info.attempt_id}"},
        {"authorization": f"Bearer {ended}"},
        {"authorization": f"Bearer {expired}"},
        {"x-api-key": ended},
        {"x-goog-api-key": expired},
        {"cookie": f"token={live}", "proxy-authorization": f"Bearer {live}"},
    ):
        for method, path in PATHS:
            body = BODY if method == "POST" else None
            answer = await gateway.request(method, path, json=body, headers=headers)
            assert answer.status_code == 401, (method, path, headers, answer.text)
            assert answer.json()["error"]["type"] == "authentication_error"
    answer = await gateway.post(f"/v1/chat/completions?token={live}&key={live}", json=BODY)
    assert answer.status_code == 401
    assert upstream.heads == []
    assert await ledger() == before
    for method, path in PATHS:
        headers = {"authorization": f"Bearer {live}"}
        body = BODY if method == "POST" else None
        answer = await gateway.request(method, path, json=body, headers=headers)
        assert answer.status_code == 200
    assert await ledger() != before


async def test_who_holds_anothers_token_is_still_who_its_socket_says(
    start_gateway, scheduler, upstream, tmp_path
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    mine, me = scheduler.grant(budget_tokens=1000)
    theirs, them = scheduler.grant(budget_tokens=1000)
    async with GatewayRelay(
        socket_path=tmp_path / "g.sock", gateway_url=str(gateway.base_url), token=mine
    ):
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "g.sock"))
        async with httpx.AsyncClient(transport=transport, base_url="http://relay") as agent:
            for headers in (
                {"authorization": f"Bearer {theirs}"},
                [("authorization", "Bearer dummy"), ("authorization", f"Bearer {theirs}")],
                {"Authorization": f"Bearer {theirs}", "connection": "authorization"},
                {"x-api-key": theirs, "x-forwarded-authorization": f"Bearer {theirs}"},
            ):
                answer = await agent.post("/v1/chat/completions", json=BODY, headers=headers)
                assert answer.status_code == 200
    assert len((await scheduler.exchanges(me.attempt_id)).exchanges) == 4
    assert (await scheduler.exchanges(them.attempt_id)).exchanges == ()
    assert (await scheduler.usage(them.task_id)).completion_tokens == 0
    assert not any(theirs in head for head in upstream.heads)


async def test_an_ended_lease_cuts_its_own_streams_and_no_others(
    start_gateway, scheduler, upstream, opened, post, wait_until
):
    gateway = await start_gateway(llm_base_url=upstream.url("stream-endless"))
    (token, info), (other, _) = scheduler.grant(), scheduler.grant()
    async with opened(gateway, token) as stream, opened(gateway, other) as unharmed:
        chunks, others = stream.aiter_raw(), unharmed.aiter_raw()
        await anext(chunks)
        await anext(others)
        await scheduler.end(info.attempt_id)
        async with asyncio.timeout(10):
            rest = b"".join([chunk async for chunk in chunks])
        assert b"token-inactive" in rest.rpartition(b"data: ")[2]
        await asyncio.wait_for(upstream.hung_up.wait(), 10)
        for _ in range(20):
            await asyncio.wait_for(anext(others), 10)
        asked = len(upstream.requests)
        answers = await asyncio.gather(*(post(gateway, token) for _ in range(10)))
        assert {answer.status_code for answer in answers} == {401}
        assert len(upstream.requests) == asked


@pytest.mark.parametrize(
    "raw",
    [
        '"model": "m2"',
        '"model": "M1"',
        '"model": "m1 "',
        '"model": "m1\\u0000"',
        '"model": "m1/../m2"',
        '"model": "m1,m2"',
        '"model": ["m1", "m2"]',
        '"model": {"m1": 1}',
        '"model": "m2", "model": "m1"',
        '"model": "m1", "Model": "m2"',
        '"model": "m1", "MODEL": "m2"',
        '"model": "m1", "\\u006dodel": "m2"',
        '"Model": "m2"',
        '"model": "m1", "Stream": true',
        '"model": "m1", "\\u017ftream": true',
    ],
)
async def test_no_spelling_reaches_a_model_that_is_not_allowed(
    start_gateway, scheduler, upstream, post, ledger, raw
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"), llm_model="m1")
    token, _ = scheduler.grant(models=("m1",))
    assert (await post(gateway, token, model="m1")).status_code == 200  # the control
    before = await ledger()
    body = '{"messages": [{"role": "user", "content": "x"}], ' + raw + "}"
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    answer = await gateway.post("/v1/chat/completions", content=body.encode(), headers=headers)
    assert answer.status_code in (400, 403), answer.text
    assert [request.get("model") for request in upstream.requests] == ["m1"]
    assert await ledger() == before


async def test_a_hundred_streams_at_once_stay_within_the_budget_and_hold_up_nobody(
    start_gateway, scheduler, upstream, post, gateway_database, wait_until
):
    url = upstream.url("stream-heavy")
    gateways = [await start_gateway(llm_base_url=url) for _ in range(2)]
    token, info = scheduler.grant(budget_tokens=20_000)
    other, _ = scheduler.grant(budget_tokens=300)
    flood = [asyncio.create_task(post(gateways[n % 2], token, stream=True)) for n in range(STREAMS)]

    async def reached() -> bool:
        return len(upstream.requests) >= 10

    await wait_until(reached)
    async with asyncio.timeout(SERVED_S_MAX):
        served = await post(gateways[0], other, stream=True)
    assert served.status_code == 200
    assert b"xxx" in served.content
    answers = await asyncio.gather(*flood)
    assert {answer.status_code for answer in answers} <= {200, 429}
    begun = [answer for answer in answers if answer.status_code == 200]
    assert 1 <= len(begun) < STREAMS
    codes = {json.loads(a.content)["error"]["code"] for a in answers if a.status_code == 429}
    assert codes <= {"budget-exceeded", "too-many-streams"}

    async def standing() -> tuple[int, int]:
        connection = await asyncpg.connect(gateway_database)
        row = await connection.fetchrow(
            "SELECT used_tokens, reserved_tokens FROM gateway.account"
            " WHERE scope = 'attempt' AND subject = $1",
            info.attempt_id,
        )
        await connection.close()
        return row[0], row[1]

    async def settled() -> bool:
        return (await standing())[1] == 0

    await wait_until(settled)
    used, _ = await standing()
    assert used <= 20_000 + 100 * len(begun)  # each may send the one event that tells it is over
    assert (await post(gateways[0], token)).status_code == 429
