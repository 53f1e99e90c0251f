"""A runner killed with -9 in each phase of an attempt: what was finished is handed in and not done
again, what was not is, and its home holds nothing of it afterwards."""

import glob
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from .conftest import WFHUB, Stack, eventually, git, start

AGENT = "sh -c 'echo done > result.txt'"
WITHIN_S = 90.0
SLEEP = f"sleep {86_400 + os.getpid()}"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack for these tests alone: its runner's home is looked into."""
    stack = start(tmp_path_factory.mktemp("restarts") / "data")
    yield stack
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(60) == 0


def child(stack: Stack, module: str) -> psutil.Process:
    def found() -> psutil.Process | None:
        for process in psutil.Process(stack.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # one that was killed, and is not seen out yet
                if module in " ".join(process.cmdline()):
                    return process
        return None

    process: psutil.Process = eventually(found)
    return process


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def submitted(stack: Stack, repository: Path, *options: str, agent: str = AGENT) -> str:
    done = subprocess.run(
        [WFHUB, "run", "--json", "--detach", "--repo", repository, "--agent-cmd", agent, *options],
        env=stack.env(),
        capture_output=True,
        text=True,
        check=True,
    )
    task_id: str = json.loads(done.stdout.strip().splitlines()[-1])["task_id"]
    return task_id


def task(stack: Stack, task_id: str) -> dict[str, Any]:
    token = (stack.data / "admin-token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.get(f"{stack.url}/v1/tasks/{task_id}", headers=headers, timeout=30)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def home(stack: Stack) -> Path:
    (found,) = stack.data.glob("runner-*")
    return found


def there(stack: Stack, pattern: str) -> list[str]:
    """In the runner's home, which goes on: a folder that is removed meanwhile has nothing in it,
    while to `Path.glob` it is an error."""
    return glob.glob(pattern, root_dir=home(stack), include_hidden=True)


def records(stack: Stack) -> list[Path]:
    return list(home(stack).glob("finished/*.json"))


def killed(stack: Stack) -> None:
    process = child(stack, "wfhub_agent_runner.main")
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: not process.is_running())


def assert_done_in(stack: Stack, repository: Path, task_id: str, attempts: int) -> None:
    """It succeeded in so many attempts, and nothing of them is left on the runner."""
    eventually(lambda: task(stack, task_id)["state"] == "succeeded", within_s=WITHIN_S)
    agents = [a for a in task(stack, task_id)["attempts"] if a["kind"] == "agent"]
    assert [a["state"] for a in agents] == ["lost"] * (attempts - 1) + ["won"]
    assert git("show", f"wfhub/{task_id}:result.txt", cwd=repository) == "done"
    published = git("for-each-ref", "--format=%(refname)", "refs/heads/wfhub", cwd=repository)
    assert published == f"refs/heads/wfhub/{task_id}"
    eventually(lambda: not there(stack, "attempts/*"))
    eventually(lambda: not there(stack, "spool/*/*"))
    assert records(stack) == []
    assert there(stack, "trees/*/*"), "the checkout is there for who comes next"


def sleeper() -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline"]):
        if process.info["cmdline"] == SLEEP.split():
            return process
    return None


@pytest.mark.parametrize(
    ("options", "agent"),
    [
        (("--setup", f"{SLEEP} || true"), AGENT),
        ((), f"sh -c '{SLEEP}; echo done > result.txt'"),
        (("--verify", f"{SLEEP} || true"), AGENT),
    ],
    ids=["set-up", "agent", "verification"],
)
def test_what_was_not_finished_is_done_again(
    own: Stack, repository: Path, options: tuple[str, ...], agent: str
) -> None:
    task_id = submitted(own, repository, *options, agent=agent)
    first = eventually(sleeper, within_s=WITHIN_S)
    killed(own)
    eventually(lambda: not first.is_running())
    eventually(sleeper, within_s=WITHIN_S).kill()  # the second time it goes on
    assert_done_in(own, repository, task_id, attempts=2)


def test_what_was_finished_is_delivered_after_the_restart(own: Stack, repository: Path) -> None:
    with stopped(child(own, "wfhub_proof_store.main")):
        task_id = submitted(own, repository)
        eventually(lambda: records(own), within_s=WITHIN_S)
        killed(own)
    assert_done_in(own, repository, task_id, attempts=1)


def test_what_was_delivered_and_not_told_is_told_after_the_restart(
    own: Stack, repository: Path
) -> None:
    proof_store = child(own, "wfhub_proof_store.main")
    scheduler = child(own, "wfhub_scheduler.main")
    proof_store.suspend()
    task_id = submitted(own, repository)
    eventually(lambda: records(own), within_s=WITHIN_S)
    with stopped(scheduler):
        proof_store.resume()
        eventually(lambda: not there(own, "spool/*/*/blob"), within_s=WITHIN_S)
        assert records(own)
        killed(own)
    assert_done_in(own, repository, task_id, attempts=1)


def test_twice_killed_is_handed_in_once(own: Stack, repository: Path) -> None:
    with stopped(child(own, "wfhub_proof_store.main")):
        task_id = submitted(own, repository)
        eventually(lambda: records(own), within_s=WITHIN_S)
        for _ in range(2):
            killed(own)
            child(own, "wfhub_agent_runner.main")  # another one is there
    assert_done_in(own, repository, task_id, attempts=1)


def test_what_was_cancelled_meanwhile_is_not_published(own: Stack, repository: Path) -> None:
    with stopped(child(own, "wfhub_proof_store.main")):
        task_id = submitted(own, repository)
        eventually(lambda: records(own), within_s=WITHIN_S)
        killed(own)
        assert own.wfhub("cancel", task_id).returncode == 0
    eventually(lambda: task(own, task_id)["state"] == "cancelled", within_s=WITHIN_S)
    assert git("for-each-ref", "refs/heads/wfhub", cwd=repository) == ""
    eventually(lambda: records(own) == [], within_s=WITHIN_S)
