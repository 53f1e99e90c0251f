"""Tasks on repositories and folders of a share, through the whole stack, and their proofs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import gitrepos
import pytest
import share_lab
from e2e.conftest import Stack, start
from gitrepos import git

STOP_S_MAX = 120
READY_S, RUN_S = 300, 300
EDIT = "sed -i s/colour/color/ README; echo new > new.txt; chmod +x new.txt"
AGENT = ("--agent-cmd", f"sh -c '{EDIT}'")
FILES = {"README": b"colour\n", "run.sh": b"#!/bin/sh\n"}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A WORKSPACE_ROOT on the share; all in it is the runner's user's."""
    made = share_lab.AT / "workspaces"

    def make() -> None:
        gitrepos.make(made / "app", FILES)
        gitrepos.make(made / "bare.git", FILES, bare=True)
        gitrepos.write(made / "notes", FILES)
        for top in (made / "app", made / "bare.git", made / "notes"):
            top.chmod(0o700)

    gitrepos.as_sandbox_uid(make)
    yield made
    gitrepos.as_sandbox_uid(lambda: shutil.rmtree(made))


@pytest.fixture(scope="module")
def stack(root: Path) -> Iterator[Stack]:
    running = start(Path("/disk/stack"), ready_s=READY_S, WORKSPACE_ROOT=str(root))
    yield running
    running.process.terminate()
    running.process.wait(STOP_S_MAX)


def as_owner(repo: Path, *arguments: str) -> str:
    """git, as who owns the repository: root may be nobody there."""
    found = Path("/disk/tmp/said")
    found.write_text("")
    found.chmod(0o666)
    gitrepos.as_sandbox_uid(lambda: _write(found, git(repo, *arguments)))
    return found.read_text()


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.timeout(900)
def test_branches_and_applied_files_are_as_on_a_local_disk(
    stack: Stack, root: Path, tmp_path: Path
) -> None:
    code, bare, said = stack.run("--repo", f"file://{root}/bare.git", *AGENT, timeout_s=RUN_S)
    assert (code, bare["state"]) == (0, "succeeded"), said
    branch = f"wfhub/{bare['task_id']}"
    changed = as_owner(root / "bare.git", "diff", "--raw", "--abbrev=1", "main", branch)
    # Two paths, no mode of any other file.
    assert [line.split()[-1] for line in changed.splitlines()] == ["README", "new.txt"], changed
    assert ":100644 100644" in changed
    assert ":000000 100755" in changed

    code, mounted, said = stack.run("--repo", "mount:app", "--apply", *AGENT, timeout_s=RUN_S)
    assert (code, mounted["state"]) == (0, "succeeded"), said
    assert (as_owner(root / "app", "show", f"wfhub/{mounted['task_id']}:README")) == "color"
    code, applied, said = stack.run("--repo", "directory:notes", "--apply", *AGENT, timeout_s=RUN_S)
    assert (code, applied["state"]) == (0, "succeeded"), said
    for folder in ("app", "notes"):
        assert as_owner(root / folder, "hash-object", "README", "new.txt").split() == [
            "9821353befacb12001ae44f01b4dc0c8e7fc474f",
            "3e757656cf36eca53338e520d134963a44f793f8",
        ]
    assert stack.wfhub("proof", "trust", timeout_s=RUN_S).returncode == 0
    proof = tmp_path / "proof.json"
    done = stack.wfhub("proof", "export", applied["proof_id"], "-o", str(proof), timeout_s=RUN_S)
    assert done.returncode == 0, done.stderr
    verified = stack.wfhub("proof", "verify", str(proof), timeout_s=RUN_S)
    assert verified.returncode == 0, verified.stdout + verified.stderr
