"""The seccomp program, run by a small BPF interpreter for both architectures."""

import errno
import struct

import pytest
from wfhub_agent_runner.sandbox import seccomp
from wfhub_common.errors import Rejected

ALLOW, KILL = 0x7FFF0000, 0x80000000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CALLS = {
    "x86_64": {"read": 0, "clone": 56, "socket": 41, "socketpair": 53, "ioctl": 16, "mount": 165}
    | {"unshare": 272, "setns": 308, "ptrace": 101, "bpf": 321, "chroot": 161, "keyctl": 250},
    "aarch64": {"read": 63, "clone": 220, "socket": 198, "socketpair": 199, "ioctl": 29}
    | {"mount": 40, "unshare": 97, "setns": 268, "ptrace": 117, "bpf": 280, "chroot": 51}
    | {"keyctl": 219},
}
CLOSE_RANGE = 436
machines = pytest.mark.parametrize("machine", sorted(CALLS))


def decision(
    machine: str,
    number: int,
    *arguments: int,
    arch: int | None = None,
    debuggers: bool = False,
) -> int:
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch or ARCH[machine], 0, *padded)
    program = seccomp.program(machine, debuggers=debuggers)
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, value)[0]
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x45:
                at += if_true if accumulator & value else if_false
            case 0x06:
                return value
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def refused_with(error: int) -> int:
    return 0x00050000 | error


@machines
def test_a_thread_has_the_descriptors_of_its_process(machine: str) -> None:
    threads, files, vm = 0x10000, 0x400, 0x100
    clone, eperm = CALLS[machine]["clone"], refused_with(errno.EPERM)
    assert decision(machine, clone, threads | files | vm) == ALLOW
    assert decision(machine, clone, threads | vm) == eperm
    assert decision(machine, clone, vm) == ALLOW
    assert decision(machine, CLOSE_RANGE, 3, 9, 4) == ALLOW
    assert decision(machine, CLOSE_RANGE, 3, 9, 2) == refused_with(errno.EINVAL)


@machines
def test_an_ordinary_call_is_allowed(machine: str) -> None:
    assert decision(machine, CALLS[machine]["read"]) == ALLOW


@machines
@pytest.mark.parametrize("name", ["mount", "unshare", "setns", "ptrace", "bpf", "chroot", "keyctl"])
def test_a_privileged_call_is_refused(machine: str, name: str) -> None:
    assert decision(machine, CALLS[machine][name]) == refused_with(errno.EPERM)


@machines
@pytest.mark.parametrize("number", [425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442, 467])
def test_a_new_mount_or_ring_call_is_refused(machine: str, number: int) -> None:
    assert decision(machine, number) == refused_with(errno.EPERM)


DEBUGGERS = {
    "x86_64": {"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311},
    "aarch64": {"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271},
}


@machines
def test_debuggers_are_refused_unless_asked_for_and_nothing_else_is_different(machine: str) -> None:
    """Of every call by its number: kcmp, pidfd_getfd, perf_event_open stay refused."""
    numbers = range(500)
    usual = {n: decision(machine, n) for n in numbers}
    traced = {n: decision(machine, n, debuggers=True) for n in numbers}
    differ = {n for n in numbers if usual[n] != traced[n]}
    assert differ == set(DEBUGGERS[machine].values())
    assert {usual[n] for n in differ} == {refused_with(errno.EPERM)}
    assert {traced[n] for n in differ} == {ALLOW}


def test_both_programs_have_digests_of_their_own() -> None:
    filters = seccomp.Filters.of("x86_64")
    assert filters.chosen(debuggers=True) != filters.chosen(debuggers=False)
    assert len(set(filters.described().values())) == 2


@machines
def test_another_architecture_is_killed(machine: str) -> None:
    assert decision(machine, CALLS[machine]["read"], arch=0x40000003) == KILL


@machines
def test_clone3_is_not_implemented_so_that_libc_falls_back(machine: str) -> None:
    assert decision(machine, 435) == refused_with(errno.ENOSYS)


def test_x32_calls_are_not_implemented() -> None:
    assert decision("x86_64", 0x40000000 | 39) == refused_with(errno.ENOSYS)


@machines
@pytest.mark.parametrize(
    "flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
)
def test_clone_into_a_namespace_is_refused(machine: str, flag: int) -> None:
    assert decision(machine, CALLS[machine]["clone"], flag | 17) == refused_with(errno.EPERM)


@machines
def test_clone_of_a_process_or_thread_is_allowed(machine: str) -> None:
    for flags in (17, 0x3D0F00):
        assert decision(machine, CALLS[machine]["clone"], flags) == ALLOW


@machines
@pytest.mark.parametrize("call", ["socket", "socketpair"])
def test_only_four_socket_families_are_allowed(machine: str, call: str) -> None:
    number = CALLS[machine][call]
    allowed = {family for family in range(64) if decision(machine, number, family) == ALLOW}
    assert allowed == {1, 2, 10, 16}
    assert decision(machine, number, 40) == refused_with(errno.EPERM)


@machines
def test_a_family_with_high_bits_set_is_judged_as_the_kernel_reads_it(machine: str) -> None:
    number = CALLS[machine]["socket"]
    assert decision(machine, number, (1 << 32) | 40) == refused_with(errno.EPERM)


@machines
@pytest.mark.parametrize("request_", [0x5412, 0x541C, (1 << 32) | 0x5412])
def test_typing_into_a_terminal_is_refused(machine: str, request_: int) -> None:
    number = CALLS[machine]["ioctl"]
    assert decision(machine, number, 0, request_) == refused_with(errno.EPERM)
    assert decision(machine, number, 0, 0x5401) == ALLOW


def test_a_machine_without_a_table_is_refused_by_name() -> None:
    with pytest.raises(Rejected, match="riscv64"):
        seccomp.program("riscv64")
