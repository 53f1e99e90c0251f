"""Whether a commit is in a host's default branch: published once, merged, its branch deleted since.

Asked only where a host takes no marker refs, which would say so. The commits between the base and
the branch's tip are fetched, without trees where the host can leave them out; the branch's commits
are walked there. A merge that made new commits (squash, rebase) cannot be told.
Raises: Rejected, RetryLater, as operations.
"""

import tempfile

from dulwich.object_store import DiskObjectStore
from dulwich.objects import Commit, ObjectID
from dulwich.refs import Ref
from wfhub_common.errors import Rejected, RetryLater

from wfhub_agent_runner.gitwork import limits, packs
from wfhub_agent_runner.gitwork.remote import operations
from wfhub_agent_runner.gitwork.remote.operations import Target

_COMMITS_ONLY = b"tree:0"
_THIN = b"thin-pack"


def is_merged(at: Target, base: ObjectID, commit: ObjectID) -> bool:
    tip = _tip(at)
    if tip in (None, base):
        return False
    if tip == commit:
        return True
    with tempfile.TemporaryDirectory() as folder:
        store = DiskObjectStore.init(folder)
        try:
            _fetched(at, tip, base, store)
            return _reaches(store, tip, commit)
        finally:
            store.close()


def _tip(at: Target) -> ObjectID | None:
    with operations.spoken(at) as client:
        found = client.get_refs(at.remote.path.encode(), ref_prefix=[b"HEAD"])
        return found.refs.get(Ref(b"HEAD"))


def _fetched(at: Target, tip: ObjectID, base: ObjectID, store: DiskObjectStore) -> None:
    with tempfile.TemporaryFile() as file:

        def take(chunk: bytes) -> int:
            if file.tell() + len(chunk) > limits.PACK_BYTES_MAX:
                raise Rejected(
                    "repo-too-large",
                    f"what is new in {at.remote} since the base is more than"
                    f" {limits.PACK_BYTES_MAX} bytes: run the task again on what it has now",
                )
            return file.write(chunk)

        with operations.spoken(at) as client:
            # Nothing is here that a thin pack could lean on.
            client._fetch_capabilities.discard(_THIN)
            client.fetch_pack(
                at.remote.path.encode(),
                lambda refs, depth=None: [tip],
                operations.Known([base.decode()]),
                take,
                ref_prefix=[b"HEAD"],
                filter_spec=_COMMITS_ONLY,
            )
        file.seek(0)
        try:
            packs.ingest(file, store)
        except packs.DAMAGED as e:
            raise RetryLater("repo-unavailable", f"{at.remote.authority}: {e}") from e


def _reaches(store: DiskObjectStore, tip: ObjectID, commit: ObjectID) -> bool:
    left, seen = [tip], set[ObjectID]()
    while left:
        oid = left.pop()
        if oid == commit:
            return True
        if oid in seen or oid not in store:
            continue
        seen.add(oid)
        made = store[oid]
        if isinstance(made, Commit):
            left += made.parents
    return False
