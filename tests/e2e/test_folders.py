"""Tasks on folders of the runner, through the whole stack."""

from pathlib import Path

import gitrepos
from gitrepos import git

from .conftest import start

STOP_S_MAX = 30
AGENT = ("--agent-cmd", "sed -i s/colour/color/ README")


def test_folders_get_patches_branches_and_what_is_applied(tmp_path: Path) -> None:
    with gitrepos.shared_folder() as shared:
        root = shared / "work"
        repo = gitrepos.make(root / "team" / "app", {"README": b"colour\n"})
        gitrepos.write(root / "notes", {"README": b"colour\n", "other": b"kept\n"})
        gitrepos.write(root / "shared", {"README": b"colour\n"})
        stack = start(
            shared / "data",
            WORKSPACE_ROOT=str(root),
            WORKSPACE_FOLDERS="team/app=default;notes=default;shared:ro=*",
        )
        try:
            kept_code, kept, said = stack.run("--repo", "directory:notes", *AGENT)
            as_it_was = (root / "notes" / "README").read_text()
            code, applied, _ = stack.run("--repo", "directory:notes", "--apply", *AGENT)
            mount_code, mounted, _ = stack.run("--repo", "mount:team/app", "--apply", *AGENT)
            bad_code, bad, _ = stack.run("--repo", "directory:shared", "--apply", *AGENT)
        finally:
            stack.process.terminate()
            stack.process.wait(STOP_S_MAX)
        assert kept_code == 0, said
        assert as_it_was == "colour\n"
        assert kept["state"] == applied["state"] == mounted["state"] == "succeeded"
        assert (code, mount_code) == (0, 0)
        assert (root / "notes" / "README").read_text() == "color\n"
        assert (root / "notes" / "other").read_text() == "kept\n"
        assert (repo / "README").read_text() == "color\n"
        assert git(repo, "show", f"wfhub/{mounted['task_id']}:README") == "color"
        assert bad_code != 0
        assert bad["reason"] == "folder-read-only"
        assert (root / "shared" / "README").read_text() == "colour\n"
