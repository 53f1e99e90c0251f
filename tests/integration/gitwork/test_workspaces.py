"""From a repository to a published result, through real overlays."""

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path

import gitrepos
import pytest
from dulwich.object_store import DiskObjectStore
from gitrepos import git
from wfhub_agent_runner.gitwork import limits
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_agent_runner.gitwork.outcomes import Already, Published
from wfhub_agent_runner.gitwork.workspaces import Workspaces
from wfhub_common import ids
from wfhub_common.errors import Rejected
from wfhub_common.limits import CHANGES_LISTED_MAX
from wfhub_common.messages import PublishOrder

from .conftest import POLICY
from .edits import in_overlay
from .leasing import FILES, about, leased, made, reachable


async def test_git_works_inside_and_sees_a_clean_checkout(spaces: Workspaces, repo: Path) -> None:
    (repo / "run.sh").chmod(0o755)
    (repo / "link").symlink_to("README")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "more")
    lease = await leased(spaces, repo)
    out = in_overlay(
        lease.layers,
        "/bin/sh",
        "-ec",
        "git status --porcelain; git log --oneline | wc -l; git fsck --strict;"
        " echo more >> README; git diff --stat; git commit -qam inner; git status --porcelain",
    )
    assert "README | 1 +" in out
    assert out.startswith("1\n")
    assert "??" not in out


async def test_a_changed_test_is_told_of_however_many_changes_come_before_it(
    spaces: Workspaces, repo: Path
) -> None:
    lease = await leased(spaces, repo)
    many = "mkdir a; cd a; for n in $(seq 1100); do echo $n > f$n; done; cd ..;"
    found = await made(spaces, lease, f"{many} mkdir tests; echo pass > tests/test_z.py")
    assert (len(found.changes), found.changes_total) == (CHANGES_LISTED_MAX, 1101)
    assert (found.tests_changed, found.tests_changed_total) == (("tests/test_z.py",), 1)


async def test_a_result_is_committed_verified_and_published(spaces: Workspaces, repo: Path) -> None:
    base = git(repo, "rev-parse", "main")
    lease = await leased(spaces, repo)
    found = await made(
        spaces,
        lease,
        "echo two >> README; rm -r src/deep; chmod 755 run.sh; mkdir new; echo n > new/n;"
        " echo noise > x.log; mkdir build; echo o > build/o; git add -A; git commit -qm theirs;"
        " echo evil > .git/hooks_evil; ln -s /etc/passwd pw",
    )
    assert [(c.path, c.change) for c in found.changes] == [
        ("README", "modified"),
        ("new/n", "added"),
        ("pw", "added"),
        ("run.sh", "modified"),
        ("src/deep/b.py", "deleted"),
    ]
    assert found.changes_total == 5
    order = PublishOrder(
        bundle_digest="",
        commit=found.commit,
        base_commit=base,
        branch_ref="refs/heads/wfhub/tsk_x",
        marker_ref="refs/wfhub/published/tsk_x",
    )
    assert await spaces.publish(str(repo), found.bundle, order) == Published(found.commit)
    assert await spaces.publish(str(repo), found.bundle, order) == Already(found.commit)
    branch = "wfhub/tsk_x"
    assert git(repo, "rev-parse", f"{branch}^") == base
    assert git(repo, "rev-parse", f"{branch}^{{tree}}") == found.tree
    assert git(repo, "log", "-1", "--format=%an <%ae>%n%B", branch) == (
        "Workflow Hub <wfhub@localhost>\nFix it [31m\n\n"
        f"Wfhub-Task: tsk_x\nWfhub-Attempt: {lease.attempt_id}"
    )
    # The patch gives the same tree.
    git(repo, "apply", "--index", found.patch)
    assert git(repo, "write-tree") == found.tree
    await spaces.release(lease)
    assert not lease.folder.exists()


async def test_no_change_is_no_commit(spaces: Workspaces, repo: Path) -> None:
    lease = await leased(spaces, repo)
    in_overlay(
        lease.layers,
        "/bin/sh",
        "-ec",
        "cp -p README t; mv t README; touch src/a.py; mkdir -p empty/er; echo x > y.log;"
        " mv src/deep src/d2; mv src/d2 src/deep; git commit --allow-empty -qm x",
    )
    assert await spaces.snapshot(lease, about(lease.attempt_id)) is None


async def test_a_clean_checkout_holds_the_commit_and_nothing_else(
    spaces: Workspaces, repo: Path
) -> None:
    lease = await leased(spaces, repo)
    found = await made(
        spaces,
        lease,
        "echo two >> README; rm -r src; echo file > src; mkdir -p run; rm run.sh;"
        " echo x > untracked.log; mkdir deep; echo y > deep/y; chmod 755 deep/y",
    )
    clean = await spaces.clean(lease, "verify", found)
    out = in_overlay(
        clean,
        "/bin/sh",
        "-ec",
        "git status --porcelain; git fsck --strict; git rev-parse HEAD; git rev-parse HEAD^;"
        " git write-tree; find . -path ./.git -prune -o -print | LC_ALL=C sort; cat src deep/y",
    )
    assert out.split() == [
        found.commit,
        lease.base.commit,
        found.tree,
        *([".", "./.gitignore", "./README", "./deep", "./deep/y", "./src"]),
        *("file", "y"),
    ]
    base = await spaces.clean(lease, "base", None)
    assert "src/a.py" in in_overlay(base, "/bin/sh", "-c", "git status --porcelain; ls src/*")
    assert (lease.layers.upper / "src").exists(), "the agent's layer is left as it was"


async def test_a_copied_workspace_gives_the_same_result(shared: Path, repo: Path) -> None:
    spaces = Workspaces(shared / "home", RepoAccess.direct(POLICY), copies=True)
    lease = await leased(spaces, repo)
    copy = lease.layers.copy
    assert copy is not None
    assert git(copy, "status", "--porcelain") == ""
    (copy / "README").write_bytes(b"two\n")
    (copy / "src" / "a.py").unlink()
    (copy / "x.log").write_bytes(b"noise")
    found = await spaces.snapshot(lease, about(lease.attempt_id))
    assert found is not None
    assert [c.path for c in found.changes] == ["README", "src/a.py"]
    clean = (await spaces.clean(lease, "verify", found)).copy
    assert clean is not None
    assert git(clean, "status", "--porcelain") == ""
    assert git(clean, "rev-parse", "HEAD^{tree}") == found.tree
    assert not (clean / "x.log").exists()


async def test_the_same_inputs_give_the_same_commit(spaces: Workspaces, repo: Path) -> None:
    base = await spaces.prepare(str(repo), None)
    commits = set()
    for _ in range(2):
        lease = reachable(await spaces.lease(base, "att_" + "a" * 24))
        commits.add((await made(spaces, lease, "echo x > x")).commit)
        await spaces.release(lease)
    assert len(commits) == 1


async def test_attempts_share_one_checkout_and_see_nothing_of_each_other(
    spaces: Workspaces, repo: Path, shared: Path
) -> None:
    bases = await asyncio.gather(*(spaces.prepare(str(repo), None) for _ in range(6)))
    assert len({base.lower_dirs for base in bases}) == 1
    one, two = await leased(spaces, repo), await leased(spaces, repo)
    first = await made(spaces, one, "echo mine > mine; git add -A; git commit -qm mine")
    out = in_overlay(
        two.layers, "/bin/sh", "-c", "ls; git cat-file -t " + first.commit + " 2>&1; :"
    )
    assert "mine" not in out
    assert "could not get object info" in out
    assert [path.name for path in (shared / "home" / "trees").glob("*/*")] == [bases[0].commit]


async def test_only_what_changed_costs(spaces: Workspaces, shared: Path) -> None:
    files = {f"d{i % 50}/f{i}": b"%d\n" % i for i in range(2000)}
    lease = await leased(spaces, gitrepos.make(shared / "large", files))
    await made(spaces, lease, "echo x >> d1/f1")
    objects = lease.folder / "objects"
    files_written = [path.suffix for path in objects.rglob("*") if path.is_file()]
    assert sorted(files_written) == [".idx", ".pack"]
    with contextlib.closing(DiskObjectStore(objects)) as store:
        assert len(list(store)) == 4  # blob, d1, top, commit


@pytest.mark.parametrize(
    ("script", "code", "name"),
    [
        ("mkfifo pipe", "workspace-special-file", "pipe"),
        (
            "python3 -c 'import socket as s; s.socket(s.AF_UNIX).bind(\"src/sock\")'",
            "workspace-special-file",
            "src/sock",
        ),
        ("mkdir .GIT; echo x > .GIT/config", "workspace-bad-name", ".GIT"),
        ("mkdir src/git~1; echo x > src/git~1/x", "workspace-bad-name", "git~1"),
        ("echo x > \"$(printf '.g\\342\\200\\214it')\"", "workspace-bad-name", "it"),
        (
            "p=x; for i in $(seq 300); do mkdir $p; cd $p; done; echo x > y",
            "workspace-too-deep",
            "x/x",
        ),
    ],
)
@pytest.mark.hostile(14)
async def test_what_git_must_not_store_is_refused_by_name(
    spaces: Workspaces, repo: Path, script: str, code: str, name: str
) -> None:
    lease = await leased(spaces, repo)
    with pytest.raises(Rejected) as caught:
        await made(spaces, lease, script)
    assert caught.value.code == code
    assert name in caught.value.message
    await spaces.release(lease)
    assert not lease.folder.exists()


async def test_ignored_special_files_and_inner_repositories_are_left_alone(
    spaces: Workspaces, repo: Path
) -> None:
    lease = await leased(spaces, repo)
    found = await made(
        spaces,
        lease,
        "mkfifo x.log; mkdir build; mkfifo build/p; git init -q inner; echo z > inner/z;"
        " chmod 000 inner/z; mkdir shut; echo s > shut/s; chmod 000 shut",
    )
    assert [c.path for c in found.changes] == ["inner/z", "shut/s"]


async def test_too_much_is_refused(
    spaces: Workspaces, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = "wfhub_agent_runner.gitwork.limits."
    lease = await leased(spaces, repo)
    in_overlay(lease.layers, "/bin/sh", "-c", "for i in 1 2 3; do echo data > f$i; done")
    for limit, value in [
        ("FILE_BYTES_MAX", 3),
        ("CHANGED_FILES_MAX", 2),
        ("CHANGED_BYTES_MAX", 9),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(limits + limit, value)
            with pytest.raises(Rejected, match="changes-too-large"):
                await spaces.snapshot(lease, about(lease.attempt_id))
    assert await spaces.snapshot(lease, about(lease.attempt_id)) is not None


async def test_submodules_stay_as_they_are(spaces: Workspaces, repo: Path) -> None:
    git(repo, "update-index", "--add", "--cacheinfo", "160000," + "1" * 40 + ",sub")
    git(repo, "update-index", "--add", "--cacheinfo", "160000," + "2" * 40 + ",gone")
    git(repo, "commit", "-qm", "submodules")
    lease = await leased(spaces, repo)
    found = await made(spaces, lease, "echo x > sub/x; rmdir gone; git status --porcelain")
    assert [(c.path, c.change) for c in found.changes] == [("gone", "deleted")]


async def test_reap_removes_what_a_killed_runner_left(
    spaces: Workspaces, repo: Path, shared: Path
) -> None:
    lease = await leased(spaces, repo)
    in_overlay(
        lease.layers,
        "/bin/sh",
        "-ec",
        "mkdir -p shut/inner; chmod 000 shut; p=x; for i in $(seq 1500); do mkdir $p; cd $p; done",
    )
    assert (lease.layers.work / "work").exists()
    home = shared / "home"
    (home / "trees" / lease.base.mirror.name / ".fresh-1234" / "tree").mkdir(parents=True)
    with pytest.raises(Rejected, match="runner-home-in-use"):
        await Workspaces(home, RepoAccess.direct(POLICY)).reap()
    spaces._home_lock.close()  # as the kernel does for a killed process
    again = Workspaces(home, RepoAccess.direct(POLICY))
    await again.reap()
    assert not (home / "attempts").exists()
    assert [path.name for path in (home / "trees").glob("*/*")] == [lease.base.commit]
    await leased(again, repo)


async def test_caches_do_not_outlive_a_boot(
    repo: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for boot, kept in (("one", []), ("one", ["trees", "mirrors"]), ("two", [])):
        (shared / "boot").write_text(boot)
        monkeypatch.setattr("wfhub_agent_runner.gitwork.workspaces._BOOT_ID", shared / "boot")
        spaces = Workspaces(shared / "home", RepoAccess.direct(POLICY))
        await spaces.reap()
        assert [n for n in ("trees", "mirrors") if (shared / "home" / n).exists()] == kept
        await spaces.prepare(str(repo), None)
        spaces._home_lock.close()


async def test_old_checkouts_are_removed_but_never_one_in_use(
    spaces: Workspaces, repo: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TREES_KEPT_MAX", 1)
    monkeypatch.setattr(limits, "LAYERS_MAX", 0)  # each whole: none carries another
    kept = await leased(spaces, repo)
    for i in range(3):
        git(repo, "commit", "-q", "--allow-empty", "-m", str(i))
        await spaces.release(await leased(spaces, repo))
    left = {path.name for path in (shared / "home" / "trees").glob("*/*")}
    assert left == {kept.base.commit, git(repo, "rev-parse", "main")}
    await spaces.release(kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the runner's uid")
def test_the_whole_way_works_at_the_runners_own_uid(broker: RepoAccess, shared: Path) -> None:
    """As deployed: the runner has dropped root, the broker has not."""
    repo = gitrepos.make(shared / "repo", FILES)
    gitrepos.chown_tree(repo, 64002)
    repo.chmod(0o700)  # beyond the runner's own reach
    home = shared / "home"
    home.mkdir()
    os.chown(home, gitrepos.SANDBOX_UID, gitrepos.SANDBOX_UID)

    async def way() -> None:
        spaces = Workspaces(home, broker)
        await spaces.reap()
        with contextlib.suppress(PermissionError):
            list(repo.iterdir())
            raise AssertionError("the repository must be out of reach")
        lease = await spaces.lease(await spaces.prepare(str(repo), "main"), ids.new_attempt_id())
        found = await made(spaces, lease, "echo x > new; mkdir d; echo y > d/y; chmod 000 d")
        clean = await spaces.clean(lease, "verify", found)
        assert in_overlay(clean, "/bin/sh", "-ec", "git status --porcelain; cat d/y") == "y\n"
        order = PublishOrder(
            bundle_digest="",
            commit=found.commit,
            base_commit=lease.base.commit,
            branch_ref="refs/heads/wfhub/tsk_x",
            marker_ref="refs/wfhub/published/tsk_x",
        )
        assert await spaces.publish(str(repo), found.bundle, order) == Published(found.commit)
        await spaces.release(lease)
        assert list((home / "attempts").iterdir()) == []

    gitrepos.as_sandbox_uid(lambda: asyncio.run(way()))
    git(repo, "fsck", "--strict")
    assert git(repo, "show", "wfhub/tsk_x:d/y") == "y"


async def test_a_new_commit_is_a_layer_over_the_last_one(
    spaces: Workspaces, shared: Path, repo: Path
) -> None:
    await spaces.prepare(str(repo), None)
    scripts = [
        "git rm -rq src/deep && mkdir new && echo n > new/n",
        "git mv new newer && chmod 755 README && rm run.sh && ln -s README run.sh",
        "git rm -q newer/n && mkdir newer && echo file > newer/m && echo x > src/deep",
    ]
    for number, script in enumerate(scripts, 1):
        changing = ["/bin/sh", "-ec", script]
        await asyncio.to_thread(
            subprocess.run, changing, cwd=repo, env=gitrepos.ENVIRONMENT, check=True
        )
        git(repo, "add", "-A")
        git(repo, "commit", "-qm", f"change {number}")
        base = await spaces.prepare(str(repo), None)
        assert len(base.lower_dirs) == 2 + number
        lease = reachable(await spaces.lease(base, ids.new_attempt_id()))
        seen = in_overlay(
            lease.layers,
            "/bin/sh",
            "-ec",
            "git status --porcelain; git fsck --strict 2>&1; git log --oneline | wc -l;"
            " git write-tree; cat src/deep 2>/dev/null || true; ls",
        )
        assert git(repo, "rev-parse", "HEAD^{tree}") in seen
        assert "??" not in seen
        assert " M " not in seen
        assert "\n1\n" in f"\n{seen}"
        assert await spaces.snapshot(lease, about(lease.attempt_id)) is None
        found = await made(spaces, lease, "echo more >> src/a.py; rm .gitignore")
        clean = await spaces.clean(lease, "verify", found)
        assert "more" in in_overlay(clean, "/bin/sh", "-ec", "cat src/a.py; test ! -e .gitignore")
        await spaces.release(lease)


async def test_a_checkout_that_carries_another_is_kept(
    spaces: Workspaces, shared: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TREES_KEPT_MAX", 1)
    first = await spaces.prepare(str(repo), None)
    gitrepos.write(repo, {"more": b"1"})
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "more")
    lease = await leased(spaces, repo)
    assert lease.layers.lower_dirs[:2] == first.lower_dirs
    await spaces.release(lease)
    assert all(folder.exists() for folder in lease.layers.lower_dirs)
    assert "more" in in_overlay((await leased(spaces, repo)).layers, "/bin/ls")


async def test_layers_end_and_far_commits_are_written_whole(
    spaces: Workspaces, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LAYERS_MAX", 4)
    depths = []
    for number in range(5):
        gitrepos.write(repo, {"more": b"%d" % number})
        git(repo, "add", "-A")
        git(repo, "commit", "-qm", "more")
        depths.append(len((await spaces.prepare(str(repo), None)).lower_dirs))
    assert depths == [2, 3, 4, 4, 4]
    monkeypatch.setattr(limits, "LAYER_FILES_MAX", 1)
    gitrepos.write(repo, {"a": b"1", "b": b"2"})
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "far")
    assert len((await spaces.prepare(str(repo), None)).lower_dirs) == 2


async def test_what_was_set_up_is_no_change_in_a_copied_workspace(shared: Path, repo: Path) -> None:
    spaces = Workspaces(shared / "home", RepoAccess.direct(POLICY), copies=True)
    first = await leased(spaces, repo)
    layers = await spaces.clean(first, "setup", None)
    assert layers.copy is not None
    (layers.copy / "deps").mkdir()
    for name in ("same", "changed", "gone"):
        (layers.copy / "deps" / name).write_text(name)
    (layers.copy / "deps" / "link").symlink_to("same")
    (layers.copy / "README").write_text("put back")
    (layers.copy / "src" / "a.py").unlink()
    lease = await spaces.keep_set_up(first, "k" * 32, layers)
    assert lease.set_up is not None
    assert set(lease.set_up.left) == {"README", "src/a.py"}
    copy = lease.layers.copy
    assert copy is not None
    assert (copy / "deps" / "link").read_text() == "same"
    assert (copy / "src" / "a.py").exists()
    (copy / "deps" / "changed").write_text("by the agent")
    (copy / "deps" / "gone").unlink()
    (copy / "README").write_text("two\n")
    found = await spaces.snapshot(lease, about(lease.attempt_id))
    assert found is not None
    assert [(c.path, c.change) for c in found.changes] == [
        ("README", "modified"),
        ("deps/changed", "added"),
    ]
    clean = (await spaces.clean(lease, "verify", found)).copy
    assert clean is not None
    assert (clean / "deps" / "same").read_text() == "same"
