"""Routes of an operator's file, against servers that do what they are told."""

import asyncio
import json

import pytest


@pytest.fixture
def routes(tmp_path, upstream):
    """`routes(deployments={"m": ["ok", "failing"]}, …)` → settings of a gateway with them; each
    deployment is a behaviour of the upstream, asked in that order."""

    def write(deployments: dict[str, list[str]], providers=None, **more) -> dict[str, str]:
        behaviours = {b for several in deployments.values() for b in several}
        value = {
            "providers": {
                b: {"base_url": upstream.url(b), "free": True, **(providers or {}).get(b, {})}
                for b in behaviours
            },
            "routes": {
                name: {
                    # Heavier by far: the order is as good as certain.
                    "deployments": [
                        {"provider": b, "weight": 0} if n else {"provider": b, "weight": 1}
                        for n, b in enumerate(several)
                    ],
                    **more.pop(name, {}),
                }
                for name, several in deployments.items()
            },
            "retries": {"attempts_max": 4, "backoff_ms": 1, "backoff_max_ms": 2000},
            **more,
        }
        path = tmp_path / "routes.yaml"
        path.write_text(json.dumps(value))  # JSON is YAML
        return {"llm_config": str(path)}

    return write


def asked(upstream) -> list[str]:
    return [head.split()[1].split("/")[1] for head in upstream.heads]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("failing", "failed"),
        ("busy", "rate-limited"),
        ("unauthorized", "failed"),
        ("hang", "timeout"),
        ("stream-cut-at-once", "failed"),
    ],
)
async def test_another_deployment_answers_for_one_that_does_not(
    start_gateway, scheduler, upstream, post, routes, behaviour, reason, stream
):
    quick = {"hang": {"first_byte_s": 0.5}} if behaviour == "hang" else {}
    own = routes({"m": [behaviour, "ok"]}, quick)
    gateway = await start_gateway(**own)
    token, info = scheduler.grant()
    answer = await post(gateway, token, model="m", stream=stream)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "hello"
    assert asked(upstream) == [behaviour, "ok"]
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert (exchange.provider, exchange.model) == ("ok", "m")
    assert f"after {behaviour} {reason}" in exchange.note


async def test_a_prompt_that_is_too_long_goes_to_the_route_for_it_and_to_no_other_deployment(
    start_gateway, scheduler, upstream, post, routes
):
    own = routes(
        {"m": ["bad-request", "failing"], "long": ["ok"]},
        m={"fallbacks": {"context-length": ["long"]}},
    )
    gateway = await start_gateway(**own)
    token, _ = scheduler.grant()
    assert (await post(gateway, token, model="m")).status_code == 200
    assert asked(upstream) == ["bad-request", "ok"]
    assert upstream.requests[-1]["model"] == "long"


async def test_nothing_is_tried_again_once_a_byte_of_the_answer_is_there(
    start_gateway, scheduler, upstream, post, routes
):
    gateway = await start_gateway(**routes({"m": ["stream-disconnect", "ok"]}))
    token, _ = scheduler.grant()
    answer = await post(gateway, token, model="m", stream=True)
    assert answer.content.startswith(b'data: {"choices"')
    assert b"upstream-disconnected" in answer.content
    assert asked(upstream) == ["stream-disconnect"]


async def test_the_same_server_is_asked_again_after_the_wait_that_it_names(
    start_gateway, scheduler, upstream, post, routes
):
    gateway = await start_gateway(**routes({"m": ["busy-once"]}))
    token, _ = scheduler.grant()
    began = asyncio.get_running_loop().time()
    assert (await post(gateway, token, model="m")).status_code == 200
    assert asyncio.get_running_loop().time() - began >= 1
    assert asked(upstream) == ["busy-once"] * 2


async def test_a_server_that_names_too_long_a_wait_is_passed_on_as_it_is(
    start_gateway, scheduler, upstream, post, routes
):
    gateway = await start_gateway(**routes({"m": ["busy"]}))
    token, _ = scheduler.grant()
    answer = await post(gateway, token, model="m")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3600")
    assert answer.json() == {"error": {"message": "slow down"}}
    assert asked(upstream) == ["busy"]


async def test_no_more_servers_are_asked_than_the_file_allows_and_the_last_one_is_told(
    start_gateway, scheduler, upstream, post, routes
):
    gateway = await start_gateway(**routes({"m": ["failing"]}))
    token, _ = scheduler.grant()
    answer = await post(gateway, token, model="m")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream-error")
    assert asked(upstream) == ["failing"] * 4


async def test_a_server_that_fails_again_and_again_is_left_alone(
    start_gateway, scheduler, upstream, post, routes
):
    own = routes({"m": ["failing", "ok"]}, breaker={"failures": 2, "open_s": 600})
    gateway = await start_gateway(**own)
    token, _ = scheduler.grant()
    for _ in range(5):
        assert (await post(gateway, token, model="m")).status_code == 200
    assert asked(upstream) == ["failing", "ok"] * 2 + ["ok"] * 3


async def test_when_all_are_left_alone_the_client_is_told_to_ask_again(
    start_gateway, scheduler, upstream, post, routes
):
    own = routes({"m": ["failing"]}, breaker={"failures": 1, "open_s": 600})
    gateway = await start_gateway(**own)
    token, _ = scheduler.grant()
    assert (await post(gateway, token, model="m")).json()["error"]["code"] == "upstream-error"
    answer = await post(gateway, token, model="m")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no-deployment")
    assert int(answer.headers["retry-after"]) >= 1
    assert asked(upstream) == ["failing"]


async def test_a_full_provider_is_passed_over_and_waited_for_when_it_is_the_only_one(
    start_gateway, scheduler, upstream, opened, post, routes, wait_until
):
    own = routes(
        {"m": ["stream-hang", "ok"], "only": ["stream-hang"]}, {"stream-hang": {"concurrency": 1}}
    )
    gateway = await start_gateway(**own)
    token, info = scheduler.grant()
    other, _ = scheduler.grant()
    async with opened(gateway, token, model="only") as response:
        assert response.status_code == 200
        assert (await post(gateway, other, model="m")).status_code == 200
        assert asked(upstream) == ["stream-hang", "ok"]
        waiting = asyncio.create_task(post(gateway, other, model="only", stream=True))
        await scheduler.end(info.attempt_id)
        await response.aread()

    async def asked_again() -> bool:
        return asked(upstream).count("stream-hang") == 2

    await wait_until(asked_again)
    waiting.cancel()


async def test_a_model_that_no_route_names_is_a_404_in_which_the_routes_stand(
    start_gateway, scheduler, upstream, post, routes
):
    gateway = await start_gateway(**routes({"m": ["ok"]}, m={"aliases": ["alias"]}))
    token, _ = scheduler.grant()
    answer = await post(gateway, token, model="n")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model-unknown")
    assert "m" in answer.json()["error"]["message"]
    assert (await post(gateway, token, model="alias")).status_code == 200
    assert upstream.requests[-1]["model"] == "m"
    listed = await gateway.get("/v1/models", headers={"authorization": f"Bearer {token}"})
    assert [model["id"] for model in listed.json()["data"]] == ["m", "alias"]


@pytest.mark.parametrize(
    ("behaviour", "named"),
    [
        ("unauthorized", "check providers.unauthorized.api_key_env (in LLM_CONFIG)"),
        ("hang", "providers.hang.first_byte_s (in LLM_CONFIG) sets the limit"),
        ("stream-hang", "providers.stream-hang.idle_s (in LLM_CONFIG) sets the limit"),
        ("down", "providers.down.base_url (in LLM_CONFIG)"),
    ],
)
async def test_an_error_names_the_line_of_the_file_that_is_to_be_looked_at(
    start_gateway, scheduler, upstream, post, routes, behaviour, named
):
    own = {
        "hang": {"first_byte_s": 0.5},
        "stream-hang": {"idle_s": 0.5},
        "down": {"base_url": "http://127.0.0.1:9"},
    }.get(behaviour, {})
    settings = routes({"m": [behaviour]}, {behaviour: own}, retries={"attempts_max": 1})
    gateway = await start_gateway(**settings)
    token, _ = scheduler.grant()
    answer = await post(gateway, token, model="m", stream=behaviour == "stream-hang")
    assert named in answer.text
