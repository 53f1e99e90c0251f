"""The first process of a container: its reaper, and what ties it to the runner.

Run by the runner's interpreter with `-I -S`: `first.py STATUS GO TOLD REPORT FOLDER argv…`. It says
on STATUS that it is there, waits for a byte on GO (it is in its cgroup then), and starts argv in
that folder, which gets REPORT. If TOLD is `told`, each further byte on GO is passed on as a SIGTERM
to all but itself and argv's process: for gVisor, whose processes the runner cannot reach. It takes
leave of orphans, and ends with argv's process, or as soon as the runner has gone, which closes the
other ends. Whatever ends it, the kernel ends every other process of the container. Signals from
inside cannot: it is the first.
Says on stderr why argv cannot be started. Imports little: each start pays for it.
"""

import _signal as signal  # type: ignore[import-not-found]  # which typeshed does not know
import os
import select
import sys

CANNOT_START = 127
TOLD, NOT_TOLD = "told", "-"


def start(argv: list[str], folder: str) -> int:
    """The child's number."""
    child = os.fork()
    if child == 0:
        try:
            for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by every Python, and so by its child
                signal.signal(ignored, signal.SIG_DFL)
            os.chdir(folder)
            os.execv(argv[0], argv)  # noqa: S606 - what it starts is this program's purpose
        except OSError as e:
            os.write(2, f"cannot start in {folder[:200]}: {e.strerror}\n".encode())
        finally:
            os._exit(CANNOT_START)
    return child


def tell(child: int) -> None:
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) not in (os.getpid(), child):
            try:
                os.kill(int(name), signal.SIGTERM)
            except OSError:  # it has ended
                continue


def main(words: list[str]) -> None:
    status, go, told, report, folder, *argv = words
    os.write(int(status), b"first\n")
    os.set_inheritable(int(status), False)
    os.set_inheritable(int(go), False)
    os.read(int(go), 1)
    if told != TOLD:
        os.close(int(go))  # the agent can look at what is open here, and write to it
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    child = start(argv, folder)  # before there are handlers, which it would not have wanted
    os.close(int(report))  # the agent can look at what is open here
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    poll = select.epoll()
    poll.register(woken, select.EPOLLIN)
    if told == TOLD:
        poll.register(int(go), select.EPOLLIN)
    poll.register(int(status), 0)  # an error is told all the same
    while True:
        ended = -1
        while ended:
            ended, _ = os.waitpid(-1, os.WNOHANG)
            if ended == child:
                return
        for descriptor, _ in poll.poll():
            if descriptor == int(status) or not os.read(descriptor, 4096):
                return
            if descriptor == int(go):
                tell(child)


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)
