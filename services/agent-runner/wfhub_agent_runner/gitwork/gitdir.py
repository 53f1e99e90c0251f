"""The throw-away `.git` of a workspace: what makes git status, log and diff work for an agent.

It is an overlay layer of its own beside the tree: fixed config, no remote, no hooks, one branch,
one (shallow) commit with its objects, and an index that matches the checkout by size and time, so
that the first `git status` reads no file. The agent may do with it what it likes; nothing below
`.git` is ever read outside the sandbox.
"""

from collections.abc import Mapping
from pathlib import Path

from dulwich.index import ConflictedIndexEntry, IndexEntry, read_index_dict, write_index_dict
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID
from dulwich.pack import SHA1Writer

from wfhub_agent_runner.gitwork import bundle, packs, walk
from wfhub_agent_runner.gitwork.checkout import BASE_TIME_S, DELTA_TIME_S, Written
from wfhub_agent_runner.gitwork.walk import Entry

BRANCH = "wfhub"
_CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
\ttrustctime = false
\tcheckStat = minimal
[user]
\tname = agent
\temail = agent@localhost
[commit]
\tgpgsign = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
[advice]
\tdetachedHead = false
"""


def write_base(store: DiskObjectStore, commit: ObjectID, written: Written, into: Path) -> None:
    """`into/.git` for a checkout of `commit` whose files are `written`."""
    git = into / ".git"
    for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info", "logs"):
        (git / folder).mkdir(parents=True)
    (git / "HEAD").write_text(f"ref: refs/heads/{BRANCH}\n")
    (git / "config").write_text(_CONFIG)
    (git / "info" / "exclude").write_text("")
    (git / "shallow").write_bytes(commit + b"\n")
    tree = walk.commit(store, commit).tree
    objects = [commit, *walk.closure(store, tree, set())]
    packs.write_with_index(git / "objects" / "pack", store, objects)
    _point(git, commit)
    _index(
        {path: _entry(leaf, size, BASE_TIME_S) for path, (leaf, size) in written.leaves.items()},
        git,
    )


def write_result(
    store: DiskObjectStore,
    base: ObjectID,
    commit: ObjectID,
    written: Written,
    *,
    below: Path,
    into: Path,
) -> None:
    """`into/.git`: the layer that moves the base's `.git` in `below` on to `commit`."""
    git = into / ".git"
    pack = git / "objects" / "pack"
    pack.mkdir(parents=True)
    (git / "refs" / "heads").mkdir(parents=True)
    packs.write_with_index(pack, store, bundle.added(store, base, commit))
    _point(git, commit)
    with (below / ".git" / "index").open("rb") as f:
        entries = read_index_dict(f)
    old, new = walk.commit(store, base).tree, walk.commit(store, commit).tree
    for delta in walk.deltas(store, old, new):
        entries.pop(delta.path, None)
    for path, (leaf, size) in written.leaves.items():
        entries[path] = _entry(leaf, size, DELTA_TIME_S)
    _index(entries, git)


def cut_history(commit: ObjectID, into: Path) -> None:
    """What `into/.git` has begins with that commit, whatever lies below."""
    (into / ".git" / "shallow").write_bytes(commit + b"\n")


def _point(git: Path, commit: ObjectID) -> None:
    (git / "refs" / "heads" / BRANCH).write_bytes(commit + b"\n")


def _entry(leaf: Entry, size: int, time_s: int) -> IndexEntry:
    """Only mode, size and whole seconds of the time are compared (trustctime, checkStat)."""
    return IndexEntry(
        ctime=time_s,
        mtime=time_s,
        dev=0,
        ino=0,
        mode=walk.kind(leaf[0]),
        uid=0,
        gid=0,
        size=size & 0xFFFFFFFF,
        sha=leaf[1],
    )


def _index(entries: Mapping[bytes, IndexEntry | ConflictedIndexEntry], git: Path) -> None:
    with (git / "index").open("wb") as f:
        signed = SHA1Writer(f)
        write_index_dict(signed, entries)
        signed.write_sha()
