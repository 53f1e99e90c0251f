"""A real model server behind the gateway, asked by the official clients in every wire format.

llama.cpp's server has Chat Completions, Responses and Messages of its own, so each format is
passed through where it can be, and translated from and to each of those three.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import types

pytestmark = pytest.mark.real_model

PROMPT = "hello there"
TOKENS = 8
FORMATS = ("chat", "responses", "messages", "gemini")
# What the gateway is told that the server speaks; the first is what others are translated to.
SPOKEN = ("chat", "responses", "messages", "chat,responses,messages")


@dataclass
class Said:
    text: str
    prompt: int
    completion: int
    pieces: int  # of a stream


@dataclass
class Clients:
    """The official client of each format, with its base URL as its users write it."""

    gateway: httpx.AsyncClient
    token: str

    @property
    def url(self) -> str:
        return str(self.gateway.base_url).rstrip("/")

    def openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.token, max_retries=0)

    def anthropic(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=self.url, api_key=self.token, max_retries=0)

    def gemini(self) -> genai.Client:
        return genai.Client(api_key=self.token, http_options={"base_url": self.url})


async def whole(clients: Clients, name: str) -> Said:
    match name:
        case "chat":
            chat = await clients.openai().chat.completions.create(
                model="gemma",
                messages=[{"role": "user", "content": PROMPT}],
                max_tokens=TOKENS,
                temperature=0,
            )
            assert chat.choices[0].finish_reason in ("length", "stop")
            text, used = chat.choices[0].message.content or "", chat.usage
            assert used is not None
            return Said(text, used.prompt_tokens, used.completion_tokens, 0)
        case "responses":
            response = await clients.openai().responses.create(
                model="gemma", input=PROMPT, max_output_tokens=TOKENS, temperature=0
            )
            assert response.usage is not None
            counts = (response.usage.input_tokens, response.usage.output_tokens)
            return Said(response.output_text, *counts, 0)
        case "messages":
            message = await clients.anthropic().messages.create(
                model="gemma",
                messages=[{"role": "user", "content": PROMPT}],
                max_tokens=TOKENS,
                extra_body={"temperature": 0},
            )
            return said_message(message, 0)
    answer = await clients.gemini().aio.models.generate_content(
        model="gemma", contents=PROMPT, config=CONFIG
    )
    return said_gemini([answer], answer.text or "")


CONFIG = types.GenerateContentConfig(max_output_tokens=TOKENS, temperature=0)


def said_message(message: anthropic.types.Message, pieces: int) -> Said:
    usage = message.usage
    prompt = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    text = "".join(block.text for block in message.content if block.type == "text")
    assert message.stop_reason in ("max_tokens", "end_turn")
    return Said(text, prompt, usage.output_tokens, pieces)


def said_gemini(chunks: list[types.GenerateContentResponse], text: str) -> Said:
    used = chunks[-1].usage_metadata
    assert used is not None
    assert chunks[-1].candidates
    assert chunks[-1].candidates[0].finish_reason in ("MAX_TOKENS", "STOP")
    counts = (used.prompt_token_count or 0, used.candidates_token_count or 0)
    return Said(text, *counts, len(chunks))


async def streamed(clients: Clients, name: str) -> Said:
    match name:
        case "chat":
            return await streamed_chat(clients.openai())
        case "responses":
            return await streamed_responses(clients.openai())
        case "messages":
            async with clients.anthropic().messages.stream(
                model="gemma",
                messages=[{"role": "user", "content": PROMPT}],
                max_tokens=TOKENS,
                extra_body={"temperature": 0},
            ) as stream:
                events = [event async for event in stream]
                assert events[-1].type == "message_stop"
                return said_message(await stream.get_final_message(), len(events))
    chunks = [
        chunk
        async for chunk in await clients.gemini().aio.models.generate_content_stream(
            model="gemma", contents=PROMPT, config=CONFIG
        )
    ]
    return said_gemini(chunks, "".join(chunk.text or "" for chunk in chunks))


async def streamed_chat(client: openai.AsyncOpenAI) -> Said:
    stream = await client.chat.completions.create(
        model="gemma",
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    used = chunks[-1].usage
    assert used is not None
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    return Said(text, used.prompt_tokens, used.completion_tokens, len(chunks))


async def streamed_responses(client: openai.AsyncOpenAI) -> Said:
    stream = await client.responses.create(
        model="gemma", input=PROMPT, max_output_tokens=TOKENS, temperature=0, stream=True
    )
    text, count, last = "", 0, None
    async for event in stream:
        count += 1
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type in ("response.completed", "response.incomplete"):
            last = event.response
    assert last is not None
    assert last.usage is not None
    assert last.output_text == text
    return Said(text, last.usage.input_tokens, last.usage.output_tokens, count)


@pytest.fixture(params=SPOKEN)
async def clients(
    request, start_gateway, scheduler, llama: httpx.AsyncClient
) -> AsyncIterator[Clients]:
    gateway = await start_gateway(llm_base_url=str(llama.base_url), llm_formats=request.param)
    token, info = scheduler.grant(budget_tokens=10_000)
    yield Clients(gateway, token)
    record = await scheduler.exchanges(info.attempt_id)
    assert record.exchanges
    assert all(e.status == 200 and e.note == "" for e in record.exchanges)


async def test_every_format_is_served_streamed_and_not_with_one_answer(
    clients: Clients, scheduler, llama
):
    direct = await llama.post(
        "/v1/chat/completions",
        json={
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": TOKENS,
            "temperature": 0,
        },
    )
    text = direct.json()["choices"][0]["message"]["content"]
    usage = direct.json()["usage"]
    for name in FORMATS:
        for ask in (whole, streamed):
            said = await ask(clients, name)
            assert said.text == text, (name, ask.__name__)
            assert said.prompt == usage["prompt_tokens"], (name, ask.__name__)
            assert said.completion == usage["completion_tokens"], (name, ask.__name__)
            if ask is streamed:
                assert said.pieces > 2, name
    record = await scheduler.exchanges(next(iter(scheduler.known.values())).attempt_id)
    assert {e.completion_tokens for e in record.exchanges} == {usage["completion_tokens"]}
    assert {e.prompt_tokens for e in record.exchanges} == {usage["prompt_tokens"]}


async def test_tokens_are_counted_by_the_server_or_estimated(clients: Clients):
    counted = await clients.anthropic().messages.count_tokens(
        model="gemma", messages=[{"role": "user", "content": PROMPT}]
    )
    assert 5 < counted.input_tokens < 50
    count = await clients.gemini().aio.models.count_tokens(model="gemma", contents=PROMPT)
    assert 5 < (count.total_tokens or 0) < 50


async def test_models_are_listed_as_each_client_knows_them(clients: Clients):
    assert [m.id async for m in clients.openai().models.list()] == ["gemma"]
    assert [m.id async for m in clients.anthropic().models.list()] == ["gemma"]
    assert [m.name async for m in await clients.gemini().aio.models.list()] == ["models/gemma"]
    assert (await clients.openai().models.retrieve("gemma")).id == "gemma"
    assert (
        await clients.anthropic().messages.count_tokens(
            model="gemma", messages=[{"role": "user", "content": PROMPT}]
        )
    ).input_tokens
