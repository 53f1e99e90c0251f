"""The texts of a result: commit, patch, bundle; and names."""

import io
from datetime import UTC, datetime
from pathlib import Path

import gitrepos
import pytest
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID
from gitrepos import git
from wfhub_agent_runner.gitwork import bundle, commit, names, patch, walk
from wfhub_common.errors import Rejected

WHEN = datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def about(title: str = "", prompt: str = "") -> commit.About:
    return commit.About("tsk_1", "att_1", title, prompt, WHEN)


@pytest.mark.parametrize(
    ("title", "prompt", "subject"),
    [
        ("Fix", "ignored", "Fix"),
        ("", "\n\n  Do this\nand that", "Do this"),
        ("", "", "Work on tsk_1"),
        ("a\nWfhub-Task: tsk_other", "", "a Wfhub-Task: tsk_other"),
        ("x" * 100, "", "x" * 71 + "…"),
        ("bell\a\x1b[0m\u202e", "", "bell [0m"),
    ],
)
def test_a_commits_subject_is_one_clean_line(title: str, prompt: str, subject: str) -> None:
    text = commit.message(about(title, prompt))
    assert text == f"{subject}\n\nWfhub-Task: tsk_1\nWfhub-Attempt: att_1\n"


def test_a_commit_depends_on_its_inputs_alone() -> None:
    tree, base = ObjectID(b"1" * 40), ObjectID(b"2" * 40)
    one, two = (commit.build(tree, base, about("x")).id for _ in range(2))
    assert one == two
    assert commit.build(tree, base, about("y")).id != one


@pytest.mark.parametrize(
    "name",
    [
        *(".git", ".GIT", ".Git", "git~1", "GIT~1", ".git ", ".git.", "..", ".", "", ".g\u200cit"),
        *(".git::$INDEX_ALLOCATION", "a/b", "x\0", ".git\\x", "n" * 256),
    ],
)
def test_names_that_some_system_reads_as_git_are_unsafe(name: str) -> None:
    assert not names.is_safe(name.encode())


@pytest.mark.parametrize("name", [b".gitignore", b"git", b"caf\xe9", b"a\nb", b"aux", b"..."])
def test_other_names_are_safe(name: bytes) -> None:
    assert names.is_safe(name) == (name != b"...")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Two commits, with every kind of change between them."""
    before = {
        "same": b"same\n",
        "changed": b"one\ntwo\nthree\n",
        "no-newline": b"one",
        "gone/x": b"x\n",
        "script": b"#!/bin/sh\n",
        "becomes-link": b"text\n",
    }
    top = gitrepos.make(tmp_path / "repo", before)
    (top / "gone" / "x").unlink()
    (top / "gone").rmdir()
    after = {
        "changed": b"one\n2\nthree\n",
        "no-newline": b"one\ntwo",
        "new\n--- a/fake": b"text\n",
        'q"uote\t': b"text\n",
        "\u00fcber": b"text\n",
        "empty": b"",
        "gone": b"now a file\n",
    }
    gitrepos.write(top, after)
    (top / "script").chmod(0o755)
    (top / "becomes-link").unlink()
    (top / "becomes-link").symlink_to("same")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "second")
    return top


def opened(repo: Path) -> tuple[DiskObjectStore, ObjectID, ObjectID]:
    store = DiskObjectStore(repo / ".git" / "objects")
    base, tip = (ObjectID(git(repo, "rev-parse", name).encode()) for name in ("HEAD^", "HEAD"))
    return store, base, tip


def test_git_applies_our_patch_to_the_same_tree(repo: Path, tmp_path: Path) -> None:
    store, base, tip = opened(repo)
    old, new = walk.commit(store, base).tree, walk.commit(store, tip).tree
    file = tmp_path / "patch"
    file.write_bytes(patch.text(store, old, new))
    git(repo, "checkout", "-q", "HEAD^")
    git(repo, "apply", "--index", file)
    assert git(repo, "write-tree") == new.decode()


def test_a_patch_stops_at_its_limits_and_says_so(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, base, tip = opened(repo)
    old, new = walk.commit(store, base).tree, walk.commit(store, tip).tree
    monkeypatch.setattr("wfhub_agent_runner.gitwork.limits.PATCH_FILE_BYTES_MAX", 8)
    assert b"# b/changed: too large" in patch.text(store, old, new)
    monkeypatch.setattr("wfhub_agent_runner.gitwork.limits.PATCH_BYTES_MAX", 500)
    text = patch.text(store, old, new)
    assert len(text) < 600
    assert text.endswith(b"the bundle has everything\n")


def test_git_verifies_and_fetches_our_bundle(repo: Path, tmp_path: Path) -> None:
    store, base, tip = opened(repo)
    file = tmp_path / "result.bundle"
    with file.open("wb") as f:
        bundle.write(f, store, base=base, commit=tip, ref="refs/heads/wfhub/tsk_1")
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", "--no-local", repo, other)
    git(other, "reset", "-q", "--hard", "HEAD^")
    git(other, "reflog", "expire", "--expire=now", "--all")
    git(other, "remote", "remove", "origin")
    git(other, "gc", "-q", "--prune=now")
    git(other, "bundle", "verify", file)
    git(other, "fetch", "-q", file, "refs/heads/wfhub/tsk_1:refs/heads/result")
    assert git(other, "rev-parse", "result") == tip.decode()
    git(other, "fsck", "--strict")
    with file.open("rb") as f:
        header = bundle.read_header(f)
        assert f.read(4) == b"PACK"
    assert (header.base, header.commit, header.ref) == (base, tip, "refs/heads/wfhub/tsk_1")
    bundle.check(store, header)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"# v3 git bundle\n",
        b"# v2 git bundle\n" + b"1" * 40 + b" refs/heads/x\n\nPACK",
        b"# v2 git bundle\n-" + b"1" * 40 + b" x\n" + b"2" * 40 + b" ../../x\n\n",
        b"# v2 git bundle\n-" + b"1" * 40 + b" x\n" + b"2" * 40 + b" refs/heads/x\nmore\n",
        b"# v2 git bundle\n-" + b"1" * 5000,
    ],
)
def test_a_bundle_of_another_shape_is_refused(text: bytes) -> None:
    with pytest.raises(Rejected, match="bundle-invalid"):
        bundle.read_header(io.BytesIO(text))
