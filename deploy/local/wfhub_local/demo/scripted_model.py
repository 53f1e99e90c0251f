"""A server that answers chat completions with given ones, in order, and keeps what it was asked.

An answer given as a whole is streamed to a client that asks for a stream. What an agent asks beside
its work (a title, a summary) gets the `aside`, when there is one: a request that offers none of the
tools that the answers call, and whatever comes after the last answer.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Script:
    url: str  # with /v1
    requests: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any] | None] = field(default_factory=list)  # to each of them


@contextmanager
def serving(
    answers: Sequence[dict[str, Any]], *, aside: dict[str, Any] | None = None
) -> Iterator[Script]:
    """Without an aside, what comes after the last answer is a 410, which no client asks again."""
    left = iter(answers)
    used = {name for answer in answers for name in _called(answer)}
    lock = threading.Lock()

    def answer_to(request: dict[str, Any]) -> dict[str, Any] | None:
        offered = {tool.get("function", {}).get("name") for tool in request.get("tools") or ()}
        with lock:
            beside = aside is not None and used and not used & offered
            answer = aside if beside else next(left, aside)
            script.requests.append(request)
            script.answers.append(answer)
            return answer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            answer = answer_to(request)
            stream = answer is not None and bool(request.get("stream"))
            self.send_response(200 if answer is not None else 410)
            kind = "text/event-stream" if stream else "application/json"
            self.send_header("Content-Type", kind)
            self.end_headers()
            body = json.dumps(answer or {"error": "the script is over"}).encode()
            self.wfile.write(streamed(answer) if stream and answer else body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script = Script(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _called(answer: dict[str, Any]) -> Iterator[str]:
    for choice in answer.get("choices", ()):
        for call in choice["message"].get("tool_calls") or ():
            yield call["function"]["name"]


def streamed(answer: dict[str, Any]) -> bytes:
    """A chat completion as server-sent events: what is said, why it ended, the usage if any."""
    rest: dict[str, Any] = {k: answer[k] for k in ("id", "created", "model") if k in answer}
    head = {**rest, "object": "chat.completion.chunk"}
    choice = answer["choices"][0]
    delta: dict[str, Any] = {k: v for k, v in choice["message"].items() if v is not None}
    if "tool_calls" in delta:
        delta["tool_calls"] = [c | {"index": n} for n, c in enumerate(delta["tool_calls"])]
    end = {"index": 0, "delta": {}, "finish_reason": choice.get("finish_reason")}
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**head, "choices": [end]},
    ]
    if "usage" in answer:
        chunks[-1]["usage"] = answer["usage"]
    data = [*map(json.dumps, chunks), "[DONE]"]
    return "".join(f"data: {each}\n\n" for each in data).encode()
