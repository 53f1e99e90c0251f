"""Counters of a process that is not the starter they were made for: it ended, and its number went
to another one in between."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from wfhub_agent_runner.sandbox.kernel_memory import Counters
from wfhub_agent_runner.sandbox.starter import IPC_COUNTERS, SOCKETS_COUNTER

OPEN = """
import os, sys
for number in map(int, sys.argv[2:]):
    os.dup2(os.open(sys.argv[1], os.O_RDONLY), number)
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def process_with(path: str, *numbers: int) -> Iterator[int]:
    """The pid of one that has `path` open as each of `numbers`."""
    command = [sys.executable, "-c", OPEN, path, *map(str, numbers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"open\n"
        yield process.pid
        process.stdin.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("path", ["/", "/dev/null", "/dev/zero", "/etc/passwd", "/proc/self/stat"])
def test_what_is_no_list_of_system_v_objects_counts_nothing(path: str) -> None:
    with process_with(path, *IPC_COUNTERS) as pid:
        before = open_descriptors()
        with closing(Counters(pid)) as counters, capture_logs() as logs:
            assert open_descriptors() == before + len(IPC_COUNTERS)
            assert [counters.system_v() for _ in range(2)] == [0, 0]
        assert open_descriptors() == before
    told = {each["event"] for each in logs}
    assert told == {"System V objects are not counted: the run has ended"}
    assert len(logs) == len(IPC_COUNTERS), "once for each"


def test_what_is_no_socket_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with process_with(str(tmp_path / "file"), SOCKETS_COUNTER) as pid:
        before = open_descriptors()
        with closing(Counters(pid)) as counters:
            assert open_descriptors() == before
            assert counters.system_v() == 0


def test_the_lists_of_a_process_that_has_them_are_read() -> None:
    with process_with("/proc/sysvipc/sem", 59) as pid, closing(Counters(pid)) as counters:
        assert counters.system_v() % 64 == 0
