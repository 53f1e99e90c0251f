"""A stack for as long as somebody uses it: `wfhub run` without WFHUB_URL."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from wfhub_local import state
from wfhub_local.layout import Layout

from .conftest import END_S_MAX, Up, alive, eventually, get, gone, plain_environment

USER = """
import sys
from wfhub_local.stack import ephemeral
def say(line):  # at once, unlike print: notes come from another thread
    sys.stdout.write(line + "\\n")
    sys.stdout.flush()
with ephemeral(notify=lambda line: say(f"notify {line}")) as stack:
    say(f"url {stack.url} {len(stack.token)}")
    sys.stdin.read()
say("done")
"""


class User:
    """A process that uses a stack until it is told to end."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER],
            env={**plain_environment(), "WFHUB_DATA": str(data)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("url "):
                return line.split()[1]
        raise AssertionError("it ended without a stack")

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(END_S_MAX) == 0


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Callable[[], User]]:
    every: list[User] = []

    def start() -> User:
        every.append(User(tmp_path / "data"))
        return every[-1]

    yield start
    for one in every:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
    eventually(lambda: not state.is_held(Layout(tmp_path / "data")), within_s=END_S_MAX)


def stack_of(user: User) -> list[psutil.Process]:
    found = state.read(Layout(user.data))
    assert found is not None
    top = psutil.Process(found.pid)
    return [top, *top.children(recursive=True)]


def test_it_is_started_and_ended_with_its_only_user(user: Callable[[], User]) -> None:
    one = user()
    url = one.url()
    assert get(f"{url}/readyz")[0] == 200
    processes = stack_of(one)
    one.end()
    assert alive(processes) == []  # at once: its starter sees it out


def test_who_only_looks_makes_no_stack_where_there_never_was_one(tmp_path: Path) -> None:
    """It would have nothing to say, and look like one in which all is well."""
    done = subprocess.run(
        [Path(sys.executable).with_name("wfhub"), "list"],
        env={**plain_environment(), "WFHUB_DATA": str(tmp_path / "mistyped")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert f"there was never one in {tmp_path / 'mistyped'}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_running_stack_is_used_and_left_alone(
    user: Callable[[], User], started: Callable[..., Up]
) -> None:
    up = started().ready()
    one = user()
    assert one.url() == up.url
    one.end()
    assert get(f"{up.url}/readyz")[0] == 200


def test_who_started_it_does_not_take_it_away_from_another(user: Callable[[], User]) -> None:
    one = user()
    url = one.url()
    processes = stack_of(one)
    other = user()
    assert other.url() == url
    one.end()
    assert get(f"{url}/readyz")[0] == 200
    other.end()
    assert gone(processes) == []


def test_a_killed_user_leaves_no_stack_behind(user: Callable[[], User]) -> None:
    one = user()
    one.url()
    processes = stack_of(one)
    one.process.send_signal(signal.SIGKILL)
    assert gone(processes) == []


def test_two_that_start_at_once_share_one_stack(user: Callable[[], User]) -> None:
    one, other = user(), user()
    assert one.url() == other.url()
    other.end()
    one.end()
