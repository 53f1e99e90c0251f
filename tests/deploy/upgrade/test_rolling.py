"""docs/upgrading.md: a running installation is brought from the previous version to this one."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from chaos.settings import Options
from chaos.upgrade import PATIENCE_S, Upgrade, imported_from, tree_of
from deploy_tools import ROOT

# The version that installations come from. While nothing is released: what was last on main. At a
# release: the tag of the release before.
PREVIOUS = "84c02012a80a26b1ded6f822f044f5021a691212"
LEASE_TTL_S = (
    15.0  # longer than in chaos: a process that is replaced under load is away for seconds
)
SERVICES = ("scheduler", "api", "proof_store", "llm_gateway", "agent_runner")

pytestmark = pytest.mark.timeout(2400)


def previous_tree(folder: Path) -> Path:
    try:
        return tree_of(PREVIOUS, ROOT, folder)
    except subprocess.CalledProcessError as e:
        raise AssertionError(
            f"the version before, {PREVIOUS[:12]}, is not in this clone, so no upgrade is tested."
            f" A shallow clone: `git fetch --unshallow`. git says: {e.stderr.decode()}"
        ) from e


def test_nothing_is_lost_or_doubled_while_each_part_is_replaced_under_load() -> None:
    folder = Path(tempfile.mkdtemp(prefix="wfhub-upgrade-"))
    folder.chmod(0o755)
    # `tasks`: more than there is time for.
    options = Options(
        seed=11,
        tasks=2000,
        minutes=0.0,
        short=False,  # a task that fails three times takes longer than CI's cut waits for
        folder=folder / "run",
        keep=False,
        runners=2,
        slots=3,
        lease_ttl_s=LEASE_TTL_S,
        heartbeat_s=4.0,
        slack_s=PATIENCE_S - 2 * LEASE_TTL_S,
    )
    try:
        tree = previous_tree(folder / "previous")
        upgrade = Upgrade(options, tree)
        for service in SERVICES:
            code = imported_from(upgrade.cluster.old_path(), f"wfhub_{service}")
            assert code.is_relative_to(tree), code
        summary = asyncio.run(upgrade.go())
    except BaseException:
        print(f"logs: {folder}")
        raise
    assert not summary["violations"], (summary["first_violations"], folder)
    old, new = summary["revisions"]
    assert old != new, "no schema has changed: the test shows less than it should"
    assert min(summary["published"].values()) >= 3, summary["published"]
    assert set(summary["states"]) <= {"succeeded", "failed", "cancelled"}
    print(summary)
    if not os.environ.get("KEEP"):
        shutil.rmtree(folder)
