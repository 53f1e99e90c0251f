"""Every official client before every kind of provider: tools, pictures, thoughts, stop reasons,
usage; streamed and not. The providers are scripted: one answer, said in each format."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx
import model_answers
import openai
import pytest
from google import genai
from google.genai import types

FORMATS = ("chat", "responses", "messages", "gemini")
PNG = base64.b64encode(b"\x89PNG").decode()
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
# How each format is spoken by a provider: LLM_PROVIDER, more settings, and where its key goes.
PROVIDERS: dict[str, tuple[dict[str, str], str]] = {
    "chat": (
        {"llm_provider": "openai", "openai_api_key": "sk-upstream"},
        "authorization: bearer sk-upstream",
    ),
    "responses": (
        {
            "llm_provider": "openai",
            "openai_api_key": "sk-upstream",
            "llm_formats": "responses",
        },
        "authorization: bearer sk-upstream",
    ),
    "messages": (
        {"llm_provider": "anthropic", "anthropic_api_key": "sk-upstream"},
        "x-api-key: sk-upstream",
    ),
    "gemini": (
        {"llm_provider": "gemini", "gemini_api_key": "sk-upstream"},
        "x-goog-api-key: sk-upstream",
    ),
}


@dataclass
class Heard:
    """What a client understood."""

    text: str = ""
    thought: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    stop: str = ""
    prompt: int = 0
    completion: int = 0


def answer(path: str, format_: str, *, stream: bool) -> bytes:
    if stream:
        body, kind = model_answers.STREAM[format_], "text/event-stream"
    else:
        body, kind = json.dumps(model_answers.WHOLE[format_]).encode(), "application/json"
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


@pytest.fixture
def scripted(upstream: Any) -> Callable[[str], str]:
    def url(format_: str) -> str:
        def script(path: str) -> bytes:
            stream = bool(upstream.requests[-1].get("stream")) or "streamGenerate" in path
            return answer(path, format_, stream=stream)

        upstream.script = script
        return upstream.url("script")

    return url


async def chat(url: str, token: str, stream: bool) -> Heard:
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0)
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    call = {"id": "call_0", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    function = {"name": "look", "description": "looks", "parameters": SCHEMA}
    asked: dict[str, Any] = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "see"}, picture]},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_0", "content": "nothing there"},
        ],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "auto",
        "max_tokens": 100,
    }
    if not stream:
        found = await client.chat.completions.create(**asked)
        message = found.choices[0].message
        heard = Heard(message.content or "", getattr(message, "reasoning_content", "") or "")
        heard.calls = [
            (c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or []
        ]
        heard.stop, usage = found.choices[0].finish_reason, found.usage
    else:
        heard, usage, arguments, name = Heard(), None, "", ""
        async for chunk in await client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        ):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                heard.text += choice.delta.content or ""
                heard.thought += getattr(choice.delta, "reasoning_content", "") or ""
                for piece in choice.delta.tool_calls or []:
                    name += piece.function.name or ""
                    arguments += piece.function.arguments or ""
                heard.stop = choice.finish_reason or heard.stop
        heard.calls = [(name, json.loads(arguments))]
    assert usage is not None
    heard.prompt, heard.completion = usage.prompt_tokens, usage.completion_tokens
    return heard


async def responses(url: str, token: str, stream: bool) -> Heard:
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0)
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
    asked: dict[str, Any] = {
        "model": "m",
        "instructions": "be brief",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "see"}, picture]},
            {"type": "function_call", "call_id": "call_0", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_0", "output": "nothing there"},
        ],
        "tools": [{"type": "function", "name": "look", "parameters": SCHEMA, "strict": False}],
        "max_output_tokens": 100,
        "store": False,
    }
    if stream:
        kinds, found = [], None
        async with client.responses.stream(**asked) as events:
            async for event in events:
                kinds.append(event.type)
            found = await events.get_final_response()
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
    else:
        found = await client.responses.create(**asked)
    heard = Heard(found.output_text, stop=found.status or "")
    for item in found.output:
        if item.type == "function_call":
            heard.calls.append((item.name, json.loads(item.arguments)))
        if item.type == "reasoning":
            heard.thought += "".join(part.text for part in item.summary)
    assert found.usage is not None
    heard.prompt, heard.completion = found.usage.input_tokens, found.usage.output_tokens
    return heard


async def messages(url: str, token: str, stream: bool) -> Heard:
    client = anthropic.AsyncAnthropic(base_url=url, auth_token=token, max_retries=0)
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    result = {"type": "tool_result", "tool_use_id": "call_0", "content": "nothing there"}
    asked: dict[str, Any] = {
        "model": "m",
        "system": "be brief",
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "see"}, {"type": "image", "source": source}],
            },
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "call_0", "name": "look", "input": {}}],
            },
            {"role": "user", "content": [result]},
        ],
        "tools": [{"name": "look", "description": "looks", "input_schema": SCHEMA}],
        "max_tokens": 100,
    }
    if stream:
        async with client.messages.stream(**asked) as events:
            kinds = [event.type async for event in events]
            found = await events.get_final_message()
        assert kinds[0] == "message_start"
        assert kinds[-1] == "message_stop"
    else:
        found = await client.messages.create(**asked)
    heard = Heard(stop=found.stop_reason or "")
    for block in found.content:
        if block.type == "text":
            heard.text += block.text
        if block.type == "thinking":
            heard.thought += block.thinking
        if block.type == "tool_use":
            heard.calls.append((block.name, dict(block.input)))
    usage = found.usage
    heard.prompt = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    heard.completion = usage.output_tokens
    return heard


async def gemini(url: str, token: str, stream: bool) -> Heard:
    client = genai.Client(api_key=token, http_options={"base_url": url})
    look = types.FunctionDeclaration(name="look", parameters_json_schema=SCHEMA)
    parts = [
        types.Part(text="see"),
        types.Part.from_bytes(data=b"\x89PNG", mime_type="image/png"),
    ]
    asked: dict[str, Any] = {
        "model": "m",
        "contents": [
            types.Content(role="user", parts=parts),
            types.Content(
                role="model", parts=[types.Part.from_function_call(name="look", args={})]
            ),
            types.Content(
                role="user",
                parts=[
                    types.Part.from_function_response(
                        name="look", response={"output": "nothing there"}
                    )
                ],
            ),
        ],
        "config": types.GenerateContentConfig(
            system_instruction="be brief",
            max_output_tokens=100,
            tools=[types.Tool(function_declarations=[look])],
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        ),
    }
    chunks = (
        [c async for c in await client.aio.models.generate_content_stream(**asked)]
        if stream
        else [await client.aio.models.generate_content(**asked)]
    )
    heard = Heard()
    for chunk in chunks:
        assert chunk.candidates
        for part in (chunk.candidates[0].content or types.Content()).parts or []:
            if part.function_call:
                call = part.function_call
                heard.calls.append((call.name or "", dict(call.args or {})))
            elif part.thought:
                heard.thought += part.text or ""
            else:
                heard.text += part.text or ""
        heard.stop = str(chunk.candidates[0].finish_reason or "")
        usage = chunk.usage_metadata
        if usage is not None:
            heard.prompt = usage.prompt_token_count or 0
            thought = usage.thoughts_token_count or 0
            heard.completion = (usage.candidates_token_count or 0) + thought
    return heard


ASK = {"chat": chat, "responses": responses, "messages": messages, "gemini": gemini}
STOPS = {
    "chat": "tool_calls",
    "responses": "completed",
    "messages": "tool_use",
    "gemini": "FinishReason.STOP",
}


@pytest.mark.parametrize("spoken", FORMATS)
async def test_every_client_understands_every_provider(
    start_gateway, scheduler, upstream, scripted, spoken
):
    settings, key = PROVIDERS[spoken]
    gateway: httpx.AsyncClient = await start_gateway(llm_base_url=scripted(spoken), **settings)
    url = str(gateway.base_url).rstrip("/")
    for name in FORMATS:
        for stream in (False, True):
            token, info = scheduler.grant(budget_tokens=100_000)
            heard = await ASK[name](url, token, stream)
            where = (name, spoken, stream)
            assert heard.text == model_answers.TEXT, where
            assert heard.thought == model_answers.THOUGHT, where
            assert heard.calls == [("look", {"path": "a.txt"})], where
            assert heard.stop == STOPS[name], where
            assert (heard.prompt, heard.completion) == (21, 9), where
            assert key in upstream.heads[-1].lower(), where
            assert token not in upstream.heads[-1]
            sent = json.dumps(upstream.requests[-1])
            for said in ("be brief", "see", PNG, "nothing there", "look", '"path"'):
                assert said in sent, (where, said)
            (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
            assert (exchange.prompt_tokens, exchange.completion_tokens) == (21, 9), where
            assert (exchange.status, exchange.note) == (200, ""), where


@pytest.mark.parametrize("spoken", FORMATS)
async def test_the_same_format_passes_byte_for_byte(
    start_gateway, scheduler, upstream, scripted, spoken
):
    gateway = await start_gateway(llm_base_url=scripted(spoken), **PROVIDERS[spoken][0])
    token, _ = scheduler.grant()
    body, path = {
        "chat": (
            b'{ "model":"m", "messages":[{"role":"user","content":"\\u00e9"}], "stream":true,'
            b' "stream_options":{"include_usage":true},  "x_unknown": [1.50] }',
            "/v1/chat/completions",
        ),
        "responses": (
            b'{ "model":"m", "input":"\\u00e9", "stream":true, "previous_response_id":"r",'
            b'  "x_unknown": [1.50] }',
            "/v1/responses",
        ),
        "messages": (
            b'{ "model":"m", "max_tokens":9, "messages":[{"role":"user","content":"\\u00e9"}],'
            b' "stream":true,  "tools":[{"type":"bash_20250124","name":"bash"}] }',
            "/v1/messages?beta=true",
        ),
        "gemini": (
            b'{ "contents":[{"parts":[{"text":"\\u00e9"}]}],  "cachedContent":"c" }',
            "/v1beta/models/m:streamGenerateContent?alt=sse",
        ),
    }[spoken]
    headers = {"authorization": f"Bearer {token}", "anthropic-beta": "some-beta"}
    answer = await gateway.post(path, content=body, headers=headers)
    assert answer.content == model_answers.STREAM[spoken]
    assert upstream.bodies[-1] == body
    if spoken == "messages":
        assert "anthropic-beta: some-beta" in upstream.heads[-1]
        assert "?beta=true" in upstream.heads[-1]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_recorded_in_one_format_replays_in_it(
    start_gateway, scheduler, upstream, scripted, tmp_path, stream
):
    for name in FORMATS:
        tape = str(tmp_path / f"{name}.jsonl")
        settings = {**PROVIDERS[name][0], "llm_record": tape}
        live = await start_gateway(llm_base_url=scripted(name), **settings)
        token, _ = scheduler.grant()
        first = await ASK[name](str(live.base_url).rstrip("/"), token, stream)
        asked = len(upstream.requests)
        replaying = await start_gateway(llm_provider="replay", llm_cassette=tape)
        url = str(replaying.base_url).rstrip("/")
        for again in (stream, not stream):
            token, info = scheduler.grant()
            assert await ASK[name](url, token, again) == first, (name, again)
            (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
            assert exchange.replayed
        assert len(upstream.requests) == asked


async def test_a_gemini_stream_without_sse_is_one_json_array(
    start_gateway, scheduler, upstream, scripted
):
    for spoken in ("gemini", "chat"):
        gateway = await start_gateway(llm_base_url=scripted(spoken), **PROVIDERS[spoken][0])
        token, _ = scheduler.grant()
        answer = await gateway.post(
            "/v1beta/models/m:streamGenerateContent",
            json={"contents": [{"parts": [{"text": "x"}]}]},
            params={"key": token},
        )
        assert answer.headers["content-type"] == "application/json"
        chunks = answer.json()
        parts = [p for c in chunks for p in c["candidates"][0]["content"]["parts"]]
        text = "".join(part.get("text", "") for part in parts if not part.get("thought"))
        assert text == model_answers.TEXT
    upstream.script = lambda _path: b""
    gateway = await start_gateway(llm_base_url=upstream.url("stream-disconnect"))
    answer = await gateway.post(
        "/v1beta/models/m:streamGenerateContent",
        json={"contents": [{"parts": [{"text": "x"}]}]},
        params={"key": scheduler.grant()[0]},
    )
    assert answer.json()[-1]["error"]["details"][0]["reason"] == "upstream-disconnected"


@pytest.mark.parametrize("base", ["", "/v1", "/v1/v1"])
async def test_base_urls_with_and_without_a_version_lead_to_the_same(
    start_gateway, scheduler, upstream, scripted, base
):
    gateway = await start_gateway(llm_base_url=scripted("chat"))
    token, _ = scheduler.grant()
    url = f"{gateway.base_url}{base}".replace("//v", "/v")
    async with httpx.AsyncClient(headers={"x-api-key": token}) as client:
        asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
        for path in ("/chat/completions", "/messages"):
            answer = await client.post(url.rstrip("/") + path, json=asked)
            assert answer.status_code == 200, path
        assert (await client.post(url.rstrip("/") + "/responses", json={"input": "x"})).is_success


async def test_embeddings_pass_and_are_charged_for_their_prompt(start_gateway, scheduler, upstream):
    value = {"object": "list", "data": [], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    body = json.dumps(value).encode()
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    upstream.script = lambda path: head.encode() + body
    gateway = await start_gateway(llm_base_url=upstream.url("script"))
    token, info = scheduler.grant(budget_tokens=1000)
    client = openai.AsyncOpenAI(
        base_url=f"{str(gateway.base_url).rstrip('/')}/v1", api_key=token, max_retries=0
    )
    await client.embeddings.create(model="e", input=["a", "b"], encoding_format="float")
    assert upstream.heads[-1].startswith("POST /script/v1/embeddings ")
    (exchange,) = (await scheduler.exchanges(info.attempt_id)).exchanges
    assert (exchange.prompt_tokens, exchange.completion_tokens) == (4, 0)
    anthropic_gateway = await start_gateway(
        llm_base_url=upstream.url("script"), llm_provider="anthropic"
    )
    refused = await anthropic_gateway.post(
        "/v1/embeddings", json={"input": "a"}, headers={"x-api-key": token}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported")
