"""A repository to lease workspaces of, and what tests do with them."""

from datetime import UTC, datetime
from pathlib import Path

from wfhub_agent_runner.gitwork.workspaces import About, Lease, Snapshot, Workspaces
from wfhub_common import ids

from .edits import in_overlay

FILES = {
    "README": b"hello\n",
    "src/a.py": b"print(1)\n",
    "src/deep/b.py": b"print(2)\n",
    ".gitignore": b"*.log\nbuild/\n",
    "run.sh": b"#!/bin/sh\n",
}
WHEN = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


def about(attempt_id: str) -> About:
    return About("tsk_x", attempt_id, "Fix it\x1b[31m", "a prompt", WHEN)


async def leased(spaces: Workspaces, repo: Path) -> Lease:
    return reachable(
        await spaces.lease(await spaces.prepare(str(repo), None), ids.new_attempt_id())
    )


def reachable(lease: Lease) -> Lease:
    """The test is root, the sandbox is not: it must get to the layers."""
    lease.folder.chmod(0o711)
    return lease


async def made(spaces: Workspaces, lease: Lease, script: str) -> Snapshot:
    in_overlay(lease.layers, "/bin/sh", "-ec", script)
    found = await spaces.snapshot(lease, about(lease.attempt_id))
    assert found is not None
    return found
