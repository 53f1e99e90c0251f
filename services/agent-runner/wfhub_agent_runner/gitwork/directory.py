"""A plain folder read as if it were a commit: the same content has the same id, always.

Its tree is what `git add -A` would make of it (.gitignore is honoured: what it excludes stays out
of the agent's reach), its commit has fixed words and no parent. Nothing is written there. The cost
is that of the folder: every file is hashed to resolve it, and read again to fetch it.
Raises: Rejected (as `changes`), RetryLater (`directory-changed`: while it was read), OSError.
"""

from typing import IO

from dulwich.object_store import MemoryObjectStore
from dulwich.objects import Commit, ObjectID, ShaFile
from wfhub_common.errors import RetryLater

from wfhub_agent_runner.gitwork import changes, packs
from wfhub_agent_runner.gitwork.commit import IDENTITY
from wfhub_agent_runner.gitwork.folders import Directory
from wfhub_agent_runner.gitwork.outcomes import Fetched
from wfhub_agent_runner.gitwork.source import Resolved

STATE = b".wfhub"  # at its top: journals, and what was applied (application)
CHANGED = "directory-changed"


class _Forgetful(MemoryObjectStore):
    """Objects are only named."""

    def add_object(self, obj: ShaFile) -> None:
        pass


def resolve(at: Directory) -> Resolved:
    tree, commit = _read(at, _Forgetful())
    return Resolved(commit.id.decode(), tree.decode(), "", "")


def fetch(at: Directory, want: str, into: IO[bytes]) -> Fetched:
    store = MemoryObjectStore()
    _, commit = _read(at, store)
    if commit.id.decode() != want:
        raise RetryLater(CHANGED, "the folder was changed while it was read; read it again")
    objects = [commit, *(store[ObjectID(oid)] for oid in store)]
    packs.write_objects(into, objects)
    return Fetched(len(objects), into.tell())


def _read(at: Directory, store: MemoryObjectStore) -> tuple[ObjectID, Commit]:
    tree = changes.read_folder(store, at.path, without=frozenset({STATE}))
    commit = Commit()
    commit.tree = tree
    commit.author = commit.committer = IDENTITY
    commit.author_time = commit.commit_time = 0
    commit.author_timezone = commit.commit_timezone = 0
    commit.message = b"A folder, as it was found\n"
    return tree, commit
