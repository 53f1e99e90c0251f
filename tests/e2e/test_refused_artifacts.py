"""What the proof-store will not keep: the task fails with that reason, at once, in one attempt, and
what it does keep of the attempt is there."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Stack, git, start

BLOB_BYTES_MAX = 8192


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Stack]:
    """A stack whose proof-store keeps small blobs only."""
    stack = start(tmp_path / "data", BLOB_BYTES_MAX=str(BLOB_BYTES_MAX))
    yield stack
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(60) == 0


def test_a_refused_artifact_fails_the_task_and_says_why(strict: Stack, repository: Path) -> None:
    noise = f"head -c {2 * BLOB_BYTES_MAX} /dev/zero | tr \\\\0 x"
    agent = f"sh -c 'echo done > result.txt; {noise}'"
    code, found, _ = strict.run("--repo", str(repository), "--agent-cmd", agent)
    assert code != 0
    assert (found["state"], found["reason"]) == ("failed", "artifact-refused"), found
    assert "agent.log" in found["message"]
    shown = json.loads(strict.wfhub("status", found["task_id"], "--json").stdout)
    (attempt,) = shown["attempts"]
    assert attempt["state"] == "failed"
    kept = {artifact["name"] for artifact in attempt["artifacts"]}
    assert "result.patch" in kept
    assert "agent.log" not in kept
    assert git("for-each-ref", "refs/heads/wfhub", cwd=repository) == ""
