"""Run as root in a guest (guest.py): a sandbox that computes until the guest is killed.

`cpu_guest.py MILLICORES`. Says READY once it does, and then each second what its cgroup counted, as
COUNTED and JSON; the guest does nothing else.
"""

import asyncio
import json
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
COUNTED = "guest: counted "


def counted(root: Path) -> dict[str, str]:
    """What the kernel was told of the run, and all that it says of its CPU time."""
    (group,) = root.glob("run-*")
    lines = (group / "cpu.stat").read_text().splitlines()
    return {"max": (group / "cpu.max").read_text().strip(), **dict(map(str.split, lines))}


async def count(root: Path) -> None:
    while True:
        await asyncio.sleep(1.0)
        print(COUNTED + json.dumps(counted(root)), flush=True)


async def compute(home: Path, folders: tuple[Path, ...], millicores: int) -> None:
    (home / "lower").mkdir()
    spec = SandboxSpec(
        argv=("/bin/sh", "-c", "echo x; while :; do :; done"),
        lower=home / "lower",
        limits=Limits(cpu_millicores=millicores),
        wall_s=3600,
    )

    counting: list[asyncio.Task[None]] = []

    async def told(_: bytes) -> None:
        print(READY, flush=True)
        counting.append(asyncio.create_task(count(folders[0])))

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
