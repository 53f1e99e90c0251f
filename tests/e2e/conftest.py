"""A whole stack, started as a user would, and the CLI against it."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stack_lab import WFHUB as WFHUB
from stack_lab import Stack as Stack
from stack_lab import start as start


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = start(
        tmp_path_factory.mktemp("stack") / "data",
        "--subscriber",
        "audit",
        LLM_PROVIDER="openai",
        LLM_BASE_URL="http://127.0.0.1:9",  # the discard port: no model server is there
        WEBHOOK_PRIVATE_HOSTS="127.0.0.1",
        WEBHOOK_HTTP_HOSTS="127.0.0.1",
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
