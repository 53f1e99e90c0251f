"""Which CI files a result changes: told of every attempt, whatever its project makes of it.

A changed path counts if a CI system reads it (wfhub_common.ci_files), or if a link at such a path
leads to it: `.gitlab-ci.yml -> ci/main.yml` makes of `ci/main.yml` a CI file. Links are looked at
in the result's tree: one that is new or different counts by itself.
Cost: that of the changes, and the few folders where CI files are.
Raises: Rejected, as `walk`.
"""

from collections.abc import Iterator, Sequence

from dulwich.object_store import BaseObjectStore
from dulwich.objects import ObjectID
from wfhub_common.ci_files import is_ci_file

from wfhub_agent_runner.gitwork import walk
from wfhub_agent_runner.gitwork.names import joined, shown

# More of them than these a base commit would have to have: what an agent adds is a change itself.
LINKS_MAX = 1000
HOPS_MAX = 40  # as Linux has it, and the next
TARGET_BYTES_MAX = 4096


def changed(store: BaseObjectStore, tree: ObjectID, deltas: Sequence[walk.Delta]) -> list[str]:
    """The paths, in the order of `deltas` (between the base and `tree`)."""
    if not deltas:
        return []
    led_to = {path for link in _links(store, tree) for path in _behind(store, tree, *link)}
    return [
        shown(path)
        for path, _, _ in deltas
        if is_ci_file(shown(path)) or (led_to and not led_to.isdisjoint(_with_folders(path)))
    ]


def _with_folders(path: bytes) -> Iterator[bytes]:
    """The path, and each folder that it is in."""
    parts = path.split(b"/")
    for count in range(len(parts), 0, -1):
        yield b"/".join(parts[:count])


def _links(store: BaseObjectStore, tree: ObjectID) -> list[tuple[bytes, bytes]]:
    """(the folder of a link where CI files are, what the link says)."""
    found: list[tuple[bytes, bytes]] = []
    folders = [(b"", tree)]
    while folders and len(found) < LINKS_MAX:
        folder, oid = folders.pop()
        walk.check_depth(folder)
        for name, (mode, content) in walk.entries(store, oid).items():
            path = joined(folder, name)
            if not is_ci_file(shown(path)):
                continue
            if mode == walk.DIR:
                folders.append((path, content))
            elif mode == walk.LINK:
                found.append((folder, walk.blob(store, content)))
    return found[:LINKS_MAX]


def _behind(store: BaseObjectStore, tree: ObjectID, folder: bytes, target: bytes) -> set[bytes]:
    """The path that a link leads to, and each further link on the way; nothing out of the tree."""
    passed: set[bytes] = set()
    at = folder.split(b"/") if folder else []
    todo = target.split(b"/")[::-1]
    hops = 0
    if not _stays(target):
        return passed
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if not at:
                return passed
            at.pop()
            continue
        at.append(name)
        link = _link_at(store, tree, at)
        if link is None:
            continue
        passed.add(b"/".join(at))
        hops += 1
        if hops > HOPS_MAX or not _stays(link):
            return passed
        at.pop()
        todo += link.split(b"/")[::-1]
    return passed | {b"/".join(at)} if at else passed


def _stays(target: bytes) -> bool:
    return not target.startswith(b"/") and len(target) <= TARGET_BYTES_MAX


def _link_at(store: BaseObjectStore, tree: ObjectID, path: Sequence[bytes]) -> bytes | None:
    """What the link at that path says; None: there is none."""
    entry: walk.Entry | None = (walk.DIR, tree)
    for name in path:
        folder = walk.subtree(entry)
        entry = None if folder is None else walk.entries(store, folder).get(name)
    return walk.blob(store, entry[1]) if entry and entry[0] == walk.LINK else None
