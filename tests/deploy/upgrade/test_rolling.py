"""docs/upgrading.md: a running installation is brought from the previous version to this one."""

import asyncio
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from chaos.settings import Options
from chaos.upgrade import Upgrade, tree_of
from deploy_tools import ROOT

# The version that installations come from. While nothing is released: what was last on main. At a
# release: the tag of the release before.
PREVIOUS = "84c02012a80a26b1ded6f822f044f5021a691212"

pytestmark = pytest.mark.timeout(1200)


def has(commit: str) -> bool:
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{}}"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not has(PREVIOUS), reason=f"a shallow clone, without {PREVIOUS[:12]}")
def test_nothing_is_lost_or_doubled_while_each_part_is_replaced_under_load() -> None:
    folder = Path(tempfile.mkdtemp(prefix="wfhub-upgrade-"))
    folder.chmod(0o755)
    options = Options(
        seed=11, tasks=200, minutes=1.0, short=True, folder=folder / "run", keep=False, runners=2
    )
    try:
        tree = tree_of(PREVIOUS, ROOT, folder / "previous")
        summary = asyncio.run(Upgrade(options, tree).go())
    except BaseException:
        print(f"logs: {folder}")
        raise
    assert not summary["violations"], (summary["first_violations"], folder)
    old, new = summary["revisions"]
    assert old != new, "no schema has changed: the test shows less than it should"
    assert summary["mixed"] >= 7
    assert summary["tasks"] >= options.tasks
    assert set(summary["states"]) <= {"succeeded", "failed", "cancelled"}
    print(summary)
    shutil.rmtree(folder)
