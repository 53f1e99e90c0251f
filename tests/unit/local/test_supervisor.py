"""The supervisor with real processes, small shell scripts."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from wfhub_local import supervisor as supervisors
from wfhub_local.processes import Process
from wfhub_local.supervisor import Asked, Failed, Supervisor


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(said: list[str]) -> Iterator[Supervisor]:
    made = Supervisor(said.append)
    with made.signals():
        yield made
        made.stop()


def script(tmp_path: Path, name: str, text: str) -> Process:
    """As root it is started as root: uids are another test's."""
    up = tmp_path / f"{name}.up"
    return Process(
        name=name,
        argv=("/bin/sh", "-c", text),
        log=tmp_path / f"{name}.log",
        uid=os.getuid(),
        env={"UP": str(up), "OUT": str(tmp_path)},
        before=lambda: up.unlink(missing_ok=True),
        is_up=up.exists,
    )


FOREVER = "touch $UP; while :; do sleep 1000 & wait; done"


def test_a_crashed_process_is_started_again_and_said_so(
    tmp_path: Path, supervisor: Supervisor, said: list[str]
) -> None:
    supervisor.start(script(tmp_path, "one", FOREVER), group=0)
    supervisor.wait_up(timeout_s=10)
    supervisor.mark_ready()
    first = supervisor.pids()["one"]
    os.kill(first, signal.SIGKILL)
    supervisor.run(until=lambda: supervisor.pids().get("one", first) != first, poll_s=0.05)
    assert said[0].startswith("one was ended by SIGKILL; starting it again")


def test_one_that_cannot_run_stops_the_stack_with_the_end_of_its_log(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    supervisor.start(script(tmp_path, "bad", "echo no such setting >&2; exit 3"), group=0)
    with pytest.raises(Failed, match=r"(?s)bad exited with 3, 3 times.*no such setting"):
        supervisor.wait_up(timeout_s=10)


def test_one_that_is_never_up_is_named(tmp_path: Path, supervisor: Supervisor) -> None:
    supervisor.start(script(tmp_path, "slow", "exec sleep 1000"), group=0)
    with pytest.raises(Failed, match="slow was not ready within 0 s"):
        supervisor.wait_up(timeout_s=0.2)


def test_groups_stop_in_reverse_order(tmp_path: Path, supervisor: Supervisor) -> None:
    for group, name in enumerate(("server", "service", "runner")):
        text = f"trap 'echo {name} >> $OUT/order; exit 0' TERM; {FOREVER}"
        supervisor.start(script(tmp_path, name, text), group=group)
    supervisor.wait_up(timeout_s=10)
    supervisor.stop()
    assert (tmp_path / "order").read_text().split() == ["runner", "service", "server"]


def test_a_process_that_ignores_the_signal_is_killed_in_bounded_time(
    tmp_path: Path, supervisor: Supervisor, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisors, "STOP_S_MAX", 0.3)
    supervisor.start(script(tmp_path, "deaf", f"trap '' TERM; {FOREVER}"), group=0)
    supervisor.wait_up(timeout_s=10)
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < 5
    assert said == ["deaf did not stop in time and is killed"]


def test_a_second_signal_ends_the_waiting(
    tmp_path: Path, supervisor: Supervisor, said: list[str]
) -> None:
    again = f"trap 'kill -INT {os.getpid()}' TERM"  # when it is told to stop, and does not
    supervisor.start(script(tmp_path, "deaf", f"{again}; {FOREVER}"), group=0)
    supervisor.wait_up(timeout_s=10)
    os.kill(os.getpid(), signal.SIGINT)
    supervisor.run(until=lambda: False, poll_s=60)
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < 5


def test_a_signal_while_starting_is_not_lost(tmp_path: Path, supervisor: Supervisor) -> None:
    supervisor.start(script(tmp_path, "slow", "exec sleep 1000"), group=0)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Asked):
        supervisor.wait_up(timeout_s=10)


def test_a_child_gets_no_more_of_our_environment_than_it_is_given(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    supervisor.start(script(tmp_path, "env", f"env > $OUT/env; {FOREVER}"), group=0)
    supervisor.wait_up(timeout_s=10)
    text = (tmp_path / "env").read_text()
    assert "canary" not in text
    assert "UP=" in text


def test_a_log_that_grew_is_rotated_at_start(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wfhub_local.processes.LOG_BYTES_MAX", 10)
    process = script(tmp_path, "chatty", FOREVER)
    process.log.write_text("x" * 11)
    supervisor.start(process, group=0)
    assert (tmp_path / "chatty.log.1").read_text() == "x" * 11
