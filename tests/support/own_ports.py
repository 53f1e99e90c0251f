"""Loopback ports for servers that can only bind for themselves, of this test process alone.

Another process may take a port between the moment that it was found free and the moment that the
server binds it. So tests that run side by side (pytest-xdist) have a range each, go through it in
turn, and it lies below the product's own (wfhub_local.ports) and below the kernel's, from which
outgoing connections and every bind to port 0 take theirs.
"""

import itertools
import os
import socket

HOST = "127.0.0.1"
LOWEST, COUNT = 10_000, 10_000
WORKERS_MAX = 10
EACH = COUNT // WORKERS_MAX


def _worker() -> int:
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS_MAX


# Begun by the process id: another run of the tests on this machine begins elsewhere.
_turns = itertools.count(os.getpid() * 13)


def free_port() -> int:
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of so many in a row, none of which anybody listens at now.

    Raises: RuntimeError.
    """
    first = LOWEST + _worker() * EACH
    for _ in range(EACH):
        found = [first + next(_turns) % EACH for _ in range(count)]
        if found[-1] - found[0] == count - 1 and all(map(_is_free, found)):
            return found[0]
    raise RuntimeError(f"no {count} free ports from {first} on")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
