"""Asking a model: Chat Completions over HTTP, streamed or not, asked again where that may help.

An answer is {"content": str, "tool_calls": [{"id", "name", "arguments"}], "finish_reason",
"usage"}, whole; `arguments` is text as the model wrote it.
Raises: ModelError.
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
import zlib
from http.client import HTTPException
from typing import Any, Iterable, Iterator  # noqa: UP035 - Python 3.8

from .errors import said
from .events import Events, clipped

ANSWER_BYTES_MAX = 16 * 1024 * 1024
MODEL_TIMEOUT_S = 300.0  # between two reads: a local model may think long before its first token
TRIES_MAX = 6
RETRY_S_MAX = 60.0
# Words in an error that say that waiting is no use: of our gateway, and of others.
SPENT = re.compile("budget-exceeded|too-many-exchanges|insufficient_quota")
ENDED = re.compile("token-inactive|attempt-ended|authentication_error|permission_error")
# How servers say that the history is too long for the model (llama.cpp, OpenAI, vLLM, others).
FULL = re.compile(
    "context_length_exceeded|exceed_context_size|maximum context length|context window"
    "|context size|prompt is too long|too many tokens",
    re.IGNORECASE,
)


class ModelError(Exception):
    """No answer: `retry` says whether asking again may help, `after_s` what the server asked."""

    def __init__(
        self, code: str, message: str, *, retry: bool = False, after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.code, self.retry, self.after_s = code, retry, after_s


class Model:
    def __init__(
        self,
        url: str,
        key: str,
        name: str,
        *,
        tools: list[dict[str, Any]],
        retry_base_s: float,
        events: Events,
    ) -> None:
        self.url, self.key, self.name = url.rstrip("/") + "/chat/completions", key, name
        self.tools, self.retry_base_s, self.events = tools, retry_base_s, events
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answer(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer as {"content", "tool_calls", "finish_reason", "usage"}.
        Raises: ModelError, when asking again is no use or was tried TRIES_MAX times."""
        request: dict[str, Any] = {"messages": messages, "tools": self.tools, "stream": True}
        request["stream_options"] = {"include_usage": True}
        if self.name:
            request["model"] = self.name
        body = json.dumps(request).encode()
        for attempt in range(1, TRIES_MAX + 1):
            try:
                return self.ask(body)
            except ModelError as e:
                if not e.retry or attempt == TRIES_MAX:
                    raise
                wait_s = retry_delay_s(attempt, e.after_s, self.retry_base_s, zlib.crc32(body))
                self.events("error", code=e.code, message=str(e), retry_in_s=round(wait_s, 3))
                time.sleep(wait_s)
        raise AssertionError("the loop returns or raises")

    def ask(self, body: bytes) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url, body, headers)  # noqa: S310 - operator's URL
        try:
            with self.opener.open(request, timeout=MODEL_TIMEOUT_S) as response:
                if response.headers.get_content_type() == "text/event-stream":
                    return assembled(sse_chunks(response))
                return whole(response.read(ANSWER_BYTES_MAX))
        except urllib.error.HTTPError as e:
            raise refused(e.code, e.read(64_000), e.headers.get("Retry-After")) from e
        except (OSError, HTTPException) as e:  # URLError is an OSError
            raise ModelError("unreachable", f"cannot reach the model: {e}", retry=True) from e
        except (AttributeError, TypeError) as e:  # JSON, but of another shape
            raise ModelError("bad-answer", f"the answer is no completion: {e}", retry=True) from e


def retry_delay_s(attempt: int, after_s: float, base_s: float, seed: int) -> float:
    """Doubling, with a jitter of a quarter that is always the same for the same request; at
    least what the server asked, at most RETRY_S_MAX."""
    jitter = 0.75 + zlib.crc32(b"%d:%d" % (seed, attempt)) % 1000 / 2000
    return min(RETRY_S_MAX, max(base_s * 2.0 ** (attempt - 1) * jitter, after_s))


def refused(status: int, body: bytes, retry_after: str | None) -> ModelError:
    text = body.decode("utf-8", "replace")
    # A spent budget is often a 429, but waiting does not bring it back.
    spent = status == 402 or (status == 429 and SPENT.search(text) is not None)
    code = "budget" if spent else "unauthorized" if status in (401, 403) else f"http-{status}"
    if status in (400, 413, 422, 500) and FULL.search(text):
        return ModelError("context-full", f"the history is too long: {clipped(text, 2000)}")
    asked = re.match(r"\d{1,6}(\.\d+)?$", (retry_after or "").strip())
    return ModelError(
        code,
        f"the model's server answered {status}: {clipped(said(text), 2000)}",
        retry=not spent and (status in (408, 425, 429) or status >= 500),
        after_s=float(asked.group()) if asked else 0.0,
    )


def sse_chunks(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects in a stream of server-sent events, as they arrive, up to [DONE]."""
    data: list[str] = []
    size = 0
    for line in lines:
        size += len(line)
        if size > ANSWER_BYTES_MAX:
            raise ModelError("answer-too-long", f"the answer is over {ANSWER_BYTES_MAX} bytes")
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text.startswith("data:"):
            data.append(text[6:] if text.startswith("data: ") else text[5:])
        elif not text and data:
            joined, data = "\n".join(data), []
            if joined.strip() == "[DONE]":
                return
            yield parsed(joined)
    raise ModelError("cut-off", "the answer ended before it was complete", retry=True)


def parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as e:
        raise ModelError("bad-answer", f"the answer is not JSON: {e}", retry=True) from e
    if not isinstance(value, dict) or value.get("error"):
        shown = clipped(text, 2000)
        if FULL.search(shown):
            raise ModelError("context-full", f"the history is too long: {shown}")
        final = SPENT.search(shown) or ENDED.search(shown)
        raise ModelError("model-error", f"the model answered with: {shown}", retry=not final)
    return value


def whole(body: bytes) -> dict[str, Any]:
    """An answer that was not streamed, read as a stream of one chunk."""
    value = parsed(body.decode("utf-8", "replace"))
    choices = value.get("choices") or []
    return assembled([{**value, "choices": [{**c, "delta": c.get("message")} for c in choices]}])


def assembled(chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Deltas joined into one answer; the pieces of a tool call share an `index`."""
    answer: dict[str, Any] = {"content": "", "finish_reason": None, "usage": None}
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        answer["usage"] = chunk.get("usage") or answer["usage"]
        for choice in (chunk.get("choices") or [])[:1]:
            delta = choice.get("delta") or {}
            answer["content"] += delta.get("content") or ""
            answer["finish_reason"] = choice.get("finish_reason") or answer["finish_reason"]
            for n, piece in enumerate(delta.get("tool_calls") or []):
                call = calls.setdefault(piece.get("index", n), {"name": "", "arguments": ""})
                function = piece.get("function") or {}
                call["id"] = piece.get("id") or call.get("id")
                call["name"] += function.get("name") or ""
                call["arguments"] += function.get("arguments") or ""
    return {**answer, "tool_calls": [calls[index] for index in sorted(calls)]}
