"""What runs first inside the sandbox: sets limits, forwards its ways out, starts the agent.

It is bound into the sandbox as one file and run by a toolchain's interpreter with `-I -S`, so it
uses the standard library alone, and of that only what is written in C: each start pays for its
imports, and `socket`, `signal` and `contextlib` would take longer than all the rest of a sandbox.
Arguments: `--report FD` (a pipe to the runner), `--limit NAME=NUMBER`…, `--forward PORT=SOCKET`…
(listen on 127.0.0.1:PORT, pass bytes to that unix socket), `--`, the agent's argv.
Reports lines: `starting`, then `exited N`, `signalled N` or `cannot-start REASON`.
It prints nothing: stdout and stderr are the agent's.
"""

# ruff: noqa: SIM105 - contextlib is one of them
from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # which typeshed does not know
import errno
import os
import resource
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

CHUNK_BYTES = 64 * 1024
CONNECTIONS_MAX = 256
CANNOT_START = 127
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
    """127.0.0.1:port → unix socket, without threads: the agent may use up every process."""

    def __init__(self, port: int, path: str, poll: select.epoll) -> None:
        self.path, self.poll = path, poll
        self.connections: dict[int, Connection] = {}  # by the descriptor of either end
        import _socket

        self.sockets = _socket
        self.listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        self.listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(128)
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
        near = self.sockets.socket(fileno=descriptor)
        try:
            far = self.sockets.socket(self.sockets.AF_UNIX, self.sockets.SOCK_STREAM)
        except OSError:
            near.close()
            return
        connection = Connection(near, far)
        try:
            if len(self.connections) >= 2 * CONNECTIONS_MAX:
                raise OSError(errno.EMFILE, "too many connections")
            far.connect(self.path)
            near.setsockopt(self.sockets.IPPROTO_TCP, self.sockets.TCP_NODELAY, 1)
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


def start(argv: list[str]) -> tuple[int, str]:
    """Fork and exec. Returns (pid, ""), or (0, the reason why it cannot be)."""
    reading, writing = os.pipe()  # both close on exec: nothing to read means it did start
    pid = os.fork()
    if pid == 0:
        try:
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which this interpreter ignores
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            os.umask(0o022)  # the runner's is tighter; a repository's files are for all to read
            os.execvp(argv[0], argv)  # noqa: S606 - the agent is this program
        except OSError as e:
            os.write(writing, f"{argv[0][:200]}: {e.strerror}".encode())
        finally:
            os._exit(CANNOT_START)
    os.close(writing)
    with open(reading, "rb") as pipe:
        reason = pipe.read().decode(errors="replace")
    if reason:
        os.waitpid(pid, 0)
        return 0, reason
    return pid, ""


def main(words: list[str]) -> int:
    limits: list[list[str]] = []
    forwards: list[list[str]] = []
    report = -1
    while words and words[0] != "--":
        name, value, *words = words
        if name == "--limit":
            limits.append(value.split("="))
        elif name == "--report":
            report = int(value)
        elif name == "--forward":
            forwards.append(value.split("=", 1))
    argv = words[1:]
    for name in os.listdir("/proc/self/fd"):  # what bwrap left open is not the agent's
        if int(name) > 2 and int(name) != report:
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own
    os.set_inheritable(report, False)

    def tell(line: str) -> None:
        try:
            os.write(report, line.encode() + b"\n")
        except OSError:
            pass  # nobody reads it any more

    poll = select.epoll()
    forwarders = [Forwarder(int(port), path, poll) for port, path in forwards]
    for name, number in limits:
        kind, wanted = getattr(resource, "RLIMIT_" + name), int(number)
        _, most = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY:
            wanted = min(wanted, most)
        resource.setrlimit(kind, (wanted, wanted))

    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll.register(woken, select.EPOLLIN)
    tell("starting")  # before: the agent may kill this process the moment it runs
    pid, reason = start(argv)
    if not pid:
        tell("cannot-start " + reason)
        return CANNOT_START
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        for descriptor, _ in poll.poll():
            if descriptor == woken:
                os.read(woken, 4096)
            else:
                for forwarder in forwarders:  # each knows its own descriptors
                    forwarder.ready(descriptor)
    if os.WIFSIGNALED(status):
        tell(f"signalled {os.WTERMSIG(status)}")
        return 128 + os.WTERMSIG(status)
    tell(f"exited {os.WEXITSTATUS(status)}")
    return os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
