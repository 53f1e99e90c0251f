"""A double of a model over real HTTP, and the built-in agent as the sandbox starts it."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from wfhub_agent_runner.agents import archive

RETRY_BASE_S = "0.01"


@dataclass
class Reply:
    """One HTTP answer. `body` is written piece by piece; `cut` closes before its end."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: tuple[bytes, ...] = ()
    cut: bool = False


def whole(content: str = "", calls: tuple[tuple[str, Any], ...] = (), **fields: Any) -> Reply:
    """An answer in one piece; arguments that are no string are sent as JSON."""
    tool_calls = [
        {
            "id": f"call_{n}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
            },
        }
        for n, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": content or None}
    choice = {"index": 0, "message": {**message, "tool_calls": tool_calls}, **fields}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()
    return Reply(headers={"Content-Type": "application/json"}, body=(body,))


def streamed(*deltas: dict[str, Any], end: bytes = b"data: [DONE]\n\n", **reply: Any) -> Reply:
    events = [
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"
        for delta in deltas
    ]
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}\n\n'
    headers = {"Content-Type": "text/event-stream"}
    return Reply(headers=headers, body=(b": hello\n\n", *events, usage, end), **reply)


def finish(summary: str = "done") -> Reply:
    return whole(calls=(("finish", {"summary": summary}),))


class ModelDouble:
    """Answers requests with its replies in order; keeps what was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                double.requests.append({"path": self.path, **json.loads(body)})
                double.headers.append(dict(self.headers))
                reply = double.replies.pop(0) if double.replies else Reply(status=418)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.cut:
                    size = sum(map(len, reply.body)) + 100
                    self.send_header("Content-Length", str(size))
                self.end_headers()
                for piece in reply.body:
                    self.wfile.write(piece)
                    self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def model() -> Iterator[ModelDouble]:
    double = ModelDouble()
    thread = threading.Thread(target=double.server.serve_forever, args=(0.01,))
    thread.start()
    yield double
    double.server.shutdown()
    double.server.server_close()
    thread.join()


@dataclass
class Ran:
    exit_code: int
    events: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def outputs(self) -> list[str]:
        return [event["output"] for event in self.of("tool_result")]


RunAgent = Callable[..., Ran]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture
def run_agent(model: ModelDouble, tmp_path: Path, workspace: Path) -> RunAgent:
    script = tmp_path / archive.NAME
    script.write_bytes(archive.content())
    prompt = tmp_path / "prompt.md"
    prompt.write_text("Fix it.\n")

    def run(*replies: Reply, **env: str) -> Ran:
        model.replies = list(replies)
        variables = {
            "PATH": "/usr/bin:/bin",
            "OPENAI_BASE_URL": model.url,
            "OPENAI_API_KEY": "dummy",
            "WFHUB_PROMPT_FILE": str(prompt),
            "WFHUB_MODEL": "some-model",
            "WFHUB_RETRY_BASE_S": RETRY_BASE_S,
            **env,
        }
        done = subprocess.run(
            [sys.executable, "-I", "-S", script],
            cwd=workspace,
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        return Ran(done.returncode, [json.loads(line) for line in done.stdout.splitlines()])

    return run
