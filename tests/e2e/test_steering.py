"""A word to a running agent: by REST and CLI to the scheduler, the runner, the sandbox and back."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from wfhub_local.agents.make_cassette import completion_of
from wfhub_local.agents.scripts import Turn

from .conftest import Stack, eventually, git, start

WORD = "Call the file heliotrope.txt instead."


class Model:
    """Has the built-in agent write a file, then count until it is told something, then obey."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, Any]]] = []
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.dumps(model.answer(json.loads(self.rfile.read(length)))).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        messages = request["messages"]
        self.asked.append(messages)
        number = len(self.asked)
        calls = sum(message["role"] == "tool" for message in messages)
        told = any(message["content"] == WORD for message in messages)
        if calls == 0:
            turn = Turn("", "write_file", {"path": "first.txt", "content": "1\n"})
        elif told and not any("heliotrope.txt" in str(m.get("tool_calls")) for m in messages):
            turn = Turn("", "write_file", {"path": "heliotrope.txt", "content": "2\n"})
        elif told:
            turn = Turn("", "finish", {"summary": "renamed as told"})
        else:
            time.sleep(0.2)  # a model thinks; the test waits for what it was asked
            turn = Turn("", "run_command", {"command": f"echo {number}"})
        return completion_of(turn, number)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def model() -> Iterator[Model]:
    serving = Model()
    yield serving
    serving.close()


@pytest.fixture
def steered(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[Stack]:
    data = tmp_path_factory.mktemp("steered") / "data"
    running = start(data, LLM_PROVIDER="openai", LLM_BASE_URL=model.url)
    yield running
    running.process.terminate()
    assert running.process.wait(60) == 0


def submit(stack: Stack, repository: Path, *arguments: str) -> str:
    done = stack.wfhub("run", "--json", "--detach", "--repo", str(repository), *arguments)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout.strip().splitlines()[-1])["task_id"])


def status(stack: Stack, task: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(stack.wfhub("status", task, "--json").stdout)
    return value


def files(repository: Path, task: str) -> set[str]:
    names = git("diff", "--name-only", "main", f"wfhub/{task}", cwd=repository)
    return set(names.split())


def test_an_agent_is_told_something_and_another_hands_in_what_it_has(
    steered: Stack, model: Model, repository: Path
) -> None:
    task = submit(steered, repository, "--prompt", "Write a file.")
    eventually(lambda: len(model.asked) >= 3, within_s=60)
    told = steered.wfhub("tell", task, WORD)
    assert told.returncode == 0, told.stderr
    eventually(lambda: status(steered, task)["state"] == "succeeded", within_s=60)
    assert files(repository, task) == {"first.txt", "heliotrope.txt"}
    shown = steered.wfhub("logs", task, "--events", "--json").stdout
    assert {"event": "told", "text": WORD} in [json.loads(line) for line in shown.splitlines()]
    late = steered.wfhub("tell", task, WORD)
    assert late.returncode == 1
    assert "no agent of it is at work" in late.stderr

    model.asked.clear()
    task = submit(steered, repository, "--prompt", "Write a file.", "--verify", "test -f first.txt")
    eventually(lambda: len(model.asked) >= 3, within_s=60)
    assert steered.wfhub("hand-in", task).returncode == 0
    eventually(lambda: status(steered, task)["state"] == "succeeded", within_s=60)
    assert files(repository, task) == {"first.txt"}


def test_an_agent_that_does_not_listen_can_still_be_told_to_hand_in(
    stack: Stack, repository: Path
) -> None:
    task = submit(
        stack, repository,
        "--agent-cmd", "sh -c 'echo half > half.txt; echo written; sleep 86398'",
        "--verify", "grep -qx half half.txt",
    )  # fmt: skip
    eventually(lambda: "written" in stack.wfhub("logs", task).stdout, within_s=60)
    refused = stack.wfhub("tell", task, "hurry")
    assert refused.returncode == 1
    assert "reads no messages" in refused.stderr
    assert stack.wfhub("hand-in", task).returncode == 0
    eventually(lambda: status(stack, task)["state"] == "succeeded", within_s=60)
    assert files(repository, task) == {"half.txt"}
    assert stack.wfhub("hand-in", "tsk_" + "a" * 24).returncode == 1
