"""Seccomp: the system calls that an agent is refused, as a BPF program made with `struct`.

A call of another architecture kills the process; x32 calls and clone3 (whose flags a filter cannot
see) are "not implemented", so that libc falls back to clone; the refused ones answer EPERM. No
thread gets descriptors of its own: what they hold is counted by process (see usage).
Debuggers are refused with the others, but where a project's setting allows them: the kernel's code
for tracing is large, and few need it. What is allowed then reaches no further than the sandbox: a
process can only name those of its own pid namespace.
Shape: `program(machine)` is what bwrap reads from --seccomp: struct sock_filter, 8 bytes each.
Raises: Rejected for a machine without a table.
"""

import errno
import hashlib
import struct
from dataclasses import dataclass

from wfhub_common.errors import Rejected

_LD_WORD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_AT_NUMBER, _AT_ARCH, _AT_ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data, little-endian

_X32_BIT = 0x40000000
# NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET (NEWTIME has no bit in clone's flags)
_CLONE_NAMESPACES = 0x7E020000
_CLONE_THREAD, _CLONE_FILES = 0x10000, 0x400
_FAMILIES = (1, 2, 10, 16)  # UNIX, INET, INET6, NETLINK: AF_VSOCK would cross --unshare-net
_TERMINAL_REQUESTS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type into another's terminal

# Numbers that all architectures share.
_NEW_CALLS = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "statmount": 457,
    "listmount": 458,
    "open_tree_attr": 467,
}
_CLONE3 = 435
_CLOSE_RANGE, _CLOSE_RANGE_UNSHARE = 436, 2
# Not kcmp, pidfd_getfd and perf_event_open, which gdb, strace and LeakSanitizer do without.
_DEBUGGERS = frozenset({"ptrace", "process_vm_readv", "process_vm_writev"})


@dataclass(frozen=True)
class _Machine:
    audit_arch: int
    clone: int
    socket: int
    socketpair: int
    ioctl: int
    refused: dict[str, int]


_MACHINES = {
    "x86_64": _Machine(
        audit_arch=0xC000003E,
        clone=56,
        socket=41,
        socketpair=53,
        ioctl=16,
        refused={
            "ptrace": 101,
            "pivot_root": 155,
            "chroot": 161,
            "mount": 165,
            "umount2": 166,
            "reboot": 169,
            "init_module": 175,
            "delete_module": 176,
            "kexec_load": 246,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "unshare": 272,
            "perf_event_open": 298,
            "open_by_handle_at": 304,
            "setns": 308,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "kcmp": 312,
            "finit_module": 313,
            "kexec_file_load": 320,
            "bpf": 321,
            "userfaultfd": 323,
        },
    ),
    "aarch64": _Machine(
        audit_arch=0xC00000B7,
        clone=220,
        socket=198,
        socketpair=199,
        ioctl=29,
        refused={
            "umount2": 39,
            "mount": 40,
            "pivot_root": 41,
            "chroot": 51,
            "unshare": 97,
            "kexec_load": 104,
            "init_module": 105,
            "delete_module": 106,
            "ptrace": 117,
            "reboot": 142,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "perf_event_open": 241,
            "open_by_handle_at": 265,
            "setns": 268,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
            "kcmp": 272,
            "finit_module": 273,
            "bpf": 280,
            "userfaultfd": 282,
            "kexec_file_load": 294,
        },
    ),
}


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _answer(error: int) -> bytes:
    return _op(_RET, _ERRNO | error)


def program(machine: str, *, debuggers: bool = False) -> bytes:
    """The filter for `platform.machine()`. Each test is followed by its verdict, so that no jump
    is longer than the few instructions it guards."""
    table = _MACHINES.get(machine)
    if table is None:
        known = ", ".join(_MACHINES)
        raise Rejected(
            "sandbox-machine", f"no seccomp table for {machine}; there is one for {known}"
        )
    allow, refuse, missing = _op(_RET, _ALLOW), _answer(errno.EPERM), _answer(errno.ENOSYS)
    code = [
        _op(_LD_WORD, _AT_ARCH),
        _op(_JEQ, table.audit_arch, 1, 0),
        _op(_RET, _KILL_PROCESS),
        _op(_LD_WORD, _AT_NUMBER),
        _op(_JGE, _X32_BIT, 0, 1),
        missing,
        _op(_JEQ, _CLONE3, 0, 1),
        missing,
    ]
    allowed = _DEBUGGERS if debuggers else frozenset[str]()
    refused = {name: number for name, number in table.refused.items() if name not in allowed}
    for number in sorted((*refused.values(), *_NEW_CALLS.values())):
        code += [_op(_JEQ, number, 0, 1), refuse]
    in_a_namespace = [_op(_JSET, _CLONE_NAMESPACES, 0, 1), refuse]
    no_thread = [_op(_JSET, _CLONE_THREAD, 1, 0), allow]
    alike = [_op(_JSET, _CLONE_FILES, 0, 1), allow, refuse]
    code += _guard(table.clone, 0, [*in_a_namespace, *no_thread, *alike])
    unshares = [_op(_JSET, _CLOSE_RANGE_UNSHARE, 0, 1), _answer(errno.EINVAL), allow]
    code += _guard(_CLOSE_RANGE, 2, unshares)
    only_these = [op for family in _FAMILIES for op in (_op(_JEQ, family, 0, 1), allow)]
    for number in (table.socket, table.socketpair):
        code += _guard(number, 0, [*only_these, refuse])
    not_these = [op for req in _TERMINAL_REQUESTS for op in (_op(_JEQ, req, 0, 1), refuse)]
    code += _guard(table.ioctl, 1, [*not_these, allow])
    return b"".join([*code, allow])


@dataclass(frozen=True)
class Filters:
    """Both programs for a machine."""

    usual: bytes
    debuggers: bytes

    @classmethod
    def of(cls, machine: str) -> "Filters":
        """Raises: Rejected."""
        return cls(program(machine), program(machine, debuggers=True))

    def chosen(self, *, debuggers: bool) -> bytes:
        return self.debuggers if debuggers else self.usual

    def described(self) -> dict[str, str]:
        """By their digests; a run's own description says which of them it had."""
        return {
            "seccomp_sha256": hashlib.sha256(self.usual).hexdigest(),
            "seccomp_debuggers_sha256": hashlib.sha256(self.debuggers).hexdigest(),
        }


def machines() -> tuple[str, ...]:
    return tuple(_MACHINES)


def _guard(number: int, argument: int, body: list[bytes]) -> list[bytes]:
    """`body` sees the low word of that argument of call `number`, and always returns. The kernel
    reads no more than the low word of clone's flags, a family or an ioctl's request."""
    load = _op(_LD_WORD, _AT_ARGUMENTS + 8 * argument)
    return [_op(_JEQ, number, 0, len(body) + 1), load, *body]
