"""Publication: a commit, a branch and a permanent marker, created in a user's repository.

Order: look; pack into a quarantine, checked there, then moved in under a `.keep`; lock marker
and branch; look again; write the marker, then the branch. The marker decides: with it there, only
the same commit may be completed. Nothing is ever moved or forced, no hook is run, and a repeat
after any crash ends in the same state.
Raises: Rejected, RetryLater; the observed endings are in `outcomes`.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dulwich.file import adjust_shared_perm
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID
from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork import bundle, packs, reflock, refs, walk
from wfhub_agent_runner.gitwork.outcomes import (
    Already,
    Conflict,
    Published,
    PublishResult,
    Refused,
)
from wfhub_agent_runner.gitwork.source import Source

_BRANCH = re.compile(rb"refs/heads/wfhub/[A-Za-z0-9_-]{1,64}\Z")
_MARKER = re.compile(rb"refs/wfhub/published/[A-Za-z0-9_-]{1,64}\Z")
_DESCENT_MAX = 1000  # commits looked through for one that stands on the published one
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class Order:
    commit: ObjectID
    branch: bytes
    marker: bytes

    @classmethod
    def parse(cls, commit: str, branch_ref: str, marker_ref: str) -> "Order":
        order = cls(ObjectID(commit.encode()), branch_ref.encode(), marker_ref.encode())
        if not (_BRANCH.match(order.branch) and _MARKER.match(order.marker)):
            raise Rejected(
                "ref-forbidden",
                "only refs/heads/wfhub/<task> and refs/wfhub/published/<task> may be published",
            )
        return order


def publish(
    source: Source,
    order: Order,
    bundle_file: BinaryIO,
    *,
    between: Callable[[], None] = lambda: None,  # marker and branch: where tests kill
) -> PublishResult:
    try:
        if observed := _look(source, order):
            if isinstance(observed, Already):
                _drop_keeps(source, order)  # of one that was killed after it wrote the refs
            return observed
        header = bundle.read_header(bundle_file)
        if header.commit != order.commit:
            raise Rejected("bundle-invalid", "the bundle holds another commit than was ordered")
        if header.base not in source.store:
            return Refused(
                "base-missing",
                f"the repository no longer has the base commit {header.base.decode()};"
                " run the task again on what it has now",
            )
        with _ingested(source, order, header, bundle_file):
            observed = _create(source, order, between)
        if isinstance(observed, Published):
            _drop_keeps(source, order)
        return observed
    except reflock.RefInTheWay as e:
        return Refused("ref-in-the-way", f"{e}; rename that branch and publish again")
    except OSError as e:
        if e.errno in _READ_ONLY:
            return Refused(
                "repo-read-only",
                f"the repository cannot be written ({e.strerror}); make it writable for its owner",
            )
        raise


def _look(source: Source, order: Order) -> PublishResult | None:
    """What has been decided already; None: the branch is still to be made."""
    marker = refs.value(source.layout, order.marker)
    branch = refs.value(source.layout, order.branch)
    if marker not in (None, order.commit):
        return Conflict(os.fsdecode(order.marker), os.fsdecode(marker or b""))
    if branch not in (None, order.commit):
        if marker and _stands_on(source.store, branch or b"", order.commit):
            return Already(order.commit.decode())  # published, and worked on since
        return Conflict(os.fsdecode(order.branch), os.fsdecode(branch or b""))
    if marker and branch:
        return Already(order.commit.decode())
    return None


def _create(source: Source, order: Order, between: Callable[[], None]) -> PublishResult:
    with (
        reflock.locked(source.layout, order.marker, source.shared) as marker,
        reflock.locked(source.layout, order.branch, source.shared) as branch,
    ):
        if observed := _look(source, order):
            return observed
        marker.create(order.commit)
        between()
        branch.create(order.commit)
    return Published(order.commit.decode())


def _stands_on(store: DiskObjectStore, tip: bytes, commit: ObjectID) -> bool:
    todo, seen = [tip], set[bytes]()
    while todo and len(seen) < _DESCENT_MAX:
        oid = todo.pop(0)
        if oid == commit:
            return True
        if oid not in seen and ObjectID(oid) in store:
            seen.add(oid)
            todo.extend(walk.commit(store, ObjectID(oid)).parents)
    return False


@contextmanager
def _ingested(
    source: Source, order: Order, header: bundle.Header, file: BinaryIO
) -> Iterator[None]:
    """The bundle's objects in the repository, safe from `git gc` until the refs are written.

    Until the whole bundle is checked it lies in a quarantine that git ignores and prunes.
    The pack's name is always a new one. Under a name that depends on its content, a repeat would
    find the first one's pack: a gc that had listed it as not kept then saw our `.keep`, left its
    objects out of the new pack, and deleted it, with all that earlier branches had in it.
    """
    objects = source.layout.common / "objects"
    quarantine = Path(tempfile.mkdtemp(prefix="tmp_objdir-wfhub-", dir=objects))
    store = DiskObjectStore(
        DiskObjectStore.init(quarantine).path,
        alternates=[objects],
        fsync_object_files=True,
        shared_perm=source.shared,
    )
    keep = None
    try:
        try:
            name = packs.ingest(file, store)
            bundle.check(store, header)
        except packs.DAMAGED as e:
            raise Rejected("bundle-invalid", f"the bundle's pack is damaged: {e}") from e
        store.close()
        folder = objects / "pack"
        if not folder.exists():
            folder.mkdir()
            adjust_shared_perm(folder, source.shared)
        fresh = f"{_pack_prefix(order)}{secrets.token_hex(10)}"
        keep = folder / f"{fresh}.keep"
        keep.write_bytes(b"wfhub is publishing\n")
        for suffix in (".pack", ".idx"):  # in this order: an index promises its pack
            os.rename(quarantine / "pack" / f"pack-{name}{suffix}", folder / f"{fresh}{suffix}")
        reflock.fsync_folder(folder)
        yield
    finally:
        store.close()
        shutil.rmtree(quarantine, ignore_errors=True)
        if keep is not None:
            keep.unlink(missing_ok=True)


def _drop_keeps(source: Source, order: Order) -> None:
    """The refs are there, so what publishers of this task left when they were killed may go."""
    folder = source.layout.common / "objects" / "pack"
    for keep in folder.glob(f"{_pack_prefix(order)}*.keep"):
        keep.unlink(missing_ok=True)


def _pack_prefix(order: Order) -> str:
    return f"pack-{hashlib.sha1(order.marker, usedforsecurity=False).hexdigest()[:20]}"
