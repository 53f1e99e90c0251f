"""A subscriber of all events that never reads its connection, and how it is cut off for that.

For the tests and for `bench/slow_subscriber.py`.
"""

import contextlib
import socket

from wfhub_common import subjects

RECEIVE_BYTES = 4096  # what the kernel holds for it, so that the broker soon holds the rest


def never_reads(url: str) -> socket.socket:
    """Subscribed when this returns; from then on nothing is read."""
    host, port = url.removeprefix("nats://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    connection.connect((host, int(port)))
    told = f'CONNECT {{"verbose": false}}\r\nSUB {subjects.EVENTS_FILTER} 1\r\nPING\r\n'
    connection.sendall(told.encode())
    heard = b""
    while b"PONG\r\n" not in heard:
        heard += connection.recv(4096)
    return connection


def until_closed(connection: socket.socket, *, silence_s: float) -> None:
    """Reads what is left, to the end. Raises: TimeoutError, when it stays open."""
    connection.settimeout(silence_s)
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1 << 20):
            pass
