"""Trees and folders made to do harm: refused by name, and nothing is written outside."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gitrepos
import pytest
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID
from gitrepos import git
from wfhub_agent_runner.gitwork import checkout, walk
from wfhub_agent_runner.removal import remove_tree
from wfhub_common.errors import Rejected


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    path.mkdir()
    git(path, "init", "-q")
    return path


def blob(repo: Path, content: bytes) -> str:
    return git(repo, "hash-object", "-w", "--stdin", stdin=content)


def check_out(repo: Path, tree: str) -> Path:
    into = repo.parent / "tree"
    into.mkdir()
    store = DiskObjectStore(repo / ".git" / "objects")
    try:
        checkout.write_tree(store, ObjectID(tree.encode()), into)
    finally:
        store.close()
    return into


@pytest.mark.parametrize(
    "name", [".git", ".GIT", "..", ".", "git~1", ".g\u200cit", ".git ", "a/b", "../x", ""]
)
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
@pytest.mark.hostile(14)
def test_a_hostile_name_is_refused(repo: Path, name: str, kind: str) -> None:
    content = blob(repo, b"#!/bin/sh\n")
    folder = gitrepos.raw_tree(repo, [("100755", "config", content)])
    entry = {"file": ("100644", content), "folder": ("40000", folder), "link": ("120000", content)}
    mode, oid = entry[kind]
    with pytest.raises(Rejected, match="repo-hostile-path"):
        check_out(repo, gitrepos.raw_tree(repo, [(mode, name, oid)]))
    assert [path for path in repo.parent.rglob("*") if path.name == "config"] == [
        repo / ".git" / "config"
    ]


@pytest.mark.hostile(13)
def test_nothing_is_written_through_a_link(repo: Path) -> None:
    outside = repo.parent / "outside"
    outside.mkdir()
    target, content = blob(repo, os.fsencode(outside)), blob(repo, b"evil")
    folder = gitrepos.raw_tree(repo, [("100644", "x", content)])
    for names in (("a", "a"), ("A", "a"), ("a", "A")):
        entries = [("120000", names[0], target), ("40000", names[1], folder)]
        with pytest.raises(Rejected, match="repo-hostile-path"):
            check_out(repo, gitrepos.raw_tree(repo, entries))
        assert list(outside.iterdir()) == []
        remove_tree(repo.parent / "tree")


@pytest.mark.hostile(13)
def test_links_submodules_and_large_file_pointers_stay_what_they_are(repo: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    tree = gitrepos.raw_tree(
        repo,
        [
            ("120000", "link", blob(repo, b"/etc/passwd")),
            ("100664", "old-mode", blob(repo, b"x")),
            ("100644", "pointer", blob(repo, pointer)),
            ("160000", "sub", "1" * 40),
        ],
    )
    into = check_out(repo, tree)
    assert (into / "link").readlink() == Path("/etc/passwd")
    assert (into / "pointer").read_bytes() == pointer
    assert list((into / "sub").iterdir()) == []
    assert (into / "old-mode").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("mode", ["60000", "20000", "10000", "140000"])
def test_an_unknown_mode_is_refused(repo: Path, mode: str) -> None:
    with pytest.raises(Rejected, match="repo-corrupt"):
        check_out(repo, gitrepos.raw_tree(repo, [(mode, "dev", blob(repo, b""))]))


def test_a_tree_without_end_is_refused(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = gitrepos.raw_tree(repo, [("100644", "x", blob(repo, b"x"))])
    for _ in range(230):
        tree = gitrepos.raw_tree(repo, [("40000", "d", tree)])
    with pytest.raises(Rejected, match="tree-too-deep"):
        check_out(repo, tree)
    # Folders that multiply: ten levels of two equal ones are a thousand files.
    tree = gitrepos.raw_tree(repo, [("100644", "x", blob(repo, b"x"))])
    for _ in range(10):
        tree = gitrepos.raw_tree(repo, [("40000", "a", tree), ("40000", "b", tree)])
    monkeypatch.setattr("wfhub_agent_runner.gitwork.limits.FILES_MAX", 1000)
    remove_tree(repo.parent / "tree")
    with pytest.raises(Rejected, match="repo-too-large"):
        check_out(repo, tree)
    store = DiskObjectStore(repo / ".git" / "objects")
    assert len(list(walk.closure(store, ObjectID(tree.encode()), set()))) == 12


def test_removal_takes_any_depth_and_mode_and_follows_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    gitrepos.write(outside, {"kept": b"x"})
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(outside)
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=fd)
        os.symlink(outside, "link2", dir_fd=fd)
        inner = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.fchmod(fd, 0)
    os.close(fd)
    (top / "shut").mkdir(mode=0)
    remove_tree(top)
    remove_tree(top)
    assert not top.exists()
    assert (outside / "kept").exists()


def test_a_folder_may_be_removed_by_two_at_once(tmp_path: Path) -> None:
    """A run's end does so in a thread, which the sweep of the next start may meet."""
    top = tmp_path / "top"
    for _ in range(20):
        for number in range(24):
            (top / f"{number % 6}/{number}/x/y").mkdir(parents=True)
            (top / f"{number % 6}/{number}/f").touch()
        begin = threading.Barrier(2)

        def remove(begin: threading.Barrier = begin) -> None:
            begin.wait()
            remove_tree(top)

        with ThreadPoolExecutor(2) as threads:
            for removed in [threads.submit(remove) for _ in range(2)]:
                removed.result()
        assert not top.exists()
