"""A branch on a share is made once, whatever races, and whoever is killed."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import gitrepos
import pytest
import result_bundles
from gitrepos import git
from result_bundles import Result
from wfhub_agent_runner.gitwork import publish, reflock, source
from wfhub_agent_runner.gitwork.location import Policy, locate
from wfhub_agent_runner.gitwork.outcomes import Already, Conflict, Published
from wfhub_common.errors import RetryLater

from .processes import child, told

POLICY = Policy(file_repos=True)
WAIT_S = 60
PUBLISHERS = 4
_PASSING = ("*.lock", "*.keep", "*.tmp", ".nfs*")


def result(repo: Path, folder: Path, text: str) -> Result:
    """On the local disk."""
    return result_bundles.result(repo, folder / text, text)


def order(made: Result, task: str = "tsk_1") -> publish.Order:
    return publish.Order.parse(
        made.commit, f"refs/heads/wfhub/{task}", f"refs/wfhub/published/{task}"
    )


def published(
    repo: Path, made: Result, task: str = "tsk_1", between: Callable[[], None] = lambda: None
) -> object:
    with source.opened(locate(str(repo), POLICY)) as opened, made.bundle.open("rb") as file:
        return publish.publish(opened, order(made, task), file, between=between)


@pytest.fixture
def repo(here: Path) -> Path:
    return gitrepos.make(here / "repo", {"README": b"hello\n"}, bare=True)


def seen_from(there: Path, repo: Path) -> Path:
    return there / repo.name


def test_of_publishers_on_two_clients_one_wins(repo: Path, there: Path, tmp_path: Path) -> None:
    results = [result(repo, tmp_path, f"work-{n}") for n in range(PUBLISHERS)]
    reading, writing = os.pipe()

    ran = []
    for n, made in enumerate(results):
        at = repo if n % 2 else seen_from(there, repo)
        ran.append(child(partial(published, at, made), start=(reading, writing)))
    os.close(writing)  # all begin
    answers = [said for each in ran for said in told(each)]
    os.close(reading)
    winners = [each for each in answers if isinstance(each, Published)]
    assert len(winners) == 1, answers
    others = [each for each in answers if not isinstance(each, Published)]
    assert all(isinstance(each, Conflict) or each == "ref-locked" for each in others), answers
    for ref in ("refs/heads/wfhub/tsk_1", "refs/wfhub/published/tsk_1"):
        assert git(repo, "rev-parse", ref) == winners[0].commit
    git(repo, "fsck", "--strict", "--full")
    assert _left(repo) == []


def test_a_living_ones_lock_is_waited_for_and_a_dead_ones_is_not(
    repo: Path, there: Path, tmp_path: Path
) -> None:
    made = result(repo, tmp_path, "work")
    held_reading, held_writing = os.pipe()

    def hold() -> object:
        os.write(held_writing, b"x")
        signal.pause()
        return None

    holder = child(lambda: published(repo, made, between=hold))
    os.read(held_reading, 1)
    for at in (repo, seen_from(there, repo)):
        with pytest.raises(RetryLater) as refused:
            published(at, made)
        assert refused.value.code == "ref-locked"
    os.kill(holder.pid, signal.SIGKILL)
    assert told(holder) == []
    assert published(seen_from(there, repo), made) == Published(made.commit)
    assert published(repo, made) == Already(made.commit)
    assert git(repo, "rev-parse", "wfhub/tsk_1") == made.commit
    assert _left(repo) == []


def test_a_ref_is_not_replaced_by_one_who_lost_his_lock(
    repo: Path, there: Path, tmp_path: Path
) -> None:
    """As when a client was cut off for longer than its lease."""
    first, second = (result(repo, tmp_path, name) for name in ("first", "second"))

    def meanwhile() -> None:
        for lock in repo.rglob("tsk_1.lock"):
            lock.unlink()
        marker = seen_from(there, repo) / "refs/wfhub/published/tsk_1"
        branch = seen_from(there, repo) / "refs/heads/wfhub/tsk_1"
        for path in (marker, branch):
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{second.commit}\n".encode())

    with suppress(RetryLater):
        said = published(repo, first, between=meanwhile)
        assert not isinstance(said, Published | Already), said
    assert (repo / "refs/heads/wfhub/tsk_1").read_bytes() == f"{second.commit}\n".encode()


def _left(repo: Path) -> list[Path]:
    """What was only for a while; NFS takes a moment for what was open."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = [path for pattern in _PASSING for path in repo.rglob(pattern)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def test_locks_are_ours_alone(repo: Path) -> None:
    layout = locate(str(repo), POLICY)
    git_lock = repo / "refs/heads/wfhub/tsk_2.lock"
    git_lock.parent.mkdir(parents=True)
    git_lock.touch()
    with pytest.raises(RetryLater), reflock.locked(layout, b"refs/heads/wfhub/tsk_2", None):
        pass
    assert git_lock.exists()
