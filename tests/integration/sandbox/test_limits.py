"""Limits of real sandboxes: what is exceeded ends the run with its name and figure."""

import asyncio
import os
import time
from pathlib import Path

import pytest
import unprivileged
from sandbox_lab import MIB, Lab, Ran, processes_with
from wfhub_agent_runner.sandbox.port import Exited, LimitExceeded
from wfhub_common.messages import Limits

EAT_MEMORY = """
import sys, time
held = []
for _ in range(int(sys.argv[1])):
    held.append(bytearray(b"x" * 1048576))
    time.sleep(0.001)
time.sleep(60)
"""
FORK = """
import os, sys
children = 0
try:
    for _ in range(5000):
        if os.fork() == 0:
            import time; time.sleep(60)
        children += 1
except BlockingIOError:
    pass
print(children, flush=True)
"""
FILL = """
import os, sys
path, chunk = sys.argv[1], b"x" * 1048576
written = 0
try:
    for number in range(4):
        with open(f"{path}/fill{number}", "wb", buffering=0) as file:
            for _ in range(int(sys.argv[2]) // 4):
                written += file.write(chunk)
except OSError as e:
    print(written // 1048576, "MiB, then", e.strerror, flush=True)
else:
    print("all of it", flush=True)
    import time; time.sleep(30)
"""
HIDE = """
import ctypes, os, sys, threading, time
kind, count, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
held = []
def hold():
    for number in range(count):
        if kind == "deleted":
            held.append(open(f"/workspace/{number}", "wb", buffering=0))
            os.unlink(f"/workspace/{number}")
        elif kind == "memfd":
            held.append(open(os.memfd_create("hidden"), "wb", buffering=0))
        elif kind == "far":
            os.mkdir("x" * 250)
            os.chdir("x" * 250)
            held.append(open("f", "wb", buffering=0))
        elif kind == "pages":
            held.append(bytearray(b"x" * 1048576))
            continue
        else:
            os.makedirs(f"/workspace/{number}")
            held.append(open(f"/workspace/{number}/f", "wb", buffering=0))
            os.chmod(f"/workspace/{number}", 0)
        held[-1].write(b"x" * 1048576)
    time.sleep(60)
    os._exit(0)
if how == "undumpable":
    assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0
if how == "headless":  # its first thread ends, and /proc shows what that one has
    threading.Thread(target=hold).start()
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
else:
    hold()
"""
HOW = ("plain", "undumpable", "headless")
SPIN = """
import os, sys
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        break
while True:
    pass
"""
SMALL = Limits(memory_bytes=64 * MIB, disk_bytes=32 * MIB, processes=64, file_bytes=256 * MIB)


def inside(home: Path, code: str, *arguments: object, limits: Limits = SMALL) -> Ran:
    async def work() -> Ran:
        return await Lab(home).inside(code, *arguments, limits=limits, wall_s=40)

    return unprivileged.run(home, work)


def exceeded(ran: Ran, name: str, least: int) -> None:
    assert isinstance(ran.outcome, LimitExceeded), ran
    assert ran.outcome.name == name
    assert least <= ran.outcome.figure < 8 * least  # a kernel's own limit is named as the figure


def test_twice_the_memory_ends_the_run(tmp_path: Path) -> None:
    exceeded(inside(tmp_path, EAT_MEMORY, 128), "memory", 64 * MIB)


def test_within_the_memory_nothing_happens(tmp_path: Path) -> None:
    ran = inside(tmp_path, EAT_MEMORY.replace("60", "0.5"), 32)
    assert ran.outcome == Exited(0)


def test_memory_spread_over_processes_is_added_up(tmp_path: Path, backend: str) -> None:
    if backend == "kubernetes" and not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("this node has cgroup v1, where the kernel ends one process and not the pod")

    async def work() -> Ran:
        eater = EAT_MEMORY.replace('"', "'")
        script = f'for i in 1 2 3 4; do "$@" -I -S -c "{eater}" 24 & done; wait'
        lab = Lab(tmp_path)
        words = ("/bin/sh", "-c", script, "sh", *lab.sandbox.interpreter)
        return await lab.run(*words, limits=SMALL)

    exceeded(unprivileged.run(tmp_path, work), "memory", 64 * MIB)


@pytest.mark.parametrize(
    ("kind", "how"),
    [*(("memfd", how) for how in HOW), ("pages", "undumpable"), ("pages", "headless")],
)
def test_memory_hidden_from_a_plain_count_is_found(tmp_path: Path, kind: str, how: str) -> None:
    exceeded(inside(tmp_path, HIDE, kind, 100, how), "memory", 64 * MIB)


@pytest.mark.parametrize(
    ("kind", "how"), [("unreadable", "plain"), ("far", "plain"), *(("deleted", how) for how in HOW)]
)
def test_disk_hidden_from_a_plain_count_is_found(
    tmp_path: Path, kind: str, how: str, backend: str
) -> None:
    if (kind, backend) == ("deleted", "kubernetes"):
        pytest.skip("what a pod holds open is on another machine: the claim's own quota bounds it")
    exceeded(inside(tmp_path, HIDE, kind, 64, how), "disk", 32 * MIB)


def test_filling_the_workspace_ends_the_run(tmp_path: Path) -> None:
    exceeded(inside(tmp_path, FILL, "/workspace", 64), "disk", 32 * MIB)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("folder", ["/tmp", "/home/agent", "/dev/shm"])
def test_filling_a_tmpfs_is_bounded(tmp_path: Path, folder: str) -> None:
    ran = inside(tmp_path, FILL, folder, 128)
    stopped = isinstance(ran.outcome, LimitExceeded) and ran.outcome.name in ("disk", "memory")
    assert stopped or "No space left" in ran.output, ran


def test_many_small_files_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("watchdog", "pods.watches"):
        monkeypatch.setattr(f"wfhub_agent_runner.sandbox.{module}.INODES_MAX", 2000)
    code = "import os, time\nfor n in range(3000): os.mkdir(f'/workspace/{n}')\ntime.sleep(60)"
    ran = inside(tmp_path, code, limits=Limits())
    assert isinstance(ran.outcome, LimitExceeded)
    assert ran.outcome.name == "inodes"


def test_a_file_cannot_grow_beyond_its_limit(tmp_path: Path) -> None:
    code = "open('/workspace/f', 'wb').write(b'x' * 2097152)"
    ran = inside(tmp_path, code, limits=SMALL.model_copy(update={"file_bytes": MIB}))
    assert "File too large" in ran.output


def test_a_fork_bomb_is_bounded_and_its_neighbour_unharmed(tmp_path: Path) -> None:
    token = f"wfhub-bomb-{os.getpid()}"

    async def work() -> tuple[Ran, Ran, int]:
        lab = Lab(tmp_path)
        full, cancel = asyncio.Event(), asyncio.Event()
        bomb = asyncio.create_task(
            lab.inside(
                FORK + "import time; time.sleep(60)",
                token,
                limits=SMALL.model_copy(update={"memory_bytes": 4096 * MIB}),
                started=full,
                cancel=cancel,
            )
        )
        await full.wait()
        neighbour = await lab.shell("echo $(seq 3 | wc -l) fine", limits=SMALL)
        cancel.set()
        return await bomb, neighbour, len(processes_with(token))

    bomb, neighbour, left = unprivileged.run(tmp_path, work)
    assert 50 <= int(bomb.output) <= 64
    assert (neighbour.outcome, neighbour.output) == (Exited(0), "3 fine\n")
    assert left == 0


@pytest.mark.not_in_backend("kubernetes", "a pod's limit holds it back")
@pytest.mark.parametrize("processes", [1, 2])
def test_without_a_cgroup_cpu_time_is_counted_over_all_processes(
    tmp_path: Path, processes: int
) -> None:
    async def work() -> Ran:
        limits = SMALL.model_copy(update={"cpu_millicores": 50})
        return await Lab(tmp_path).inside(SPIN, processes, limits=limits, wall_s=20)

    ran = unprivileged.run(tmp_path, work)
    assert ran.outcome in (LimitExceeded("cpu", 1), LimitExceeded("cpu", 2)), ran  # of 1 s


@pytest.mark.not_in_backend("kubernetes", "a pod's limit holds them back")
def test_processes_that_have_ended_are_counted_too(tmp_path: Path) -> None:
    code = "import os, time\nwhile True:\n"
    code += (
        " if os.fork() == 0:\n  while time.process_time() < 0.1: pass\n  os._exit(0)\n os.wait()"
    )

    async def work() -> Ran:
        limits = SMALL.model_copy(update={"cpu_millicores": 50})
        return await Lab(tmp_path).inside(code, limits=limits, wall_s=20)

    ran = unprivileged.run(tmp_path, work)
    assert ran.outcome in (LimitExceeded("cpu", 1), LimitExceeded("cpu", 2)), ran


def test_the_policy_says_how_each_limit_is_held(tmp_path: Path, backend: str) -> None:
    async def work() -> dict[str, str]:
        return dict(Lab(tmp_path).sandbox.describe()["limits"])

    held = unprivileged.run(tmp_path, work)
    by = "pod" if backend == "kubernetes" else "watchdog"
    assert (held["memory"], held["cpu"], held["processes"]) == (by, by, "rlimit")
    assert held["open_files"] == "rlimit"
    assert set(held) >= {"disk", "file", "output", "wall", "idle"}


def test_a_run_without_a_sign_of_life_ends_and_its_output_is_kept(tmp_path: Path) -> None:
    async def work() -> Ran:
        return await Lab(tmp_path).shell("echo begun; sleep 60", idle_s=3)

    ran = unprivileged.run(tmp_path, work)
    assert isinstance(ran.outcome, LimitExceeded)
    assert ran.outcome.name == "idle"
    assert 3 <= ran.outcome.figure < 8  # seconds
    assert ran.output == "begun\n"
    assert 3000 <= ran.result.duration_ms < 8000


def test_output_or_another_sign_of_life_keeps_a_run_going(tmp_path: Path) -> None:
    async def work() -> tuple[Ran, Ran]:
        lab, began = Lab(tmp_path), time.monotonic()
        said = await lab.shell("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.6; done", idle_s=3)
        asked = await lab.shell(
            "sleep 4", idle_s=3, signs=lambda: min(time.monotonic(), began + 600)
        )
        return said, asked

    said, asked = unprivileged.run(tmp_path, work)
    assert said.outcome == Exited(0)
    assert asked.outcome == Exited(0)
