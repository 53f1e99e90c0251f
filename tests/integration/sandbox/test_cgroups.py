"""Cgroups of the runner's own: made, used and removed on this machine's real hierarchies.

Only root may make a cgroup to delegate; a machine that gives none says why, and that is tested.
"""

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sandbox_lab
import unprivileged
from sandbox_lab import MIB, Lab, Ran
from wfhub_agent_runner.sandbox import delegation
from wfhub_agent_runner.sandbox.cgroup import CONTROLLERS, PERIOD_US, V1, V2, Cgroups
from wfhub_agent_runner.sandbox.cgroup_keeper import LEAF
from wfhub_agent_runner.sandbox.port import Exited, LimitExceeded
from wfhub_agent_runner.sandbox.watchdog import GVISOR_BYTES
from wfhub_common.errors import Rejected
from wfhub_common.messages import Limits

T = TypeVar("T")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can delegate a cgroup")
SMALL = Limits(memory_bytes=64 * MIB, disk_bytes=32 * MIB, processes=32, file_bytes=256 * MIB)
TAKE = """
import os, sys
from pathlib import Path
from wfhub_agent_runner.sandbox import delegation
made = delegation.delegate(sys.argv[1], int(sys.argv[2]))
print(*made.folders, made.why, sep="\\n", flush=True)
sys.stdin.read()
"""
EAT = """
import os, sys, time
if os.fork():
    os.wait()
    time.sleep(60)  # goes on although its child was killed
held = [bytearray(b"x" * 1048576) for _ in range(256)]
"""
THROTTLED_S_MAX = 100.0
V1_TICKS_US = 40_000  # what the times of a run's few processes may be rounded by
# Work in equal parts, told one by one: how much was done needs no clock.
PARTS = """
import sys
for part in range(int(sys.argv[1])):
    for _ in range(100_000):
        pass
    print(part, flush=True)
"""
SPIN = """
import os, sys, time
children = [os.fork() for _ in range(1)]
until = time.monotonic() + 2
while time.monotonic() < until:
    pass
print(time.process_time(), flush=True)
"""


@contextlib.contextmanager
def delegated() -> Iterator[delegation.Delegated]:
    """What a runner that is started as root gets here, for as long as its process lives."""
    name = f"test-{secrets.token_hex(4)}"
    command = [sys.executable, "-c", TAKE, name, str(unprivileged.uid())]
    taker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert taker.stdin is not None
    assert taker.stdout is not None
    lines = []
    while line := taker.stdout.readline().rstrip("\n"):
        lines.append(line)
        if not line.startswith("/"):
            break
    folders = tuple(Path(line) for line in lines if line.startswith("/"))
    why = next((line for line in lines if not line.startswith("/")), "")
    try:
        yield delegation.Delegated(folders, why)
    finally:
        taker.stdin.close()
        taker.wait()
        taker.stdout.close()
    deadline = time.monotonic() + 10
    while any(folder.exists() for folder in folders):
        assert time.monotonic() < deadline, f"left behind: {folders}"


@pytest.fixture(scope="module")
def folders() -> Iterator[tuple[Path, ...]]:
    with delegated() as made:
        if not made.folders:
            pytest.skip(f"this machine has no cgroup to delegate: {made.why}")
        yield made.folders


def lab(home: Path, folders: tuple[Path, ...]) -> Lab:
    found = Lab(home)
    found.sandbox = sandbox_lab.sandbox(home / "scratch", cgroups=folders)
    return found


@contextlib.contextmanager
def in_its_leaf(folders: tuple[Path, ...]) -> Iterator[None]:
    """A runner on v2 is in a leaf of its folder: a uid moves processes only within what is its."""
    moved = [folder for folder in folders if (folder / LEAF).is_dir()]
    for folder in moved:
        (folder / LEAF / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        for folder in moved:
            (folder.parent / "cgroup.procs").write_text(str(os.getpid()))


def run(home: Path, folders: tuple[Path, ...], work: Callable[[], Awaitable[T]]) -> T:
    with in_its_leaf(folders):
        return unprivileged.run(home, work)


def held(folders: tuple[Path, ...]) -> frozenset[str]:
    return frozenset(Cgroups.open(folders).roots)


@root_only
def test_what_was_delegated_belongs_to_the_runner_and_its_limits_do_not(
    folders: tuple[Path, ...],
) -> None:
    for folder in folders:
        assert folder.stat().st_uid == unprivileged.RUNNER_UID
        assert (folder / "cgroup.procs").stat().st_uid == unprivileged.RUNNER_UID
        for name in ("memory.limit_in_bytes", "cpu.cfs_quota_us", "pids.max", "memory.max"):
            if (folder / name).exists():
                assert (folder / name).stat().st_uid == 0


@root_only
def test_the_kernel_holds_memory_and_says_how_much_there_was(
    tmp_path: Path, folders: tuple[Path, ...], backend: str
) -> None:
    if "memory" not in held(folders):
        pytest.skip("no memory controller was delegated")

    async def work() -> tuple[dict[str, str], Ran, Ran]:
        here = lab(tmp_path, folders)
        fine = await here.shell("cat old.txt", limits=SMALL)
        ran = await here.inside(EAT, limits=SMALL.model_copy(update={"memory_bytes": 128 * MIB}))
        return here.sandbox.describe()["limits"], fine, ran

    limits, fine, ran = run(tmp_path, folders, work)
    assert limits["memory"] in (V1, V2)
    assert (fine.outcome, fine.output) == (Exited(0), "old\n")
    assert isinstance(ran.outcome, LimitExceeded), ran
    assert ran.outcome.name == "memory"
    gvisors = GVISOR_BYTES if backend == "runsc" else 0
    assert 100 * MIB < ran.outcome.figure <= 128 * MIB + gvisors
    left = [entry for folder in folders for entry in folder.glob("run-*")]
    assert left == []


@root_only
@pytest.mark.not_in_backend("runsc", "it goes by the guest's clock, which its kernel estimates")
def test_the_kernel_shares_out_cpu_time_and_the_run_goes_on(
    tmp_path: Path, folders: tuple[Path, ...]
) -> None:
    if "cpu" not in held(folders):
        pytest.skip("no cpu controller was delegated")

    async def work() -> tuple[str, Ran]:
        here = lab(tmp_path, folders)
        ran = await here.inside(SPIN, limits=SMALL.model_copy(update={"cpu_millicores": 200}))
        return here.sandbox.describe()["limits"]["cpu"], ran

    by, ran = run(tmp_path, folders, work)
    assert by in (V1, V2)
    assert ran.outcome == Exited(0)
    used_s = sum(map(float, ran.output.split()))
    assert 0.1 < used_s < 0.8, "two processes in 2 s at a fifth of a core"


@root_only
@pytest.mark.timeout(300)
def test_the_kernel_counts_no_more_cpu_time_than_it_gave_out(
    tmp_path: Path, folders: tuple[Path, ...]
) -> None:
    """By its own counters, beside a run that has all the rest: no clock is looked at."""
    if "cpu" not in held(folders):
        pytest.skip("no cpu controller was delegated")

    async def work() -> tuple[dict[str, int], int, dict[str, int], Ran]:
        here = lab(tmp_path, folders)
        runs = Cgroups.open(folders).roots["cpu"]
        cancel, started, beside = asyncio.Event(), asyncio.Event(), asyncio.Event()
        share = SMALL.model_copy(update={"cpu_millicores": 100})
        times: dict[str, Any] = {"wall_s": THROTTLED_S_MAX + 60}
        endless = here.inside(PARTS, 10**9, limits=share, cancel=cancel, started=started, **times)
        limited = asyncio.create_task(endless)
        await started.wait()
        (group,) = runs.glob("run-*")
        # What is compared in the order that allows for time between two looks: periods, time used,
        # at the end time used, periods.
        before, used_before_us = counters(group), used_us(group)
        whole = here.inside(PARTS, 600, limits=SMALL, started=beside, **times)
        free = asyncio.create_task(whole)
        await beside.wait()
        (other,) = set(runs.glob("run-*")) - {group}
        of_free: dict[str, int] = {}
        async with asyncio.timeout(THROTTLED_S_MAX):
            # A busy machine may not give it its share at once: then there is nothing to hold back.
            while not free.done() or counters(group)["nr_throttled"] == before["nr_throttled"]:
                with contextlib.suppress(OSError):  # it has ended
                    of_free = counters(other)
                await asyncio.sleep(0.05)
        used = used_us(group) - used_before_us
        found = {name: value - before[name] for name, value in counters(group).items()}
        cancel.set()
        await limited
        return found, used, of_free, await free

    found, used, of_free, free = run(tmp_path, folders, work)
    assert free.outcome == Exited(0)
    assert found["nr_throttled"] > 0
    assert of_free["nr_throttled"] == 0, "it has no share to be held to"
    most = 0.1 * PERIOD_US * (found["nr_periods"] + 1)
    assert used <= 1.1 * most + V1_TICKS_US, found


def counters(group: Path) -> dict[str, int]:
    lines = (group / "cpu.stat").read_text().splitlines()
    return {name: int(value) for name, value in map(str.split, lines)}


def used_us(group: Path) -> int:
    """CPU time. v1 has no count of it here: those of the processes that are there are summed."""
    if "usage_usec" in (told := counters(group)):
        return told["usage_usec"]
    return sum(cpu_time_us(int(pid)) for pid in (group / "cgroup.procs").read_text().split())


def cpu_time_us(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0
    return (int(fields[11]) + int(fields[12])) * 1_000_000 // os.sysconf("SC_CLK_TCK")


@root_only
def test_processes_and_threads_are_counted_by_the_kernel(
    tmp_path: Path, folders: tuple[Path, ...]
) -> None:
    if "pids" not in held(folders):
        pytest.skip("no pids controller was delegated")
    code = (
        "import os, time\nmade = 0\ntry:\n"
        " while True:\n  if os.fork() == 0: time.sleep(60)\n  made += 1\n"
        "except OSError: print(made, flush=True)"
    )

    async def work() -> Ran:
        return await lab(tmp_path, folders).inside(code, limits=SMALL)

    ran = run(tmp_path, folders, work)
    assert 24 <= int(ran.output) <= 32


@root_only
def test_many_runs_at_once_leave_no_cgroup_behind(
    tmp_path: Path, folders: tuple[Path, ...]
) -> None:
    async def work() -> list[Ran]:
        here = lab(tmp_path, folders)
        limits = SMALL.model_copy(update={"cpu_millicores": 1000})
        return await asyncio.gather(*(here.shell("echo hi", limits=limits) for _ in range(8)))

    assert [ran.outcome for ran in run(tmp_path, folders, work)] == [Exited(0)] * 8
    assert [entry for folder in folders for entry in folder.glob("run-*")] == []


@root_only
def test_what_a_killed_run_left_is_removed_when_the_runner_is_gone() -> None:
    with delegated() as made:
        for folder in made.folders:
            (folder / "run-left").mkdir()
    # The end of `delegated` has waited for it.


@root_only
def test_a_second_start_takes_the_place_of_what_the_first_left() -> None:
    name = f"test-{secrets.token_hex(4)}"
    code = TAKE.replace("sys.stdin.read()", "os._exit(0)")
    for _ in range(2):
        argv = [sys.executable, "-c", code, name, str(unprivileged.RUNNER_UID)]
        ran = subprocess.run(argv, capture_output=True, text=True, check=True)
        made = [Path(line) for line in ran.stdout.splitlines() if line.startswith("/")]
        if not made:
            pytest.skip(f"this machine has no cgroup to delegate: {ran.stdout}")
    deadline = time.monotonic() + 10
    while any(folder.exists() for folder in made):
        assert time.monotonic() < deadline, f"left behind: {made}"


def test_without_a_right_to_make_one_it_is_said_why(tmp_path: Path) -> None:
    async def work() -> str:
        made = delegation.delegate("test", os.getuid())
        return json.dumps([[str(folder) for folder in made.folders], made.why])

    folders, why = json.loads(unprivileged.run(tmp_path, work))
    if os.geteuid() == 0:
        assert folders == []
    assert folders or "cgroup" in why


# --- v2 ---------------------------------------------------------------------------------------


def _fake_v2(folder: Path, enabled: str) -> Path:
    folder.mkdir()
    (folder / "cgroup.controllers").write_text("cpu memory pids\n")
    (folder / "cgroup.subtree_control").write_text(enabled)
    return folder


def test_a_v2_cgroup_without_its_controllers_is_refused_with_what_is_missing(
    tmp_path: Path,
) -> None:
    root = _fake_v2(tmp_path / "group", "memory\n")
    with pytest.raises(Rejected, match=r"cpu, pids not enabled .*'\+cpu \+pids'") as caught:
        Cgroups.open([root])
    assert caught.value.code == "sandbox-cgroup"


@root_only
def test_this_machines_own_v2_is_taken_or_refused_with_its_reason() -> None:
    """A hybrid machine has a v2 hierarchy whose controllers v1 has."""
    own = [h.own for h in delegation.hierarchies(Path("/proc/self")) if h.v2]
    if not own:
        pytest.skip("no cgroup2 file system is mounted where this process is")
    there = (own[0] / "cgroup.controllers").read_text().split()
    with delegated() as made:
        kinds = {Cgroups.open([folder]).kind for folder in made.folders}
        if set(CONTROLLERS) <= set(there):
            assert kinds == {V2} or "cgroup v2" in made.why
        else:
            assert "cgroup v2" in made.why
            assert "controller" in made.why
            assert V2 not in kinds


TAKE_V2 = """
import os, subprocess, sys
from pathlib import Path
from wfhub_agent_runner.sandbox import cgroup, delegation
from wfhub_common import privileges

delegation.CONTROLLERS = ()  # this machine's v2 has none; all the rest is the kernel's own
uid = int(sys.argv[2])
(folder,) = delegation.delegate(sys.argv[1], uid).folders
privileges.drop(uid, keep_visible=privileges.code_paths())
leaf = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition("/")[2]
run = folder / "run-1"
run.mkdir()
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
group = cgroup.Group(cgroup.V2, {"memory": run})
group.add(child.pid)
inside = (run / "cgroup.procs").read_text().split() == [str(child.pid)]
try:
    (folder.parent / "cgroup.procs").write_text(str(child.pid))
    out = True
except PermissionError:
    out = False
print(folder, leaf, inside, out, group.exceeded(), flush=True)
os.kill(os.getpid(), 9)
"""


@root_only
def test_on_v2_a_uid_moves_processes_within_what_it_was_given_and_no_further() -> None:
    if not any(h.v2 for h in delegation.hierarchies(Path("/proc/self"))):
        pytest.skip("no cgroup2 file system is mounted where this process is")
    name = f"test-{secrets.token_hex(4)}"
    argv = [sys.executable, "-c", TAKE_V2, name, str(unprivileged.RUNNER_UID)]
    ran = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=30)
    folder, *said = ran.stdout.split()
    assert said == ["runner", "True", "False", "None"]
    for pid in (Path(folder) / "run-1" / "cgroup.procs").read_text().split():
        os.kill(int(pid), 9)  # a sandbox's processes die with the runner
    deadline = time.monotonic() + 10
    while Path(folder).exists():
        assert time.monotonic() < deadline, "left behind"


def test_a_folder_that_is_no_cgroup_is_refused(tmp_path: Path) -> None:
    async def work() -> str:
        try:
            sandbox_lab.sandbox(tmp_path / "scratch", cgroups=(tmp_path,))
        except Rejected as e:
            return e.code
        return ""

    assert unprivileged.run(tmp_path, work) == "sandbox-cgroup"
