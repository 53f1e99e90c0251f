"""Git bundles, version 2: one commit on top of one base, and nothing else.

Shape: `# v2 git bundle`, `-<base> <comment>`, `<commit> <ref>`, an empty line, a complete pack
of what the commit adds. C git's `git bundle verify` and `git fetch` read it.
Raises: Rejected (`bundle-invalid`).
"""

from dataclasses import dataclass
from typing import BinaryIO

from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID, valid_hexsha
from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork import packs, refs, walk

_SIGNATURE = b"# v2 git bundle\n"
_LINE_BYTES_MAX = 4096


@dataclass(frozen=True)
class Header:
    base: ObjectID
    commit: ObjectID
    ref: str


def write(
    file: BinaryIO,
    store: DiskObjectStore,
    *,
    base: ObjectID,
    commit: ObjectID,
    ref: str,
    alone: bool = False,
) -> None:
    """`commit` must have `base` as its one parent. `alone`: with the base commit and those of its
    trees that differ, so that the changes can be told from the bundle itself."""
    file.write(_SIGNATURE + b"-%s base\n%s %s\n\n" % (base, commit, ref.encode()))
    oids = added(store, base, commit)
    if alone:
        old, new = walk.commit(store, base).tree, walk.commit(store, commit).tree
        oids = list(dict.fromkeys([*oids, base, *walk.left_trees(store, old, new)]))
    packs.write(file, store, oids)


def added(store: DiskObjectStore, base: ObjectID, commit: ObjectID) -> list[ObjectID]:
    """The commit and every tree and blob it has that its base has not, each once."""
    old, new = walk.commit(store, base).tree, walk.commit(store, commit).tree
    return list(dict.fromkeys([commit, *walk.new_objects(store, old, new)]))


def read_header(file: BinaryIO) -> Header:
    """Leaves `file` at the first byte of the pack."""
    if file.readline(_LINE_BYTES_MAX) != _SIGNATURE:
        raise _invalid("it is not a version 2 bundle")
    base, _, _ = file.readline(_LINE_BYTES_MAX).removesuffix(b"\n").partition(b" ")
    commit, _, ref = file.readline(_LINE_BYTES_MAX).removesuffix(b"\n").partition(b" ")
    if not (base.startswith(b"-") and valid_hexsha(base[1:]) and valid_hexsha(commit)):
        raise _invalid("it must have one base and one commit")
    if not refs.is_valid(ref) or file.readline(_LINE_BYTES_MAX) != b"\n":
        raise _invalid("it must name one ref")
    return Header(ObjectID(base[1:]), ObjectID(commit), ref.decode("utf-8", "backslashreplace"))


def check(store: DiskObjectStore, header: Header) -> None:
    """The pack, by now in `store`, holds what the header promises: the commit stands on the base
    alone, and every object it adds is there."""
    if walk.commit(store, header.commit).parents != [header.base]:
        raise _invalid("the commit does not stand on the base alone")
    for oid in added(store, header.base, header.commit):
        if oid not in store:
            raise _invalid(f"object {oid.decode()} is missing")


def _invalid(why: str) -> Rejected:
    return Rejected("bundle-invalid", f"the bundle cannot be used: {why}; build it again")
