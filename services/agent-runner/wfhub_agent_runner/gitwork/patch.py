"""A patch for people: what changed between two trees, as unified text that `git apply` reads.

Bounded in bytes and in time: a file too large to compare is named in a line of its own, and a
patch that had to stop ends by saying so. The bundle is complete in any case.
"""

import time
from collections.abc import Iterator

from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID
from dulwich.patch import is_binary, unified_diff

from wfhub_agent_runner.gitwork import limits, walk
from wfhub_agent_runner.gitwork.walk import Delta, Entry

_PLAIN = frozenset(range(0x20, 0x7F)) - set(b'"\\')
_ESCAPES = {0x0A: b"\\n", 0x09: b"\\t", 0x0D: b"\\r", 0x22: b'\\"', 0x5C: b"\\\\"}
_STOPPED = b"# the patch stops here: it is larger than is shown; the bundle has everything\n"


def text(store: DiskObjectStore, old: ObjectID, new: ObjectID) -> bytes:
    parts: list[bytes] = []
    size = 0
    stop_at = time.monotonic() + limits.PATCH_S_MAX
    for delta in walk.deltas(store, old, new):
        for part in _steps(delta):
            shown = b"".join(_file(store, part))
            size += len(shown)
            if size > limits.PATCH_BYTES_MAX or time.monotonic() > stop_at:
                return b"".join([*parts, _STOPPED])
            parts.append(shown)
    return b"".join(parts)


def _steps(delta: Delta) -> list[Delta]:
    """A change of kind (file to link) is a removal and an addition, as git shows it."""
    old, new = delta.old, delta.new
    if old and new and walk.kind(old[0]) & 0o170000 != walk.kind(new[0]) & 0o170000:
        return [Delta(delta.path, old, None), Delta(delta.path, None, new)]
    return [delta]


def _file(store: DiskObjectStore, delta: Delta) -> Iterator[bytes]:
    path, old, new = delta
    before, after = quoted(b"a/" + path), quoted(b"b/" + path)
    yield b"diff --git %s %s\n" % (before, after)
    if old is None:
        assert new is not None
        yield b"new file mode %06o\n" % walk.kind(new[0])
    elif new is None:
        yield b"deleted file mode %06o\n" % walk.kind(old[0])
    elif walk.kind(old[0]) != walk.kind(new[0]):
        yield b"old mode %06o\nnew mode %06o\n" % (walk.kind(old[0]), walk.kind(new[0]))
    if old and new and old[1] == new[1]:
        return
    yield b"index %s..%s" % (_short(old), _short(new))
    yield b" %06o\n" % walk.kind(new[0]) if old and new and old[0] == new[0] else b"\n"
    a, b = _content(store, old), _content(store, new)
    names = (before if old else b"/dev/null", after if new else b"/dev/null")
    if is_binary(a) or is_binary(b):
        yield b"Binary files %s and %s differ\n" % names
    elif _too_large(a) or _too_large(b):
        yield b"# %s: too large to compare here; the bundle has it\n" % after
    elif a != b:
        hunks = unified_diff(a.splitlines(keepends=True), b.splitlines(keepends=True))
        yield b"--- %s\n+++ %s\n" % names
        yield from list(hunks)[2:]


def _short(entry: Entry | None) -> bytes:
    return entry[1][:7] if entry else b"0000000"


def _content(store: DiskObjectStore, entry: Entry | None) -> bytes:
    if entry is None:
        return b""
    if entry[0] == walk.GITLINK:
        return b"Subproject commit %s\n" % entry[1]
    return walk.blob(store, entry[1])


def _too_large(content: bytes) -> bool:
    return (
        len(content) > limits.PATCH_FILE_BYTES_MAX
        or content.count(b"\n") > limits.PATCH_FILE_LINES_MAX
    )


def quoted(path: bytes) -> bytes:
    """A name as git shows it: in C quotes when it has more than plain printable characters."""
    if all(byte in _PLAIN for byte in path):
        return path
    inner = (bytes([b]) if b in _PLAIN else _ESCAPES.get(b, b"\\%03o" % b) for b in path)
    return b'"' + b"".join(inner) + b'"'
