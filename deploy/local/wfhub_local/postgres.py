"""The embedded Postgres: made once, found intact after any kind of end, reached over loopback
with a password (SCRAM) by a role for each service.

Raises: SystemExit with one line that says what stood in the way and which log has the rest.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from wfhub_admin import postgres
from wfhub_admin.files import private_file
from wfhub_admin.postgres import binaries

from wfhub_local import ports
from wfhub_local.processes import tail

__all__ = ["argv", "binaries", "clear_old", "initdb_argv", "is_made", "is_up", "make"]

NEW, PASSWORD = "data.new", "password"
OLD_SERVER_S_MAX = 30.0
POLL_S = 0.1
READY_LINE = 7  # of postmaster.pid: "ready" once it takes connections
SETTINGS = {
    **postgres.SETTINGS,
    "listen_addresses": ports.HOST,
    "unix_socket_directories": "",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "max_logical_replication_workers": 0,
}


def is_made(root: Path) -> bool:
    return (root / "data" / "PG_VERSION").exists()


def initdb_argv(root: Path) -> list[str]:
    return postgres.initdb_argv(root / NEW, root / PASSWORD)


def make(root: Path, password: str, uid: int, initdb: Callable[[], int], log: Path) -> None:
    """In a folder that gets its name when it is complete: a kill in between costs the work done,
    nothing else. `initdb` runs initdb_argv and returns its exit code."""
    shutil.rmtree(root / NEW, ignore_errors=True)
    # A file, not standard input: initdb opens it by name, which another uid's pipe refuses.
    private_file(root / PASSWORD, password + "\n", uid)
    code = initdb()
    (root / PASSWORD).unlink()
    if code:
        raise SystemExit(f"initdb failed with {code}; the end of {log}:\n{tail(log)}")
    (root / NEW).rename(root / "data")


def argv(root: Path, port: int) -> list[str]:
    settings = [part for k, v in SETTINGS.items() for part in ("-c", f"{k}={v}")]
    return [str(binaries() / "postgres"), "-D", str(root / "data"), "-p", str(port), *settings]


def clear_old(root: Path) -> None:
    """After a killed stack: wait until its server has ended (the kernel told it to when the stack
    died), and drop a pid file that names some other process by now."""
    pid_file = root / "data" / "postmaster.pid"
    deadline = time.monotonic() + OLD_SERVER_S_MAX
    while (pid := _server_pid(pid_file)) is not None:
        if time.monotonic() > deadline:
            raise SystemExit(
                f"an earlier Postgres (pid {pid}) still runs on {root}; end it and start again"
            )
        os.kill(pid, signal.SIGQUIT)
        time.sleep(POLL_S)
    # Nobody else starts servers here: the stack's lock is ours.
    pid_file.unlink(missing_ok=True)


def _server_pid(pid_file: Path) -> int | None:
    """The pid in the file if that process is the server of this very folder."""
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
        here = os.stat(pid_file.parent)
        there = os.stat(f"/proc/{pid}/cwd")  # a server's working directory is its data folder
    except (OSError, ValueError):
        return None
    return pid if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) else None


def is_up(root: Path) -> bool:
    try:
        lines = (root / "data" / "postmaster.pid").read_text().split("\n")
    except OSError:
        return False
    return len(lines) > READY_LINE and lines[READY_LINE].strip() == "ready"
