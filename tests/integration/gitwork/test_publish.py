"""Publication: created once, never forced, completed after any crash, harmless beside C git."""

import contextlib
import io
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import gitrepos
import pytest
import result_bundles
from gitrepos import git
from result_bundles import BRANCH, MARKER, Result
from wfhub_agent_runner.gitwork import publish, source
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_agent_runner.gitwork.location import locate
from wfhub_agent_runner.gitwork.outcomes import Already, Conflict, Published, PublishResult, Refused
from wfhub_common.errors import Rejected, RetryLater

from .conftest import POLICY


def result(repo: Path, text: str = "work") -> Result:
    """Beside the repository, where the broker's uid can read it."""
    return result_bundles.result(repo, repo.parent / f"made-{text}", text)


@pytest.fixture
def repo(shared: Path) -> Path:
    return gitrepos.make(shared / "repo", {"README": b"hello\n"})


def send(access: RepoAccess, repo: Path, made: Result) -> PublishResult:
    return access.publish(
        str(repo), made.bundle, commit=made.commit, branch_ref=BRANCH, marker_ref=MARKER
    )


def refs_of(repo: Path) -> dict[str, str]:
    lines = git(repo, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split(" ") for line in lines)


def leftovers(repo: Path) -> list[Path]:
    return [
        path
        for pattern in ("*.lock", "*.keep", "*.tmp", "tmp_*")
        for path in (repo / ".git").rglob(pattern)
    ]


@pytest.mark.parametrize("bare", [False, True])
def test_publish_creates_branch_and_marker_and_leaves_the_rest(
    access: RepoAccess, shared: Path, bare: bool
) -> None:
    repo = gitrepos.make(shared / "r", {"README": b"hello\n"}, bare=bare)
    before = refs_of(repo)
    made = result(repo)
    git(repo, "bundle", "verify", made.bundle)
    assert send(access, repo, made) == Published(made.commit)
    assert send(access, repo, made) == Already(made.commit)
    assert refs_of(repo) == {**before, BRANCH: made.commit, MARKER: made.commit}
    assert git(repo, "show", f"{BRANCH}:new") == "work"
    git(repo, "fsck", "--strict", "--full")
    if not bare:
        assert git(repo, "status", "--porcelain") == ""
        assert leftovers(repo) == []


def test_publish_from_a_worktree_reaches_the_shared_refs(access: RepoAccess, repo: Path) -> None:
    git(repo, "worktree", "add", "-q", "-b", "side", repo.parent / "wt")
    made = result(repo)
    assert send(access, repo.parent / "wt", made) == Published(made.commit)
    assert refs_of(repo)[BRANCH] == made.commit


def test_refs_that_are_packed_count_as_there(access: RepoAccess, repo: Path) -> None:
    made = result(repo)
    assert send(access, repo, made) == Published(made.commit)
    git(repo, "pack-refs", "--all", "--prune")
    assert send(access, repo, made) == Already(made.commit)
    other = result(repo, "other")
    assert send(access, repo, other) == Conflict(MARKER, made.commit)


def test_an_existing_branch_is_never_moved(access: RepoAccess, repo: Path) -> None:
    base = git(repo, "rev-parse", "main")
    git(repo, "update-ref", BRANCH, base)
    assert send(access, repo, result(repo)) == Conflict(BRANCH, base)
    assert MARKER not in refs_of(repo)
    git(repo, "update-ref", "-d", BRANCH)
    git(repo, "symbolic-ref", BRANCH, "refs/heads/main")
    found = send(access, repo, result(repo, "again"))
    assert found == Conflict(BRANCH, "ref: refs/heads/main")
    assert git(repo, "rev-parse", "main") == base


def test_a_branch_worked_on_since_still_counts_as_published(access: RepoAccess, repo: Path) -> None:
    made = result(repo)
    send(access, repo, made)
    git(repo, "checkout", "-q", "wfhub/tsk_1")
    git(repo, "commit", "-q", "--allow-empty", "-m", "more")
    assert send(access, repo, made) == Already(made.commit)
    git(repo, "reset", "-q", "--hard", "main")
    assert send(access, repo, made) == Conflict(BRANCH, git(repo, "rev-parse", "main"))


def test_a_deleted_branch_comes_back_only_as_the_same_commit(
    access: RepoAccess, repo: Path
) -> None:
    made, other = result(repo), result(repo, "other")
    send(access, repo, made)
    git(repo, "update-ref", "-d", BRANCH)
    assert send(access, repo, other) == Conflict(MARKER, made.commit)
    assert send(access, repo, made) == Published(made.commit)


def test_what_cannot_be_taken_is_refused_with_a_reason(access: RepoAccess, repo: Path) -> None:
    made = result(repo)

    def refused(outcome: PublishResult) -> str:
        assert isinstance(outcome, Refused), outcome
        return outcome.code

    git(repo, "branch", "wfhub")
    assert refused(send(access, repo, made)) == "ref-in-the-way"
    git(repo, "pack-refs", "--all")
    assert refused(send(access, repo, made)) == "ref-in-the-way"
    git(repo, "branch", "-D", "wfhub")
    other = gitrepos.make(repo.parent / "other", {"else": b""})
    assert refused(send(access, other, made)) == "base-missing"
    data = made.bundle.read_bytes()
    for bad in (b"", data[:-30], data[:200] + bytes([data[200] ^ 1]) + data[201:], b"x" * 100):
        broken = Result(made.commit, made.bundle.with_name("broken"))
        broken.bundle.write_bytes(bad)
        with pytest.raises(Rejected, match="bundle"):
            send(access, repo, broken)
    with pytest.raises(Rejected, match="another commit"):
        send(access, repo, Result("0" * 40, made.bundle))
    for branch, marker in [
        ("refs/heads/main", MARKER),
        (BRANCH, "refs/heads/main"),
        ("refs/heads/wfhub/../main", MARKER),
    ]:
        with pytest.raises(Rejected, match="only"):
            access.publish(
                str(repo), made.bundle, commit=made.commit, branch_ref=branch, marker_ref=marker
            )
    assert set(refs_of(repo)) == {"refs/heads/main"}
    assert leftovers(repo) == []
    git(repo, "fsck", "--strict")


def test_a_lock_of_git_is_waited_for_and_never_broken(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wfhub_agent_runner.gitwork.limits.LOCK_WAIT_S", 0.2)
    made = result(repo)
    lock = repo / ".git" / (MARKER + ".lock")
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(RetryLater, match="ref-locked"):
        publish_here(repo, made)
    assert lock.exists()
    lock.unlink()
    assert publish_here(repo, made) == Published(made.commit)


def publish_here(
    repo: Path, made: Result, between: Callable[[], None] = lambda: None
) -> PublishResult:
    order = publish.Order.parse(made.commit, BRANCH, MARKER)
    with source.opened(locate(str(repo), POLICY)) as opened, made.bundle.open("rb") as f:
        return publish.publish(opened, order, io.BytesIO(f.read()), between=between)


def test_killed_between_marker_and_branch_the_retry_completes(
    access: RepoAccess, repo: Path
) -> None:
    made, other = result(repo), result(repo, "other")
    pid = os.fork()
    if pid == 0:
        publish_here(repo, made, between=lambda: os._exit(9))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert MARKER in refs_of(repo)
    assert BRANCH not in refs_of(repo)
    assert leftovers(repo), "a killed publisher leaves its locks: that is what is tested"
    assert send(access, repo, other) == Conflict(MARKER, made.commit)
    assert send(access, repo, made) == Published(made.commit)
    assert refs_of(repo)[BRANCH] == refs_of(repo)[MARKER] == made.commit
    assert not [path for path in leftovers(repo) if path.suffix in (".lock", ".keep")]
    git(repo, "fsck", "--strict")


def test_what_another_wrote_under_a_lost_lock_is_not_taken_for_ours(repo: Path) -> None:
    """As on a share, when a publisher was cut off for longer than its lease (ADR 36)."""
    made = result(repo)

    def meanwhile() -> None:
        for ref in (MARKER, BRANCH):
            (repo / ".git" / f"{ref}.lock").unlink()
            git(repo, "update-ref", ref, "main")

    with pytest.raises(RetryLater) as refused:
        publish_here(repo, made, meanwhile)
    assert refused.value.code == "ref-locked"
    assert publish_here(repo, made) == Conflict(MARKER, git(repo, "rev-parse", "main"))


def test_of_two_publishers_exactly_one_wins(broker: RepoAccess, shared: Path) -> None:
    for number in range(20):
        repo = gitrepos.make(shared / f"r{number}" / "repo", {"README": b"x"})
        rivals = [result(repo, "one"), result(repo, "two")]
        outcomes: list[PublishResult] = []
        start = threading.Barrier(2)

        def run(made: Result, repo: Path = repo) -> None:
            start.wait()  # noqa: B023  # joined within this round
            outcomes.append(send(broker, repo, made))  # noqa: B023  # the same

        threads = [threading.Thread(target=run, args=(made,)) for made in rivals]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won = [outcome for outcome in outcomes if isinstance(outcome, Published)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
        assert (len(won), len(lost)) == (1, 1), outcomes
        refs = refs_of(repo)
        assert refs[BRANCH] == refs[MARKER] == won[0].commit == lost[0].found


def test_git_gc_and_commits_beside_a_publication_do_no_harm(broker: RepoAccess, repo: Path) -> None:
    made = result(repo)
    done = threading.Event()

    def busy() -> None:
        while not done.is_set():
            git(repo, "commit", "-q", "--allow-empty", "-m", "beside")
            git(repo, "gc", "-q", "--prune=now")

    # Objects are safe under .keep even when gc prunes between the pack and the refs.
    order = publish.Order.parse(made.commit, BRANCH, MARKER)
    with source.opened(locate(str(repo), POLICY)) as opened, made.bundle.open("rb") as f:
        found = publish.publish(
            opened, order, f, between=lambda: print(git(repo, "gc", "-q", "--prune=now"))
        )
    assert found == Published(made.commit)
    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for number in range(5):
            task = f"tsk_beside{number}"
            outcome: PublishResult | None = None
            while outcome is None:
                # gc --prune=now may remove the quarantine: said so, tried again.
                with contextlib.suppress(RetryLater):
                    outcome = broker.publish(
                        str(repo),
                        made.bundle,
                        commit=made.commit,
                        branch_ref=f"refs/heads/wfhub/{task}",
                        marker_ref=f"refs/wfhub/published/{task}",
                    )
            assert outcome == Published(made.commit)
    finally:
        done.set()
        thread.join()
    git(repo, "fsck", "--strict", "--full")


def test_a_gc_that_counts_on_our_keep_loses_nothing(repo: Path) -> None:
    """`git repack` leaves out what a kept pack holds, then deletes the packs that it had listed
    before: those may include an earlier publication of the same objects."""
    made = result(repo)
    packs = repo / ".git" / "objects" / "pack"

    def send_as(task: str, between: Callable[[], None]) -> None:
        order = publish.Order.parse(
            made.commit, f"refs/heads/wfhub/{task}", f"refs/wfhub/published/{task}"
        )
        with source.opened(locate(str(repo), POLICY)) as opened, made.bundle.open("rb") as f:
            assert publish.publish(opened, order, f, between=between) == Published(made.commit)

    send_as("tsk_1", lambda: None)
    git(repo, "gc", "-q")  # what else there is, into one pack
    send_as("tsk_2", lambda: None)
    listed = {path.stem for path in packs.glob("*.pack")}

    def repack() -> None:
        kept = {path.stem for path in packs.glob("*.keep")}
        assert kept, "publishing goes on under a .keep"
        assert not kept & listed, "a pack that gc had listed as its own is now counted on as kept"

    send_as("tsk_3", repack)
    git(repo, "fsck", "--strict", "--full")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another user")
def test_the_broker_writes_as_the_owner_and_needs_their_permission(
    broker: RepoAccess, repo: Path
) -> None:
    made = result(repo)
    gitrepos.chown_tree(repo, 64002)
    assert send(broker, repo, made) == Published(made.commit)
    new = [
        path
        for path in (repo / ".git").rglob("*")
        if path.is_file() and path.stat().st_uid != 64002
    ]
    assert new == []
    other = gitrepos.make(repo.parent / "ro" / "repo", {"README": b"hello\n"})
    made = result(other)
    gitrepos.chown_tree(other, 64002)
    subprocess.run(["chmod", "-R", "a-w", other], check=True)
    outcome = send(broker, other, made)
    assert isinstance(outcome, Refused)
    assert outcome.code == "repo-read-only"
