"""References of a repository on disk, read without following anything but symbolic refs.

A value is an object id or None. Reads loose files, then packed-refs: that order is safe beside
`git pack-refs`, which writes packed-refs before it removes the loose file.
Raises: Rejected (`repo-corrupt`).
"""

import os
from collections.abc import Iterator
from pathlib import Path

from dulwich.objects import ObjectID, valid_hexsha
from dulwich.refs import Ref, check_ref_format
from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork.location import Layout

_SYMREF = b"ref: "
_SYMREF_DEPTH_MAX = 5
_VALUE_BYTES_MAX = 4096
BRANCHES = b"refs/heads/"
_PER_WORKTREE = (b"refs/bisect/", b"refs/worktree/", b"refs/rewritten/")


def is_valid(name: bytes) -> bool:
    return name == b"HEAD" or (name.startswith(b"refs/") and check_ref_format(Ref(name)))


def path_of(layout: Layout, name: bytes) -> Path:
    assert is_valid(name)
    own = name == b"HEAD" or name.startswith(_PER_WORKTREE)
    return (layout.gitdir if own else layout.common) / os.fsdecode(name)


def value(layout: Layout, name: bytes) -> bytes | None:
    """What the ref itself holds: an id, or `ref: <other>`, or None."""
    try:
        with path_of(layout, name).open("rb") as f:
            line = f.read(_VALUE_BYTES_MAX).partition(b"\n")[0].rstrip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return packed(layout).get(name)
    if not (line.startswith(_SYMREF) or valid_hexsha(line)):
        raise Rejected("repo-corrupt", f"the ref {os.fsdecode(name)} is malformed; run git fsck")
    return line


def follow(layout: Layout, name: bytes) -> tuple[bytes, ObjectID | None]:
    """The last ref of a chain of symbolic ones, and its id; None: it does not exist."""
    for _ in range(_SYMREF_DEPTH_MAX):
        held = value(layout, name)
        if held is None or not held.startswith(_SYMREF):
            return name, None if held is None else ObjectID(held)
        name = held.removeprefix(_SYMREF).strip()
        if not is_valid(name):
            break
    raise Rejected("repo-corrupt", "a symbolic ref of the repository leads nowhere; run git fsck")


def packed(layout: Layout) -> dict[bytes, ObjectID]:
    try:
        lines = (layout.common / "packed-refs").read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        if line.startswith((b"#", b"^")):
            continue
        oid, space, name = line.partition(b" ")
        if space and valid_hexsha(oid) and is_valid(name):
            found[name] = ObjectID(oid)
    return found


def _loose(layout: Layout, below: bytes) -> Iterator[bytes]:
    top = os.fsencode(layout.common)
    for folder, _, files in os.walk(os.path.join(top, below)):
        for file in files:
            name = os.path.relpath(os.path.join(folder, file), top)
            if is_valid(name):
                yield name


def names(layout: Layout, below: bytes) -> list[bytes]:
    """Names of refs below a prefix such as refs/heads/, sorted."""
    there = {name for name in packed(layout) if name.startswith(below)}
    return sorted(there | set(_loose(layout, below)))
