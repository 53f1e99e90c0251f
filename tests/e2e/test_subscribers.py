"""The program of docs/events.md, as it stands there, against a stack."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Stack, eventually

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


@pytest.fixture
def heard(stack: Stack, tmp_path: Path) -> Iterator[list[str]]:
    """What the program has printed so far. A task was submitted before it began."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    program = tmp_path / "listen.py"
    program.write_text(found[1])
    told = stack.data / "subscribers" / "audit.json"
    token = (stack.data / "admin-token").read_text().strip()
    process = subprocess.Popen(
        [sys.executable, program, told, stack.url, token], stdout=subprocess.PIPE, text=True
    )
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        lines.extend(line.strip() for line in process.stdout)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    yield lines
    process.kill()
    process.wait()
    reader.join(10)


def submitted(stack: Stack, repository: Path) -> str:
    what = ("--repo", str(repository), "--prompt", "p", "--agent-cmd", "true")
    done = stack.wfhub("run", "--detach", "--json", *what)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout.strip().splitlines()[-1])["task_id"])


@pytest.fixture
def earlier(stack: Stack, repository: Path) -> str:
    return submitted(stack, repository)


def test_it_prints_what_it_missed_and_what_happens(
    stack: Stack, repository: Path, earlier: str, heard: list[str]
) -> None:
    eventually(lambda: f"task.submitted {earlier}" in heard)
    later = submitted(stack, repository)
    eventually(lambda: f"task.submitted {later}" in heard)
    assert heard.index(f"task.submitted {earlier}") < heard.index(f"task.submitted {later}")
    assert [heard.count(f"task.submitted {task}") for task in (earlier, later)] == [1, 1]
