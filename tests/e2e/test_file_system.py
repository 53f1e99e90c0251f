"""The runner's home lies on a container's own file system: no overlays, and the same work."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import file_systems
import pytest

from .conftest import Stack, git, start

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")


@pytest.fixture
def stack_on_overlay(tmp_path: Path) -> Iterator[Stack]:
    home = tmp_path / "data" / "runner-1"
    with file_systems.mounted("overlay", tmp_path / "beside", home):
        stack = start(tmp_path / "data")
        try:
            yield stack
        finally:
            stack.process.send_signal(signal.SIGINT)
            stack.process.wait(60)


def test_set_up_agent_and_verification_work_on_copies(
    stack_on_overlay: Stack, repository: Path
) -> None:
    stack = stack_on_overlay
    arguments = (
        *("--repo", str(repository), "--setup", "mkdir deps && echo one > deps/x"),
        *("--agent-cmd", "sh -c 'cat deps/x > made && rm tool.sh && git status --short'"),
        *("--verify", "test -e deps/x && test ! -e tool.sh && grep one made"),
    )
    for _ in range(2):  # the second time what was set up is there
        code, result, progress = stack.run(*arguments)
        assert (code, result["state"]) == (0, "succeeded"), progress
        changed = git("diff", "--name-status", "main", result["branch"], cwd=repository)
        assert changed.split() == ["A", "made", "D", "tool.sh"]
    log = "".join(path.read_text() for path in (stack.data / "logs").glob("*runner*.log"))
    assert "no overlay on the file system of the runner's home" in log
    assert "plain-copy" in log
