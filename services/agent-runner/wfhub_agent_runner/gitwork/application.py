"""Results written into a folder itself (`apply`): once, and only over what they began from.

Order: lock; look whether it was applied already; end what a killed one began; check every path
against the base; stage all new content beside it; commit a journal; move each path into place;
note the task as applied; drop the journal. A crash before the journal changes nothing, one after it
is ended by whoever applies to the folder next. Readers may see some paths changed before others.
A path that somebody changed since the base is a conflict: nothing is written. A path changed after
the journal was committed is left alone, and named.

Where the file system keeps no permissions of files (SMB), whether one may be run is not compared.

Shape, in <folder>/.wfhub or <repository>/wfhub, of the folder's owner alone:
    lock, applied/<task> (JSON {commit, left}), journals/<task>.json, staged/<task>/<number>
Raises: Rejected, RetryLater (`workspace-busy`), OSError.
"""

import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from dulwich.object_store import BaseObjectStore, DiskObjectStore
from dulwich.objects import ObjectID
from wfhub_common import filelocks
from wfhub_common.errors import Rejected, RetryLater

from wfhub_agent_runner.gitwork import bundle, directory, packs, placement, walk
from wfhub_agent_runner.gitwork.folders import Directory
from wfhub_agent_runner.gitwork.names import shown
from wfhub_agent_runner.gitwork.outcomes import Already, Conflict, Published, PublishResult, Refused
from wfhub_agent_runner.gitwork.placement import Change
from wfhub_agent_runner.gitwork.publish import Order
from wfhub_agent_runner.gitwork.reflock import fsync_folder
from wfhub_agent_runner.gitwork.source import Source
from wfhub_agent_runner.gitwork.walk import Entry
from wfhub_agent_runner.removal import remove_tree

Between = Callable[[], None]
Now = Callable[[bytes, placement.ByPath], Entry | None]
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


def to_directory(
    at: Directory,
    order: Order,
    bundle_file: BinaryIO,
    *,
    apply: bool,
    between: Between = lambda: None,
) -> PublishResult:
    """`between` is called after the journal and after each path: where tests kill."""
    commit = order.commit.decode()
    if not apply:
        return Published(commit, "kept as result.patch; the folder was left as it is")
    with _unpacked(order, bundle_file) as (store, base):
        old, new = walk.commit(store, base).tree, walk.commit(store, order.commit).tree
        folder = _Folder(at.path, at.path / os.fsdecode(directory.STATE), between)
        return _guarded(lambda: folder.apply(_task(order), commit, store, old, new))


def to_work_tree(
    source: Source,
    order: Order,
    published: Published | Already,
    *,
    between: Between = lambda: None,
) -> PublishResult:
    """Into the files that a repository has checked out; its index and HEAD stay as they are. The
    branch is published whatever comes of it."""
    top = source.layout.work_tree
    if top is None:
        return type(published)(published.commit, "a bare repository has no files to apply it to")
    made = walk.commit(source.store, order.commit)
    old = walk.commit(source.store, made.parents[0]).tree
    folder = _Folder(top, source.layout.common / "wfhub", between)
    result = _guarded(
        lambda: folder.apply(_task(order), published.commit, source.store, old, made.tree)
    )
    match result:
        case Published(note=note) | Already(note=note):
            return type(published)(published.commit, note)
        case Conflict(note=why) | Refused(message=why):
            said = f"the branch is published, but not applied: {why}"
            return type(published)(published.commit, said)


def _task(order: Order) -> str:
    return order.branch.decode().rpartition("/")[2]


def _guarded(apply: Callable[[], PublishResult]) -> PublishResult:
    try:
        return apply()
    except OSError as e:
        if e.errno in _READ_ONLY:
            message = f"the folder cannot be written ({e.strerror}: {e.filename!r}); make it so"
            return Refused("folder-read-only", message)
        raise


@contextmanager
def _unpacked(order: Order, file: BinaryIO) -> Iterator[tuple[DiskObjectStore, ObjectID]]:
    with tempfile.TemporaryDirectory() as scratch:
        store = DiskObjectStore.init(scratch)
        try:
            header = bundle.read_header(file)
            if header.commit != order.commit:
                raise Rejected("bundle-invalid", "the bundle holds another commit than was ordered")
            try:
                packs.ingest(file, store)
                bundle.check(store, header)
            except packs.DAMAGED as e:
                raise Rejected("bundle-invalid", f"the bundle's pack is damaged: {e}") from e
            yield store, header.base
        finally:
            store.close()


class _Folder:
    def __init__(self, top: Path, state: Path, between: Between) -> None:
        self._top, self._state, self._between = top, state, between
        self._modes = True

    def apply(
        self, task: str, commit: str, store: BaseObjectStore, old: ObjectID, new: ObjectID
    ) -> PublishResult:
        self._make_state()
        self._modes = _keeps_modes(self._state)
        with self._locked(), self._opened() as top:
            noted = self._applied(task)
            if noted is None and self._end_what_was_begun(top, task):
                noted = self._applied(task)
                assert noted is not None
                return _of_note(noted, commit, Published(commit, _said(noted)))
            if noted is not None:
                return _of_note(noted, commit, Already(commit, _said(noted)))
            deltas = enumerate(walk.deltas(store, old, new))
            changes = [
                Change(d.path, self._plain(d.old), self._plain(d.new), number)
                for number, d in deltas
            ]
            if refused := _unfit(changes) or _conflict(changes, partial(self._now, top)):
                return refused
            self._stage(task, store, changes)
            self._write_journal(task, commit, changes)
            self._between()
            noted = self._roll(top, task)
        return Published(commit, _said(noted))

    def _make_state(self) -> None:
        for folder in (self._state, *(self._state / p for p in ("applied", "journals", "staged"))):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise Rejected(
                    "folder-state-foreign",
                    f"{folder.name} of the folder is not a folder of its owner's (uid"
                    f" {os.geteuid()}, not {found.st_uid}); remove it, or mount a share whose files"
                    " are all one user's with the runner's uid",
                )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._state / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if not filelocks.try_exclusive(lock):
                raise RetryLater("workspace-busy", "another result is being applied there")
            yield
        finally:
            os.close(lock)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        top = os.open(self._top, placement.FOLDER)
        try:
            yield top
        finally:
            os.close(top)

    def _applied(self, task: str) -> dict[str, Any] | None:
        try:
            noted: dict[str, Any] = json.loads((self._state / "applied" / task).read_text())
        except FileNotFoundError:
            return None
        return noted

    def _end_what_was_begun(self, top: int, task: str) -> bool:
        """Journals of killed ones are carried out; whether one was this task's."""
        found = sorted((self._state / "journals").glob("*.json"))
        for journal in found:
            if self._applied(journal.stem) is None:
                self._roll(top, journal.stem)
            else:  # killed after it was done: what was changed since is not ours to change
                journal.unlink()
        for staged in (self._state / "staged").iterdir():
            remove_tree(staged)
        return any(journal.stem == task for journal in found)

    def _stage(self, task: str, store: BaseObjectStore, changes: Sequence[Change]) -> None:
        folder = self._state / "staged" / task
        folder.mkdir(mode=0o700)
        for change in changes:
            if change.new is None:
                continue
            content, place = walk.blob(store, change.new[1]), folder / str(change.number)
            if change.new[0] == walk.LINK:
                _link(place, content, change)
                continue
            with place.open("xb") as f:
                f.write(content)
                f.flush()
                os.fchmod(
                    f.fileno(), 0o755 if walk.kind(change.new[0]) == walk.EXECUTABLE else 0o644
                )
                os.fsync(f.fileno())
        fsync_folder(folder)

    def _write_journal(self, task: str, commit: str, changes: Sequence[Change]) -> None:
        rows = [[c.path.hex(), _text(c.old), _text(c.new), c.number] for c in changes]
        text = json.dumps({"commit": commit, "changes": rows})
        _write(self._state / "journals" / f"{task}.json", text)

    def _roll(self, top: int, task: str) -> dict[str, Any]:
        """Carry a journal out, from wherever it was left."""
        path = self._state / "journals" / f"{task}.json"
        journal = json.loads(path.read_text())
        changes = [
            Change(bytes.fromhex(name), _entry(old), _entry(new), number)
            for name, old, new, number in journal["changes"]
        ]
        all_of_it = placement.by_path(changes)
        left = []
        # What goes makes room first, deepest first; what comes follows, outermost first.
        gone = [change for change in reversed(changes) if change.new is None]
        for change in (*gone, *(change for change in changes if change.new is not None)):
            now = self._now(top, change.path, all_of_it)
            staged = self._state / "staged" / task / str(change.number)
            if now == change.old != change.new or (now is None and _tried(staged).exists()):
                self._move(top, change, staged)
                self._between()
            elif now != change.new:
                left.append(shown(change.path))
        noted = {"commit": journal["commit"], "left": left}
        _write(self._state / "applied" / task, json.dumps(noted))
        path.unlink()
        remove_tree(self._state / "staged" / task)
        return noted

    def _move(self, top: int, change: Change, staged: Path) -> None:
        """SMB's client removes an open file that it was to replace, once that is closed, although
        it said that it did nothing. So it is noted who made it go."""
        try:
            placement.move(top, change, staged)
        except OSError as e:
            if e.errno == errno.EBUSY and change.new is not None:
                _tried(staged).touch()
            raise

    def _now(self, top: int, path: bytes, all_of_it: placement.ByPath) -> Entry | None:
        return self._plain(placement.now(top, path, all_of_it))

    def _plain(self, entry: Entry | None) -> Entry | None:
        if entry is None or entry == placement.IN_THE_WAY:
            return entry
        kind = walk.kind(entry[0])
        return (walk.FILE if kind == walk.EXECUTABLE and not self._modes else kind, entry[1])


def _tried(staged: Path) -> Path:
    return staged.with_name(f"{staged.name}.tried")


def _keeps_modes(folder: Path) -> bool:
    """Whether a file there may be run or not as one says: SMB has one answer for all files."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        kept = []
        for mode in (0o700, 0o600):
            os.fchmod(file.fileno(), mode)
            kept.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IXUSR)
    return kept == [stat.S_IXUSR, 0]


def _link(place: Path, content: bytes, change: Change) -> None:
    try:
        place.symlink_to(os.fsdecode(content))
    except OSError as e:
        if e.errno not in _NO_LINKS:
            raise
        raise Rejected(
            "folder-no-links",
            f"{shown(change.path)} is a symbolic link, and the folder's file system has none;"
            " mount SMB with mfsymlinks",
        ) from e


def _of_note(noted: dict[str, Any], commit: str, same: PublishResult) -> PublishResult:
    if noted["commit"] == commit:
        return same
    other = str(noted["commit"])
    return Conflict("applied", other, f"another result ({other}) of this task was applied before")


def _said(noted: dict[str, Any]) -> str:
    if not noted["left"]:
        return "applied to the folder"
    named = ", ".join(noted["left"][:5])
    return f"applied to the folder, but for what was changed meanwhile: {named}"


def _unfit(changes: Sequence[Change]) -> Refused | None:
    for change in changes:
        top, _, _ = change.path.partition(b"/")
        if top.lower() == directory.STATE:
            return Refused("path-reserved", f"{shown(change.path)} is Workflow Hub's own place")
        if walk.GITLINK in {entry[0] for entry in (change.old, change.new) if entry}:
            return Refused("submodule", f"{shown(change.path)} is a submodule; it is not applied")
    return None


def _conflict(changes: Sequence[Change], now_at: Now) -> Conflict | None:
    all_of_it = placement.by_path(changes)
    for change in changes:
        now = now_at(change.path, all_of_it)
        if now not in (change.old, change.new):
            path = shown(change.path)
            found = now[1].decode() if now and now != placement.IN_THE_WAY else ""
            note = f"{path} was changed since the task began; nothing was written: run it again"
            return Conflict(path, found, note)
    return None


def _text(entry: Entry | None) -> list[Any] | None:
    return None if entry is None else [entry[0], entry[1].decode()]


def _entry(text: list[Any] | None) -> Entry | None:
    return None if text is None else (int(text[0]), ObjectID(text[1].encode()))


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    fresh.rename(path)
    fsync_folder(path.parent)
