"""Memory that an agent can have in the kernel, where no count of its processes' pages shows it.

Each is tried where no cgroup holds the memory: the watchdog has to find it.
"""

from pathlib import Path

import pytest
import unprivileged
from sandbox_lab import MIB, Lab, Ran
from wfhub_agent_runner.sandbox.port import Exited, LimitExceeded
from wfhub_common.messages import Limits

LIMIT_BYTES = 64 * MIB
FEW = Limits(memory_bytes=LIMIT_BYTES, processes=64, open_files=1024)

ALL = """
import array, ctypes, fcntl, mmap, os, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
held = []

def fill(writer, chunk):
    try:
        while True:
            writer(chunk)
    except BlockingIOError:
        pass

def pairs(kind):
    for _ in range(400):
        near, far = socket.socketpair(socket.AF_UNIX, kind)
        near.setblocking(False)
        fill(near.send, bytes(16384))
        yield near, far

def sockets():
    held.extend(pairs(socket.SOCK_STREAM))

def datagrams():
    held.extend(pairs(socket.SOCK_DGRAM))

def sockets_of_nobody():  # what was sent stays when its sender is gone
    for near, far in pairs(socket.SOCK_STREAM):
        near.close()
        held.append(far)

def sockets_on_their_way():  # in another one, and nowhere else
    for number, (near, far) in enumerate(pairs(socket.SOCK_STREAM)):
        if number % 100 == 0:
            carrier = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            held.append(carrier)
        numbers = array.array("i", [near.fileno(), far.fileno()])
        carrier[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
        near.close()
        far.close()

def loopback():
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    for _ in range(60):
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        near.setblocking(False)
        fill(near.send, bytes(65536))
        held.append((near, far))

def pipes():
    for _ in range(60):
        read, write = os.pipe()
        fcntl.fcntl(write, 1031, 1048576)  # F_SETPIPE_SZ
        os.set_blocking(write, False)
        fill(lambda chunk: os.write(write, chunk), bytes(65536))

def page_tables():  # of a page of zeros in each 2 MiB
    size, step = 64 << 30, 2 << 20
    nothing = mmap.mmap(-1, size, mmap.MAP_PRIVATE | 0x4000, mmap.PROT_READ)
    sum(nothing[at] for at in range(0, size, step))
    held.append(nothing)

def segments():  # which nobody has attached
    libc.shmat.restype = ctypes.c_void_p
    for _ in range(96):
        number = libc.shmget(0, 1048576, 0o600)
        at = libc.shmat(number, None, 0)
        ctypes.memset(at, 1, 1048576)
        libc.shmdt(ctypes.c_void_p(at))

def messages():  # of one byte each, which take far more
    message = struct.pack("lc", 1, b"x")
    for _ in range(200):
        queue = libc.msgget(0, 0o600)
        while libc.msgsnd(queue, message, 1, 0o4000) == 0:
            pass

def semaphores():
    for _ in range(48):
        libc.semget(0, 32000, 0o600)

globals()[sys.argv[1]]()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""
KINDS = (
    "sockets",
    "datagrams",
    "sockets_of_nobody",
    "sockets_on_their_way",
    "loopback",
    "pipes",
    "page_tables",
    "segments",
    "messages",
    "semaphores",
)
LITTLE = """
import ctypes, mmap, os, socket
from time import sleep
libc = ctypes.CDLL(None)
held = [socket.socketpair() for _ in range(100)] + [os.pipe() for _ in range(200)]
for near, _ in held[:100]:
    near.send(b"x")
for _, write in held[100:]:
    os.write(write, b"x")
reserved = mmap.mmap(-1, 1 << 40, mmap.MAP_PRIVATE | 0x4000, mmap.PROT_READ)
libc.shmget(0, 1 << 30, 0o600)
sleep(1.5)
"""


def inside(home: Path, code: str, *arguments: object) -> Ran:
    async def work() -> Ran:
        return await Lab(home).inside(code, *arguments, limits=FEW, wall_s=40)

    return unprivileged.run(home, work)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_kernel_holds_for_an_agent_counts_as_its_memory(tmp_path: Path, kind: str) -> None:
    ran = inside(tmp_path, ALL, kind, 30)
    assert isinstance(ran.outcome, LimitExceeded), ran
    assert ran.outcome.name == "memory"
    # What a sender left behind that is no more is not known, and counts as the most it can be.
    assert ran.outcome.figure > LIMIT_BYTES
    assert ran.outcome.figure < 8 * LIMIT_BYTES or kind == "sockets_of_nobody"


def test_what_an_agent_only_could_use_does_not_count(tmp_path: Path) -> None:
    assert inside(tmp_path, LITTLE).outcome == Exited(0)
