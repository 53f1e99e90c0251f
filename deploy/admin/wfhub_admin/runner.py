"""A runner's identity, taken for as long as it lives: `wfhub-admin runner`.

Each identity is one file (runner id, NATS password, service token). Runners that share a folder of
them take the first that is free: the lock is held by the runner's own process, so the kernel gives
it back whatever ends the runner. Then this process becomes `wfhub-runner`, its home below `homes`.
Raises: SystemExit when every identity is taken.
"""

import fcntl
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from wfhub_common import starting

from wfhub_admin.credentials import hand_over
from wfhub_admin.files import private_folder

SECRETS = Path("/tmp/wfhub-secrets")  # a tmpfs of this container, in no sandbox


def become(identities: Path, homes: Path, env: Mapping[str, str]) -> NoReturn:
    """`identities` is a folder of identity files, or one such file."""
    file, lock = taken(identities)
    found = json.loads(file.read_text())
    os.set_inheritable(lock, True)
    home = private_folder(starting.writable(homes, "--homes") / found["name"], os.geteuid())
    handed = hand_over(private_folder(SECRETS, os.geteuid()), os.geteuid(), found["secrets"])
    environment = {
        **env,
        **handed,
        "RUNNER_ID": found["runner_id"],
        "RUNNER_NAME": found["name"],
        "RUNNER_HOME": str(home),
        "HOME": str(home),
    }
    if "NATS_PASSWORD" in found["secrets"]:
        environment["NATS_USER"] = found["runner_id"]
    argv = [sys.executable, "-P", "-m", "wfhub_agent_runner.main"]
    os.execve(argv[0], argv, environment)  # noqa: S606 - to become the runner is what this is for


def taken(identities: Path) -> tuple[Path, int]:
    """The identity that is ours now, and the descriptor that holds it."""
    files = sorted(identities.glob("*.json")) if identities.is_dir() else [identities]
    for file in files:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return file, descriptor
    raise SystemExit(
        f"all {len(files)} runner identities of {identities} are taken: raise RUNNERS_MAX and"
        " provision again, or start fewer runners"
    )
