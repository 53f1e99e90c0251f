"""`wfhub sealing`: the API's own command (`wfhub-api sealing`) on the stack's database and keys.

In a process of its own, since services are not imported here; what it is given is in files that
nobody else reads and that are gone with it.
Raises: SystemExit.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from wfhub_admin.credentials import hand_over
from wfhub_common import subjects

from wfhub_local import backup, state
from wfhub_local.layout import Layout
from wfhub_local.services import MODULES
from wfhub_local.stack import Say

SCHEMA = "api"
WORK_S_MAX = 120.0


def change(layout: Layout, word: str, *, database_url: str, say: Say) -> str:
    """What it said. `word`: on, off or renew."""
    truth = backup.truth_of(layout)
    running = state.wait_ready(layout) is not None
    with (
        backup.database(layout, truth.credentials, database_url, say, running=running) as plan,
        tempfile.TemporaryDirectory(prefix="wfhub-sealing-") as folder,
    ):
        (url,) = (schema.url for schema in plan.schemas if schema.name == SCHEMA)
        given = {"DATABASE_URL": url, "SEALING_KEYS": truth.sealing_keys}
        done = subprocess.run(
            [sys.executable, "-P", "-m", MODULES[subjects.API], "sealing", word],
            env={"PATH": os.defpath, **hand_over(Path(folder), os.geteuid(), given)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WORK_S_MAX,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr.strip() or f"it ended with {done.returncode}")
    return done.stdout.strip()
