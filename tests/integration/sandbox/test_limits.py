"""Limits of real sandboxes: what is exceeded ends the run with its name and figure."""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import unprivileged
from sandbox_lab import MIB, Lab, Ran, processes_with
from wfhub_agent_runner.sandbox.bwrap import BwrapSandbox
from wfhub_agent_runner.sandbox.port import Exited, LimitExceeded
from wfhub_common.errors import Rejected
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
import os, sys, time
kind = sys.argv[1]
held = []
for number in range(int(sys.argv[2])):
    if kind == "deleted":
        held.append(open(f"/workspace/{number}", "wb", buffering=0))
        os.unlink(f"/workspace/{number}")
    elif kind == "memfd":
        held.append(open(os.memfd_create("hidden"), "wb", buffering=0))
    else:
        os.makedirs(f"/workspace/{number}")
        held.append(open(f"/workspace/{number}/f", "wb", buffering=0))
        os.chmod(f"/workspace/{number}", 0)
    held[-1].write(b"x" * 1048576)
time.sleep(60)
"""
SMALL = Limits(memory_bytes=64 * MIB, disk_bytes=32 * MIB, processes=64, file_bytes=256 * MIB)


def inside(home: Path, code: str, *arguments: object, limits: Limits = SMALL) -> Ran:
    async def work() -> Ran:
        return await Lab(home).inside(code, *arguments, limits=limits, wall_s=40)

    return unprivileged.run(home, work)


def exceeded(ran: Ran, name: str, least: int) -> None:
    assert isinstance(ran.outcome, LimitExceeded), ran
    assert ran.outcome.name == name
    assert least < ran.outcome.figure < 8 * least


def test_twice_the_memory_ends_the_run(tmp_path: Path) -> None:
    exceeded(inside(tmp_path, EAT_MEMORY, 128), "memory", 64 * MIB)


def test_within_the_memory_nothing_happens(tmp_path: Path) -> None:
    ran = inside(tmp_path, EAT_MEMORY.replace("60", "0.5"), 32)
    assert ran.outcome == Exited(0)


def test_memory_spread_over_processes_is_added_up(tmp_path: Path) -> None:
    async def work() -> Ran:
        eater = EAT_MEMORY.replace('"', "'")
        script = f'for i in 1 2 3 4; do "$@" -I -S -c "{eater}" 24 & done; wait'
        lab = Lab(tmp_path)
        words = ("/bin/sh", "-c", script, "sh", *lab.sandbox.interpreter)
        return await lab.run(*words, limits=SMALL)

    exceeded(unprivileged.run(tmp_path, work), "memory", 64 * MIB)


def test_memory_hidden_in_memfds_is_found(tmp_path: Path) -> None:
    exceeded(inside(tmp_path, HIDE, "memfd", 100), "memory", 64 * MIB)


@pytest.mark.parametrize("kind", ["deleted", "unreadable"])
def test_disk_hidden_from_a_plain_count_is_found(tmp_path: Path, kind: str) -> None:
    exceeded(inside(tmp_path, HIDE, kind, 64), "disk", 32 * MIB)


def test_filling_the_workspace_ends_the_run(tmp_path: Path) -> None:
    exceeded(inside(tmp_path, FILL, "/workspace", 64), "disk", 32 * MIB)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("folder", ["/tmp", "/home/agent", "/dev/shm"])
def test_filling_a_tmpfs_is_bounded(tmp_path: Path, folder: str) -> None:
    ran = inside(tmp_path, FILL, folder, 128)
    stopped = isinstance(ran.outcome, LimitExceeded) and ran.outcome.name in ("disk", "memory")
    assert stopped or "No space left" in ran.output, ran


def test_many_small_files_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfhub_agent_runner.sandbox.watchdog.INODES_MAX", 2000)
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


# --- cgroups ----------------------------------------------------------------------------------


@contextlib.contextmanager
def delegated_cgroup() -> Iterator[Path | None]:
    """A cgroup of this machine that the unprivileged uid may make children in, if there can be."""
    roots = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))
    for root in roots:
        group = root / f"wfhub-test-{secrets.token_hex(4)}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / "cgroup.subtree_control").exists():
            with contextlib.suppress(OSError):
                (group / "cgroup.subtree_control").write_text("+memory +pids")
        if (group / "memory.max").exists() or (group / "memory.limit_in_bytes").exists():
            os.chown(group, unprivileged.RUNNER_UID, -1)
            try:
                yield group
            finally:
                group.rmdir()
            return
        with contextlib.suppress(OSError):
            group.rmdir()
    yield None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can delegate a cgroup")
def test_in_a_delegated_cgroup_the_kernel_holds_memory(tmp_path: Path) -> None:
    with delegated_cgroup() as group:
        if group is None:
            pytest.skip("this machine has no memory cgroup to delegate")

        async def work() -> tuple[str, Ran, Ran]:
            lab = Lab(tmp_path)
            lab.sandbox = BwrapSandbox(scratch=lab.home / "scratch", cgroup_root=group)
            kind = lab.sandbox.describe()["memory"]
            fine = await lab.shell("cat old.txt", limits=SMALL)
            return kind, fine, await lab.inside(EAT_MEMORY, 128, limits=SMALL)

        kind, fine, ran = unprivileged.run(tmp_path, work)
        assert kind.startswith("cgroup")
        assert (fine.outcome, fine.output) == (Exited(0), "old\n")
        assert isinstance(ran.outcome, LimitExceeded)
        assert ran.outcome.name == "memory"
        assert not [path for path in group.iterdir() if path.is_dir()]


def test_a_folder_that_is_no_cgroup_is_refused(tmp_path: Path) -> None:
    async def work() -> str:
        try:
            BwrapSandbox(scratch=tmp_path / "scratch", cgroup_root=tmp_path)
        except Rejected as e:
            return e.code
        return ""

    assert unprivileged.run(tmp_path, work) == "sandbox-cgroup"


def test_a_run_without_a_sign_of_life_ends_and_its_output_is_kept(tmp_path: Path) -> None:
    async def work() -> Ran:
        return await Lab(tmp_path).shell("echo begun; sleep 60", idle_s=0.5)

    ran = unprivileged.run(tmp_path, work)
    assert ran.outcome == LimitExceeded("idle", 0)
    assert ran.output == "begun\n"
    assert 500 <= ran.result.duration_ms < 5000


def test_output_or_another_sign_of_life_keeps_a_run_going(tmp_path: Path) -> None:
    async def work() -> tuple[Ran, Ran]:
        lab, began = Lab(tmp_path), time.monotonic()
        said = await lab.shell("for i in 1 2 3 4 5 6; do echo $i; sleep 0.3; done", idle_s=1.0)
        asked = await lab.shell(
            "sleep 2", idle_s=1.0, signs=lambda: min(time.monotonic(), began + 600)
        )
        return said, asked

    said, asked = unprivileged.run(tmp_path, work)
    assert said.outcome == Exited(0)
    assert asked.outcome == Exited(0)
