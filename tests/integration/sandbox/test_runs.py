"""Real runs through bwrap: outcomes, output, files, the layer, cancel and time-out."""

import asyncio
import os
import stat
import time
from pathlib import Path

import pytest
import sandbox_lab
import unprivileged
from sandbox_lab import MIB, Lab, Ran, processes_with
from wfhub_agent_runner.sandbox import layers, seccomp
from wfhub_agent_runner.sandbox.bwrap import BwrapSandbox
from wfhub_agent_runner.sandbox.layers import LayerKind
from wfhub_agent_runner.sandbox.pods.sandbox import KubernetesSandbox
from wfhub_agent_runner.sandbox.port import (
    Cancelled,
    CannotStart,
    Exited,
    LimitExceeded,
    SandboxSpec,
    Signalled,
    TimedOut,
    described,
)
from wfhub_agent_runner.sandbox.probes import probe
from wfhub_agent_runner.sandbox.seccomp import Filters
from wfhub_common.errors import Rejected
from wfhub_common.messages import Limits

# Programs of one instruction.
ALLOW_ALL, KILL_ALL = b"\x06\0\0\0\0\0\xff\x7f", b"\x06\0\0\0\0\0\0\x80"

SETTLED_S = 0.2  # after one run, for what its threads still close
CLOSED_S = 60.0  # an overlay ends when the disk has written all that is dirty


def shell(home: Path, script: str, **fields: object) -> Ran:
    async def work() -> Ran:
        return await Lab(home).shell(script, **fields)

    return unprivileged.run(home, work)


@pytest.mark.parametrize("code", [0, 1, 42, 126, 127, 255])
def test_an_exit_code_is_the_commands_own(tmp_path: Path, code: int) -> None:
    assert shell(tmp_path, f"exit {code}").outcome == Exited(code)


def test_a_signal_that_the_command_dies_of_is_reported(tmp_path: Path) -> None:
    assert shell(tmp_path, "kill -SEGV $$").outcome == Signalled(11)


def test_no_signal_is_ignored_for_the_agent(tmp_path: Path) -> None:
    """Python ignores these two, and so would what it starts: `yes | head` would not end quietly."""
    script = "for name in PIPE XFSZ; do sh -c 'kill -s '$name' $$; echo ignored'; done 2>/dev/null"
    ran = shell(tmp_path, script + "; sh -c 'kill -s PIPE $$'; exit $?")
    assert (ran.outcome, ran.output) == (Exited(128 + 13), "")


def test_a_command_that_kills_its_own_starter_is_signalled(tmp_path: Path, backend: str) -> None:
    """With bwrap and in a pod it cannot, since there the starter is the first process."""
    expected = Exited(3) if backend in {"bwrap", "kubernetes"} else Signalled(9)
    ran = shell(tmp_path, "kill -9 $PPID; [ $PPID = 1 ] || sleep 60; exit 3")
    assert ran.outcome == expected


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("no-such-agent",), "No such file"),
        (("/etc/ssl",), "denied"),
        (("/workspace/old.txt",), "denied"),
        (("/bin/true", "x" * 200_000), "too long"),
    ],
)
def test_what_cannot_start_is_told_from_what_failed(
    tmp_path: Path, argv: tuple[str, ...], reason: str
) -> None:
    async def work() -> Ran:
        return await Lab(tmp_path).run(*argv)

    outcome = unprivileged.run(tmp_path, work).outcome
    assert isinstance(outcome, CannotStart)
    assert reason in outcome.message


def test_a_missing_working_directory_is_a_sandbox_that_cannot_start(tmp_path: Path) -> None:
    outcome = shell(tmp_path, "true", cwd="/workspace/nowhere").outcome
    assert isinstance(outcome, CannotStart)
    assert "nowhere" in outcome.message


def test_stdout_and_stderr_arrive_merged_and_in_order(tmp_path: Path) -> None:
    ran = shell(tmp_path, "for i in 1 2 3; do echo out$i; echo err$i >&2; done")
    assert ran.output.split() == ["out1", "err1", "out2", "err2", "out3", "err3"]
    assert ran.result.output_bytes == len(ran.output)
    assert not ran.result.truncated


def test_stdin_is_empty_and_no_descriptor_is_inherited(tmp_path: Path) -> None:
    code = """
import fcntl, sys
print(len(sys.stdin.buffer.read()), end="")
for number in range(4096):
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
        print("", number, end="")
    except OSError:
        pass
"""

    async def work() -> Ran:
        return await Lab(tmp_path).inside(code)

    assert unprivileged.run(tmp_path, work).output == "0 0 1 2"


def test_environment_files_and_identity_are_the_specs(tmp_path: Path, backend: str) -> None:
    ran = shell(
        tmp_path,
        'echo "$HOME $EXTRA $(id -u) $(hostname)"; cat /run/wfhub/prompt.txt ~/.agent/set.json;'
        " echo x > /run/wfhub/prompt.txt || echo refused; echo y > ~/.agent/set.json; umask",
        env={"EXTRA": "given"},
        files={"/run/wfhub/prompt.txt": b"do it\n", "/home/agent/.agent/set.json": b"{}\n"},
    )
    lines = ran.output.splitlines()
    # gVisor: of its own kernel, without capabilities. In a pod it is the runner's number.
    uid = {"runsc": 0, "kubernetes": unprivileged.uid()}.get(backend, 1000)
    assert lines[:3] == [f"/home/agent given {uid} sandbox", "do it", "{}"]
    assert lines[-2:] == ["refused", "0022"]


def test_nothing_of_the_runners_environment_gets_in(tmp_path: Path) -> None:
    ran = shell(tmp_path, "env | cut -d= -f1 | sort | tr '\\n' ' '")
    images = sandbox_lab.image_in_use.env if sandbox_lab.image_in_use else ()
    ours = {"HOME", "LANG", "LOGNAME", "PATH", "PWD", "TMPDIR", "USER"}
    assert ran.output.split() == sorted({*ours, *images})


def test_orphans_that_have_ended_take_no_room(tmp_path: Path) -> None:
    code = """
import os, time
until = time.monotonic() + 30
for _ in range(150):
    reads, writes = os.pipe()
    while True:
        try:
            child = os.fork()
            break
        except BlockingIOError:  # those before are not taken leave of yet
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
    if child == 0:
        try:
            if os.fork() == 0:
                os._exit(0)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writes)
    os.read(reads, 1)  # until the orphan has ended
    os.close(reads)
print("all of them")
"""

    async def work() -> Ran:
        return await Lab(tmp_path).inside(code, limits=Limits(processes=40), wall_s=90)

    ran = unprivileged.run(tmp_path, work)
    assert (ran.outcome, ran.output) == (Exited(0), "all of them\n")


def test_the_upper_layer_holds_exactly_the_changes(tmp_path: Path) -> None:
    async def work() -> str:
        lab = Lab(tmp_path)
        for name in ("gone.txt", "kept.txt", "dir/a", "dir/b"):
            (lab.lower / name).parent.mkdir(exist_ok=True)
            (lab.lower / name).write_text(name)
        ran = await lab.shell(
            "echo new > added; rm gone.txt; echo more >> dir/a; ln -s /etc/passwd link",
            **lab.layers(),
        )
        assert ran.outcome == Exited(0)
        return (lab.lower / "gone.txt").read_text()

    assert unprivileged.run(tmp_path, work) == "gone.txt"
    upper = tmp_path / "layer" / "upper"
    found = sorted(str(p.relative_to(upper)) for p in upper.rglob("*"))
    assert found == ["added", "dir", "dir/a", "gone.txt", "link"]
    assert layers.is_whiteout(upper / "gone.txt")
    assert os.readlink(upper / "link") == "/etc/passwd"
    assert (upper / "dir" / "a").read_text() == "dir/amore\n"


def test_without_an_upper_layer_what_is_written_is_thrown_away(tmp_path: Path) -> None:
    ran = shell(tmp_path, "mkdir -p deep/er; echo x > deep/er/f; chmod 000 deep; cat old.txt")
    assert (ran.outcome, ran.output) == (Exited(0), "old\n")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert [p.name for p in (tmp_path / "lower").iterdir()] == ["old.txt"]


@pytest.mark.hostile(8)
def test_folders_as_deep_as_they_get_are_thrown_away_too(tmp_path: Path) -> None:
    """Deeper than any path can name, or a recursion follow."""
    code = """
import os
for _ in range(3000):
    os.mkdir("d")
    os.chdir("d")
open("f", "w").close()
print("made")
"""

    async def work() -> Ran:
        return await Lab(tmp_path).inside(code)

    ran = unprivileged.run(tmp_path, work)
    assert (ran.outcome, ran.output) == (Exited(0), "made\n")
    assert list((tmp_path / "scratch").iterdir()) == []


def is_open(descriptor: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{descriptor}")


@pytest.mark.not_in_backend("kubernetes", "there a layer is a copy")
def test_the_end_of_an_overlay_is_waited_for_by_the_next_run_on_its_layer_alone(
    tmp_path: Path,
) -> None:
    """Whoever waits for it waits for the whole disk. Meanwhile the runner holds it."""

    async def work() -> tuple[str, int]:
        lab = Lab(tmp_path)
        held: list[int] = []
        end = lab.sandbox.overlays.end

        def noted(upper: Path, descriptor: int) -> None:
            held.append(descriptor)
            end(upper, descriptor)

        lab.sandbox.overlays.end = noted  # type: ignore[method-assign]
        given = lab.layers()
        await lab.shell("echo one > said; sleep 0.2", **given)
        ran = await lab.shell("cat said; echo two > said; sleep 0.2", **given)
        spec = SandboxSpec(("true",), lab.lower, limits=Limits(), wall_s=1, **given)
        await lab.sandbox.overlays.ended(spec)
        return ran.output, len(held), any(is_open(fd) for fd in held)

    output, held, left = unprivileged.run(tmp_path, work)
    assert output == "one\n"
    assert held >= 2, "each run's, at least that of the workspace"
    assert not left
    assert (tmp_path / "layer" / "upper" / "said").read_text() == "two\n"


def test_extra_layers_add_to_and_take_from_the_tree(tmp_path: Path) -> None:
    async def work() -> str:
        lab = Lab(tmp_path)
        delta = tmp_path / "delta"
        delta.mkdir()
        (delta / "new.txt").write_text("new")
        os.mknod(delta / "old.txt", stat.S_IFCHR, 0)
        return (await lab.shell("ls", extra_lowers=(delta,))).output

    assert unprivileged.run(tmp_path, work).split() == ["new.txt"]


@pytest.mark.only_backend("bwrap")
def test_a_copy_leaves_the_same_upper_layer_as_an_overlay(tmp_path: Path) -> None:
    script = (
        "echo new > added; rm -r gone; echo more >> dir/a; rm dir/b; rm -r was_dir"
        "; echo f > was_dir; rm was_file; mkdir was_file; echo x > was_file/y"
        "; touch -d 2001-01-01 kept; mv m1 m2"
        "; mkdir -p shut/in; echo z > shut/in/z; echo changed > pre; rm git/HEAD"
    )

    async def work() -> dict[str, list[str]]:
        lab = Lab(tmp_path)
        for name in ("gone/x", "dir/a", "dir/b", "was_dir/x", "was_file", "kept", "m1", "same/s"):
            (lab.lower / name).parent.mkdir(exist_ok=True)
            (lab.lower / name).write_text(name)
        git = tmp_path / "git_layer"
        (git / "git").mkdir(parents=True)
        (git / "git" / "HEAD").write_text("ref")
        found = {}
        for kind in LayerKind:
            lab.sandbox._layer_kind = kind
            folders = lab.layers(kind.value)
            (folders["upper"] / "pre").write_text("before")
            (folders["upper"] / "untouched").write_text("before")
            ran = await lab.shell(script, extra_lowers=(git,), **folders)
            assert ran.outcome == Exited(0), ran.output
            found[kind.value] = _listing(folders["upper"])
        return found

    found = unprivileged.run(tmp_path, work)
    # Touching a file without changing it is a copy-up in both.
    assert found["copy"] == found["overlay"]


def _listing(upper: Path) -> list[str]:
    lines = []
    for path in sorted(upper.rglob("*")):
        kind = "gone" if layers.is_whiteout(path) else "dir" if path.is_dir() else path.read_text()
        lines.append(f"{path.relative_to(upper)}: {kind}")
    return lines


def test_a_cancel_ends_every_process_before_run_returns(tmp_path: Path, backend: str) -> None:
    token = f"wfhub-cancel-{os.getpid()}"

    async def work() -> tuple[Ran, int, int]:
        cancel, started = asyncio.Event(), asyncio.Event()
        script = f"trap '' TERM; (setsid sh -c 'sleep 600 #{token}' &) ; echo up; sleep 600"
        run = asyncio.create_task(
            Lab(tmp_path).shell(script, cancel=cancel, started=started, wall_s=60)
        )
        await started.wait()
        # The host sees gVisor's processes, not those that its kernel has.
        seen = str(tmp_path) if backend == "runsc" else token
        before = len(processes_with(seen))
        cancel.set()
        return await run, before, len(processes_with(seen))

    ran, before, after = unprivileged.run(tmp_path, work)
    assert ran.outcome == Cancelled()
    assert before > 0
    assert after == 0


def test_a_cancel_that_came_first_starts_nothing_that_stays(tmp_path: Path) -> None:
    token = f"wfhub-early-{os.getpid()}"

    async def work() -> tuple[set[str], int]:
        lab, cancel = Lab(tmp_path), asyncio.Event()
        cancel.set()
        runs = [lab.shell(f"sleep 600 #{token}", cancel=cancel) for _ in range(10)]
        outcomes = {described(ran.outcome) for ran in await asyncio.gather(*runs)}
        return outcomes, len(processes_with(token))

    assert unprivileged.run(tmp_path, work) == ({"cancelled"}, 0)


def test_a_command_that_closed_its_output_goes_on(tmp_path: Path) -> None:
    ran = shell(tmp_path, "exec >&- 2>&-; sleep 0.3; exit 5")
    assert ran.outcome == Exited(5)


def test_a_time_out_ends_a_command_that_ignores_sigterm(tmp_path: Path, backend: str) -> None:
    ran = shell(tmp_path, "trap '' TERM INT HUP; while :; do sleep 1; done", wall_s=0.5)
    assert ran.outcome == TimedOut(0.5)
    # A pod is made, and told, before.
    assert ran.result.duration_ms < (60_000 if backend == "kubernetes" else 5000)


def test_a_cancelled_task_leaves_nothing_running(tmp_path: Path) -> None:
    token = f"wfhub-dropped-{os.getpid()}"

    async def work() -> int:
        started = asyncio.Event()
        run = asyncio.create_task(
            Lab(tmp_path).shell(f"echo up; sleep 600 #{token}", started=started)
        )
        await started.wait()
        run.cancel()
        await asyncio.wait({run})
        return len(processes_with(token))

    assert unprivileged.run(tmp_path, work) == 0


def test_an_error_of_the_output_handler_kills_and_rises(tmp_path: Path) -> None:
    token = f"wfhub-handler-{os.getpid()}"

    async def work() -> int:
        lab = Lab(tmp_path)

        async def fails(_: bytes) -> None:
            raise ConnectionError("the log is gone")

        spec = SandboxSpec(
            argv=("/bin/sh", "-c", f"echo up; sleep 600 #{token}"),
            lower=lab.lower,
            limits=Limits(),
            wall_s=60,
        )
        with pytest.raises(ConnectionError):
            await lab.sandbox.run(spec, on_output=fails, cancel=asyncio.Event())
        return len(processes_with(token))

    assert unprivileged.run(tmp_path, work) == 0


def test_a_handler_that_never_returns_does_not_hold_up_the_time_out(tmp_path: Path) -> None:
    async def work() -> object:
        lab = Lab(tmp_path)

        async def hangs(_: bytes) -> None:
            await asyncio.Event().wait()

        spec = SandboxSpec(argv=("yes",), lower=lab.lower, limits=Limits(), wall_s=0.5)
        return (await lab.sandbox.run(spec, on_output=hangs, cancel=asyncio.Event())).outcome

    assert unprivileged.run(tmp_path, work) == TimedOut(0.5)


def test_output_beyond_the_limit_is_cut_and_ends_the_run(tmp_path: Path) -> None:
    ran = shell(tmp_path, "yes", limits=Limits(output_bytes=100_000))
    assert ran.outcome == LimitExceeded("output", 100_000)
    assert (ran.result.output_bytes, ran.result.truncated) == (100_000, True)
    assert described(ran.outcome) == "limit:output"


def test_output_of_exactly_the_limit_is_no_offence(tmp_path: Path) -> None:
    ran = shell(tmp_path, "head -c 5000 /dev/zero", limits=Limits(output_bytes=5000))
    assert ran.outcome == Exited(0)
    assert not ran.result.truncated


def test_twenty_runs_leak_no_descriptor_and_no_process(tmp_path: Path, backend: str) -> None:
    async def work() -> tuple[int, int]:
        lab = Lab(tmp_path)
        await lab.shell("true")
        before = await least_open()
        runs = [lab.shell("echo hello", limits=Limits(memory_bytes=256 * MIB)) for _ in range(20)]
        for ran in await asyncio.gather(*runs):
            assert (ran.outcome, ran.output) == (Exited(0), "hello\n")
        return before, await least_open(before)

    before, after = unprivileged.run(tmp_path, work)
    kept = 20 if backend == "kubernetes" else 0  # httpx keeps so many connections, at most
    assert after <= before + kept


async def least_open(enough: int = 0) -> int:
    """The fewest descriptors that were open at once within a time: threads close some of a run's
    after its result, and open folders to remove them. A leak stays."""
    least = open_descriptors()
    deadline = time.monotonic() + (CLOSED_S if enough else SETTLED_S)
    while least > enough and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
        least = min(least, open_descriptors())
    return least


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_every_escape_probe_is_held(tmp_path: Path) -> None:
    async def work() -> list[str]:
        results = await probe(Lab(tmp_path).sandbox)
        assert len(results) >= 12
        return [f"{r.name}: {r.detail}" for r in results if not r.held]

    assert unprivileged.run(tmp_path, work) == []


def test_a_probe_that_gets_through_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its seccomp filter the probes notice."""
    monkeypatch.setattr(seccomp, "program", lambda *_, **__: ALLOW_ALL)  # a pod's

    async def work() -> set[str]:
        sandbox = Lab(tmp_path).sandbox
        if not isinstance(sandbox, KubernetesSandbox):
            sandbox._filters = Filters(ALLOW_ALL, ALLOW_ALL)
        return {r.name for r in await probe(sandbox) if not r.held}

    assert {"trace-a-process"} <= unprivileged.run(tmp_path, work)


def test_probes_that_cannot_run_hold_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "program", lambda *_, **__: KILL_ALL)  # a pod's

    async def work() -> list[tuple[str, bool]]:
        sandbox = Lab(tmp_path).sandbox
        if not isinstance(sandbox, KubernetesSandbox):
            sandbox._filters = Filters(KILL_ALL, KILL_ALL)
        return [(r.name, r.held) for r in await probe(sandbox)]

    assert unprivileged.run(tmp_path, work) == [("probes-ran", False)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try to run as root")
def test_real_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="real uid or gid 0"):
        BwrapSandbox(scratch=tmp_path)
