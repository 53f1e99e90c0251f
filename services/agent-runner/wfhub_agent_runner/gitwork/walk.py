"""Trees, read by hand: entries, what is new between two trees, what a tree needs.

An entry is (mode, id). Duplicate names, unknown modes and missing objects are refused, so that
what is walked here is exactly what the tree's id stands for.
Raises: Rejected (`repo-object-missing`, `repo-hostile-path`, `repo-corrupt`).
"""

import functools
import stat
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from dulwich.errors import ObjectFormatException
from dulwich.object_store import BaseObjectStore
from dulwich.objects import Blob, Commit, ObjectID, Tree, parse_tree, valid_hexsha
from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork import limits
from wfhub_agent_runner.gitwork.names import joined, shown

DIR, LINK, GITLINK = 0o040000, 0o120000, 0o160000
FILE, EXECUTABLE = 0o100644, 0o100755
Entry = tuple[int, ObjectID]
Entries = Mapping[bytes, Entry]


class Delta(NamedTuple):
    """A path whose leaf (file, link or submodule) differs; None: not there."""

    path: bytes
    old: Entry | None
    new: Entry | None


def raw(store: BaseObjectStore, oid: ObjectID, type_num: int) -> bytes:
    """The content of an object that must have that type."""
    try:
        found, content = store.get_raw(oid)
    except KeyError as e:
        raise Rejected(
            "repo-object-missing",
            f"the repository lacks object {oid.decode()}; a partial clone or a broken repository"
            " cannot be used: fetch the missing objects or run git fsck in it",
            object=oid.decode(),
        ) from e
    if found != type_num:
        raise Rejected("repo-corrupt", f"object {oid.decode()} is of the wrong type; run git fsck")
    return content


def commit(store: BaseObjectStore, oid: ObjectID) -> Commit:
    try:
        found = Commit.from_string(raw(store, oid, Commit.type_num))
        assert isinstance(found, Commit)
        if valid_hexsha(found.tree) and all(valid_hexsha(parent) for parent in found.parents):
            return found
    except (ObjectFormatException, ValueError, AttributeError) as e:
        raise _malformed(oid) from e
    raise _malformed(oid)


def _malformed(oid: ObjectID) -> Rejected:
    return Rejected("repo-corrupt", f"object {oid.decode()} is malformed; run git fsck")


def blob(store: BaseObjectStore, oid: ObjectID) -> bytes:
    return raw(store, oid, Blob.type_num)


def kind(mode: int) -> int:
    """One of DIR, LINK, GITLINK, FILE, EXECUTABLE (older writers also stored 100664)."""
    if stat.S_ISREG(mode):
        return EXECUTABLE if mode & 0o100 else FILE
    return mode


def entries(store: BaseObjectStore, tree: ObjectID | None) -> Entries:
    if tree is None:
        return {}
    content = raw(store, tree, Tree.type_num)
    parse = _remembered if len(content) <= limits.TREE_BYTES_REMEMBERED_MAX else _parsed
    try:
        return parse(content)
    except (ObjectFormatException, ValueError) as e:
        raise Rejected("repo-corrupt", f"tree {tree.decode()} is malformed; run git fsck") from e


def _parsed(content: bytes) -> Entries:
    found: dict[bytes, Entry] = {}
    for name, mode, oid in parse_tree(content, 20):
        if name in found or not name or b"/" in name:
            raise Rejected(
                "repo-hostile-path", f"a tree names {shown(name)!r} in a way git does not allow"
            )
        if kind(mode) not in (DIR, LINK, GITLINK, FILE, EXECUTABLE):
            raise Rejected("repo-corrupt", f"{shown(name)!r} has the unknown mode {mode:o}")
        found[name] = (mode, ObjectID(oid))
    return MappingProxyType(found)


# By what it says: one snapshot walks over the same few trees again and again.
_remembered = functools.lru_cache(limits.TREES_PARSED_MAX)(_parsed)


def subtree(entry: Entry | None) -> ObjectID | None:
    return entry[1] if entry and entry[0] == DIR else None


def leaf(entry: Entry | None) -> Entry | None:
    return entry if entry and entry[0] != DIR else None


def at(store: BaseObjectStore, tree: ObjectID, path: Sequence[bytes]) -> Entry | None:
    """What is at that path, links not followed."""
    entry: Entry | None = (DIR, tree)
    for name in path:
        folder = subtree(entry)
        entry = None if folder is None else entries(store, folder).get(name)
    return entry


def deltas(
    store: BaseObjectStore, old: ObjectID | None, new: ObjectID | None, folder: bytes = b""
) -> Iterator[Delta]:
    """Differing leaves, by path; equal subtrees are never opened."""
    if old == new:
        return
    check_depth(folder)
    before, after = entries(store, old), entries(store, new)
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name), after.get(name)
        if a == b:
            continue
        path = joined(folder, name)
        if leaf(a) != leaf(b):
            yield Delta(path, leaf(a), leaf(b))
        yield from deltas(store, subtree(a), subtree(b), path)


def new_objects(
    store: BaseObjectStore, old: ObjectID | None, new: ObjectID | None, folder: bytes = b""
) -> Iterator[ObjectID]:
    """Trees and blobs of `new` that are not at the same place in `old`; may repeat an id."""
    if new is None or old == new:
        return
    check_depth(folder)
    before = entries(store, old)
    yield new
    for name, entry in entries(store, new).items():
        if before.get(name) == entry or entry[0] == GITLINK:
            continue
        if entry[0] == DIR:
            there = subtree(before.get(name))
            yield from new_objects(store, there, entry[1], joined(folder, name))
        else:
            yield entry[1]


def left_trees(
    store: BaseObjectStore, old: ObjectID | None, new: ObjectID | None, folder: bytes = b""
) -> Iterator[ObjectID]:
    """The trees of `old` that `deltas` opens."""
    if old is None or old == new:
        return
    check_depth(folder)
    after = entries(store, new)
    yield old
    for name, entry in entries(store, old).items():
        if entry[0] == DIR and after.get(name) != entry:
            there = subtree(after.get(name))
            yield from left_trees(store, entry[1], there, joined(folder, name))


def closure(store: BaseObjectStore, tree: ObjectID, known: set[ObjectID]) -> Iterator[ObjectID]:
    """Every tree and blob below `tree` once, but those in `known`, which grows by them."""
    todo = [(tree, 0)]
    while todo:
        oid, depth = todo.pop()
        if oid in known:
            continue
        if depth > limits.DEPTH_MAX:
            check_depth(b"/" * depth)
        known.add(oid)
        yield oid
        for mode, child in entries(store, oid).values():
            if mode == DIR:
                todo.append((child, depth + 1))
            elif mode != GITLINK and child not in known:
                known.add(child)
                yield child


def check_depth(folder: bytes) -> None:
    if folder.count(b"/") >= limits.DEPTH_MAX:
        raise Rejected(
            "tree-too-deep", f"folders are nested deeper than {limits.DEPTH_MAX}; flatten them"
        )
