"""Inside the sandbox, beside the agent: passes its connections on to the runner's sockets.

It is bound into the sandbox as one file and run by a toolchain's interpreter with `-I -S`, so it
uses the standard library alone, and of that only what is written in C: `socket` and `contextlib`
would take longer to import than all of this. The starter listens, so that a connection made before
this runs waits for it.
Arguments: `DESCRIPTOR=SOCKET`…: accept on that listener, pass bytes to that unix socket.
It ends with the sandbox, not at a SIGTERM: the agent is told so that its end is near, and may
have something to ask. It prints nothing.
"""

# ruff: noqa: SIM105 - contextlib is one of them
from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # which typeshed does not know
import _socket
import errno
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

CHUNK_BYTES = 64 * 1024
CONNECTIONS_MAX = 256
SHUT_WR = 1


class Stream:
    """One direction of a connection: what was read of `source` and not yet written to `sink`."""

    def __init__(self, source: socket, sink: socket) -> None:
        self.source, self.sink = source, sink
        self.waiting = b""
        self.ended = False  # no more to read
        self.closed = False  # and all of it passed on

    def wants(self, end: socket) -> int:
        """The events that this direction waits for at one of its ends."""
        if self.closed:
            return 0
        if self.waiting:
            return select.EPOLLOUT if end is self.sink else 0
        return select.EPOLLIN if end is self.source else 0

    def move(self) -> None:
        """One read and one write. Raises: OSError when the connection is broken."""
        try:
            if not self.waiting and not self.ended:
                self.waiting = self.source.recv(CHUNK_BYTES)
                self.ended = not self.waiting
            if self.waiting:
                self.waiting = self.waiting[self.sink.send(self.waiting) :]
                return
        except BlockingIOError:
            return
        if not self.closed:
            self.closed = True
            try:
                self.sink.shutdown(SHUT_WR)
            except OSError:
                pass


class Connection:
    """The agent's end, the gateway's end, and both directions between them."""

    def __init__(self, near: socket, far: socket) -> None:
        self.ends = (near, far)
        self.streams = (Stream(near, far), Stream(far, near))
        self.events = {near: 0, far: 0}  # what epoll watches now


class Forwarder:
    """A listener → a unix socket, without threads: the agent may use up every process."""

    def __init__(self, listener: int, path: str, poll: select.epoll) -> None:
        self.path, self.poll = path, poll
        self.connections: dict[int, Connection] = {}  # by the descriptor of either end
        self.listener = _socket.socket(fileno=listener)
        self.listener.setblocking(False)
        poll.register(self.listener, select.EPOLLIN)

    def ready(self, descriptor: int) -> None:
        if descriptor == self.listener.fileno():
            self.accept()
        elif descriptor in self.connections:
            connection = self.connections[descriptor]
            try:
                for stream in connection.streams:
                    stream.move()
            except OSError:
                self.drop(connection)
            else:
                self.watch(connection)

    def accept(self) -> None:
        try:
            descriptor, _ = self.listener._accept()  # type: ignore[attr-defined]  # of _socket
        except OSError:
            return
        near = _socket.socket(fileno=descriptor)
        try:
            far = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        except OSError:
            near.close()
            return
        connection = Connection(near, far)
        try:
            if len(self.connections) >= 2 * CONNECTIONS_MAX:
                raise OSError(errno.EMFILE, "too many connections")
            far.connect(self.path)
            near.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        except OSError:
            self.drop(connection)
            return
        for end in connection.ends:
            end.setblocking(False)
            self.connections[end.fileno()] = connection
        self.watch(connection)

    def watch(self, connection: Connection) -> None:
        if all(stream.closed for stream in connection.streams):
            self.drop(connection)
            return
        for end in connection.ends:
            events = connection.streams[0].wants(end) | connection.streams[1].wants(end)
            before, connection.events[end] = connection.events[end], events
            # Not watched at all rather than for no event: a hang-up is reported for ever.
            if events and before:
                self.poll.modify(end, events)
            elif events:
                self.poll.register(end, events)
            elif before:
                self.poll.unregister(end)

    def drop(self, connection: Connection) -> None:
        for end in connection.ends:
            self.connections.pop(end.fileno(), None)
            end.close()  # which epoll notices by itself


def main(words: list[str]) -> None:
    _signal.signal(_signal.SIGTERM, _signal.SIG_IGN)
    poll = select.epoll()
    pairs = [word.split("=", 1) for word in words]
    forwarders = [Forwarder(int(listener), path, poll) for listener, path in pairs]
    while True:
        for descriptor, _ in poll.poll():
            for forwarder in forwarders:  # each knows its own descriptors
                forwarder.ready(descriptor)


if __name__ == "__main__":
    main(sys.argv[1:])
