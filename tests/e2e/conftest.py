"""A whole stack, started as a user would, and the CLI against it."""

import json
import os
import signal
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WFHUB = str(Path(sysconfig.get_path("scripts")) / "wfhub")
READY_S_MAX = 100  # several stacks start at once on two cores; a test ends at 120


@dataclass
class Stack:
    data: Path
    process: subprocess.Popen[str]
    url: str

    def env(self) -> dict[str, str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("WFHUB_", "LLM_"))}
        return {**keep, "WFHUB_DATA": str(self.data)}

    def wfhub(self, *arguments: str, timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [WFHUB, *arguments],
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def run(self, *arguments: str, timeout_s: float = 100) -> tuple[int, dict[str, Any], str]:
        """`wfhub run … --json`: exit code, the last line's object, standard error."""
        done = self.wfhub("run", "--json", *arguments, timeout_s=timeout_s)
        lines = done.stdout.strip().splitlines()
        assert lines, done.stderr
        return done.returncode, json.loads(lines[-1]), done.stderr


def start(data: Path, *more: str, ready_s: float = READY_S_MAX, **env: str) -> Stack:
    process = subprocess.Popen(
        [WFHUB, "up", "--data", str(data), "--port", "0", *more],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("WFHUB_")}, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        return Stack(data, process, _ready_url(process, ready_s))
    except BaseException:
        process.kill()  # whatever it started ends with it
        process.wait()
        raise


def _ready_url(process: "subprocess.Popen[str]", within_s: float) -> str:
    assert process.stdout is not None
    seen: list[str] = []
    deadline = time.monotonic() + within_s
    for line in process.stdout:
        seen.append(line)
        if line.startswith("ready "):
            # Keep the pipe drained, so that the stack never blocks on telling us something.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return line.split()[1]
        assert time.monotonic() < deadline, "".join(seen)
    raise AssertionError("wfhub up ended early:\n" + "".join(seen))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = start(
        tmp_path_factory.mktemp("stack") / "data",
        LLM_PROVIDER="openai",
        LLM_BASE_URL="http://127.0.0.1:9",  # the discard port: no model server is there
    )
    yield running
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    repo = tmp_path / "repo"
    git("init", "-q", "-b", "main", str(repo))
    (repo / "README.md").write_text("colour\n")
    (repo / "tool.sh").write_text("#!/bin/sh\necho hi\n")
    (repo / "tool.sh").chmod(0o755)
    commit(repo, "first")
    return repo


def git(*arguments: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(repo: Path, message: str) -> str:
    git("add", "-A", cwd=repo)
    git("commit", "-q", "-m", message, cwd=repo)
    return git("rev-parse", "HEAD", cwd=repo)


def eventually(check: Callable[[], Any], *, within_s: float = 30) -> Any:
    """The first truthy value of `check`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(0.05)
    raise AssertionError(f"did not happen within {within_s} s")
