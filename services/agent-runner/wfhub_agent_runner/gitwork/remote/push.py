"""Publication on a remote: branch and marker in one atomic push that can only create.

Without atomic pushes the marker goes first, then the branch.

What is there already decides first (the marker, then the branch), as the host shows it at the start
of the push itself; between that look and the push the host refuses what is no longer as seen.
Where a host refuses refs of that name the branch alone is pushed, and is its own marker; if it is
not there, it may have been merged and deleted, which is looked for first (merged).
Raises: Rejected, RetryLater (the outcome is unknown; publishing again looks first).
"""

import re
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from dulwich.client import GitClient
from dulwich.errors import GitProtocolError
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID
from dulwich.pack import UnpackedObject
from dulwich.refs import Ref
from wfhub_common.errors import Rejected, RetryLater

from wfhub_agent_runner.gitwork import bundle, packs
from wfhub_agent_runner.gitwork.outcomes import (
    Already,
    Conflict,
    Published,
    PublishResult,
    Refused,
)
from wfhub_agent_runner.gitwork.publish import Order
from wfhub_agent_runner.gitwork.remote import operations
from wfhub_agent_runner.gitwork.remote.merged import is_merged
from wfhub_agent_runner.gitwork.remote.operations import Target

_NO_ATOMIC = "does not support atomic push"
# Said of a ref that did nothing wrong itself: another of the same push did.
_WITH_ANOTHER = re.compile("atomic|transaction", re.IGNORECASE)
# Said when the ref is no longer as it was seen: looking again tells what it is now.
_CHANGED = re.compile("already exists|failed to (update|lock)|cannot lock|stale|fetch first", re.I)


def publish(at: Target, order: Order, bundle_file: BinaryIO) -> PublishResult:
    with tempfile.TemporaryDirectory() as folder:
        store = DiskObjectStore.init(folder)
        try:
            base, oids = _unpacked(store, order, bundle_file)
            push = _Push(at, order, store, oids)
            result = push.tried(atomic=True, marked=True)
            if result is None and push.marker_refused:
                if not push.has_branch and is_merged(at, base, order.commit):
                    return Already(order.commit.decode())
                result = push.tried(atomic=False, marked=False)
            if result is None:
                raise RetryLater("repo-unavailable", f"{at.remote.authority}: {push.said}")
            return result
        finally:
            store.close()


def _unpacked(
    store: DiskObjectStore, order: Order, file: BinaryIO
) -> tuple[ObjectID, list[ObjectID]]:
    """The commit's base, and all that the bundle holds."""
    header = bundle.read_header(file)
    if header.commit != order.commit:
        raise Rejected("bundle-invalid", "the bundle holds another commit than was ordered")
    try:
        packs.ingest(file, store)
    except packs.DAMAGED as e:
        raise Rejected("bundle-invalid", f"the bundle's pack is damaged: {e}") from e
    if order.commit not in store:
        raise Rejected("bundle-invalid", "the bundle's pack lacks its commit")
    return header.base, list(store)


class _Push:
    def __init__(
        self, at: Target, order: Order, store: DiskObjectStore, oids: list[ObjectID]
    ) -> None:
        self._at, self._order, self._store, self._oids = at, order, store, oids
        self._observed: PublishResult | None = None
        self.marker_refused = False
        self.has_branch = False  # as it was seen last
        self.said = ""

    def tried(self, *, atomic: bool, marked: bool) -> PublishResult | None:
        """What came of it; None: see `marker_refused` and `said`."""
        with operations.spoken(self._at) as client:
            try:
                status = self._sent(client, atomic=atomic, marked=marked)
            except GitProtocolError as e:
                if _NO_ATOMIC not in str(e):
                    raise
                status = self._one_by_one(client)
        if self._observed is not None:
            return self._observed
        refused = {ref: text for ref, text in status.items() if text is not None}
        if not refused:
            return Published(self._order.commit.decode())
        return self._of_refusal(refused)

    def _one_by_one(self, client: GitClient) -> dict[bytes, str | None]:
        status = self._sent(client, atomic=False, marked=True, but=self._order.branch)
        if self._observed is None and not any(status.values()):
            status |= self._sent(client, atomic=False, marked=True)
        return status

    def _sent(
        self, client: GitClient, *, atomic: bool, marked: bool, but: bytes = b""
    ) -> dict[bytes, str | None]:
        """`but`: a ref that is not to be made yet."""
        self._observed = None
        asked: set[bytes] = set()

        def update(old: dict[Ref, ObjectID]) -> dict[Ref, ObjectID]:
            self.has_branch = Ref(self._order.branch) in old
            self._observed = self._look(old, atomic=atomic, marked=marked)
            if self._observed is not None:
                return {}
            wanted = (self._order.marker, self._order.branch) if marked else (self._order.branch,)
            asked.update(ref for ref in wanted if ref not in old and ref != but)
            return {Ref(ref): self._order.commit for ref in asked}

        sent = client.send_pack(self._at.remote.path.encode(), update, self._records, atomic=atomic)
        status = dict(sent.ref_status or {})
        if not asked <= status.keys():
            raise RetryLater(
                "repo-unavailable", f"{self._at.remote.authority} did not say what became of a ref"
            )
        return status

    def _look(
        self, old: dict[Ref, ObjectID], *, atomic: bool, marked: bool
    ) -> PublishResult | None:
        commit = self._order.commit
        marker, branch = old.get(Ref(self._order.marker)), old.get(Ref(self._order.branch))
        if marker not in (None, commit):
            return Conflict(self._order.marker.decode(), (marker or b"").decode())
        if marker == commit and (branch is not None or atomic):
            # Whatever became of the branch since, it was made: they came together.
            return Already(commit.decode())
        if branch not in (None, commit):
            return Conflict(self._order.branch.decode(), (branch or b"").decode())
        if branch == commit and not marked:
            return Already(commit.decode())
        return None

    def _records(self, *_: object, **__: object) -> tuple[int, Iterator[UnpackedObject]]:
        return len(self._oids), packs.records(self._store, self._oids)

    def _of_refusal(self, refused: dict[bytes, str]) -> PublishResult | None:
        self.said = "; ".join(f"{ref.decode()}: {_plain(text)}" for ref, text in refused.items())
        own = {ref: text for ref, text in refused.items() if not _WITH_ANOTHER.search(text)}
        if not own or any(_CHANGED.search(text) for text in own.values()):
            return None  # something is no longer as it was seen
        if self._order.branch in own:
            return Refused(
                "remote-refused",
                f"{self._at.remote.authority} refuses the branch ({self.said}); allow the runner's"
                " user to create wfhub/* there and publish again",
            )
        self.marker_refused = True
        return None


def _plain(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]+", " ", text)[:300]
