"""Memory that the kernel holds for a sandbox's processes, where no count of their pages shows it.

The buffers of sockets, and System V's segments, messages and semaphores. Where a memory cgroup
holds the sandbox the kernel counts all of that, and nobody asks here.
The sandbox's network and its System V objects can be asked for only from within; so its starter
opens what tells of them, and `Counters` has copies of those descriptors.
Units: bytes. Each figure is the kernel's own where there is one, else no less than the truth.
Sources: sock_diag(7), sysvipc(7), linux/inet_diag.h, linux/netlink_diag.h.
"""

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from wfhub_common.log import get_logger

from wfhub_agent_runner.sandbox.starter import IPC_COUNTERS, SOCKETS_COUNTER

_PIDFD_GETFD = 438
log = get_logger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)

_ANSWER_BYTES = 64 * 1024
_IPC_BYTES_MAX = 16 * 1024 * 1024  # 32,000 objects, the most of a kind by default, are some 4 MiB
_ANSWERS_MAX = 10_000  # of one question; one answer has some two hundred sockets
_BY_FAMILY, _ERROR, _DONE = 20, 2, 3  # of nlmsg_type
_REQUEST_DUMP = 0x301
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_ALL = 0xFFFFFFFF
_UNIX = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, _ALL, 0, 0x20, 0, 0)
_NETLINK = struct.pack("=BBHIIII", socket.AF_NETLINK, 0xFF, 0, 0, 1, 0, 0)


def _inet(family: int, protocol: int) -> bytes:
    return struct.pack("=BBBBI48x", family, protocol, 1 << 6, 0, _ALL)


# (question, length of what is told before the attributes, the attribute of its memory)
_QUESTIONS = (
    (_UNIX, 16, 5),
    (_NETLINK, 28, 0),
    *(
        (_inet(family, protocol), 72, 7)
        for family in (socket.AF_INET, socket.AF_INET6)
        for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
    ),
)
# Of SK_MEMINFO: what is received, what is sent (as two counts of the same), kept for either, the
# options, and what waits for a lock.
_MEMORY = struct.Struct("=IIIIIIII")

_USUAL_BUFFER_BYTES = 212_992
_MESSAGE_BYTES = 64  # of the kernel's about each
_SEMAPHORE_BYTES = 64


class Counters:
    """Of the sandbox whose starter is process `starter`; without what this kernel does not have.
    None: there is nothing to count."""

    def __init__(self, starter: int | None) -> None:
        self._netlink: socket.socket | None = None
        self._ipc: dict[str, int] = {}
        self._largest = _largest_buffer()
        self._starter = starter
        if starter is not None:
            with contextlib.suppress(OSError):  # it has just ended
                process = os.pidfd_open(starter)
                try:
                    self._copy(process)
                finally:
                    os.close(process)

    def _copy(self, process: int) -> None:
        def copied(number: int) -> int:
            return int(_libc.syscall(_PIDFD_GETFD, process, number, 0))

        if (of_sockets := copied(SOCKETS_COUNTER)) >= 0:
            try:
                self._netlink = socket.socket(fileno=of_sockets)
            except OSError:  # no socket: see _rows
                os.close(of_sockets)
                return
        for number, path in IPC_COUNTERS.items():
            if (copy := copied(number)) >= 0:
                self._ipc[Path(path).name] = copy

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
        for descriptor in self._ipc.values():
            os.close(descriptor)

    def sockets_at_most(self) -> int:
        return self._in_use() * self._largest

    def sockets(self) -> int:
        """A socket that the kernel does not list counts with the largest buffer there is: it was
        closed before what it sent was read."""
        listed, total = 0, 0
        for memory in self._listed():
            listed += 1
            total += memory
        return total + max(0, self._in_use() - listed) * self._largest

    def _in_use(self) -> int:
        if self._starter is None:
            return 0
        try:
            text = Path(f"/proc/{self._starter}/net/sockstat").read_text()
        except OSError:
            return 0
        return int(text.split(maxsplit=3)[2])  # "sockets: used N"

    def _listed(self) -> Iterator[int]:
        if self._netlink is not None:
            for question, told, attribute in _QUESTIONS:
                with contextlib.suppress(OSError, struct.error):
                    yield from _memories(self._netlink, question, told, attribute)

    def system_v(self) -> int:
        """A segment counts in full, whoever has attached it: of the pages that one process filled
        another may have none."""
        segments = sum(size + swapped for size, swapped in self._rows("shm", "rss", "swap"))
        waiting = sum(
            size + number * _MESSAGE_BYTES for size, number in self._rows("msg", "cbytes", "qnum")
        )
        semaphores = sum(number for (number,) in self._rows("sem", "nsems"))
        return segments + waiting + semaphores * _SEMAPHORE_BYTES

    def _rows(self, name: str, *columns: str) -> list[list[int]]:
        if name not in self._ipc:
            return []
        try:
            header, *rows = map(str.split, _text(self._ipc[name]).splitlines())
            places = [header.index(column) for column in columns]
            return [[int(row[place]) for place in places] for row in rows]
        except (OSError, ValueError, IndexError) as e:
            # The starter ended while it was looked for, and its number was another's by then: the
            # run is ending too, and has nothing there any more.
            log.warning("System V objects are not counted: the run has ended", why=repr(e))
            os.close(self._ipc.pop(name))
            return []


def _text(descriptor: int) -> str:
    """Raises: OSError, ValueError."""
    text = b""
    while chunk := os.pread(descriptor, _ANSWER_BYTES, len(text)):
        text += chunk
        if len(text) > _IPC_BYTES_MAX:
            raise ValueError("more than the kernel lists")
    return text.decode("ascii")


def _memories(netlink: socket.socket, question: bytes, told: int, attribute: int) -> Iterator[int]:
    """Of each socket that is listed. The kernel answers at once, or not at all."""
    header = _HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _REQUEST_DUMP, 0, 0)
    netlink.send(header + question, socket.MSG_DONTWAIT)
    for _ in range(_ANSWERS_MAX):
        answer = netlink.recv(_ANSWER_BYTES, socket.MSG_DONTWAIT)
        at = 0
        while at < len(answer):
            length, kind, *_ = _HEADER.unpack_from(answer, at)
            if kind in (_DONE, _ERROR):
                return
            attributes = answer[at + _HEADER.size + told : at + length]
            if (memory := _memory(attributes, attribute)) is not None:
                yield memory
            at += _aligned(length)


def _memory(attributes: bytes, wanted: int) -> int | None:
    at = 0
    while at < len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if kind == wanted:
            received, _, sent, _, kept, to_be_sent, options, waiting = _MEMORY.unpack_from(
                attributes, at + _ATTRIBUTE.size
            )
            return int(received + max(sent, to_be_sent) + kept + options + waiting)
        at += _aligned(length)
    return None


def _aligned(length: int) -> int:
    return max(4, (length + 3) & ~3)


def _largest_buffer() -> int:
    """What a socket can have waiting that asks for the most: the kernel doubles what it allows."""
    found = [_USUAL_BUFFER_BYTES]
    for name in ("wmem_max", "rmem_max"):
        with contextlib.suppress(OSError):  # a container with a network of its own may not see it
            found.append(int(Path(f"/proc/sys/net/core/{name}").read_text()))
    return 2 * max(found)
