"""Results written into a folder of a share: what its file system keeps not is not compared."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import share_lab
from dulwich.object_store import MemoryObjectStore
from dulwich.objects import Blob, ObjectID, Tree
from share_lab import Server
from wfhub_agent_runner.gitwork import application, changes
from wfhub_agent_runner.gitwork.outcomes import Already, Conflict, Published, PublishResult
from wfhub_common.errors import RetryLater

from .processes import child, told

STATE = frozenset({b".wfhub"})
COMMIT = "c" * 40
WAIT_S = 60


def apply(
    top: Path,
    store: MemoryObjectStore,
    old: ObjectID,
    new: ObjectID,
    between: Callable[[], None] = lambda: None,
) -> PublishResult:
    folder = application._Folder(top, top / ".wfhub", between)
    return folder.apply("tsk_1", COMMIT, store, old, new)


def made(store: MemoryObjectStore, entries: dict[bytes, tuple[int, bytes]]) -> ObjectID:
    tree = Tree()
    for name, (mode, content) in entries.items():
        blob = Blob.from_string(content)
        store.add_object(blob)
        tree.add(name, mode, blob.id)
    store.add_object(tree)
    return tree.id


@pytest.fixture
def top(here: Path, there: Path) -> Iterator[Path]:
    """A folder of the runner's user, whom this process is as long as it is used."""
    os.chown(here, share_lab.UID, share_lab.UID)
    os.setegid(share_lab.UID)
    os.seteuid(share_lab.UID)
    for name, content in (("a.txt", "one\n"), ("run.sh", "#!/bin/sh\n"), ("gone.txt", "bye\n")):
        (here / name).write_text(content)
    (here / "run.sh").chmod(0o755)
    yield here
    os.seteuid(0)
    os.setegid(0)


# What a repository says of these files, whatever the share makes of their modes.
OLD = {
    b"a.txt": (0o100644, b"one\n"),
    b"gone.txt": (0o100644, b"bye\n"),
    b"run.sh": (0o100755, b"#!/bin/sh\n"),
}
NEW = {
    b"a.txt": (0o100755, b"two\n"),
    b"link": (0o120000, b"a.txt"),
    b"new.sh": (0o100755, b"new\n"),
    b"run.sh": (0o100755, b"#!/bin/bash\n"),
}


def check(top: Path) -> None:
    assert (top / "a.txt").read_text() == "two\n"
    assert os.readlink(top / "link") == "a.txt"
    assert (top / "new.sh").read_text() == "new\n"
    assert (top / "run.sh").read_text() == "#!/bin/bash\n"
    assert not (top / "gone.txt").exists()


def test_a_result_is_applied_whatever_the_share_says_of_modes(top: Path, there: Path) -> None:
    store = MemoryObjectStore()
    old, new = made(store, OLD), made(store, NEW)
    assert apply(top, store, old, new) == Published(COMMIT, "applied to the folder")
    check(there)
    assert isinstance(apply(there, store, old, new), Already)


def test_one_who_was_killed_half_way_is_ended_by_another_client(top: Path, there: Path) -> None:
    store = MemoryObjectStore()
    old, new = made(store, OLD), made(store, NEW)
    steps = iter(range(3))

    def kill_at_the_third() -> None:
        if next(steps) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    assert told(child(lambda: apply(top, store, old, new, kill_at_the_third))) == []
    assert apply(there, store, old, new) == Published(COMMIT, "applied to the folder")
    check(there)


def test_a_folder_that_another_client_writes_is_busy(top: Path, there: Path) -> None:
    store = MemoryObjectStore()
    old, new = made(store, OLD), made(store, NEW)
    said: list[str] = []

    def meanwhile() -> None:
        if not said:
            with pytest.raises(RetryLater) as refused:
                apply(there, store, old, new)
            said.append(refused.value.code)

    assert isinstance(apply(top, store, old, new, meanwhile), Published)
    assert said == ["workspace-busy"]


def test_what_somebody_changed_is_a_conflict(top: Path, there: Path) -> None:
    store = MemoryObjectStore()
    old, new = made(store, OLD), made(store, NEW)
    (there / "a.txt").write_text("mine\n")
    assert isinstance(apply(top, store, old, new), Conflict)
    assert (there / "a.txt").read_text() == "mine\n"


def test_a_file_that_is_open_is_replaced_or_waited_for(top: Path, server: Server) -> None:
    """SMB replaces none that somebody has open: the result is applied when it is closed."""
    store = MemoryObjectStore()
    old, new = made(store, OLD), made(store, NEW)
    with (top / "a.txt").open("rb"):
        if server.kind == "smb":
            with pytest.raises(OSError, match="somebody has the file open"):
                apply(top, store, old, new)
        else:
            apply(top, store, old, new)
    assert isinstance(applied_at_last(top, store, old, new), Published | Already)
    check(top)


def applied_at_last(
    top: Path, store: MemoryObjectStore, old: ObjectID, new: ObjectID
) -> PublishResult:
    """As a publication is tried again: SMB's client may take a moment to be done with a file."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return apply(top, store, old, new)
        except OSError as e:
            if e.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_a_folder_is_the_same_commit_from_every_client(top: Path, there: Path) -> None:
    ids = {changes.read_folder(MemoryObjectStore(), at, without=STATE) for at in (top, there)}
    on_the_server = share_lab.FOLDER / top.name
    assert (on_the_server / "a.txt").read_text() == "one\n"
    assert len(ids) == 1
