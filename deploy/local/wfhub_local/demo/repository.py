"""The demo's repository: the defective release, then the test of the repaired one.

Two commits on `main`, the same ids everywhere: content, author and dates are fixed. The working
tree is checked out, to look around in.
"""

import shutil
from pathlib import Path

from dulwich.index import commit_tree
from dulwich.objects import Blob, Commit
from dulwich.refs import Ref
from dulwich.repo import Repo

from wfhub_local.demo import sources
from wfhub_local.demo.sources import SourceFile

AUTHOR = b"Workflow Hub demo <demo@workflow-hub.invalid>"
BRANCH = b"main"
TEST_FILE = "test_parse.py"
SOURCE_FILE = "parse.py"
RELEASED_AT = 1_598_659_200  # 2020-08-29, when 1.17.0 came out
TEST_AT = 1_599_782_400  # 2020-09-11, when 1.18.0 did
DEFECT_MESSAGE = b"parse 1.17.0, as released\n"
TEST_MESSAGE = b"Take test_parse.py of parse 1.18.0: its new test fails\n"


def create(folder: Path, *, defective: Path, repaired: Path) -> str:
    """A fresh repository from the two archives; what was in `folder` is gone. Returns HEAD."""
    files = sources.files_of(defective)
    with_test = {**files, TEST_FILE: sources.files_of(repaired)[TEST_FILE]}
    return write(folder, (files, DEFECT_MESSAGE, RELEASED_AT), (with_test, TEST_MESSAGE, TEST_AT))


def write(
    folder: Path, *stages: tuple[dict[str, SourceFile], bytes, int], author: bytes = AUTHOR
) -> str:
    """A fresh repository of these commits (files, message, Unix time), one after another, the last
    checked out; what was in `folder` is gone. Returns HEAD."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    commits: list[Commit] = []
    with Repo.init(str(folder), default_branch=BRANCH) as repo:
        for files, message, at in stages:
            commit = _commit(repo, files, message, at, author=author)
            commit.parents = [parent.id for parent in commits[-1:]]
            repo.object_store.add_object(commit)
            commits.append(commit)
        repo.refs[Ref(b"refs/heads/" + BRANCH)] = commits[-1].id
        repo.get_worktree().reset_index(commits[-1].tree)
    return commits[-1].id.decode()


def _commit(
    repo: Repo, files: dict[str, SourceFile], message: bytes, at: int, *, author: bytes
) -> Commit:
    entries = []
    for path, file in files.items():
        blob = Blob.from_string(file.content)
        repo.object_store.add_object(blob)
        entries.append((path.encode(), blob.id, 0o100755 if file.executable else 0o100644))
    commit = Commit()
    commit.tree = commit_tree(repo.object_store, entries)
    commit.author = commit.committer = author
    commit.author_time = commit.commit_time = at
    commit.author_timezone = commit.commit_timezone = 0
    commit.message = message
    return commit
