"""Whatever is edited, we make the tree that `git add -A` makes.

EXAMPLES=2000 in the environment: the long run.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gitrepos
import pytest
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID
from gitrepos import git
from hypothesis import HealthCheck, assume, given, settings
from wfhub_agent_runner.gitwork import changes, checkout
from wfhub_agent_runner.gitwork.attempts import Layers
from wfhub_agent_runner.gitwork.objects import AttemptObjects
from wfhub_common.errors import Rejected

from .edits import (
    Edit,
    apply_here,
    apply_in_overlay,
    listing_here,
    listing_in_overlay,
    scripts,
    submodules,
)

EXAMPLES = int(os.environ.get("EXAMPLES", "40"))
EXAMPLE_S_MAX = 3  # some dozen git processes, on a busy machine; the long run takes its time
INNER_COMMIT = "1" * 40
HELD_BYTES_MAX = 100  # so little that a change of some files is more than one pack
pytestmark = pytest.mark.timeout(max(120, EXAMPLES * EXAMPLE_S_MAX))
quick = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Case:
    """A base commit as a repository C git works in, and as a checkout of ours."""

    folder: Path
    repo: Path
    store: AttemptObjects
    base: ObjectID
    lower: Path

    def layers(self, name: str, *lowers: Path) -> Layers:
        upper, work = self.folder / name / "upper", self.folder / name / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        return Layers(lowers, upper, work)

    def new_folder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir()
        return path

    def as_git_would(self, edits: list[Edit]) -> str:
        apply_here(self.repo, edits)
        git(self.repo, "add", "-A")
        return git(self.repo, "write-tree")


@contextmanager
def case(initial: list[Edit], submodules: Sequence[str] = ()) -> Iterator[Case]:
    with gitrepos.shared_folder() as folder:
        repo = folder / "repo"
        repo.mkdir()
        git(repo, "init", "-q")
        apply_here(repo, initial)
        git(repo, "add", "-A", "-f")  # tracked files may match an ignore rule, too
        for path in submodules:
            add_submodule(repo, path)
        base = ObjectID(git(repo, "write-tree").encode())
        objects = DiskObjectStore.init(folder / "objects")
        store = AttemptObjects(folder / "objects", repo / ".git" / "objects", HELD_BYTES_MAX)
        lower = folder / "lower"
        lower.mkdir()
        try:
            checkout.write_tree(store, base, lower)
        except Rejected:
            assume(False)  # a link and another name that fold together: refused by design
        git(repo, "checkout-index", "-a", "-f")
        git(repo, "clean", "-qfdx")  # empty folders are not in a checkout
        yield Case(folder, repo, store, base, lower)
        store.close()
        objects.close()


def add_submodule(repo: Path, path: str) -> None:
    """Unless a file is where its folders would be."""
    entry = f"160000,{INNER_COMMIT},".encode() + path.encode("latin-1")
    git(repo, "update-index", "--add", "--cacheinfo", os.fsdecode(entry), codes=(0, 128))


@quick
@given(initial=scripts, submodules=submodules, edits=scripts)
def test_changes_read_from_an_upper_layer_make_gits_own_tree(
    initial: list[Edit], submodules: list[str], edits: list[Edit]
) -> None:
    with case(initial, submodules) as at:
        layers = at.layers("agent", at.lower)
        apply_in_overlay(layers, edits)
        tree = changes.read(at.store, at.base, layers.upper)
        assert tree.decode() == at.as_git_would(edits)
        # And a clean checkout of it, as a layer of differences, is a full checkout of it.
        try:
            checkout.write_tree(at.store, tree, at.new_folder("full"))
        except Rejected:
            return  # as in `case`
        checkout.write_delta(at.store, at.base, tree, at.new_folder("delta"))
        clean = at.layers("clean", at.lower, at.folder / "delta")
        assert listing_in_overlay(clean) == listing_here(at.folder / "full")


@quick
@given(initial=scripts, submodules=submodules, edits=scripts)
def test_changes_read_from_a_copy_make_gits_own_tree(
    initial: list[Edit], submodules: list[str], edits: list[Edit]
) -> None:
    with case(initial, submodules) as at:
        apply_here(at.lower, edits)
        tree = changes.read(at.store, at.base, at.lower, whole=True)
        assert tree.decode() == at.as_git_would(edits)


def test_a_checkout_has_the_modes_and_times_it_should(tmp_path: Path) -> None:
    initial: list[Edit] = [
        ["write", "run", "x"],
        ["chmod", "run", 0o755],
        ["write", "dir/plain", "y"],
        ["link", "link", "dir/plain"],
    ]
    with case(initial) as at:
        found = {
            path.name: (stat.filemode(path.lstat().st_mode), int(path.lstat().st_mtime))
            for path in at.lower.rglob("*")
        }
        time = checkout.BASE_TIME_S
        assert found == {
            "run": ("-rwxr-xr-x", time),
            "dir": ("drwxr-xr-x", time),
            "plain": ("-rw-r--r--", time),
            "link": ("lrwxrwxrwx", time),
        }
