"""Run as root in a guest (guest.py): a sandbox that computes until the guest is killed.

`cpu_guest.py MILLICORES`, 0 for no limit. Says READY once it does; the guest does nothing else.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from wfhub_agent_runner.sandbox import delegation
from wfhub_agent_runner.sandbox.bwrap import BwrapSandbox
from wfhub_agent_runner.sandbox.port import SandboxSpec
from wfhub_common import privileges
from wfhub_common.messages import Limits

READY = "guest: computes"


async def compute(home: Path, folders: tuple[Path, ...], millicores: int) -> None:
    (home / "lower").mkdir()
    spec = SandboxSpec(
        argv=("/bin/sh", "-c", "echo x; while :; do :; done"),
        lower=home / "lower",
        limits=Limits(cpu_millicores=millicores or None),
        wall_s=3600,
    )

    async def told(_: bytes) -> None:
        print(READY, flush=True)

    sandbox = BwrapSandbox(scratch=home / "scratch", cgroups=folders)
    print(sandbox.describe()["limits"], flush=True)
    print(await sandbox.run(spec, on_output=told, cancel=asyncio.Event()), flush=True)


def main(millicores: int) -> None:
    uid = privileges.SERVICE_UIDS["runner"]
    made = delegation.delegate("guest", uid)
    assert made.folders, made.why
    home = Path(tempfile.mkdtemp())
    os.chown(home, uid, uid)
    privileges.drop(uid, keep_visible=privileges.code_paths(), keep_writable=(home,))
    asyncio.run(compute(home, made.folders, millicores))


if __name__ == "__main__":
    main(int(sys.argv[1]))
