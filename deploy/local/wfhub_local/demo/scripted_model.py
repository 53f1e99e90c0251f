"""A server that answers chat completions with given ones, in order, and keeps what it was asked.

An answer given as a whole is streamed to a client that asks for a stream.
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


@contextmanager
def serving(answers: Sequence[dict[str, Any]]) -> Iterator[Script]:
    """Answers past the last one are a 410, which no client asks again."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            number = len(script.requests)
            length = int(self.headers["Content-Length"])
            script.requests.append(json.loads(self.rfile.read(length)))
            there = number < len(answers)
            answer = answers[number] if there else {"error": "the script is over"}
            stream = there and bool(script.requests[-1].get("stream"))
            self.send_response(200 if there else 410)
            kind = "text/event-stream" if stream else "application/json"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(streamed(answer) if stream else json.dumps(answer).encode())

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
