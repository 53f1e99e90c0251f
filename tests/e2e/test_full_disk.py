"""The runner's disk fills up: the task says so, nothing half-made stays, and work goes on."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Stack, eventually, git, start

RUNNER_DISK = "96m"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Stack]:
    """A stack whose runner has a small disk of its own."""
    home = tmp_path / "data" / "runner-1"
    home.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={RUNNER_DISK}", "tmpfs", home], check=True)
    try:
        stack = start(tmp_path / "data")
        try:
            yield stack
        finally:
            stack.process.send_signal(signal.SIGINT)
            stack.process.wait(60)
    finally:
        subprocess.run(["umount", home], check=True)


def test_a_full_disk_is_named_and_passes(small: Stack, repository: Path) -> None:
    def used() -> int:
        disk = os.statvfs(small.data / "runner-1")
        return (disk.f_blocks - disk.f_bfree) * disk.f_frsize

    before = used()
    # The agent may swallow the error: what it left is then too much to be committed.
    fill = "head -c 500M /dev/zero > big; true"
    code, result, progress = small.run("--repo", str(repository), "--agent-cmd", f"sh -c '{fill}'")
    assert code == 1, progress
    assert (result["state"], result["reason"]) == ("failed", "disk-full"), progress
    assert "free space" in progress
    assert git("for-each-ref", "--format=%(refname)", cwd=repository) == "refs/heads/main"
    eventually(lambda: used() < before + 8 * 1024**2)  # what the task wrote is gone

    code, result, progress = small.run(
        "--repo", str(repository), "--agent-cmd", "sh -c 'echo x > f'"
    )
    assert (code, result["state"]) == (0, "succeeded"), progress
