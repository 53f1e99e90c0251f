"""The starter: run here as it runs inside, on this machine; and what it is on the other."""

import fcntl
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import own_ports
import pytest
from wfhub_agent_runner.sandbox import forwarder, starter
from wfhub_agent_runner.sandbox.machine_code import MACHINES, Code, Data, Slot, program
from wfhub_agent_runner.sandbox.port import CannotStart, Exited, Outcome, Signalled
from wfhub_agent_runner.sandbox.starter import (
    IPC_COUNTERS,
    LISTENERS,
    REPORT,
    SOCKETS_COUNTER,
    Start,
)
from wfhub_common.errors import Rejected

HERE = platform.machine()
READ_WRITE, READ_RUN = 6, 5


def ran(
    folder: Path,
    *argv: str,
    paths: tuple[str, ...] = (),
    limits: dict[str, int] | None = None,
    report_at: int | None = None,
    ports: tuple[int, ...] = (),
) -> tuple[Outcome | None, str]:
    report, writes = os.pipe()
    if report_at is not None:
        writes = moved(writes, report_at)
    start = Start(argv, paths or (argv[0],), limits or {}, writes, (), ports, ("/bin/true",))
    path = folder / "start"
    path.write_bytes(starter.made(start, HERE))
    path.chmod(0o755)
    environment = {"GIVEN": "yes", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([path], pass_fds=[writes], env=environment, capture_output=True)
    os.close(writes)
    with open(report, "rb") as pipe:
        return starter.outcome(pipe.read(), argv[0]), done.stdout.decode()


def moved(descriptor: int, number: int) -> int:
    """To that number, or to the next that is free for so long."""
    if descriptor == number:
        return descriptor
    at = fcntl.fcntl(descriptor, fcntl.F_DUPFD, number)
    os.close(descriptor)
    return at


@pytest.mark.parametrize("code", [0, 1, 127, 137, 255])
def test_an_exit_code_is_told_even_where_a_shell_would_mean_a_signal(
    tmp_path: Path, code: int
) -> None:
    assert ran(tmp_path, "/bin/sh", "-c", f"exit {code}") == (Exited(code), "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_is_told(tmp_path: Path, number: int) -> None:
    assert ran(tmp_path, "/bin/sh", "-c", f"kill -{number} $$") == (Signalled(number), "")


def test_arguments_and_environment_are_the_agents(tmp_path: Path) -> None:
    words = ("a b", "", "ü", "$HOME")
    outcome, output = ran(tmp_path, "/bin/sh", "-c", 'printf "%s|" "$@" $GIVEN', "sh", *words)
    assert (outcome, output) == (Exited(0), "a b||ü|$HOME|yes|")


def test_the_first_program_of_that_name_in_the_path_is_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "shut").write_text("not to be run")
    paths = [tmp_path / "none/x", tmp_path / "one/x", tmp_path / "shut", tmp_path / "two"]
    assert ran(tmp_path, "x", paths=tuple(map(str, paths))) == (Exited(0), "two\n")


def test_a_path_as_long_as_they_get_is_gone_through(tmp_path: Path) -> None:
    paths = (*(f"/nowhere/{'x' * 50}/{n}" for n in range(2000)), "/bin/true")
    assert ran(tmp_path, "true", paths=paths) == (Exited(0), "")


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (("/nowhere/x", "/etc/passwd/x"), "x: No such file or directory"),
        (("/nowhere/x", "/etc", "/nowhere/y"), "x: Permission denied"),
    ],
)
def test_what_cannot_be_started_is_told_with_its_reason(
    tmp_path: Path, paths: tuple[str, ...], why: str
) -> None:
    assert ran(tmp_path, "x", paths=paths) == (CannotStart(why), "")


def test_too_many_words_cannot_be_started(tmp_path: Path) -> None:
    outcome, _ = ran(tmp_path, "/bin/true", "x" * 200_000)
    assert outcome == CannotStart("/bin/true: Argument list too long")


def test_limits_hold_for_what_it_starts_and_cannot_be_raised(tmp_path: Path) -> None:
    script = "ulimit -n; ulimit -Hn; ulimit -c; umask; ulimit -n 1024 2>&1 || echo refused"
    outcome, output = ran(
        tmp_path, "/bin/sh", "-c", script, limits={"NOFILE": 123, "CORE": 0, "FSIZE": 1 << 40}
    )
    assert output.splitlines()[:4] == ["123", "123", "0", "0022"]
    assert outcome != Exited(0) or "refused" in output


def test_a_limit_that_cannot_be_set_starts_nothing(tmp_path: Path) -> None:
    beyond = 1 << 62  # more than any system lets a process open
    outcome, output = ran(tmp_path, "/bin/echo", "ran", limits={"NOFILE": beyond})
    assert (outcome, output) == (CannotStart("/bin/echo: Operation not permitted"), "")


def test_nothing_that_was_left_open_reaches_the_agent(tmp_path: Path) -> None:
    report, writes = os.pipe()
    leaked = os.open("/dev/null", os.O_RDONLY)
    path = tmp_path / "start"
    code = "import os; print([n for n in range(256) if os.path.exists(f'/dev/fd/{n}')])"
    words = (sys.executable, "-I", "-S", "-c", code)
    path.write_bytes(starter.made(Start(words, words[:1], {}, writes, passed=(leaked,)), HERE))
    path.chmod(0o755)
    done = subprocess.run([path], pass_fds=[writes, leaked], stdout=subprocess.PIPE)
    for descriptor in (report, writes, leaked):
        os.close(descriptor)
    assert done.stdout == b"[0, 1, 2]\n"


def test_a_connection_made_before_the_forwarder_is_there_waits_for_it(tmp_path: Path) -> None:
    port = own_ports.free_port()
    served = tmp_path / "served.sock"
    behind = socket.socket(socket.AF_UNIX)
    behind.bind(str(served))
    behind.listen()

    def answer() -> None:
        connection, _ = behind.accept()
        connection.sendall(connection.recv(100).upper())
        connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    code = (
        "import socket, sys; c = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        "c.sendall(b'hello'); print(c.recv(100).decode())"
    )
    words = (sys.executable, "-c", code, str(port))
    late = f"exec 3>&-; sleep 0.3; exec {sys.executable} -I -S {forwarder.__file__} 60={served}"
    report, writes = os.pipe()
    start = Start(words, words[:1], {}, writes, ports=(port,), forwarder=("/bin/sh", "-c", late))
    path = tmp_path / "start"
    path.write_bytes(starter.made(start, HERE))
    path.chmod(0o755)
    process = subprocess.Popen(
        [path], pass_fds=[writes], stdout=subprocess.PIPE, start_new_session=True
    )
    os.close(writes)
    assert process.stdout is not None
    assert process.stdout.readline() == b"HELLO\n"
    os.killpg(process.pid, signal.SIGKILL)  # as the end of a sandbox does
    process.wait()
    process.stdout.close()
    thread.join()
    behind.close()
    os.close(report)


def test_a_word_with_a_nul_is_refused() -> None:
    with pytest.raises(Rejected, match=r"U\+0000"):
        starter.made(Start(("a\0b",), ("a",), {}, report=3), HERE)


def test_a_machine_without_machine_code_is_refused_by_name() -> None:
    with pytest.raises(Rejected, match=r"riscv64.*x86_64, aarch64"):
        starter.check("riscv64")


def test_a_report_that_ends_early_means_that_the_starter_was_killed() -> None:
    assert starter.outcome(b"", "x") is None
    assert starter.outcome(b"starting\n", "x") == Signalled(9)
    assert starter.outcome(b"starting\n\0\0\0\0", "x") == Signalled(9)
    for error in (1, 2**31 - 1, -(2**31)):  # nonsense is no error of ours
        assert isinstance(starter.outcome(struct.pack("<ii", error, -1), "x"), CannotStart)
    assert starter.outcome(struct.pack("<ii", -1, 0), "x") == CannotStart(
        "x: Operation not permitted"
    )


@pytest.mark.parametrize("machine", MACHINES)
def test_no_part_of_it_can_be_both_written_and_run(machine: str) -> None:
    made = starter.made(Start(("x",), ("x",), {}, 3, ports=(1, 2), forwarder=("p",)), machine)
    assert made[:4] == b"\x7fELF"
    flags = [struct.unpack_from("<II", made, 64 + 56 * n) for n in range(3)]
    assert [flag for _, flag in flags] == [READ_WRITE, READ_RUN, READ_WRITE]
    (entry,) = struct.unpack_from("<Q", made, 24)
    _, _, offset, address, _, size, _, align = struct.unpack_from("<IIQQQQQQ", made, 64 + 56)
    assert (entry, offset % align, offset + size) == (address, address % align, len(made))


def test_its_own_descriptors_lie_below_the_least_limit_of_open_files_and_not_on_each_other() -> (
    None
):
    own = [SOCKETS_COUNTER, *IPC_COUNTERS, *LISTENERS, REPORT]
    assert len(LISTENERS) == 2
    assert len(set(own)) == len(own)
    assert max(own) < 64


@pytest.mark.parametrize("number", [SOCKETS_COUNTER, *IPC_COUNTERS, *LISTENERS, REPORT, REPORT + 1])
def test_it_reports_whatever_number_it_was_given_for_that(tmp_path: Path, number: int) -> None:
    script, ports = "ls /proc/self/fd | wc -l", (own_ports.free_port(), own_ports.free_port())
    outcome, output = ran(tmp_path, "/bin/sh", "-c", script, report_at=number, ports=ports)
    assert (outcome, output) == (Exited(0), "4\n")  # ls opens one


def test_what_counts_for_the_watchdog_is_open_in_the_starter_alone(tmp_path: Path) -> None:
    """Seen from the agent, whom nothing but their numbers is hidden from here."""
    script = "for n in 56 57 58 59; do readlink /proc/$PPID/fd/$n; done; ls /proc/self/fd | wc -l"
    _, output = ran(tmp_path, "/bin/sh", "-c", script)
    netlink, *files, own = output.splitlines()
    assert netlink.startswith("socket:")
    assert files == [f"/proc/sysvipc/{name}" for name in ("shm", "msg", "sem")]
    assert own == "4"


# Read back with GNU objdump 2.40, instruction by instruction.
_SAMPLES = {
    "x86_64": (
        "488b0c24 488d4ccc10 4889cb"  # mov (%rsp),%rcx; lea 0x10(%rsp,%rcx,8),%rcx; mov %rcx,%rbx
        " bf07000000 4889de b803000000 0f05"  # mov $7,%edi; mov %rbx,%rsi; mov $3,%eax; syscall
        " 4885c0 0f8828000000"  # test %rax,%rax; js end
        " 4989c4 b9e8004000 448921"  # mov %rax,%r12; mov $0x4000e8,%ecx; mov %r12d,(%rcx)
        " b9e8004000 486301"  # mov $0x4000e8,%ecx; movslq (%rcx),%rax
        " 483dfcffffff 0f84bdffffff"  # cmp $-4,%rax; je start
        " 4c39e0 0f84b4ffffff"  # cmp %r12,%rax; je start
    ),
    "aarch64": (
        "f30340f9 f36f338b 73420091"  # ldr x19,[sp]; add x19,sp,x19,lsl #3; add x19,x19,#16
        " e00080d2 e10313aa 280780d2 010000d4"  # mov x0,#7; mov x1,x19; mov x8,#57; svc #0
        " 0002f8b7 f40300aa"  # tbnz x0,#63,end; mov x20,x0
        " 091d80d2 0908a0f2 340100b9"  # mov x9,#0xe8; movk x9,#0x40,lsl #16; str w20,[x9]
        " 091d80d2 0908a0f2 200180b9"  # likewise; ldrsw x0,[x9]
        " 89ff9fd2 e9ffbff2 e9ffdff2 e9fffff2"  # mov x9,#-4, in four parts
        " 1f0009eb 80fdff54"  # cmp x0,x9; b.eq start
        " 1f0014eb 40fdff54"  # cmp x0,x20; b.eq start
    ),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_each_form_is_the_machines_own_instruction(machine: str) -> None:
    code = MACHINES[machine]()
    _sample(code)
    assert code.linked() == bytes.fromhex(_SAMPLES[machine])


def _sample(code: Code) -> None:
    data = Data()
    word = data.add(bytes(4))
    code.label("start")
    code.environment(Slot(0))
    code.call("close", 7, Slot(0))
    code.jump_if_error("end")
    code.keep(Slot(1))
    code.store(Slot(1), word)
    code.load(word)
    code.jump_if(-4, "start")
    code.jump_if(Slot(1), "start")
    code.label("end")
    assert program(code, data).endswith(code.linked())
