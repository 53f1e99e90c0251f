"""The first process of a container: its reaper, and what ties it to the runner.

Run by the runner's interpreter with `-I -S`: `first.py REPORT FOLDER argv…`. It starts argv in that
folder, takes leave of orphans, and ends with argv's process, or as soon as the runner has gone,
which closes the other end of REPORT (a pipe that it never writes to). Whatever ends it, the kernel
ends every other process of the container. Signals from inside cannot: it is the first.
Says on stderr why argv cannot be started. Imports little: each start pays for it.
"""

import _signal as signal  # type: ignore[import-not-found]  # which typeshed does not know
import os
import select
import sys

CANNOT_START = 127


def start(argv: list[str], folder: str) -> int:
    """The child's number."""
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            os.execv(argv[0], argv)  # noqa: S606 - what it starts is this program's purpose
        except OSError as e:
            os.write(2, f"cannot start in {folder[:200]}: {e.strerror}\n".encode())
        finally:
            os._exit(CANNOT_START)
    return child


def main(words: list[str]) -> None:
    report, folder, *argv = words
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    child = start(argv, folder)  # before there are handlers, which it would not have wanted
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    poll = select.epoll()
    poll.register(woken, select.EPOLLIN)
    poll.register(int(report), 0)  # an error is told all the same
    while True:
        ended = -1
        while ended:
            ended, _ = os.waitpid(-1, os.WNOHANG)
            if ended == child:
                return
        for descriptor, _ in poll.poll():
            if descriptor != woken:
                return
            os.read(woken, 4096)


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)
