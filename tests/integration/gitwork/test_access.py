"""The access helper, the same over a process of ours and over the broker."""

import os
from pathlib import Path

import gitrepos
import pytest
from gitrepos import git
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.mirror import open_mirror
from wfhub_common.errors import Rejected

FILES = {"README": b"hello\n", "src/a.py": b"print(1)\n", "src/deep/b.py": b"print(2)\n"}


def code_of(access: RepoAccess, repo: str, ref: str | None = None) -> Rejected:
    with pytest.raises(Rejected) as caught:
        access.resolve(repo, ref)
    return caught.value


@pytest.mark.parametrize("bare", [False, True])
def test_resolve_finds_head_branches_tags_and_ids(
    access: RepoAccess, shared: Path, bare: bool
) -> None:
    repo = gitrepos.make(shared / "repo", FILES, bare=bare)
    git(repo, "tag", "-a", "-m", "one", "v1", "main")
    git(repo, "pack-refs", "--all")
    git(repo, "branch", "topic")
    commit, tree = git(repo, "rev-parse", "main"), git(repo, "rev-parse", "main^{tree}")
    by_ref = {
        None: "refs/heads/main",
        "topic": "refs/heads/topic",
        "v1": "refs/tags/v1",
        "refs/heads/topic": "refs/heads/topic",
        commit: "",
    }
    for asked, ref in by_ref.items():
        found = access.resolve(str(repo), asked)
        assert (found.commit, found.tree, found.ref) == (commit, tree, ref)
        assert found.default_branch == "main"
    assert access.resolve(f"file://{repo}", None).commit == commit


def test_resolve_in_a_worktree_reads_its_own_head(access: RepoAccess, shared: Path) -> None:
    repo = gitrepos.make(shared / "repo", FILES)
    git(repo, "worktree", "add", "-q", "-b", "side", shared / "wt")
    git(shared / "wt", "commit", "-q", "--allow-empty", "-m", "side")
    found = access.resolve(str(shared / "wt"), None)
    assert found.ref == "refs/heads/side"
    assert found.commit == git(repo, "rev-parse", "side")


def test_resolve_says_what_is_wrong(access: RepoAccess, shared: Path) -> None:
    repo = gitrepos.make(shared / "repo", FILES)
    for name in ("develop", "release"):
        git(repo, "branch", name)
    empty = shared / "empty"
    empty.mkdir()
    (shared / "plain").mkdir()
    git(empty, "init", "-q", "-b", "main")
    (shared / "file").write_text("x")
    assert code_of(access, str(shared / "none")).code == "repo-not-found"
    assert code_of(access, str(shared / "plain")).code == "repo-not-a-repository"
    assert code_of(access, str(shared / "file")).code == "repo-not-a-repository"
    assert code_of(access, str(empty)).code == "repo-empty"
    assert code_of(access, str(empty), "main").code == "repo-empty"
    missing = code_of(access, str(repo), "devlop")
    assert missing.code == "base-not-found"
    assert missing.fields["available"] == ["develop"]
    assert "devlop" in missing.message
    for hostile in ("../../etc/passwd", "-x", "a..b", "f" * 40, "x\\y"):
        assert code_of(access, str(repo), hostile).code == "base-not-found"


@pytest.mark.parametrize(
    ("repo", "code"),
    [
        ("ext::sh -c 'touch /tmp/wfhub-canary'", "repo-forbidden"),
        ("-oProxyCommand=touch /tmp/wfhub-canary", "repo-forbidden"),
        ("relative/path", "repo-forbidden"),
        ("~/repo", "repo-forbidden"),
        ("/tmp/\x00", "repo-forbidden"),
        ("file:///tmp/%00", "repo-forbidden"),
        ("file://remote.example/x", "repo-forbidden"),
        ("", "repo-forbidden"),
        ("https://127.0.0.1/x.git", "repo-forbidden"),
        ("https://localhost/x.git", "repo-forbidden"),
        ("https://169.254.169.254/latest", "repo-forbidden"),
        ("https://[::ffff:169.254.169.254]/latest", "repo-forbidden"),
        ("https://2130706433/x.git", "repo-forbidden"),
        ("https://x:y@example.com/x.git", "repo-forbidden"),
        ("ssh://git@127.0.0.1/x.git", "repo-forbidden"),
        ("git@localhost:x.git", "repo-forbidden"),
        ("http://169.254.169.254/latest", "scheme-unsupported"),
        ("/nonexistent/x", "repo-not-found"),
    ],
)
@pytest.mark.hostile(15)
def test_resolve_refuses_addresses(access: RepoAccess, repo: str, code: str) -> None:
    assert code_of(access, repo).code == code
    assert not Path("/tmp/wfhub-canary").exists()


@pytest.mark.hostile(15)
def test_policy_is_enforced_by_the_helper(shared: Path) -> None:
    repo = gitrepos.make(shared / "outside" / "repo", FILES)
    inside = shared / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(repo)
    git(repo, "worktree", "add", "-q", inside / "wt")  # its objects lie outside
    rooted = RepoAccess.direct(Policy(file_repos=True, roots=(str(inside),)))
    for path in (repo, inside / "link", inside / ".." / "outside" / "repo", inside / "wt"):
        assert code_of(rooted, str(path)).code == "repo-forbidden"
    assert code_of(RepoAccess.direct(Policy()), str(repo)).code == "repo-forbidden"


def test_formats_we_do_not_read_are_named(access: RepoAccess, shared: Path) -> None:
    repo = gitrepos.make(shared / "repo", FILES)
    git(repo, "config", "core.repositoryformatversion", "1")
    git(repo, "config", "extensions.refStorage", "reftable")
    refused = code_of(access, str(repo))
    assert refused.code == "repo-format-unsupported"
    assert "reftable" in refused.message


def test_fetch_brings_one_whole_commit_and_then_only_what_is_new(
    access: RepoAccess, shared: Path
) -> None:
    repo = gitrepos.make(shared / "repo", FILES)
    git(repo, "gc", "-q")
    home = shared / "home"
    mirror = open_mirror(home, str(repo))
    first = access.resolve(str(repo), None)
    got = access.fetch(str(repo), first.commit, [], shared / "pack")
    assert got.objects == 1 + 3 + 3
    mirror.take(first.commit, shared / "pack")
    gitrepos.write(repo, {"src/a.py": b"print(3)\n"})
    git(repo, "commit", "-qam", "second")
    second = access.resolve(str(repo), None)
    got = access.fetch(str(repo), second.commit, mirror.commits(), shared / "pack")
    assert got.objects == 1 + 2 + 1
    mirror.take(second.commit, shared / "pack")
    assert mirror.commits() == [second.commit, first.commit]
    git(mirror.path, "fsck", "--strict")
    assert git(mirror.path, "ls-tree", "-r", second.commit) == git(repo, "ls-tree", "-r", "main")


def test_fetch_reads_alternates_and_deltas(access: RepoAccess, shared: Path) -> None:
    lines = [b"line %d\n" % i for i in range(2000)]
    repo = gitrepos.make(shared / "repo", {"big": b"".join(lines)})
    for i in range(3):
        lines[i * 500] = b"changed %d\n" % i
        (repo / "big").write_bytes(b"".join(lines))
        git(repo, "commit", "-qam", f"change {i}")
    git(repo, "gc", "-q", "--aggressive")
    git(shared, "clone", "-q", "--shared", repo, shared / "borrows")
    for i, commit in enumerate(git(repo, "rev-list", "main").split()):
        mirror = open_mirror(shared / f"home{i}", "x")
        access.fetch(str(shared / "borrows"), commit, [], shared / "pack")
        mirror.take(commit, shared / "pack")
        git(mirror.path, "fsck", "--strict")


def test_a_missing_object_is_named(access: RepoAccess, shared: Path) -> None:
    repo = gitrepos.make(shared / "repo", FILES)
    blob = git(repo, "rev-parse", "main:src/a.py")
    (repo / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    commit = access.resolve(str(repo), None).commit
    with pytest.raises(Rejected, match=blob):
        access.fetch(str(repo), commit, [], shared / "pack")


def test_nothing_of_the_repository_is_run(access: RepoAccess, shared: Path) -> None:
    repo = gitrepos.make(shared / "repo", {**FILES, ".gitattributes": b"* filter=evil diff=evil\n"})
    canary = shared / "canary"
    trap = f"touch {canary}; cat"
    for key in (
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "diff.evil.textconv",
        "core.fsmonitor",
        "core.sshCommand",
        "core.gitProxy",
        "core.pager",
        "gpg.program",
        "uploadpack.packObjectsHook",
        "alias.status",
    ):
        git(repo, "config", key, trap)
    for hook in ("post-checkout", "reference-transaction", "update", "post-receive", "pre-push"):
        path = repo / ".git" / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{trap}\n")
        path.chmod(0o755)
    git(repo, "update-ref", "refs/heads/proof", "HEAD")  # the control: git itself runs it
    assert canary.exists()
    canary.unlink()
    found = access.resolve(str(repo), None)
    access.fetch(str(repo), found.commit, [], shared / "pack")
    assert not canary.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another user")
def test_the_broker_acts_as_the_owner(broker: RepoAccess, shared: Path) -> None:
    repo = gitrepos.make(shared / "repo", FILES)
    gitrepos.chown_tree(repo, 64002)
    repo.chmod(0o700)
    assert broker.resolve(str(repo), None).ref == "refs/heads/main"
    # Root's own file inside another's repository is beyond the owner's reach, so beyond ours.
    secret = shared / "secret"
    secret.write_text("ref: refs/heads/main\n")
    secret.chmod(0o600)
    (repo / ".git" / "HEAD").unlink()
    (repo / ".git" / "HEAD").symlink_to(secret)
    assert code_of(broker, str(repo)).code == "repo-forbidden"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can share its repository")
def test_the_broker_refuses_roots_repository_where_others_write(
    broker: RepoAccess, shared: Path
) -> None:
    repo = gitrepos.make(shared / "open" / "repo", FILES)
    (shared / "open").chmod(0o777)
    refused = code_of(broker, str(repo))
    assert refused.code == "repo-forbidden"
    assert "chown" in refused.message
