"""What an attempt hands in, made without an agent: a commit that adds one file to a repository's
`main`, and its bundle."""

from dataclasses import dataclass
from pathlib import Path

from dulwich.object_store import DiskObjectStore
from dulwich.objects import Blob, Commit, ObjectID, Tree
from gitrepos import git
from wfhub_agent_runner.gitwork import bundle, commit

BRANCH, MARKER = "refs/heads/wfhub/tsk_1", "refs/wfhub/published/tsk_1"


@dataclass(frozen=True)
class Result:
    commit: str
    bundle: Path


def result(repo: Path, folder: Path, text: str = "work") -> Result:
    """`folder` is made; the bundle is in it. Results with other texts are other commits."""
    folder.mkdir()
    objects = DiskObjectStore.init(folder / "objects")
    git_objects = git(repo, "rev-parse", "--git-path", "objects")
    store = DiskObjectStore(objects.path, alternates=[str(repo / git_objects)])
    base = ObjectID(git(repo, "rev-parse", "main").encode())
    tree = Tree.from_string(
        store.get_raw(ObjectID(git(repo, "rev-parse", "main^{tree}").encode()))[1]
    )
    assert isinstance(tree, Tree)
    blob = Blob.from_string(text.encode())
    tree.add(b"new", 0o100644, blob.id)
    made = Commit()
    made.tree, made.parents = tree.id, [base]
    made.author = made.committer = commit.IDENTITY
    made.author_time = made.commit_time = 1_700_000_000
    made.author_timezone = made.commit_timezone = 0
    made.message = b"work\n"
    for thing in (blob, tree, made):
        store.add_object(thing)
    path = folder / "result.bundle"
    with path.open("wb") as f:
        bundle.write(f, store, base=base, commit=made.id, ref=BRANCH)
    return Result(made.id.decode(), path)
