"""A stack for the time that somebody needs one: `wfhub run` without WFHUB_URL.

Uses the stack that runs on the default data directory; where none does, starts one in a process
of its own (`python -m wfhub_local.ephemeral`), on any free port. That process ends when nobody
uses the stack any more: each user holds a shared lock, which the kernel frees whatever ends the
user, so a killed `wfhub run` leaves no stack behind, and one that ends does not take away the
stack of another.
Raises: SystemExit with what the stack said when it cannot start.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from wfhub_local import state
from wfhub_local.layout import Layout
from wfhub_local.settings import Options, default_data, is_root

STOP_S_MAX = 60.0
SAID_LINES_MAX = 30

Notify = Callable[[str], None]


@dataclass(frozen=True)
class StackHandle:
    url: str
    token: str = field(repr=False)
    name: str  # stable for a data directory: what the client keeps its proof key under
    outlives: bool  # it was up before, and stays when its user is gone


@contextmanager
def ephemeral(*, notify: Notify | None = None, make: bool = True) -> Iterator[StackHandle]:
    """`notify` gets a line for people now and then while a stack starts. Without `make` the data
    directory has to be a stack's already. Raises: SystemExit."""
    layout = Layout(default_data(os.environ, root=is_root()))
    if not (make or layout.credentials.exists() or state.is_held(layout)):
        raise SystemExit(
            f"there was never one in {layout.data}: start it with `wfhub up`, or say where it is"
            " with WFHUB_DATA (its --data) or WFHUB_URL"
        )
    layout.make()
    with state.in_use(layout.users_lock) as users:
        process: subprocess.Popen[str] | None = None
        found = state.wait_ready(layout)
        if found is None:
            process, said = _launch(layout.data, notify or _ignore)
            found = _ready(layout, process, said)
        try:
            token = Path(found.token_file).read_text().strip()
            yield StackHandle(found.url, token, layout.name, outlives=process is None)
        finally:
            # Its own watch ends it soon; when we started it, we see it out.
            if process is not None and state.try_sole(users):
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S_MAX)


def _ignore(_line: str) -> None:
    return None


def _launch(data: Path, notify: Notify) -> tuple[subprocess.Popen[str], list[str]]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(data)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is for `wfhub run`, which may have another go at it
    )
    said: list[str] = []

    def listen() -> None:  # to the end, so that the pipe never fills
        assert process.stdout is not None
        for line in process.stdout:
            del said[:-SAID_LINES_MAX]
            said.append(line.rstrip())
            notify(line.rstrip())

    threading.Thread(target=listen, daemon=True, name="stack-output").start()
    return process, said


def _ready(layout: Layout, process: subprocess.Popen[str], said: list[str]) -> state.State:
    while True:
        found = state.wait_ready(layout)
        if found is not None:
            return found  # ours, or one that somebody else started at the same time
        with suppress(subprocess.TimeoutExpired):
            process.wait(state.POLL_S)
            if not state.is_held(layout):
                raise SystemExit("the local stack did not start: " + "\n".join(said))


def main() -> None:
    """Standard output may be a closed pipe (its first user is gone): the stack goes on."""
    from wfhub_local import stack

    layout = Layout(Path(sys.argv[1]))
    users = os.open(layout.users_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def say(line: str) -> None:
        with suppress(OSError):
            os.write(1, f"{line}\n".encode())

    options = Options(
        data=layout.data,
        port=0,
        nats_url=os.environ.get("NATS_URL", ""),
        database_url=os.environ.get("DATABASE_URL", ""),
    )
    with suppress(state.Held):  # somebody else was first: theirs will do
        stack.run(options, user_env=os.environ, say=say, until=lambda: state.try_sole(users))


if __name__ == "__main__":
    main()
