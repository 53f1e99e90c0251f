"""Hostile actions 12 and 18 of SECURITY.md: what an agent leaves in a workspace is never run.

12: hooks, fsmonitor, filters, sshCommand and their like, in the workspace's own `.git` and in
attributes, through snapshot, clean checkout and publication. 18: tests made to pass, tools
shadowed, results faked; verification runs elsewhere, on the commit alone.
"""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import gitrepos
import unprivileged
from gitrepos import git
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.outcomes import Published
from wfhub_agent_runner.gitwork.workspaces import About, Layers, Snapshot, Workspaces
from wfhub_agent_runner.sandbox.bwrap import BwrapSandbox
from wfhub_agent_runner.sandbox.port import Exited, SandboxSpec
from wfhub_common import ids
from wfhub_common.messages import Limits, PublishOrder

HOOKS = ("pre-commit", "commit-msg", "post-commit", "pre-push", "reference-transaction")
PLANT = r"""
set -e
for name in {hooks}; do
  printf '#!/bin/sh\ntouch {canary}\n' > .git/hooks_dir_$name; chmod 755 .git/hooks_dir_$name
done
mkdir -p .git/hooks
for name in {hooks}; do mv .git/hooks_dir_$name .git/hooks/$name; done
git config core.fsmonitor 'touch {canary}; false'
git config core.sshCommand 'touch {canary}; false'
git config core.pager 'touch {canary}'
git config filter.evil.clean 'touch {canary}; cat'
git config filter.evil.smudge 'touch {canary}; cat'
git config filter.evil.process 'touch {canary}'
git config diff.external 'touch {canary}'
git config gpg.program '{canary}'
git config commit.gpgsign true
git config alias.status '!touch {canary}'
echo '* filter=evil diff=evil' > .gitattributes
echo changed >> README
"""


class Workshop:
    """Workspaces, a sandbox and a repository of the runner's own uid."""

    def __init__(self, home: Path, files: dict[str, bytes]) -> None:
        self.repo = gitrepos.make(home / "repo", files)
        (home / "home").mkdir()
        self.spaces = Workspaces(home / "home", RepoAccess.direct(Policy(file_repos=True)))
        self.sandbox = BwrapSandbox(scratch=home / "home" / "sandbox")
        self.said: list[bytes] = []

    async def run(self, layers: Layers, script: str) -> str:
        said: list[bytes] = []

        async def keep(chunk: bytes) -> None:
            said.append(chunk)

        spec = SandboxSpec(
            argv=("/bin/sh", "-c", script),
            lower=layers.lower_dirs[0],
            extra_lowers=layers.lower_dirs[1:],
            upper=layers.upper,
            work=layers.work,
            limits=Limits(),
            wall_s=60,
        )
        ran = await self.sandbox.run(spec, on_output=keep, cancel=asyncio.Event())
        text = b"".join(said).decode(errors="replace")
        assert ran.outcome == Exited(0), text
        return text

    async def worked(self, script: str) -> tuple[Snapshot, Layers]:
        """(what was committed, layers of a clean checkout of it)."""
        await self.spaces.reap()
        base = await self.spaces.prepare(str(self.repo), None)
        lease = await self.spaces.lease(base, ids.new_attempt_id())
        await self.run(lease.layers, script)
        about = About("tsk_x", lease.attempt_id, "t", "", datetime(2025, 1, 1, tzinfo=UTC))
        made = await self.spaces.snapshot(lease, about)
        assert made is not None
        return made, await self.spaces.clean(lease, "verify", made)


def test_12_what_git_would_run_is_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    plant = PLANT.format(hooks=" ".join(HOOKS), canary=canary)

    async def work() -> tuple[bool, bool]:
        shop = Workshop(tmp_path, {"README": b"hello\n"})
        control = gitrepos.make(tmp_path / "control", {"README": b"hello\n"})
        (control / ".git" / "hooks").mkdir(exist_ok=True)
        plainly = control / "plant.sh"
        plainly.write_text(plant)
        await asyncio.to_thread(_run_plainly, control, plainly)
        outside = canary.exists()  # the control: C git at the same place runs it
        canary.unlink(missing_ok=True)

        made, clean = await shop.worked(plant)
        await shop.run(clean, "git status; git log --oneline; git diff HEAD; test -e README")
        order = PublishOrder(
            bundle_digest="",
            commit=made.commit,
            base_commit=git(shop.repo, "rev-parse", "main"),
            branch_ref="refs/heads/wfhub/tsk_x",
            marker_ref="refs/wfhub/published/tsk_x",
        )
        published = await shop.spaces.publish(str(shop.repo), made.bundle, order)
        assert published == Published(made.commit)
        # Attributes are content and stay; what they name exists nowhere.
        assert "filter=evil" in git(shop.repo, "show", "wfhub/tsk_x:.gitattributes")
        assert not (clean.lower_dirs[-1] / ".git" / "hooks" / "pre-commit").exists()
        return outside, canary.exists()

    outside, inside = unprivileged.run(tmp_path, work)
    assert outside
    assert not inside


def _run_plainly(repo: Path, script: Path) -> None:
    import subprocess

    env = {**gitrepos.ENVIRONMENT, "GIT_CONFIG_COUNT": "0"}
    subprocess.run(["sh", str(script)], cwd=repo, env=env, check=True, capture_output=True)
    for command in (["status"], ["add", "-A"], ["commit", "-m", "x"]):
        subprocess.run(["git", *command], cwd=repo, env=env, check=False, capture_output=True)


def test_18_verification_sees_the_commit_and_nothing_else(tmp_path: Path) -> None:
    agent = """
set -e
mkdir -p ~/bin ~/.local/bin /tmp/bin
for where in ~/bin ~/.local/bin /tmp/bin; do
  printf '#!/bin/sh\\nexit 0\\n' > $where/check; chmod 755 $where/check
done
echo 'export PATH=/tmp/bin:$PATH' > ~/.profile
echo '<testsuite failures="0"/>' > /tmp/junit.xml
echo '*.pyc' > .git/info/exclude
mkdir -p build; echo ok > build/cached; echo build/ > .gitignore
echo 'def pytest_runtest_makereport(item, call): pass' > conftest.py
echo 'import os; os._exit(0)' > sitecustomize.py
rm tests/test_app.py
(sleep 300; echo late > late.txt) &
"""

    async def work() -> tuple[Snapshot, str]:
        shop = Workshop(tmp_path, {"app.py": b"x = 1\n", "tests/test_app.py": b"assert 0\n"})
        made, clean = await shop.worked(agent)
        seen = await shop.run(
            clean,
            "command -v check; ls -A ~ /tmp; ls -A . build 2>/dev/null; git status --porcelain;"
            " ps -e 2>/dev/null | grep -c sleep; true",
        )
        return made, seen

    made, seen = unprivileged.run(tmp_path, work)
    for trace in ("check", "junit", ".profile", "build", "cached", "late"):
        assert trace not in seen, seen
    assert set(made.tests_changed) == {"conftest.py", "sitecustomize.py", "tests/test_app.py"}
