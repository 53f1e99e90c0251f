"""Machine code for a handful of system calls in a row: an assembler of the dozen forms it takes.

For x86_64 and aarch64, the machines that there is a seccomp table for. A `Code` is written top
down; `program` puts it and its data into a static ELF executable: no libc, no linker, no compiler.
Shape: `slot` is one of SLOTS registers that system calls leave alone; "the result" is what the last
call answered: a negative errno, or a number. Data has an address as soon as it is added.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

SLOTS = 4
_DATA_AT, _CODE_AT = 0x400000, 0x40000000  # far apart: data may be long
_HEADER_BYTES = 64 + 3 * 56
_PAGE_BYTES = 0x10000
_LOAD, _STACK = 1, 0x6474E551
_READ, _WRITE, _RUN = 4, 2, 1


@dataclass(frozen=True)
class Slot:
    number: int


Value = int | Slot


class Data:
    """Bytes at known addresses, writable."""

    def __init__(self) -> None:
        self.content = bytearray()

    def add(self, content: bytes) -> int:
        self.content += bytes(-len(self.content) % 8)
        address = _DATA_AT + _HEADER_BYTES + len(self.content)
        self.content += content
        return address

    def text(self, content: bytes) -> int:
        return self.add(content + b"\0")

    def texts(self, contents: Sequence[bytes]) -> int:
        """An array of pointers with a null at the end, as execve takes it."""
        pointers = [self.text(content) for content in contents]
        return self.add(struct.pack(f"<{len(pointers) + 1}Q", *pointers, 0))


def _calls(words: str) -> Mapping[str, int]:
    pairs = (word.split("=") for word in words.split())
    return MappingProxyType({name: int(number) for name, number in pairs})


class Code(ABC):
    """`calls` has the numbers of the machine's system calls; `elf_machine` is its number in ELF."""

    elf_machine: int
    calls: Mapping[str, int]

    def __init__(self) -> None:
        self.content = bytearray()
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []

    def label(self, name: str) -> None:
        self._labels[name] = len(self.content)

    def call(self, name: str, *arguments: Value) -> None:
        for place, value in enumerate(arguments):
            self._argument(place, value)
        self._system_call(self.calls[name])

    def jump(self, label: str) -> None:
        self._jump("always", label)

    def jump_if_zero(self, label: str) -> None:
        self._jump("zero", label)

    def jump_if_error(self, label: str) -> None:
        self._jump("negative", label)

    def jump_if(self, value: Value, label: str) -> None:
        """If the result is that."""
        self._compare(value)
        self._jump("equal", label)

    def linked(self) -> bytes:
        for at, label in self._jumps:
            self._resolve(at, self._labels[label] - at)
        return bytes(self.content)

    def _jump(self, condition: str, label: str) -> None:
        at = self._branch(condition)
        self._jumps.append((at, label))

    @abstractmethod
    def environment(self, slot: Slot) -> None:
        """The address of the environment; only at the very start."""

    @abstractmethod
    def keep(self, slot: Slot) -> None:
        """Puts the result there."""

    @abstractmethod
    def set(self, slot: Slot, number: int) -> None: ...

    @abstractmethod
    def store(self, slot: Slot, address: int) -> None:
        """Writes its lower 32 bits into the data."""

    @abstractmethod
    def load(self, address: int) -> None:
        """Makes 32 bits of the data, with their sign, the result."""

    @abstractmethod
    def _argument(self, place: int, value: Value) -> None: ...

    @abstractmethod
    def _system_call(self, number: int) -> None: ...

    @abstractmethod
    def _compare(self, value: Value) -> None: ...

    @abstractmethod
    def _branch(self, condition: str) -> int:
        """Where the distance to a label is measured from."""

    @abstractmethod
    def _resolve(self, at: int, distance: int) -> None: ...


class X86Code(Code):
    elf_machine = 62
    calls = _calls(
        "write=1 close=3 socket=41 bind=49 listen=50 setsockopt=54 clone=56 execve=59 "
        "exit_group=231 wait4=61 fcntl=72 umask=95 dup3=292 prlimit64=302 prctl=157 seccomp=317 "
        "openat=257 close_range=436"
    )
    _RESULT, _SCRATCH = 0, 1  # rax, rcx
    _ARGUMENTS = (7, 6, 2, 10, 8, 9)
    _KEPT = (3, 12, 13, 14)
    _BRANCHES = MappingProxyType(
        {
            "always": b"\xe9",
            "zero": b"\x0f\x84",
            "equal": b"\x0f\x84",
            "negative": b"\x0f\x88",
        }
    )

    def environment(self, slot: Slot) -> None:
        self.content += b"\x48\x8b\x0c\x24\x48\x8d\x4c\xcc\x10"  # rcx = rsp + 8 * [rsp] + 16
        self._move(self._KEPT[slot.number], self._SCRATCH)

    def keep(self, slot: Slot) -> None:
        self._move(self._KEPT[slot.number], self._RESULT)

    def set(self, slot: Slot, number: int) -> None:
        self._number(self._KEPT[slot.number], number)

    def store(self, slot: Slot, address: int) -> None:
        register = self._KEPT[slot.number]
        self._number(self._SCRATCH, address)
        self.content += bytes((0x40 | register >> 3 << 2, 0x89, (register & 7) << 3 | 1))

    def load(self, address: int) -> None:
        self._number(self._SCRATCH, address)
        self.content += b"\x48\x63\x01"

    def _argument(self, place: int, value: Value) -> None:
        register = self._ARGUMENTS[place]
        if isinstance(value, Slot):
            self._move(register, self._KEPT[value.number])
        else:
            self._number(register, value)

    def _system_call(self, number: int) -> None:
        self._number(self._RESULT, number)
        self.content += b"\x0f\x05"

    def _compare(self, value: Value) -> None:
        if isinstance(value, Slot):
            register = self._KEPT[value.number]
            rex = 0x48 | register >> 3 << 2
            self.content += bytes((rex, 0x39, 0xC0 | (register & 7) << 3))
        else:
            self.content += b"\x48\x3d" + struct.pack("<i", value)

    def _branch(self, condition: str) -> int:
        if condition in {"zero", "negative"}:
            self.content += b"\x48\x85\xc0"
        self.content += self._BRANCHES[condition] + bytes(4)
        return len(self.content)

    def _resolve(self, at: int, distance: int) -> None:
        self.content[at - 4 : at] = struct.pack("<i", distance)

    def _move(self, to: int, source: int) -> None:
        rex = 0x48 | source >> 3 << 2 | to >> 3
        self.content += bytes((rex, 0x89, 0xC0 | (source & 7) << 3 | to & 7))

    def _number(self, register: int, number: int) -> None:
        if 0 <= number < 1 << 32:  # the upper half becomes zero
            head = b"\x41" if register > 7 else b""
            self.content += head + bytes((0xB8 | register & 7,)) + struct.pack("<I", number)
        else:
            head = bytes((0x48 | register >> 3, 0xB8 | register & 7))
            self.content += head + struct.pack("<q", number)


class ArmCode(Code):
    elf_machine = 183
    calls = _calls(
        "dup3=24 fcntl=25 close=57 write=64 exit_group=94 umask=166 prctl=167 socket=198 "
        "seccomp=277 bind=200 listen=201 setsockopt=208 clone=220 execve=221 wait4=260 "
        "openat=56 prlimit64=261 close_range=436"
    )
    _SCRATCH = 9
    _KEPT = (19, 20, 21, 22)
    _BRANCHES = MappingProxyType(
        {
            "always": 0x14000000,
            "zero": 0xB4000000,
            "equal": 0x54000000,
            "negative": 0xB7F80000,
        }
    )

    def environment(self, slot: Slot) -> None:
        kept = self._KEPT[slot.number]
        self._words(
            0xF94003E0 | kept,  # argc
            0x8B206C00 | kept << 16 | 31 << 5 | kept,  # its arguments, from the stack's pointer on
            0x91004000 | kept << 5 | kept,  # and two words more
        )

    def keep(self, slot: Slot) -> None:
        self._move(self._KEPT[slot.number], 0)

    def set(self, slot: Slot, number: int) -> None:
        self._number(self._KEPT[slot.number], number)

    def store(self, slot: Slot, address: int) -> None:
        self._number(self._SCRATCH, address)
        self._words(0xB9000000 | self._SCRATCH << 5 | self._KEPT[slot.number])

    def load(self, address: int) -> None:
        self._number(self._SCRATCH, address)
        self._words(0xB9800000 | self._SCRATCH << 5)

    def _argument(self, place: int, value: Value) -> None:
        if isinstance(value, Slot):
            self._move(place, self._KEPT[value.number])
        else:
            self._number(place, value)

    def _system_call(self, number: int) -> None:
        self._number(8, number)
        self._words(0xD4000001)

    def _compare(self, value: Value) -> None:
        register = self._KEPT[value.number] if isinstance(value, Slot) else self._SCRATCH
        if not isinstance(value, Slot):
            self._number(register, value)
        self._words(0xEB00001F | register << 16)

    def _branch(self, condition: str) -> int:
        self._words(self._BRANCHES[condition])
        return len(self.content) - 4

    def _resolve(self, at: int, distance: int) -> None:
        (word,) = struct.unpack_from("<I", self.content, at)
        steps = distance // 4
        if word == self._BRANCHES["always"]:
            word |= steps & (1 << 26) - 1
        elif word == self._BRANCHES["negative"]:
            word |= (steps & (1 << 14) - 1) << 5
        else:
            word |= (steps & (1 << 19) - 1) << 5
        struct.pack_into("<I", self.content, at, word)

    def _move(self, to: int, source: int) -> None:
        self._words(0xAA0003E0 | source << 16 | to)

    def _number(self, register: int, number: int) -> None:
        self._words(0xD2800000 | (number & 0xFFFF) << 5 | register)
        for quarter in range(1, 4):
            if part := number >> 16 * quarter & 0xFFFF:
                self._words(0xF2800000 | quarter << 21 | part << 5 | register)

    def _words(self, *words: int) -> None:
        self.content += struct.pack(f"<{len(words)}I", *words)


MACHINES: dict[str, type[Code]] = {"x86_64": X86Code, "aarch64": ArmCode}


def program(code: Code, data: Data) -> bytes:
    """A static executable. Code can be run and not written, data the other way round."""
    text, content = code.linked(), bytes(data.content)
    content += bytes(-(_HEADER_BYTES + len(content)) % 8)
    at, size = _HEADER_BYTES + len(content), len(text)
    entry = _CODE_AT + at
    kind = (b"\x7fELF", 2, 1, 1, 0, 2, code.elf_machine, 1, entry, 64, 0, 0, 64, 56, 3, 64, 0, 0)
    header = struct.pack("<4sBBBB8xHHIQQQIHHHHHH", *kind)
    segments = (
        (_LOAD, _READ | _WRITE, 0, _DATA_AT, _DATA_AT, at, at, _PAGE_BYTES),
        (_LOAD, _READ | _RUN, at, entry, entry, size, size, _PAGE_BYTES),
        (_STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16),
    )
    headers = header + b"".join(struct.pack("<IIQQQQQQ", *segment) for segment in segments)
    return headers + content + text
