"""Loopback ports: sockets that the stack binds and hands down, and numbers for the two servers
that can only bind for themselves.

Those numbers lie below the range from which the kernel takes the ports of outgoing connections.
Inside it, a client that keeps trying to reconnect to a server that is down ends up with the
server's own port as its source, is connected to itself, and the server cannot come back.
"""

import errno
import secrets
import socket
from urllib.parse import urlsplit

HOST = "127.0.0.1"
LOWEST, HIGHEST = 20_000, 32_767  # the kernel's default range begins at 32768
TRIES_MAX = 100
BACKLOG = 1024
REACH_S_MAX = 5.0


def listening(port: int = 0) -> socket.socket:
    """Raises: SystemExit that names the port and what to do when another has it."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except OSError as e:
        listener.close()
        if e.errno == errno.EADDRINUSE:
            raise SystemExit(
                f"port {port} is in use; choose another with --port (--port 0: any free one)"
            ) from e
        raise SystemExit(f"cannot listen on {HOST}:{port}: {e.strerror}; see --port") from e
    return listener


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def free_port() -> int:
    """A port that nothing listens on now."""
    for _ in range(TRIES_MAX):
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise SystemExit(f"no free port between {LOWEST} and {HIGHEST} on {HOST}")


def answers(host: str, port: int, *, expect: bytes = b"", timeout_s: float = 1.0) -> bool:
    """Whether something accepts there, and says `expect` first."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            return not expect or connection.recv(len(expect)) == expect
    except OSError:
        return False


def check_reachable(url: str, *, default_port: int, option: str) -> None:
    """Raises: SystemExit when nothing listens where the user said."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host, port = parts.hostname or HOST, parts.port or default_port
    except ValueError as e:
        raise SystemExit(f"{option}: not a URL: {e}") from e
    if not answers(host, port, timeout_s=REACH_S_MAX):
        raise SystemExit(f"{option}: nothing answers at {host}:{port}")
