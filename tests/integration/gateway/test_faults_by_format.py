"""Whatever a model server does wrong: each format's client is told in its own way, with the right
status, and one settled row remains."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

FORMATS = ("chat", "responses", "messages", "gemini")
PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "gemini": "/v1beta/models/m:generateContent",
}
DEEP = b"[" * 700 + b"]" * 700
BODIES = {
    "chat": b'{"messages": [{"role": "user", "content": "hello"}]}',
    "responses": b'{"input": "hello"}',
    "messages": b'{"max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}',
    "gemini": b'{"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}',
}
BOTH = [(name, stream) for name in FORMATS for stream in (False, True)]
Ask = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
def ask() -> Ask:
    """A request in a format, with the token where its clients put it."""

    async def send(
        gateway: httpx.AsyncClient, token: str, name: str, *, stream: bool, **fields: Any
    ) -> httpx.Response:
        match name:
            case "chat":
                body = {"messages": [{"role": "user", "content": "hello"}], "stream": stream}
                path, headers = "/v1/chat/completions", {"authorization": f"Bearer {token}"}
            case "responses":
                body, path = {"input": "hello", "stream": stream}, "/v1/responses"
                headers = {"authorization": f"Bearer {token}"}
            case "messages":
                body = {"messages": [{"role": "user", "content": "hello"}], "stream": stream}
                body["max_tokens"] = 50
                path, headers = "/v1/messages", {"x-api-key": token}
            case _:
                body = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
                how = "streamGenerateContent?alt=sse" if stream else "generateContent"
                path, headers = f"/v1beta/models/m:{how}", {"x-goog-api-key": token}
        return await gateway.post(path, json=body | fields, headers=headers)

    return send


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def error_of(name: str, answer: httpx.Response) -> tuple[str, str]:
    """(code, message) of an answer that is an error as a whole, in its format's shape."""
    assert answer.headers["content-type"] == "application/json"
    value = answer.json()
    inner = value["error"]
    match name:
        case "messages":
            assert value["type"] == "error"
            assert isinstance(inner["type"], str)
            return inner["code"], inner["message"]
        case "gemini":
            assert inner["code"] == answer.status_code
            assert inner["status"].isupper()
            return inner["details"][0]["reason"], inner["message"]
    return inner["code"], inner["message"]


def last_of(name: str, answer: httpx.Response) -> tuple[str, str]:
    """The same of a stream that ended with an error; what came before is well-formed."""
    *events, rest = answer.content.split(b"\n\n")
    assert rest == b""
    values = [json.loads(event.rpartition(b"data: ")[2]) for event in events]
    last = values[-1]
    match name:
        case "responses":
            assert events[-1].startswith(b"event: response.failed\n")
            assert last["type"] == "response.failed"
            assert last["response"]["status"] == "failed"
            assert last["sequence_number"] == len(values) - 1
            inner = last["response"]["error"]
        case "messages":
            assert events[-1].startswith(b"event: error\n")
            assert last["type"] == "error"
            inner = last["error"]
        case "gemini":
            return last["error"]["details"][0]["reason"], last["error"]["message"]
        case _:
            inner = last["error"]
    return inner["code"], inner["message"]


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        ("failing", 502, "upstream-error"),
        ("unauthorized", 502, "upstream-auth"),
        ("hang", 504, "upstream-timeout"),
        ("page", 503, "upstream-refused"),
    ],
)
async def test_an_error_before_the_answer(
    start_gateway, scheduler, upstream, ask, behaviour, status, code
):
    own = {"upstream_first_byte_s": 0.5} if behaviour == "hang" else {}
    gateway = await start_gateway(llm_base_url=upstream.url(behaviour), **own)
    for name, stream in BOTH:
        token, info = scheduler.grant(budget_tokens=10_000)
        answer = await ask(gateway, token, name, stream=stream)
        assert answer.status_code == status
        assert error_of(name, answer)[0] == code
        assert "sk-secret" not in answer.text
        (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
        assert (exchange.status, exchange.prompt_tokens) == (status, 0)


async def test_a_server_that_wants_a_pause_says_so_to_the_client(
    start_gateway, scheduler, upstream, ask
):
    gateway = await start_gateway(llm_base_url=upstream.url("limited"))
    for name, stream in BOTH:
        token, info = scheduler.grant()
        answer = await ask(gateway, token, name, stream=stream)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        assert "slow down" in error_of(name, answer)[1]
        (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
        assert exchange.status == 429


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ("stream-disconnect", "upstream-disconnected"),
        ("stream-hang", "upstream-idle"),
        ("stream-malformed", "upstream-malformed"),
        ("huge", "upstream-malformed"),  # one event of ten megabytes
    ],
)
async def test_an_error_in_the_middle_of_a_stream(
    start_gateway, scheduler, upstream, ask, behaviour, code
):
    own = {"upstream_idle_s": 0.5} if behaviour == "stream-hang" else {}
    gateway = await start_gateway(llm_base_url=upstream.url(behaviour), **own)
    for name in FORMATS:
        token, info = scheduler.grant()
        answer = await ask(gateway, token, name, stream=True)
        assert answer.status_code == 200
        assert last_of(name, answer)[0] == code
        if behaviour != "huge":
            assert b"one" in answer.content
        (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
        assert exchange.note == f"{code}; usage not reported"


async def test_a_stream_that_is_nested_too_deeply_is_the_servers_fault(
    start_gateway, scheduler, upstream, ask
):
    head = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    deep = b'{"a": ' * 700 + b"0" + b"}" * 700  # looking into it takes more of the stack than lists
    upstream.script = lambda _: head + b'data: {"choices": [{"delta": %b}]}\n\n' % deep
    gateway = await start_gateway(llm_base_url=upstream.url("script"))
    token, _ = scheduler.grant()
    answer = await ask(gateway, token, "chat", stream=True)
    assert last_of("chat", answer)[0] == "upstream-malformed"


async def test_an_answer_of_ten_megabytes_comes_through(start_gateway, scheduler, upstream, ask):
    gateway = await start_gateway(llm_base_url=upstream.url("huge"))
    for name in FORMATS:
        token, info = scheduler.grant()
        answer = await ask(gateway, token, name, stream=False)
        assert answer.status_code == 200
        assert "x" * (10 * 1024 * 1024) in answer.text
        (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
        assert (exchange.status, exchange.completion_tokens) == (200, 5)


async def test_wrong_usage_harms_nothing(start_gateway, scheduler, upstream, ask):
    gateway = await start_gateway(llm_base_url=upstream.url("wrong-usage"))
    for name, stream in BOTH:
        token, info = scheduler.grant(budget_tokens=10_000)
        answer = await ask(gateway, token, name, stream=stream)
        assert answer.status_code == 200
        assert "hello" in answer.text
        (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
        assert (exchange.status, exchange.prompt_tokens, exchange.completion_tokens) == (200, 0, 0)
        assert exchange.note == "usage not reported"


@pytest.mark.parametrize(
    ("grant", "status", "code"),
    [
        (None, 401, "token-inactive"),
        ({"budget_tokens": 0}, 429, "budget-exceeded"),
        ({"models": ("other",)}, 403, "model-not-allowed"),
    ],
)
async def test_who_may_not_ask_is_told_in_the_format_and_nothing_is_sent(
    start_gateway, scheduler, upstream, ask, grant, status, code
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"), llm_model="m")
    for name in FORMATS:
        token = "wat_unknown" if grant is None else scheduler.grant(**grant)[0]
        answer = await ask(gateway, token, name, stream=True)
        assert answer.status_code == status
        assert error_of(name, answer)[0] == code
        assert upstream.heads == []


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b"[" * 100_000, b"\xff\xfe"])
async def test_malformed_json_is_a_400_in_the_format(start_gateway, scheduler, upstream, body):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    for name in FORMATS:
        token, info = scheduler.grant()
        # As Google's clients may put it, which is for their paths alone.
        params = {"key": token} if name == "gemini" else {}
        headers = {} if params else {"Authorization": f"Bearer {token}"}
        answer = await gateway.post(PATHS[name], content=body, params=params, headers=headers)
        assert answer.status_code == 400
        assert error_of(name, answer)[0] == "request-malformed"
        assert upstream.heads == []
        assert (await scheduler.exchanges(info.attempt_id)).exchanges == ()


@pytest.mark.parametrize(
    "odd",
    [
        b"NaN",
        b'0, "model": "a\\u0000b"',
        b'0, "model": "a\\ud800b"',
        # Looked through for pictures, which takes more of the stack than reading it does.
        b'"image_url input_image inlineData", "tools": %b' % DEEP,
    ],
    ids=["no number", "nul", "half a pair", "deep"],
)
async def test_json_that_nobody_can_use_is_a_400_in_the_format_and_nothing_is_sent(
    start_gateway, scheduler, upstream, odd
):
    """Never the gateway's own failure, and nothing of it in the ledger."""
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    # Gemini's model is in its path.
    for name in ("chat", "responses", "messages") if b"model" in odd else FORMATS:
        token, info = scheduler.grant(budget_tokens=10_000)
        body = BODIES[name].replace(b"{", b'{"x": %b, ' % odd, 1)
        answer = await gateway.post(PATHS[name], content=body, headers=bearer(token))
        assert answer.status_code == 400, answer.text
        assert error_of(name, answer)[0] == "request-malformed"
        assert (await scheduler.exchanges(info.attempt_id)).exchanges == ()
    assert upstream.heads == []


async def test_half_a_smiley_goes_on_as_it_came_whatever_is_done_with_the_request(
    start_gateway, scheduler, upstream
):
    """An agent that cuts what a tool printed may cut it there, and JSON can say it."""
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    for name in FORMATS:
        # Passed on, translated, with a length put in; its usage asked for, in a chat stream.
        for budget_tokens in (None, 10_000):
            for stream in (b"", b'"stream": true, ') if name == "chat" else (b"",):
                token, _ = scheduler.grant(budget_tokens=budget_tokens)
                body = BODIES[name].replace(b"hello", b"cut \\ud83d", 1)
                body = body.replace(b"{", b"{" + stream, 1)
                answer = await gateway.post(PATHS[name], content=body, headers=bearer(token))
                assert answer.status_code == 200, answer.text
                assert b"cut \\ud83d" in upstream.bodies.pop()


async def test_a_length_beyond_what_any_model_can_is_as_good_as_the_most(
    start_gateway, scheduler, upstream, ask
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    for name, field in (("chat", "max_tokens"), ("messages", "max_tokens")):
        token, _ = scheduler.grant()
        answer = await ask(gateway, token, name, stream=False, **{field: 10**30})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("responses", {"previous_response_id": "resp_1"}),
        ("messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
        ("gemini", {"cachedContent": "cachedContents/1"}),
    ],
)
async def test_what_the_provider_cannot_do_is_a_400_in_the_format_and_nothing_is_sent(
    start_gateway, scheduler, upstream, ask, name, fields
):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, info = scheduler.grant(budget_tokens=10_000)
    answer = await ask(gateway, token, name, stream=True, **fields)
    assert answer.status_code == 400
    assert error_of(name, answer)[0] == "unsupported"
    assert upstream.heads == []
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert (exchange.status, exchange.note) == (400, "unsupported")


async def test_a_stream_over_its_budget_is_cut_in_the_format(
    start_gateway, scheduler, upstream, ask
):
    gateway = await start_gateway(llm_base_url=upstream.url("stream-endless"))
    for name in FORMATS:
        token, _ = scheduler.grant(budget_tokens=600)
        answer = await ask(gateway, token, name, stream=True)
        code, message = last_of(name, answer)
        assert code == "budget-exceeded"
        assert "600 model tokens" in message
