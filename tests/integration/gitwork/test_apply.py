"""Plain folders and mounted repositories: read as commits, written back once, and never over
somebody else's work."""

import errno
import io
import os
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import gitrepos
import pytest
from gitrepos import git
from wfhub_agent_runner.gitwork import access_broker, application, directory, placement
from wfhub_agent_runner.gitwork.client import RepoAccess, Use
from wfhub_agent_runner.gitwork.folders import Directory
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.outcomes import Already, Conflict, Published, PublishResult, Refused
from wfhub_agent_runner.gitwork.publish import Order
from wfhub_agent_runner.gitwork.workspaces import About, Lease, Snapshot, Workspaces
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.messages import PublishOrder

TASK, ATTEMPT = "tsk_" + "1" * 24, "att_" + "2" * 24
FILES = {
    "a.txt": b"one\n",
    "run.sh": b"#!/bin/sh\n",
    "old/deep/gone.txt": b"bye\n",
    "thing/inner.txt": b"a folder\n",
    "keep/here.txt": b"kept\n",
    ".gitignore": b"*.log\n",
    "noise.log": b"not seen\n",
}


@dataclass
class Bench:
    """A WORKSPACE_ROOT with one runner's workspaces over it."""

    root: Path
    spaces: Workspaces

    async def changed(self, repo: str, use: Use, change: Callable[[Path], None]) -> Snapshot:
        """What an agent that does `change` in a whole copy hands in."""
        base = await self.spaces.prepare(repo, None, use)
        lease = await self.spaces.lease(base, ATTEMPT)
        assert lease.layers.copy is not None
        change(lease.layers.copy)
        made = await self._snapshot(lease)
        assert made is not None
        return made

    async def _snapshot(self, lease: Lease) -> Snapshot | None:
        when = datetime(2030, 1, 1, tzinfo=UTC)
        return await self.spaces.snapshot(lease, About(TASK, ATTEMPT, "t", "p", when))

    async def publish(self, repo: str, made: Snapshot, use: Use) -> PublishResult:
        return await self.spaces.publish(repo, made.bundle, ordered(made), use)


def ordered(made: Snapshot) -> PublishOrder:
    return PublishOrder(
        bundle_digest="",
        commit=made.commit,
        base_commit="",
        branch_ref=f"refs/heads/wfhub/{TASK}",
        marker_ref=f"refs/wfhub/published/{TASK}",
    )


@pytest.fixture(params=["direct", "broker"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    with gitrepos.shared_folder() as root:
        policy = Policy(workspace_root=str(root), remote_uid=64001, timeout_s=60)
        if request.param == "direct":
            access, socket = RepoAccess.direct(policy), None
        else:
            socket = access_broker.start(policy)
            access = RepoAccess.over_socket(socket, policy)
        spaces = Workspaces(tmp_path / "home", access, copies=True)
        await spaces.reap()
        yield Bench(root, spaces)
        if socket is not None:
            socket.close()


def folder(bench: Bench, name: str = "notes") -> Path:
    top = bench.root / name
    gitrepos.write(top, FILES)
    (top / "run.sh").chmod(0o755)
    gitrepos.chown_tree(top, 64001)
    return top


def edit(top: Path) -> None:
    """Of everything one: changed, made executable, added, deleted, linked, folder to file."""
    (top / "a.txt").write_text("two\n")
    (top / "keep" / "here.txt").chmod(0o755)
    (top / "new" / "deep").mkdir(parents=True)
    (top / "new" / "deep" / "x.txt").write_text("new\n")
    (top / "old" / "deep" / "gone.txt").unlink()
    (top / "link").symlink_to("a.txt")
    (top / "thing" / "inner.txt").unlink()
    (top / "thing").rmdir()
    (top / "thing").write_text("a file now\n")


def check_edited(top: Path) -> None:
    assert (top / "a.txt").read_text() == "two\n"
    assert stat.S_IMODE((top / "keep" / "here.txt").stat().st_mode) == 0o755
    assert (top / "new" / "deep" / "x.txt").read_text() == "new\n"
    assert not (top / "old").exists()
    assert os.readlink(top / "link") == "a.txt"
    assert (top / "thing").read_text() == "a file now\n"
    assert (top / "noise.log").read_bytes() == FILES["noise.log"]


async def test_a_folder_is_the_same_commit_as_long_as_it_is_the_same(bench: Bench) -> None:
    top = folder(bench)
    first = await bench.spaces.prepare("directory:notes", None)
    lower = first.lower_dirs[0]
    assert (lower / "a.txt").read_bytes() == b"one\n"
    assert not (lower / "noise.log").exists()
    os.utime(top / "a.txt")
    assert (await bench.spaces.prepare("directory:notes", None)).commit == first.commit
    (top / "a.txt").write_text("other\n")
    assert (await bench.spaces.prepare("directory:notes", None)).commit != first.commit
    assert first.kind == "directory"
    assert sorted(path.name for path in top.iterdir()) == sorted({n.split("/")[0] for n in FILES})


async def test_without_apply_a_folder_stays_as_it_is(bench: Bench) -> None:
    top = folder(bench)
    made = await bench.changed("directory:notes", Use("p"), edit)
    said = await bench.publish("directory:notes", made, Use("p"))
    assert isinstance(said, Published)
    assert "result.patch" in said.note
    assert (top / "a.txt").read_bytes() == b"one\n"
    assert not (top / ".wfhub").exists()
    assert b"-one" in made.patch.read_bytes()


async def test_apply_writes_all_of_a_result_once(bench: Bench) -> None:
    top = folder(bench)
    use = Use("p", apply=True)
    made = await bench.changed("directory:notes", use, edit)
    assert await bench.publish("directory:notes", made, use) == Published(
        made.commit, "applied to the folder"
    )
    check_edited(top)
    assert stat.S_IMODE((top / "run.sh").stat().st_mode) == 0o755
    (top / "a.txt").write_text("worked on since\n")
    assert isinstance(await bench.publish("directory:notes", made, use), Already)
    assert (top / "a.txt").read_text() == "worked on since\n"
    # What is ours at its top is no part of it.
    again = await bench.spaces.prepare("directory:notes", None)
    assert not (again.lower_dirs[0] / ".wfhub").exists()
    owners = {path.lstat().st_uid for path in (top / "new" / "deep" / "x.txt", top / "link")}
    assert owners == {(top / ".wfhub").stat().st_uid}


@pytest.mark.parametrize("path", ["a.txt", "old/deep/gone.txt", "new/deep/x.txt", "new", "thing"])
async def test_what_somebody_changed_since_is_a_conflict_and_nothing_is_written(
    bench: Bench, path: str
) -> None:
    top = folder(bench)
    use = Use("p", apply=True)
    made = await bench.changed("directory:notes", use, edit)
    theirs = top / path
    if theirs.is_dir():
        (theirs / "more.txt").write_text("theirs")
    else:
        theirs.parent.mkdir(parents=True, exist_ok=True)
        theirs.write_text("theirs")
    said = await bench.publish("directory:notes", made, use)
    assert isinstance(said, Conflict)
    assert "nothing was written" in said.note
    if path != "a.txt":
        assert (top / "a.txt").read_bytes() == b"one\n"
    assert (theirs / "more.txt" if theirs.is_dir() else theirs).read_text() == "theirs"


async def test_a_result_may_not_write_our_own_place(bench: Bench) -> None:
    def hostile(top: Path) -> None:
        (top / ".wfhub" / "journals").mkdir(parents=True)
        (top / ".wfhub" / "journals" / "evil.json").write_text("{}")

    top = folder(bench)
    use = Use("p", apply=True)
    made = await bench.changed("directory:notes", use, hostile)
    said = await bench.publish("directory:notes", made, use)
    assert isinstance(said, Refused)
    assert said.code == "path-reserved"
    assert not list((top / ".wfhub" / "journals").iterdir())


async def test_a_link_put_in_the_way_is_not_followed(bench: Bench) -> None:
    top = folder(bench)
    use = Use("p", apply=True)
    made = await bench.changed("directory:notes", use, edit)
    outside = bench.root / "outside"
    outside.mkdir()
    (top / "new").symlink_to(outside)
    assert isinstance(await bench.publish("directory:notes", made, use), Conflict)
    assert not list(outside.iterdir())


async def test_a_mounted_repository_gets_its_branch_and_with_apply_its_files(bench: Bench) -> None:
    top = gitrepos.make(bench.root / "team" / "app", FILES)
    gitrepos.chown_tree(bench.root / "team", 64001)
    head = git(top, "rev-parse", "HEAD")
    made = await bench.changed("mount:team/app", Use("p"), edit)
    assert isinstance(await bench.publish("mount:team/app", made, Use("p")), Published)
    assert git(top, "show", f"wfhub/{TASK}:a.txt") == "two"
    assert git(top, "status", "--porcelain") == ""
    said = await bench.publish("mount:team/app", made, Use("p", apply=True))
    assert isinstance(said, Already)
    assert said.note == "applied to the folder"
    check_edited(top)
    assert git(top, "rev-parse", "HEAD") == head
    assert git(top, "diff", "--stat", f"wfhub/{TASK}", "--", "a.txt", "keep", "old") == ""


async def test_a_conflict_in_a_checked_out_file_does_not_undo_the_branch(bench: Bench) -> None:
    top = gitrepos.make(bench.root / "app", FILES)
    gitrepos.chown_tree(top, 64001)
    use = Use("p", apply=True)
    made = await bench.changed("mount:app", use, edit)
    (top / "a.txt").write_text("mine\n")
    said = await bench.publish("mount:app", made, use)
    assert isinstance(said, Published)
    assert "not applied: a.txt was changed" in said.note
    assert (top / "a.txt").read_text() == "mine\n"
    assert git(top, "show", f"wfhub/{TASK}:a.txt") == "two"


async def test_a_special_file_is_named_and_an_unreadable_one_not_mended(bench: Bench) -> None:
    top = folder(bench)
    os.mkfifo(top / "pipe")
    with pytest.raises(Rejected, match="FIFO"):
        await bench.spaces.prepare("directory:notes", None)


class Killed(BaseException):
    pass


def dies_at(turn: int) -> Callable[[], None]:
    calls = iter(range(turn + 1))

    def between() -> None:
        if next(calls, None) == turn:
            raise Killed

    return between


@pytest.mark.parametrize("turn", range(9))
async def test_a_kill_at_any_point_is_ended_by_the_next_try(bench: Bench, turn: int) -> None:
    top = folder(bench)
    made = await bench.changed("directory:notes", Use("p", apply=True), edit)
    order = Order.parse(made.commit, f"refs/heads/wfhub/{TASK}", f"refs/wfhub/published/{TASK}")

    def apply(between: Callable[[], None] = lambda: None) -> PublishResult:
        bundle = io.BytesIO(made.bundle.read_bytes())
        return application.to_directory(Directory(top), order, bundle, apply=True, between=between)

    died = False
    try:
        apply(dies_at(turn))
    except Killed:
        died = True
    said = apply()
    assert isinstance(said, Published if died else Already)
    check_edited(top)
    assert not list((top / ".wfhub" / "journals").iterdir())
    assert not list((top / ".wfhub" / "staged").iterdir())


async def test_a_file_that_the_share_removed_when_it_was_to_be_replaced_comes_back_as_the_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SMB's client does with a file that somebody has open (tests/deploy/storage)."""
    top = folder(bench)
    made = await bench.changed("directory:notes", Use("p", apply=True), edit)
    order = Order.parse(made.commit, f"refs/heads/wfhub/{TASK}", f"refs/wfhub/published/{TASK}")
    place = placement._place

    def as_on_smb(staged: Path, parent: int, name: bytes, change: placement.Change) -> None:
        if change.path == b"a.txt":
            monkeypatch.setattr(placement, "_place", place)
            os.unlink(name, dir_fd=parent)
            raise PermissionError(errno.EACCES, "Permission denied", name)
        place(staged, parent, name, change)

    def apply() -> PublishResult:
        bundle = io.BytesIO(made.bundle.read_bytes())
        return application.to_directory(Directory(top), order, bundle, apply=True)

    monkeypatch.setattr(placement, "_place", as_on_smb)
    with pytest.raises(OSError, match="somebody has the file open"):
        apply()
    assert not (top / "a.txt").exists()
    assert isinstance(apply(), Published)
    check_edited(top)


async def test_another_ones_begun_work_is_ended_first(bench: Bench) -> None:
    top = folder(bench)
    made = await bench.changed("directory:notes", Use("p", apply=True), edit)
    raw = made.bundle.read_bytes()

    def order(task: str) -> Order:
        return Order.parse(made.commit, f"refs/heads/wfhub/{task}", f"refs/wfhub/published/{task}")

    with pytest.raises(Killed):
        application.to_directory(
            Directory(top), order("tsk_a"), io.BytesIO(raw), apply=True, between=dies_at(2)
        )
    said = application.to_directory(Directory(top), order("tsk_b"), io.BytesIO(raw), apply=True)
    assert isinstance(said, Published)  # it found everything as it wants it
    check_edited(top)
    assert sorted(p.name for p in (top / ".wfhub" / "applied").iterdir()) == ["tsk_a", "tsk_b"]


async def test_a_kill_after_the_end_does_not_write_again_over_what_followed(bench: Bench) -> None:
    top = folder(bench)
    made = await bench.changed("directory:notes", Use("p", apply=True), edit)
    raw = made.bundle.read_bytes()
    journals = top / ".wfhub" / "journals"
    kept: list[str] = []

    def apply(task: str, between: Callable[[], None] = lambda: None) -> PublishResult:
        order = Order.parse(made.commit, f"refs/heads/wfhub/{task}", f"refs/wfhub/published/{task}")
        return application.to_directory(
            Directory(top), order, io.BytesIO(raw), apply=True, between=between
        )

    apply("tsk_a", lambda: kept.append((journals / "tsk_a.json").read_text()))
    (journals / "tsk_a.json").write_text(kept[0])  # as if it had been killed before it dropped it
    (top / "a.txt").write_bytes(FILES["a.txt"])  # and somebody took a change back
    assert isinstance(apply("tsk_b"), Published)
    assert not list(journals.iterdir())
    assert (top / ".wfhub" / "applied" / "tsk_a").exists()
    (top / "a.txt").write_bytes(FILES["a.txt"])
    (journals / "tsk_a.json").write_text(kept[0])
    assert isinstance(apply("tsk_b"), Already)
    assert (top / "a.txt").read_bytes() == FILES["a.txt"]


async def test_one_at_a_time(bench: Bench) -> None:
    top = folder(bench)
    made = await bench.changed("directory:notes", Use("p", apply=True), edit)
    order = Order.parse(made.commit, "refs/heads/wfhub/t", "refs/wfhub/published/t")
    raw = made.bundle.read_bytes()
    inner: list[BaseException] = []

    def rival() -> None:
        if not inner:
            with pytest.raises(RetryLater) as refused:
                application.to_directory(Directory(top), order, io.BytesIO(raw), apply=True)
            inner.append(refused.value)

    said = application.to_directory(
        Directory(top), order, io.BytesIO(raw), apply=True, between=rival
    )
    assert isinstance(said, Published)
    assert inner


async def test_a_folder_that_changes_while_it_is_read_is_read_again(bench: Bench) -> None:
    top = folder(bench)
    resolved = directory.resolve(Directory(top))
    (top / "a.txt").write_text("other")
    with pytest.raises(RetryLater) as refused:
        directory.fetch(Directory(top), resolved.commit, io.BytesIO())
    assert refused.value.code == directory.CHANGED
