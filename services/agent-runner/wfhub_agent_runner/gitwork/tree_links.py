"""Links of a tree: where a path leads. Nothing out of the tree. Raises: Rejected, as `walk`."""

from collections.abc import Sequence
from typing import NamedTuple

from dulwich.object_store import BaseObjectStore
from dulwich.objects import ObjectID

from wfhub_agent_runner.gitwork import walk

HOPS_MAX = 40  # as Linux has it, and the next
TARGET_BYTES_MAX = 4096


class Way(NamedTuple):
    """`links`: on the way. `end`: where it ends, be something there or not; None: out of the tree,
    at its top, or nowhere."""

    links: frozenset[bytes]
    end: bytes | None

    @property
    def paths(self) -> frozenset[bytes]:
        return self.links | {self.end} if self.end else self.links


def followed(store: BaseObjectStore, tree: ObjectID, folder: bytes, target: bytes) -> Way:
    """`target`: a path as a link in `folder` says it."""
    links: set[bytes] = set()
    at = folder.split(b"/") if folder else []
    todo = target.split(b"/")[::-1]
    hops = 0
    if not _stays(target):
        return Way(frozenset(), None)
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if not at:
                return Way(frozenset(links), None)
            at.pop()
            continue
        at.append(name)
        link = _link_at(store, tree, at)
        if link is None:
            continue
        links.add(b"/".join(at))
        hops += 1
        if hops > HOPS_MAX or not _stays(link):
            return Way(frozenset(links), None)
        at.pop()
        todo += link.split(b"/")[::-1]
    return Way(frozenset(links), b"/".join(at) or None)


def _stays(target: bytes) -> bool:
    return not target.startswith(b"/") and len(target) <= TARGET_BYTES_MAX


def _link_at(store: BaseObjectStore, tree: ObjectID, path: Sequence[bytes]) -> bytes | None:
    """What the link at that path says; None: there is none."""
    entry = walk.at(store, tree, path)
    return walk.blob(store, entry[1]) if entry and entry[0] == walk.LINK else None
